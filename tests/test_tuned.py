import pytest
from pydantic import ValidationError

from deploykit.session import CPU, CUDA, SessionSettings
from deploykit.tuned import TunedRecord, elsewhere, opened, parted, tuned_for

RECORD = TunedRecord(goal="latency", provider=CPU, settings="threads=4,spinning=off", batch=1, cpu="Toy", cores=8)
PLAIN = SessionSettings(threads=8)


def test_a_session_opens_with_what_was_found_for_its_goal_and_provider():
    other = RECORD.model_copy(update={"goal": "memory", "settings": "arena=off"})
    device = RECORD.model_copy(update={"provider": CUDA, "settings": "graph_level=basic"})
    every = (other, device, RECORD)
    assert tuned_for(every, CPU) is RECORD
    assert tuned_for(every, CPU, "memory") is other
    assert tuned_for(every, CUDA) is device
    assert tuned_for(every, CUDA, "memory") is None
    assert tuned_for((), CPU) is None


@pytest.mark.parametrize(("cores", "threads"), [(8, 4), (4, 4), (2, 2), (1, 1), (0, 1)])
def test_threads_are_cut_to_the_cores_there_are(cores, threads):
    assert opened(RECORD, PLAIN, cores) == SessionSettings(threads=threads, spinning=False)


def test_what_is_not_recorded_stays():
    assert opened(None, PLAIN, 4) is PLAIN
    assert opened(RECORD.model_copy(update={"settings": "arena=off"}), PLAIN, 4).threads == 8
    assert opened(RECORD.model_copy(update={"settings": "arena=off"}), SessionSettings(), 4).threads is None


@pytest.mark.parametrize(
    ("cpu", "cores", "said"), [("Toy", 8, False), ("Toy", 4, True), ("Other", 8, True), (None, 8, True), ("", 8, True)]
)
def test_another_machine_is_said(cpu, cores, said):
    assert bool(elsewhere(RECORD, cpu, cores)) is said
    assert ("Toy with 8 usable cores" in elsewhere(RECORD, cpu, cores)) is said


@pytest.mark.parametrize(
    ("text", "plain", "words"),
    [
        ("", False, ""),
        ("threads=1", False, "threads=1"),
        ("default", True, ""),
        ("default,threads=1", True, "threads=1"),
        (" arena=off , default", True, "arena=off"),
    ],
)
def test_the_word_default_leaves_tuned_settings_aside(text, plain, words):
    assert parted(text) == (plain, words)


@pytest.mark.parametrize(
    "change",
    [
        {"settings": "threads=0"},
        {"settings": "threads=5000"},
        {"settings": "provider=x"},
        {"settings": "rm -rf"},
        {"goal": "beauty"},
        {"provider": "../x"},
        {"batch": 0},
        {"cores": 0},
        {"ratio": float("nan")},
        {"more": 1},
    ],
)
def test_a_record_from_anywhere_holds_what_a_session_has_or_nothing(change):
    with pytest.raises(ValidationError):
        TunedRecord.model_validate({**RECORD.model_dump(), **change})
