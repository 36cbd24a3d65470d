"""What a run found: as a table for people (Markdown, so that it can be pasted), and as JSON."""

import json
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import PRAMFS, Row, Spread, Target, Unit


def machine() -> dict[str, str]:
    """Describe what the figures were measured on."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(": ")[2] for line in cpus if line.startswith("model name")]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processors": f"{len(models)} x {models[0]}" if models else "unknown",
        "Linux": platform.release(),
    }


@dataclass
class Section:
    """The rows of one workload, and how long it took to measure them."""

    name: str
    what: str
    rows: list[Row]
    seconds: float


@dataclass
class Run:
    """A whole run. `failures` names what could not be measured."""

    scale: str
    rounds: int
    sections: list[Section] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0
    facts: dict[str, str] = field(default_factory=machine)


def table(section: Section) -> str:
    """One workload as a Markdown table: medians, then each target with what was reached."""
    peers = _peers(section.rows)
    head = ["", *peers, "against", "ratio", "spread", "target", ""]
    lines = [head, *(line for row in section.rows for line in _lines(row, peers))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = ["-" * width for width in widths]
    body = "\n".join(_join(line, widths) for line in [head, rule, *lines[1:]])
    return f"### {section.name}: {section.what}\n\n{body}\n"


def heading(run: Run) -> str:
    """Where and how it was measured."""
    facts = "; ".join(f"{name} {value}" for name, value in run.facts.items())
    return (
        f"{run.scale} form, medians of {run.rounds} alternating rounds; {facts}. Ratios are taken "
        "within a round; the spread is their quartiles. ≥ says how many times faster than the peer "
        "pramfs is, ≤ how many times as much it takes.\n"
    )


def summary(run: Run) -> str:
    """How many targets are met, and which are not."""
    judged = [
        (row.verdict(target), section.name, row, target)
        for section in run.sections
        for row in section.rows
        for target in row.targets
    ]
    counts = Counter(verdict for verdict, *_rest in judged)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    lines = [f"{len(judged)} targets: {counted}. Took {run.seconds:.0f} s."]
    lines += [
        f"- {verdict}: {name}, {row.name}{_against(target)}: {reached(row, target)[0]}, "
        f"target {_target(row, target)}"
        for verdict, name, row, target in judged
        if verdict in {"short", "missed"}
    ]
    lines += [f"- failed: {failure}" for failure in run.failures]
    return "\n".join(lines) + "\n"


def write_json(run: Run, path: Path) -> None:
    """Everything, samples included, for a machine to compare."""
    document = {
        "scale": run.scale,
        "rounds": run.rounds,
        "seconds": run.seconds,
        "machine": run.facts,
        "failures": run.failures,
        "sections": [
            {
                "name": section.name,
                "what": section.what,
                "seconds": section.seconds,
                "rows": [_row(row) for row in section.rows],
            }
            for section in run.sections
        ],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def target_text(target: Target, unit: Unit) -> str:
    """Return the bound of a target as the table shows it."""
    sign = "≥" if target.sense == "at least" else "≤"
    return f"{sign} {_quantity(target.aim, unit if target.against is None else 'x')}"


def reached(row: Row, target: Target) -> tuple[str, str]:
    """Return what pramfs reached of a target, and the spread, as the table shows them."""
    spread = row.reached(target)
    if spread is None:
        return "-", ""
    unit: Unit = row.unit if target.against is None else "x"
    return _quantity(spread.median, unit), _spread(spread, unit)


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "unit": row.unit,
        "samples": row.samples,
        "medians": {peer: row.median(peer) for peer in row.samples},
        "targets": [
            asdict(target) | {"reached": row.reached(target), "verdict": row.verdict(target)}
            for target in row.targets
        ],
    }


def _peers(rows: Iterable[Row]) -> list[str]:
    """Return the columns: pramfs first, then the others in order of appearance."""
    names = {PRAMFS: None} | {name: None for row in rows for name in row.samples}
    return list(names)


def _lines(row: Row, peers: list[str]) -> Iterator[list[str]]:
    """Return a line for the row, and one more for each target after the first."""
    medians = [_cell(row.median(peer), row.unit) for peer in peers]
    first = [row.name, *medians]
    if not row.targets:
        yield [*first, "", "", "", "", ""]
    for number, target in enumerate(row.targets):
        cells = first if number == 0 else [""] * len(first)
        name = target.against or ""
        yield [*cells, name, *reached(row, target), _target(row, target), row.verdict(target)]


def _spread(reached: Spread, unit: Unit) -> str:
    if reached.low == reached.high:
        return ""
    return f"{_quantity(reached.low, unit)} to {_quantity(reached.high, unit)}"


def _target(row: Row, target: Target) -> str:
    text = target_text(target, row.unit)
    if target.must is None:
        return text
    unit: Unit = row.unit if target.against is None else "x"
    return f"{text} (must {_quantity(target.must, unit)})"


def _against(target: Target) -> str:
    return f" against {target.against}" if target.against else ""


def _cell(figure: float | None, unit: Unit) -> str:
    return "-" if figure is None else _quantity(figure, unit)


def _quantity(figure: float, unit: Unit) -> str:
    match unit:
        case "s":
            return f"{figure * 1000:.3g} ms" if abs(figure) < 1 else f"{figure:.2f} s"
        case "B":
            return f"{figure / 2**20:.1f} MiB" if abs(figure) >= 2**20 else f"{figure:.0f} B"
        case "%":
            return f"{figure:.2f} %"
        case "x":
            return f"{figure:.2f}"


def _join(cells: Iterable[str], widths: list[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "| " + " | ".join(padded) + " |"
