"""A picture of where everything lies as an SVG document of its own, for a report."""

from collections.abc import Iterator
from html import escape

from pramfs.offline.frame_map import KINDS, Picture, stretches
from pramfs.system.text import printable

_XMLNS = "http://www.w3.org/2000/svg"
_COLUMNS = 128
_ROWS_MAX = 128
_CELL = 8
_LINE = 18
_DIGIT = 8
_LABELLED_ROWS = 8  # from one pfn at the margin to the next
_LINE_CHARS = 70  # as many as there is room for, if they are wide ones
_DAMAGE_LINES = 20


def as_svg(picture: Picture) -> str:
    """The picture with pfns at its margin, its legend, and the first words on what is damaged."""
    frames = len(picture.kinds)
    per_cell = -(-frames // (_COLUMNS * _ROWS_MAX))
    cells = picture.cells(per_cell)
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    left = _DIGIT * (len(f"{frames:x}") + 1)
    top = 3 * _LINE
    below = top + len(rows) * _CELL + _LINE
    legend = list(picture.legend())
    damage = list(_damage(picture))
    width = left + _COLUMNS * _CELL
    height = below + (len(legend) + len(damage)) * _LINE
    parts = [
        f'<svg xmlns="{_XMLNS}" width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(2, _LINE, printable(picture.title)),
        _text(2, 2 * _LINE, f"{frames} frames, {picture.scale('square', per_cell)}"),
    ]
    for number, row in enumerate(rows):
        y = top + number * _CELL
        if number % _LABELLED_ROWS == 0:
            parts.append(_pfn(number * _COLUMNS * per_cell, left, y))
        parts += _row(row, left, y)
    for number, (kind, words) in enumerate(legend):
        y = below + number * _LINE
        parts.append(
            f'<rect x="2" y="{y - 11}" width="12" height="12" fill="{kind.colour}" stroke="#808080"/>'
        )
        parts.append(_text(20, y, words))
    for number, line in enumerate(damage, len(legend)):
        parts.append(_text(2, below + number * _LINE, line))
    return "\n".join([*parts, "</svg>", ""])


def _damage(picture: Picture) -> Iterator[str]:
    for line in picture.damage[:_DAMAGE_LINES]:
        yield f"damage: {line}"
    if len(picture.damage) > _DAMAGE_LINES:
        yield f"damage: and {len(picture.damage) - _DAMAGE_LINES} more"


def _text(x: int, y: int, words: str) -> str:
    """A line; of a long one the end, which tells more: of a path, or of what is damaged."""
    if len(words) > _LINE_CHARS:
        words = "…" + words[1 - _LINE_CHARS :]
    return f'<text x="{x}" y="{y}">{escape(words)}</text>'


def _pfn(pfn: int, left: int, y: int) -> str:
    style = 'text-anchor="end" font-family="monospace" fill="#606060"'
    return f'<text x="{left - _DIGIT // 2}" y="{y + _CELL}" {style}>{pfn:x}</text>'


def _row(cells: bytes, left: int, y: int) -> Iterator[str]:
    for kind, first, count in stretches(cells):
        yield (
            f'<rect x="{left + first * _CELL}" y="{y}" width="{count * _CELL}" '
            f'height="{_CELL}" fill="{KINDS[kind].colour}"/>'
        )
