"""Maps of an image, which show the use of each frame: on a terminal, as SVG, and for programs.

The map of an image shows its last save. A mount knows more of each frame: whether it was written since then,
is only needed by the last save, or is banned.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple

from pramfs.control import client
from pramfs.control.served_image import open_target
from pramfs.errors import PramError
from pramfs.offline.reader import TreeReader
from pramfs.offline.scan import Scan, scan_image
from pramfs.options import DEFAULT_NAME
from pramfs.saves.snapshot_names import tree_named, tree_of
from pramfs.saves.tree_nodes import tree_names
from pramfs.storage import layout, superblock
from pramfs.storage.frames import (
    BANNED,
    DROPPED,
    FREE,
    FRESH,
    HELD,
    KEPT,
    OLD,
    PENDING,
    SAVED,
    Extent,
)
from pramfs.storage.image import Image
from pramfs.storage.layout import PAGE_SIZE
from pramfs.system.progress import Bar
from pramfs.system.text import printable
from pramfs.tree.inodes import File


class Kind(NamedTuple):
    """A use of frames: its name for programs, its sign, its colours (ANSI, SVG), and its description."""

    name: str
    sign: str
    ansi: str
    colour: str
    words: str


# Where several kinds share a place of the picture, the first in this order is shown.
KINDS = (
    Kind("damaged", "X", "41;97", "#d62728", "damaged"),
    Kind("chosen", "@", "45;97", "#c2188b", "what was asked for"),
    Kind("super", "S", "43;30", "#e6a700", "super block"),
    Kind("node", "N", "93", "#8c564b", "node"),
    Kind("link", "L", "33", "#b98b6d", "link"),
    Kind("banned", "B", "90", "#444444", "banned"),
    Kind("new", "+", "92", "#2ca02c", "data since the last save"),
    Kind("reserved", "r", "36", "#17becf", "reserved: only the last save needs it"),
    Kind("shared", "=", "96", "#9467bd", "data that several pages of files share"),
    Kind("data", "#", "94", "#1f77b4", "data"),
    Kind("slot", ":", "37", "#d0d0c0", "kept free for super blocks"),
    Kind("free", ".", "37", "#f2f2f2", "free"),
)
_NAMES = [kind.name for kind in KINDS]
_DAMAGED, _CHOSEN, _SUPER, _NODE, _LINK, _BANNED, _NEW, _RESERVED, _SHARED, _DATA, _SLOT, _FREE = (
    range(len(KINDS))
)

# States of frames in a mount that say more than the save does.
_OF_STATE = {
    FREE: _FREE,
    KEPT: _FREE,
    FRESH: _NEW,
    PENDING: _NEW,
    HELD: _RESERVED,
    OLD: _RESERVED,
    DROPPED: _RESERVED,
    BANNED: _BANNED,
}

# What a frame is when one more entry names it as that of a data page.
_NAMED_ONCE_MORE = bytes(_SHARED if kind in (_DATA, _SHARED) else _DATA for kind in range(256))

_STRETCH = re.compile(rb"(.)\1*", re.DOTALL)

# Sizes in an SVG, in pixels, and its limits.
_SVG_XMLNS = "http://www.w3.org/2000/svg"
_SVG_FONT = 'font-family="sans-serif" font-size="13"'
_SVG_COLUMNS = 128
_SVG_ROWS_MAX = 128
_SVG_CELL = 8
_SVG_LINE = 18
_SVG_DIGIT = 8
_SVG_LABELLED_ROWS = 8  # from one pfn at the margin to the next
_SVG_LINE_CHARS = 70  # as many as there is room for, if they are wide ones
_SVG_DAMAGE_LINES = 20


@dataclass(frozen=True, slots=True)
class FrameMap:
    """The kind of every frame, one byte each, with a title and the damage found."""

    title: str
    kinds: bytes
    damage: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Return the number of frames of each kind."""
        return {name: self.kinds.count(number) for number, name in enumerate(_NAMES)}

    def extents(self) -> Iterator[tuple[str, Extent]]:
        """Yield the extents of equal kind, in order."""
        for kind, first, count in stretches(self.kinds):
            yield _NAMES[kind], Extent(first, count)

    def cells(self, per_cell: int) -> bytes:
        """Return the kind to show for every `per_cell` frames: the first of theirs in the legend."""
        kinds = self.kinds
        return bytes(min(kinds[at : at + per_cell]) for at in range(0, len(kinds), per_cell))

    def legend(self) -> Iterator[tuple[Kind, str]]:
        """Yield the kinds that occur, with a description of each."""
        for kind, count in zip(KINDS, self.counts().values(), strict=True):
            if count:
                yield kind, f"{kind.words}: {_amount(count)}"

    def scale(self, place: str, per_cell: int) -> str:
        """Return in words what a place of the picture stands for."""
        return f"a {place} for {per_cell} ({per_cell * PAGE_SIZE >> 10:,} KiB)"


def _amount(frames: int) -> str:
    return f"{frames} {'frame' if frames == 1 else 'frames'}, {frames * PAGE_SIZE >> 10:,} KiB"


def frame_map_of(
    target: Path, *, file: str | None = None, node: str | None = None, name: str | None = None
) -> FrameMap:
    """Return the map of an image or a mount, with all data pages verified.

    The frames of `file`, a path in the tree `name` (of a mount: its own tree), or of the node `node` are
    shown as chosen. Raises PramError.
    """
    return superblock.look_until_steady(lambda: _look(target, file, node, name))[0]


def draw(
    scan: Scan, *, states: bytes = b"", chosen: Iterable[int] = (), title: str = ""
) -> FrameMap:
    """Return the map of a scanned image; `states` are those of its frames in a mount, `chosen` are pfns."""
    frames = max(scan.frames, len(states))
    kinds = bytearray((_FREE,)) * frames
    for base in layout.slot_bases(frames):
        kinds[base : base + 2] = bytes((_SLOT,)) * len(kinds[base : base + 2])
    for found in scan.nodes.values():
        _set(kinds, [found.node.pfn], _NODE)
        _set(kinds, found.chain.links, _LINK)
        for extent in found.chain.extents:
            pages = slice(extent.pfn, extent.pfn + extent.frames)
            kinds[pages] = kinds[pages].translate(_NAMED_ONCE_MORE)
    for pfn, state in enumerate(states):
        if state != SAVED and state in _OF_STATE:
            kinds[pfn] = _OF_STATE[state]
    _set(kinds, [scan.current.pfn, scan.current.other_pfn], _SUPER)
    _set(kinds, chosen, _CHOSEN)
    _set(kinds, scan.damaged, _DAMAGED)
    return FrameMap(title or str(scan.image.path), bytes(kinds), tuple(scan.damage))


def on_terminal(picture: FrameMap, *, colour: bool) -> Iterator[str]:
    """Yield the map as lines that fill the terminal, with the legend.

    A sign stands for one or more frames, and shows the first of their kinds in the legend.
    """
    columns, lines = shutil.get_terminal_size()
    legend = list(picture.legend())
    label = len(f"{len(picture.kinds):x}")
    width = max(8, columns - label - 2)
    height = max(4, lines - len(legend) - 4)
    per_cell = -(-len(picture.kinds) // (width * height))
    cells = picture.cells(per_cell)
    title = printable(picture.title)
    yield f"{title}: {len(picture.kinds)} frames, {picture.scale('sign', per_cell)}"
    for start in range(0, len(cells), width):
        row = cells[start : start + width]
        yield f"{start * per_cell:>{label}x}  {_row(row, colour)}"
    yield from (f"{_painted(kind) if colour else kind.sign} {words}" for kind, words in legend)
    yield from (f"damage: {line}" for line in picture.damage)


def as_json(picture: FrameMap) -> str:
    """Return the map for programs, as JSON (see docs/json.md)."""
    return json.dumps(
        {
            "title": picture.title,
            "frames": len(picture.kinds),
            "frame_bytes": PAGE_SIZE,
            "counts": picture.counts(),
            "runs": [
                {"kind": name, "pfn": extent.pfn, "frames": extent.frames}
                for name, extent in picture.extents()
            ],
            "damage": picture.damage,
        }
    )


def stretches(kinds: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (kind, first, count) for each stretch of equal bytes."""
    for match in _STRETCH.finditer(kinds):
        yield match[0][0], match.start(), match.end() - match.start()


def _look(
    target: Path, file: str | None, node: str | None, name: str | None
) -> tuple[FrameMap, bool]:
    """Return a map, and whether no save was published while it was drawn."""
    status = client.status_if_mounted(target)
    states = client.read_frames(target, status.frames.total) if status else b""
    with open_target(target, status) as image:
        found = scan_image(image)
        chosen: list[int] = []
        if node is not None:
            scanned = found.require(node)
            chosen += [scanned.node.pfn, *scanned.chain.links, *scanned.chain.entries.pfns]
        if file is not None:
            mounted = status.name if status else DEFAULT_NAME
            trees = tree_names(found.nodes)
            tree = tree_named(name, trees, tree_of(mounted)) if name else mounted
            chosen += _frames_of_file(image, tree, file)
        pages = sum(len(scanned.chain.entries) for scanned in found.nodes.values())
        with Bar("verifying", pages) as bar:
            found.verify_data(bar)
        is_current = superblock.require(image).generation == found.current.generation
    return draw(found, states=states, chosen=chosen, title=str(target)), is_current


def _frames_of_file(image: Image, tree: str, path: str) -> list[int]:
    reader = TreeReader(image, tree)
    inode = reader.find(path, follow=True).inode
    if not isinstance(inode, File):
        raise PramError(f"{printable(path)}: not a regular file: it has no data pages")
    return list(reader.frames(inode))


def _set(kinds: bytearray, pfns: Iterable[int], kind: int) -> None:
    for pfn in pfns:
        if pfn < len(kinds):
            kinds[pfn] = kind


def _row(cells: bytes, colour: bool) -> str:
    if not colour:
        return "".join(KINDS[cell].sign for cell in cells)
    return "".join(_painted(KINDS[kind], frames) for kind, _, frames in stretches(cells))


def _painted(kind: Kind, count: int = 1) -> str:
    return f"\x1b[{kind.ansi}m{kind.sign * count}\x1b[0m"


# --- as SVG ---------------------------------------------------------------------------------


def as_svg(picture: FrameMap) -> str:
    """Return the map as SVG, with pfns at the margin, the legend, and the first lines on damage."""
    frames = len(picture.kinds)
    per_cell = -(-frames // (_SVG_COLUMNS * _SVG_ROWS_MAX))
    cells = picture.cells(per_cell)
    rows = [cells[start : start + _SVG_COLUMNS] for start in range(0, len(cells), _SVG_COLUMNS)]
    left = _SVG_DIGIT * (len(f"{frames:x}") + 1)
    top = 3 * _SVG_LINE
    below = top + len(rows) * _SVG_CELL + _SVG_LINE
    legend = list(picture.legend())
    damage = list(_svg_damage(picture))
    width = left + _SVG_COLUMNS * _SVG_CELL
    height = below + (len(legend) + len(damage)) * _SVG_LINE
    parts = [
        f'<svg xmlns="{_SVG_XMLNS}" width="{width}" height="{height}" {_SVG_FONT}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _svg_text(2, _SVG_LINE, printable(picture.title)),
        _svg_text(2, 2 * _SVG_LINE, f"{frames} frames, {picture.scale('square', per_cell)}"),
    ]
    for number, row in enumerate(rows):
        y = top + number * _SVG_CELL
        if number % _SVG_LABELLED_ROWS == 0:
            parts.append(_svg_pfn(number * _SVG_COLUMNS * per_cell, left, y))
        parts += _svg_row(row, left, y)
    for number, (kind, words) in enumerate(legend):
        y = below + number * _SVG_LINE
        parts.append(
            f'<rect x="2" y="{y - 11}" width="12" height="12" fill="{kind.colour}" stroke="#808080"/>'
        )
        parts.append(_svg_text(20, y, words))
    for number, line in enumerate(damage, len(legend)):
        parts.append(_svg_text(2, below + number * _SVG_LINE, line))
    return "\n".join([*parts, "</svg>", ""])


def _svg_damage(picture: FrameMap) -> Iterator[str]:
    for line in picture.damage[:_SVG_DAMAGE_LINES]:
        yield f"damage: {line}"
    if len(picture.damage) > _SVG_DAMAGE_LINES:
        yield f"damage: and {len(picture.damage) - _SVG_DAMAGE_LINES} more"


def _svg_text(x: int, y: int, words: str) -> str:
    """Return a line of text; of a long one only the end, which tells more of a path or of damage."""
    if len(words) > _SVG_LINE_CHARS:
        words = "…" + words[1 - _SVG_LINE_CHARS :]
    return f'<text x="{x}" y="{y}">{escape(words)}</text>'


def _svg_pfn(pfn: int, left: int, y: int) -> str:
    style = 'text-anchor="end" font-family="monospace" fill="#606060"'
    return f'<text x="{left - _SVG_DIGIT // 2}" y="{y + _SVG_CELL}" {style}>{pfn:x}</text>'


def _svg_row(cells: bytes, left: int, y: int) -> Iterator[str]:
    for kind, first, count in stretches(cells):
        yield (
            f'<rect x="{left + first * _SVG_CELL}" y="{y}" width="{count * _SVG_CELL}" '
            f'height="{_SVG_CELL}" fill="{KINDS[kind].colour}"/>'
        )
