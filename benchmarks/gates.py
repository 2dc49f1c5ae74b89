"""Who catches what: `deploykit verify` and four other checks on the same broken, and the same sound, ONNX files.

    python benchmarks/gates.py [NAME,NAME…] [--write] [--keep FOLDER]

Makes every artifact on the spot, asks every tool about it as the tool's documentation shows, and prints the table.
`--write` stores it as results/gates.json and results/gates.md. The other tools are installed into an environment of
their own below the user's cache; a package index must be reachable the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gate_artifacts
from gate_artifacts import Artifact
from gate_models import SUBJECTS

import deploykit
from deploykit.environment import fingerprint

HERE = Path(__file__).parent
PACKAGES = ("polygraphy", "optimum-onnx[onnxruntime]")
SHOWN = ("polygraphy", "optimum", "optimum-onnx", "transformers", "torch", "onnx", "onnxruntime", "numpy")

TOOLS = {
    "deploykit": "deploykit verify BUNDLE --artifact FILE --precision PRECISION",
    "torch verify": "torch.onnx.export(…, verify=True); for a file changed after its export "
    "torch.onnx.verification.verify_onnx_program(torch.onnx.ONNXProgram(onnx_ir.load(FILE), exported_program)), "
    "held to the limits of verify=True",
    "polygraphy": "polygraphy run FILE --onnxrt --load-inputs inputs.json --load-outputs outputs.json",
    "allclose": "numpy.testing.assert_allclose(eager, onnxruntime, rtol=1e-3, atol=1e-5) on one random input",
    "optimum": "optimum.exporters.onnx.validate_model_outputs(config, module, FILE, names, config.ATOL_FOR_VALIDATION)",
}
"""The tools in the order of the table, and the exact question each is asked."""

NOT_CAPTURED = "verify=True needs dynamo=True, which cannot capture a module that branches on its data"


@dataclass(frozen=True)
class Answer:
    """What one tool said of one artifact.

    Attributes:
        alarm: it raised or ended with another exit status than 0.
        warned: it only logged a warning, and ended with 0.
        said: code and first line of what it said.
        why_not: why it could not be asked; then the rest means nothing.
    """

    alarm: bool = False
    warned: bool = False
    said: str = ""
    why_not: str = ""

    def cell(self, *, healthy: bool) -> str:
        """The word in the table."""
        if self.why_not:
            return "n/a"
        if self.alarm:
            return "false alarm" if healthy else "caught"
        if self.warned:
            return "false warning" if healthy else "warned"
        return "ok" if healthy else "missed"


def cell(artifact: Artifact, found: dict[str, Answer]) -> str:
    """The word in the table, given all answers of one tool: who complains of the sound twin too has caught nothing."""
    word = found[artifact.name].cell(healthy=artifact.healthy)
    twin = found.get(artifact.twin)
    return "either way" if word in {"caught", "warned"} and twin and (twin.alarm or twin.warned) else word


def environment_of_others() -> Path:
    """The `bin` folder of an environment with the other tools, made where it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "deploykit-benchmarks" / "gates"
    if not (folder / "ready").is_file():
        beside = Path(sys.executable).parent / "uv"
        uv = str(beside) if beside.is_file() else "uv"
        python = str(folder / "bin" / "python")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *PACKAGES], check=True
        )
        (folder / "ready").touch()
    return folder / "bin"


def versions(bin_folder: Path) -> dict[str, str]:
    """Versions of the packages that matter there."""
    code = (
        "import importlib.metadata as m, json, sys;"
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    done = subprocess.run([bin_folder / "python", "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {name: found[name] for name in SHOWN if name in found}


def plain(text: str, folder: Path) -> str:
    """One line of `text` without the paths of this machine."""
    line = " ".join(text.replace(str(folder), "").replace(str(Path.home()), "~").split())
    return line if len(line) <= 300 else f"{line[:299]}…"


@dataclass(frozen=True)
class Bench:
    """Where everything lies.

    Attributes:
        folder: artifacts, bundles and data, below a folder per subject.
        others: the `bin` folder of the other tools.
    """

    folder: Path
    others: Path

    def file(self, artifact: Artifact) -> str:
        """The artifact's path."""
        return str(self.folder / artifact.subject / f"{artifact.name}.onnx")

    def weights(self, artifact: Artifact) -> str:
        """The weights that eager answers with."""
        return str(self.folder / artifact.subject / "weights.pt")

    def deploykit(self, artifact: Artifact) -> Answer:
        """The command line on a bundle of the live module: its exit status, and the variant's code."""
        bundle = self._bundle(artifact)
        argv = [sys.executable, "-m", "deploykit", "verify", str(bundle), "--artifact", self.file(artifact)]
        done = self._run([*argv, "--precision", artifact.precision, "--quiet", "--json", "-"])
        report = json.loads(done.stdout)
        if "variants" not in report:
            return Answer(alarm=True, said=plain(done.stderr, self.folder))
        judged = report["variants"][0]
        said = f"{judged['code']} {judged['reason']}" if done.returncode else judged["reason"]
        return Answer(alarm=done.returncode != 0, said=plain(said, self.folder))

    def _bundle(self, artifact: Artifact) -> Path:
        """The reference of the untouched module; with real samples where the artifact asks for them."""
        subject, home = SUBJECTS[artifact.subject], self.folder / artifact.subject
        bundle = home / ("reference-samples" if artifact.samples else "reference")
        if not bundle.is_dir():
            samples = gate_artifacts.write_samples(subject, home) if artifact.samples else None
            deploykit.export(subject.build(), subject.example(), bundle, variants=["onnx"], samples=samples)
        return bundle

    def polygraphy(self, artifact: Artifact) -> Answer:
        """The command line: its exit status, and its last line but the summary."""
        home = self.folder / artifact.subject
        argv = [str(self.others / "polygraphy"), "run", self.file(artifact), "--onnxrt"]
        done = self._run(
            [*argv, "--load-inputs", str(home / "inputs.json"), "--load-outputs", str(home / "outputs.json")]
        )
        lines = [line for line in done.stdout.splitlines() if "FAILED" in line or line.startswith(("[E]", "[!]"))]
        return Answer(alarm=done.returncode != 0, said=plain(lines[0] if lines else "", self.folder))

    def _run(self, argv: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=quiet_environment())

    def asked(self, python: str, questions: list[dict[str, Any]]) -> dict[str, Answer]:
        """Answers of `gate_ask.py` by artifact; a process that dies is an alarm, the next ones go on in a new one."""
        found: dict[str, Answer] = {}
        while left := [question for question in questions if question["name"] not in found]:
            text = "".join(json.dumps(question) + "\n" for question in left)
            argv = [python, str(HERE / "gate_ask.py")]
            done = subprocess.run(
                argv, input=text, capture_output=True, text=True, check=False, env=quiet_environment()
            )
            for line in done.stdout.splitlines():
                if line.startswith('{"name"'):
                    answer = json.loads(line)
                    said = answer["raised"] or "; ".join(answer["warned"])
                    found[answer["name"]] = Answer(
                        bool(answer["raised"]), bool(answer["warned"]), plain(said, self.folder)
                    )
            if left[0]["name"] not in found and done.returncode == 0:
                raise RuntimeError(f"no answer: {done.stderr}")
            if done.returncode:
                died = next(question["name"] for question in left if question["name"] not in found)
                found[died] = Answer(alarm=True, said=f"the process ended with {done.returncode}")
        return found


def quiet_environment() -> dict[str, str]:
    """Nothing is fetched, nothing is reported, UTF-8 whatever the locale."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1", "PYTHONWARNINGS": "ignore"}


def ask_all(artifacts: list[Artifact], bench: Bench) -> dict[str, dict[str, Answer]]:
    """Answers by tool and artifact."""
    for artifact in artifacts:
        gate_artifacts.make(artifact, bench.folder)
        print(f"made {artifact.name}", file=sys.stderr, flush=True)
    other = str(bench.others / "python")
    data = {a.subject: [str(bench.folder / a.subject), bench.weights(a)] for a in artifacts}
    prepared = bench.asked(
        other, [_question("polygraphy-data", name, name, arguments) for name, arguments in data.items()]
    )
    if broken := [f"{name}: {answer.said}" for name, answer in prepared.items() if answer.alarm]:
        raise RuntimeError(f"no data for Polygraphy: {broken}")
    found: dict[str, dict[str, Answer]] = {}
    for tool, ask in (("deploykit", bench.deploykit), ("polygraphy", bench.polygraphy)):
        found[tool] = {}
        for artifact in artifacts:
            found[tool][artifact.name] = ask(artifact)
            print(f"{tool}: {artifact.name}: {found[tool][artifact.name]}", file=sys.stderr, flush=True)
    plainly = [(a, [bench.file(a), bench.weights(a)]) for a in artifacts]
    found["allclose"] = bench.asked(
        sys.executable, [_question("allclose", a.name, a.subject, rest) for a, rest in plainly]
    )
    found["optimum"] = bench.asked(other, [_question("optimum", a.name, a.subject, rest) for a, rest in plainly])
    found["torch verify"] = {
        **{a.name: Answer(why_not=NOT_CAPTURED) for a in artifacts if a.born == "traced"},
        **bench.asked(sys.executable, list(_torch_questions(artifacts, bench))),
    }
    return {tool: found[tool] for tool in TOOLS}


def _question(tool: str, name: str, subject: str, arguments: list[str]) -> dict[str, Any]:
    return {"tool": tool, "name": name, "subject": subject, "arguments": arguments}


def _torch_questions(artifacts: list[Artifact], bench: Bench) -> Iterator[dict[str, Any]]:
    for artifact in artifacts:
        rest = [bench.file(artifact), bench.weights(artifact)]
        if artifact.born == "exported":
            options = gate_artifacts.export_arguments(SUBJECTS[artifact.subject], **dict(artifact.options))
            yield _question("torch-export-verify", artifact.name, artifact.subject, [*rest, repr(options)])
        elif artifact.born != "traced":
            yield _question("torch-verify", artifact.name, artifact.subject, rest)


def rows(artifacts: list[Artifact], answers: dict[str, dict[str, Answer]]) -> list[list[str]]:
    """The table, header first: broken artifacts before sound ones."""
    table = [["artifact", "what is wrong, or that it is sound", *answers]]
    for artifact in sorted(artifacts, key=lambda a: a.healthy):
        cells = [cell(artifact, found) for found in answers.values()]
        code = answers["deploykit"][artifact.name].said.split(" ")[0]
        if cells[0] in {"caught", "false alarm"}:
            cells[0] = f"{cells[0]} ({code})"
        table.append([artifact.name, f"sound: {artifact.what}" if artifact.healthy else artifact.what, *cells])
    return table


def totals(artifacts: list[Artifact], answers: dict[str, dict[str, Answer]]) -> dict[str, dict[str, int]]:
    """Per tool, how often each word stands in its column."""
    found: dict[str, dict[str, int]] = {}
    for tool, said in answers.items():
        words = [cell(artifact, said) for artifact in artifacts]
        found[tool] = {word: words.count(word) for word in sorted(set(words))}
    return found


def markdown(table: list[list[str]], counted: dict[str, dict[str, int]]) -> str:
    """The table and its last row, ready for README.md."""
    last = [
        "**all**",
        "",
        *("; ".join(f"{count} {word}" for word, count in words.items()) for words in counted.values()),
    ]
    lines = [table[0], ["---"] * len(table[0]), *table[1:], last]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Make, ask, print, and write on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="?", default="", help="comma-separated artifacts; all by default")
    parser.add_argument("--write", action="store_true", help="store results/gates.json and results/gates.md")
    parser.add_argument("--keep", type=Path, help="make everything in this folder and leave it there")
    given = parser.parse_args()
    artifacts = gate_artifacts.by_name(given.names)
    folder = (given.keep or Path(tempfile.mkdtemp(prefix="deploykit-gates-"))).absolute()
    bench = Bench(folder, environment_of_others())
    try:
        answers = ask_all(artifacts, bench)
    finally:
        if given.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    counted = totals(artifacts, answers)
    text = markdown(rows(artifacts, answers), counted)
    print(text)
    if given.write:
        record = {
            "calls": TOOLS,
            "artifacts": [_described(artifact, answers) for artifact in artifacts],
            "totals": counted,
            "versions_of_others": versions(bench.others),
            "environment": fingerprint(),
        }
        (HERE / "results" / "gates.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        (HERE / "results" / "gates.md").write_text(text)


def _described(artifact: Artifact, answers: dict[str, dict[str, Answer]]) -> dict[str, Any]:
    said = {tool: {"cell": cell(artifact, found), **asdict(found[artifact.name])} for tool, found in answers.items()}
    keys = ("name", "subject", "what", "healthy", "born", "precision", "samples", "twin")
    return {**{key: getattr(artifact, key) for key in keys}, "answers": said}


if __name__ == "__main__":
    main()
