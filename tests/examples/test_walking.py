"""The walk finds what a page says wrongly: without that, a green walk says nothing."""

import pytest

from tests.examples.walking import alike, blocks, check, edit, walk

PAGE = """\
```python a.py
print("loss 0.25 at a.py:1")
```

```bash
python a.py; echo "error[X]: wrong" >&2
```

```text
loss 0.31 at a.py:1
error[X]: wr…
```

```diff a.py
-print("loss 0.25 at a.py:1")
+raise SystemExit(4)
```

```bash exit=4
python a.py
```
"""


def test_a_page_is_followed(tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    walk(PAGE, folder)
    assert (folder / "a.py").read_text() == "raise SystemExit(4)\n"


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("exit=4", "exit=3"),
        ("a.py:1\nerror", "a.py:2\nerror"),
        ("error[X]: wr…", "error[Y]: wr…"),
        ("error[X]: wr…", "error[X]: wr"),
        ("loss 0.31 at a.py:1\nerror[X]: wr…", "error[X]: wr…\nloss 0.31 at a.py:1"),
        ("-print", "-printed"),
    ],
)
def test_what_is_not_so_is_found(tmp_path, right, wrong):
    folder = tmp_path / "here"
    folder.mkdir()
    assert PAGE.count(right) == 1
    with pytest.raises(AssertionError):
        walk(PAGE.replace(right, wrong), folder)


def test_blocks_have_their_kind_and_name():
    assert [(block.kind, block.about) for block in blocks(PAGE)] == [
        ("python", "a.py"), ("bash", ""), ("text", ""), ("diff", "a.py"), ("bash", "exit=4"),
    ]  # fmt: skip


def test_numbers_may_vary_and_names_not():
    assert alike("onnx  pass  real R   1.39  ≤ 4", " onnx   pass   real R  0.998   ≤ 4 ")
    assert not alike("onnx-int8  pass", "onnx-fp16  pass")
    assert not alike("x: 3 of 4 (net.py:12)", "x: 3 of 4 (net.py:13)")
    with pytest.raises(AssertionError):
        check("one\none", "one\ntwo")


def test_an_edit_that_fits_twice_is_none(tmp_path):
    (tmp_path / "f").write_text("a\nb\na\n")
    with pytest.raises(AssertionError):
        edit(tmp_path / "f", "-a\n+c\n")
    edit(tmp_path / "f", " b\n-a\n+c\n")
    assert (tmp_path / "f").read_text() == "a\nb\nc\n"
