"""The picture of a run: one SVG bar for each target, how far pramfs is above or below it.

A bar's length is what was reached as a multiple of the target, on a logarithmic scale, so that a
bar to the right of the line meets its target whatever the target counts. Written by hand: an SVG
of rectangles and text needs no library.
"""

import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

from benchmarks import report
from benchmarks.figures import Row, Spread, Target, Verdict

_LINE_PX = 18
_LABEL_PX = 520
_BAR_PX = 420
_SPAN = 8.0  # the axis reaches from 1/8 to 8 times the target
_COLOURS: dict[Verdict, str] = {
    "met": "#2e7d4f",
    "short": "#c98a1b",
    "missed": "#b03a3a",
    "not measured": "#999999",
}


class _Bar(NamedTuple):
    label: str
    share: Spread
    verdict: Verdict
    reached: str


def write_svg(run: report.Run, path: Path) -> None:
    """Draw every target of *run* that was measured."""
    path.write_text(_svg(list(_bars(run))), encoding="utf-8")


def _bars(run: report.Run) -> Iterator[_Bar]:
    for section in run.sections:
        for row in section.rows:
            for target in row.targets:
                reached = row.reached(target)
                if reached is not None:
                    verdict, text = row.verdict(target), report.reached(row, target)[0]
                    yield _Bar(_label(row, target), _share(reached, target), verdict, text)


def _label(row: Row, target: Target) -> str:
    against = f" {target.against}" if target.against else ""
    return f"{row.name} ({report.target_text(target, row.unit)}{against})"


def _share(reached: Spread, target: Target) -> Spread:
    """Return the result as a multiple of the target; from 1 on it is met, whichever way it bounds."""
    if target.sense == "at least":
        return Spread(*(figure / target.aim for figure in reached))
    shares = [_SPAN if figure <= 0 else target.aim / figure for figure in reached]
    return Spread(shares[2], shares[1], shares[0])


def _x(share: float) -> float:
    """Where a multiple of the target lies, in pixels; ends of the axis take what is beyond them."""
    within = min(max(share, 1 / _SPAN), _SPAN)
    return _LABEL_PX + _BAR_PX * (math.log(within, _SPAN) + 1) / 2


def _svg(bars: list[_Bar]) -> str:
    width, height = _LABEL_PX + _BAR_PX + 80, _LINE_PX * (len(bars) + 3)
    size = f'width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect {size} fill="white"/>',
        *_axis(height),
        *(line for number, bar in enumerate(bars) for line in _bar(number, bar)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _axis(height: int) -> Iterator[str]:
    for share in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8):
        x, colour = _x(share), "#333333" if share == 1 else "#dddddd"
        text = "target" if share == 1 else f"{share:g} x"
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="22" y2="{height - 8}" stroke="{colour}"/>'
        yield f'<text x="{x:.1f}" y="16" text-anchor="middle" fill="#333333">{text}</text>'


def _bar(number: int, bar: _Bar) -> Iterator[str]:
    y = _LINE_PX * (number + 2)
    start, end = sorted((_x(1), _x(bar.share.median)))
    middle = y - 4
    yield f'<text x="{_LABEL_PX - 8}" y="{y}" text-anchor="end">{escape(bar.label)}</text>'
    yield (
        f'<rect x="{start:.1f}" y="{y - 10}" width="{max(end - start, 1):.1f}" height="12" '
        f'fill="{_COLOURS[bar.verdict]}"/>'
    )
    yield (
        f'<line x1="{_x(bar.share.low):.1f}" x2="{_x(bar.share.high):.1f}" y1="{middle}" '
        f'y2="{middle}" stroke="black"/>'
    )
    yield f'<text x="{_LABEL_PX + _BAR_PX + 8}" y="{y}">{escape(bar.reached)}</text>'
