"""Foreign messages come out short, plain, and with the user's own line where torch names it."""

from deploykit.foreign import BRIEF, brief

GUARD = """Could not guard on data-dependent expression Eq(u0, 1) (unhinted: Eq(u0, 1)).  (Size-like symbols: none)

consider using data-dependent friendly APIs such as guard_or_false.
Caused by: (_export/non_strict_utils.py:1410 in __torch_function__)

The following call raised this error:
  File "/home/someone/net.py", line 6, in forward
    if x.sum() > 0: return x * 2


The error above occurred when calling torch.export.export.
"""

CONVERSION = """Failed to convert the exported program to an ONNX model. \x1b[96mThis is step 3/3\x1b[0m of exporting.

## Exception summary

<class 'torch.onnx._internal.exporter._errors.DispatchError'>: No ONNX function found for <OpOverload(op='dk.twice')>.
<class 'torch.onnx._internal.exporter._errors.ConversionError'>: Error when translating node %twice.
"""


def test_the_users_own_line_is_named_without_his_folders():
    text = brief(GUARD)
    assert text.startswith("Could not guard on data-dependent expression Eq(u0, 1)")
    assert text.endswith("at net.py:6: if x.sum() > 0: return x * 2")
    assert "/home" not in text


def test_the_cause_is_taken_from_the_summary_and_colours_are_gone():
    assert brief(CONVERSION) == "No ONNX function found for <OpOverload(op='dk.twice')>."


def test_it_is_one_short_line_whatever_comes():
    assert brief("") == ""
    assert brief("\n\n  first \n second") == "first"
    assert len(brief("x" * 10_000)) == BRIEF
    assert len(brief("y" * 10_000 + GUARD)) <= BRIEF


def test_the_place_that_torch_blames_is_kept_when_it_is_the_models_and_not_its_own():
    long = "Could not guard on " + "4*Min(300, u0) + " * 40
    assert brief(long + "\nCaused by: (torchvision/models/ssd.py:41 in forward)").endswith(
        " at torchvision/models/ssd.py:41"
    )
    assert " at " not in brief("Could not guard\nCaused by: (_export/utils.py:1 in f)")
