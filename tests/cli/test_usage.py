"""Nonsense on the command line: the contract's exit code, one line on stderr, no traceback, and nothing was started."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.__main__ import _run
from deploykit.cli.app import COMMANDS

LINE = re.compile(r"error\[[A-Z0-9_]+\]: .+: .+; hint: .+")


def one_line(done) -> str:
    """The error line of a run that failed; progress lines (`[  0.1s] ...`) may stand before it."""
    said = [line for line in done.stderr.splitlines() if not re.match(r"\[ *\d+\.\ds\] ", line)]
    assert len(said) == 1, done.stderr
    assert LINE.fullmatch(said[0]), said[0]
    assert len(said[0]) <= 400
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return said[0]


NONSENSE = [
    "",
    "--nope",
    "nope",
    "Verify x",
    *[f"{command} --nope" for command in COMMANDS],
    *[f"{command} a b c d" for command in COMMANDS],
    *[f"{command} --json" for command in COMMANDS],
    "run nope",
    "run :",
    "run mlp --goal speed",
    "run mlp --latency-p90 5",
    "run mlp --latency-median 0ms",
    "run mlp --memory 500",
    "run mlp --size -1MB",
    "run mlp --load nan",
    "run mlp --min-throughput 0/s",
    "run mlp --max-accuracy-drop 0.5",
    "bench x --memory 5MB --scenario offline",
    "bench x --goal size --tune memory",
    "bench x --size 5MB --against y",
    "run mlp --batch x",
    "run mlp --batch 0",
    "run mlp --batch 1,,2",
    "run mlp --batch 99999999",
    "run mlp --on nope",
    "run mlp --threads 0",
    "run mlp --threads two",
    "run mlp --epochs 0",
    "run mlp --lr nan",
    "run mlp --lr inf",
    "run mlp --lr 0",
    "run mlp --seed -1",
    "run mlp --seed 4294967296",
    "run mlp --seed x",
    "run mlp --data cifar",
    "run mlp --optimizer lion",
    "run mlp --variants nope",
    "run mlp --variants ,",
    "run mlp --checkpoint nowhere",
    "run mlp --samples nowhere",
    "run mlp --input x",
    "run mlp --input x:float99[N]",
    "run mlp --input x:float32[0]",
    "run mlp --input x:float32[N,-1]",
    "run mlp --input x:float32[N",
    "run _mlp_net:x",
    "run interface",
    "run ../errors",
    "train",
    "train resnet -o x",
    "train -o",
    "train -o nowhere/x",
    "train -o .",
    "train -o . --force",
    "train -o x --lr nan",
    "train -o x --epochs 1.5",
    "export mlp -o file",
    "export mlp -o file --force",
    "export mlp -o file/x",
    "export mlp -o .",
    "verify",
    "verify nowhere",
    "verify file",
    "verify .",
    "verify bundle --variants nope",
    "verify bundle --variants ,",
    "verify bundle --on nope",
    "verify bundle --set x",
    "verify bundle --set budget.nope=1",
    "verify bundle --set budget.max_r=lots",
    "verify bundle --set budget.max_r=nan",
    "verify bundle --set budget.max_r",
    "verify bundle --set max_r=1",
    "verify bundle --precision nope",
    "verify bundle --artifact nowhere",
    "verify bundle --artifact .",
    "verify bundle --inconclusive maybe",
    "bench",
    "bench nowhere",
    "bench bundle --batch -1",
    "bench bundle --variants nope",
    "bench bundle --source nope",
    "report",
    "report nowhere",
    "report bundle",
    "report bundle --format pdf",
    "inspect",
    "inspect nowhere",
    "inspect .",
    "doctor everything",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, build):
    folder = tmp_path_factory.mktemp("usage")
    (folder / "file").write_text("mine")
    build(folder / "bundle")
    return folder


@pytest.mark.parametrize("arguments", NONSENSE)
def test_nonsense_is_a_usage_error_of_one_line(place, arguments, monkeypatch, capfd):
    """In this process, since there are many: `_run` is all of the program but its exit."""
    monkeypatch.chdir(place)
    code = _run(arguments.split(" ") if arguments else [])
    said = capfd.readouterr()
    assert code == 2, said.err
    one_line(subprocess.CompletedProcess([], code, said.out, said.err))
    assert sorted(p.name for p in place.iterdir() if not p.name.endswith(".lock")) == ["bundle", "file"]
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments", ["", "nope", "verify", "verify nowhere", "run mlp --lr nan", "train -o nowhere/x"]
)
def test_nonsense_ends_a_fresh_process_alike(cli, place, arguments):
    done = cli(*arguments.split(), cwd=place)
    assert done.returncode == 2, done.stderr
    one_line(done)


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "a\nb\x1b[31m\u202e"),
        ("verify", "x" * 5000),
        ("run", "nope\n" + "y" * 1000),
        ("inspect", "\t\r\n"),
        ("verify", "bundle", "--set", "a\nb=1"),
        ("verify", "bundle", "--variants", "n\u2028o"),
        ("\x1b]0;x\x07",),
        ("export", "mlp", "--input", "x\n:float32[N]"),
        ("verify", b"\xff\xfe".decode(errors="surrogateescape")),
    ],
)
def test_strange_characters_stay_on_one_line_and_harmless(cli, place, arguments):
    done = cli(*arguments, cwd=place)
    assert done.returncode == 2, done.stderr
    assert one_line(done).isprintable()


def test_debug_adds_the_traceback_and_nothing_else_changes(cli, place):
    done = cli("verify", "nowhere", "--debug", cwd=place)
    assert done.returncode == 2
    assert LINE.fullmatch(done.stderr.splitlines()[0])
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("command", [(), *[(name,) for name in COMMANDS]])
def test_help_names_every_option_and_ends_well(cli, command):
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: deploykit")
    assert done.stderr == ""
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


def test_the_help_lists_the_commands_of_the_contract_and_the_version_is_printed(cli):
    listed = cli("--help").stdout
    assert all(f"\n  {name} " in listed for name in COMMANDS)
    assert re.fullmatch(r"deploykit \d+\.\d+\.\d+\n", cli("--version").stdout)


@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "bundle", "--json", "-"], ["inspect", "bundle"]])
def test_a_reader_that_goes_away_ends_it_quietly_and_not_as_a_passed_or_failed_gate(place, arguments):
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "deploykit", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=place
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == -signal.SIGPIPE


def test_a_full_disk_behind_stdout_is_a_storage_error(place):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "deploykit", "inspect", "bundle"],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=place, check=False,
        )  # fmt: skip
    assert done.returncode == 6
    assert LINE.fullmatch(done.stderr.strip())


@pytest.mark.parametrize(
    "arguments",
    [["bench", "bundle", "--json"], ["bench", "bundle", "--against", "onnx@threads=1", "--junit"],
     ["bench", "bundle", "--tune", "latency", "--json"], ["verify", "bundle", "--json"],
     ["verify", "bundle", "--junit"], ["run", "mlp", "-o", "out", "--json"], ["export", "mlp", "-o", "out", "--json"]],
    ids=" ".join,
)  # fmt: skip
def test_a_file_that_cannot_be_written_is_said_before_the_work(cli, made, tmp_path, arguments):
    made.rename(tmp_path / "bundle")
    (tmp_path / "folder").mkdir()
    for place in ("none/there.json", "folder"):
        done = cli(*arguments, place, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"error[NOT_FOUND]: {place}: "), done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "bundle" / "reports").exists()


def test_a_file_for_results_is_not_touched_when_the_work_fails(cli, made, tmp_path):
    (tmp_path / "kept.json").write_text("kept")
    done = cli("bench", made, "--variants", "nothing", "--json", tmp_path / "kept.json")
    assert done.returncode == 2
    assert (tmp_path / "kept.json").read_text() == "kept"
