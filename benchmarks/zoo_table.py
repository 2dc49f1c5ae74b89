"""The zoo's rows graded and counted: text for the terminal, Markdown for results/zoo.md. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from zoo_entry import PASS, REFERENCE, VARIANTS, Entry

BUDGET = frozenset({"SQNR_LOW", "METRIC_INFERIOR", "SATURATION_RISK", "BATCH_DEPENDENCE"})
"""What the gate may truly say of int8 in a network of random weights, whose layers nobody trained to be robust: a right
answer of the gate and no pass, so it has a column of its own."""

GRADES = ("pass", "refused rightly", "int8 over budget", "wrong")

PLAIN = {
    "right": "green, and right",
    "wrong": "**green, and wrong on other inputs by its own measure**",
    "sizes": "green, and refuses a promised size",
    "strict": "green, and refused by deploykit alone (NaN, tighter budgets)",
    "unjudged": "green, where eager is no reference",
    "red": "red: its own check finds it",
    "fails": "no file, or a file that does not run",
}
"""What becomes of plain `torch.onnx.export(dynamo=True)` and `numpy.allclose` on the example."""

Row = dict[str, Any]


def actual(found: dict[str, Any]) -> str:
    """`pass`, a code, or what happened where there is none."""
    return PASS if found["verdict"] == PASS else found["code"] or found["verdict"]


def grade(entry: Entry, variant: str, found: dict[str, Any]) -> str:
    """One of `GRADES`; a refusal without a remedy is never right."""
    said, right = actual(found), entry.right(variant)
    if said in right:
        if said == PASS:
            return "pass"
        return "refused rightly" if found["remedy"] else "wrong"
    quantized = variant.startswith("onnx-int8") and found["verdict"] == "fail"
    return "int8 over budget" if quantized and said in BUDGET and PASS in right else "wrong"


def graded(entry: Entry, row: Row) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Variant, outcome and grade; a model that was refused whole counts once per variant."""
    for variant in VARIANTS:
        found = row["variants"].get(REFERENCE) or row["variants"].get(variant)
        if found is None:
            found = {"verdict": "crashed", "code": "", "reason": "no outcome", "remedy": ""}
        yield variant, found, grade(entry, variant, found)


def plain_grade(row: Row) -> str:
    """One of the keys of `PLAIN`; empty where it was not asked."""
    plain = row.get("plain")
    if not plain:
        return ""
    if plain["check"] != "green":
        return "red" if plain["check"] == "red" else "fails"
    if plain.get("far"):
        return "wrong"
    if "judge" not in plain:
        return "unjudged"
    if plain.get("raised"):
        return "sizes"
    return "right" if plain["judge"]["verdict"] == PASS else "strict"


def known(entries: list[Entry], models: dict[str, Row]) -> list[tuple[Entry, Row]]:
    """Models that have a row, in the order of the list."""
    return [(entry, models[entry.name]) for entry in entries if entry.name in models]


def line(entry: Entry, row: Row) -> str:
    """One model for the terminal."""
    cells = [f"{actual(found)}{'' if was != 'wrong' else ' (WRONG)'}" for _, found, was in graded(entry, row)]
    took = sum(row["seconds"].values())
    said = " ".join(dict.fromkeys(cells)) if len(set(cells)) == 1 else " | ".join(cells)
    return f"{entry.name}: {said}; plain {plain_grade(row) or 'not asked'}; {took:.0f} s"


def counts(entries: list[Entry], models: dict[str, Row]) -> dict[str, Counter[str]]:
    """Grades by family, and of all under `all`."""
    found: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for entry, row in known(entries, models):
        grades = Counter(was for _, _, was in graded(entry, row))
        found.setdefault(entry.family, Counter()).update(grades)
        total.update(grades)
    return {**found, "all": total}


def rate(counted: Counter[str]) -> float:
    """Share of rows that are not wrong, in percent."""
    return 100.0 * (1 - counted["wrong"] / max(1, counted.total()))


def summary(entries: list[Entry], models: dict[str, Row]) -> str:
    """Counts, and a line for every row that is wrong."""
    total = counts(entries, models)["all"]
    there = known(entries, models)
    lines = [
        f"{len(there)} of {len(entries)} models, {total.total()} rows: "
        + ", ".join(f"{total[name]} {name}" for name in GRADES)
        + f"; {rate(total):.1f} % right"
    ]
    plain = Counter(plain_grade(row) for _, row in there if plain_grade(row))
    lines.append("plain torch.onnx.export: " + ", ".join(f"{plain[key]} {key}" for key in PLAIN))
    for entry, row in there:
        for variant, found, was in graded(entry, row):
            if was == "wrong":
                due = "" if PASS in entry.right(variant) else f" instead of {'|'.join(entry.right(variant))}"
                lines.append(f"  {entry.name} {variant}: {found['verdict']} {found['code']}{due}: {found['reason']}")
    return "\n".join(lines)


def markdown(entries: list[Entry], models: dict[str, Row]) -> str:
    """The whole table."""
    parts = [_head(entries, models), _families(entries, models), _plain(entries, models), _rest(entries, models)]
    return "\n\n".join([*parts, _all(entries, models)]) + "\n"


def _head(entries: list[Entry], models: dict[str, Row]) -> str:
    there, total = len(known(entries, models)), counts(entries, models)["all"]
    return (
        "# The zoo\n\n"
        f"{there} of {len(entries)} models, {len(VARIANTS)} variants each: {', '.join(VARIANTS)}. "
        f"**{total.total() - total['wrong']} of {total.total()} rows are right ({rate(total):.1f} %)**, "
        f"{total['pass']} of them passes. Made by `python benchmarks/zoo.py`; random weights, so an int8 variant may "
        "truly be over its budget: that is an answer of the gate and no pass, and has a column of its own. "
        "A refusal is right only with the code that the list names for it, and with a remedy."
    )


def _families(entries: list[Entry], models: dict[str, Row]) -> str:
    lines = ["| models | rows | " + " | ".join(GRADES) + " | right |", "| --- |" + " --- |" * (len(GRADES) + 2)]
    for family, counted in counts(entries, models).items():
        cells = " | ".join(str(counted[name]) for name in GRADES)
        name = "**all**" if family == "all" else family
        lines.append(f"| {name} | {counted.total()} | {cells} | {rate(counted):.1f} % |")
    return "\n".join(lines)


def _plain(entries: list[Entry], models: dict[str, Row]) -> str:
    found: dict[str, list[str]] = {key: [] for key in PLAIN}
    for entry, row in known(entries, models):
        if key := plain_grade(row):
            judge = row["plain"].get("judge", {}).get("code") or row["variants"].get(REFERENCE, {}).get("code", "")
            found[key].append(f"{entry.name} ({judge})" if judge else entry.name)
    lines = [
        "## The same models by `torch.onnx.export(dynamo=True)` and `numpy.allclose(rtol=1e-3, atol=1e-5)`",
        "",
        "| outcome | models | which |",
        "| --- | --- | --- |",
    ]
    for key, text in PLAIN.items():
        which = "" if key in {"right", "red", "fails"} else ", ".join(found[key])
        lines.append(f"| {text} | {len(found[key])} | {which} |")
    return "\n".join(lines)


def _rest(entries: list[Entry], models: dict[str, Row]) -> str:
    lines = [
        "## Rows that are no pass",
        "",
        "| model | variant | outcome | grade | what was said |",
        "| --- |" + " --- |" * 4,
    ]
    for entry, row in known(entries, models):
        whole = REFERENCE in row["variants"]
        for variant, found, was in graded(entry, row):
            if was == "pass" or (whole and variant != VARIANTS[0]):
                continue
            place = "all" if whole else variant
            lines.append(f"| {entry.name} | {place} | {actual(found)} | {was} | {_cell(found['reason'])} |")
    return "\n".join(lines)


def _all(entries: list[Entry], models: dict[str, Row]) -> str:
    names = " | ".join(VARIANTS)
    lines = ["## All models", "", f"| model | {names} | plain | seconds | MiB |", "| --- |" + " --- |" * 7]
    for entry, row in known(entries, models):
        cells = " | ".join(actual(found) for _, found, _ in graded(entry, row))
        took, peak = sum(row["seconds"].values()), row["peak_tree_bytes"] / 2**20
        lines.append(f"| {entry.name} | {cells} | {plain_grade(row)} | {took:.0f} | {peak:.0f} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:240]
