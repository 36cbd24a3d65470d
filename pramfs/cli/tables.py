"""How several commands print frames and nodes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pramfs.system.text import printable, when

if TYPE_CHECKING:
    from pramfs.pram.nodes import NodeInfo
    from pramfs.storage.frames import FrameCounts

_NAME_WIDTH = 24  # at least


def frame_counts(frames: "FrameCounts") -> str:
    """Return the numbers of frames as text."""
    counts = f"{frames.used} used, {frames.free} free, {frames.banned} banned, {frames.reserved} reserved"
    return counts + (f"; sharing spares {frames.spared}" if frames.spared else "")


def node_lines(nodes: Sequence["NodeInfo"]) -> Iterator[str]:
    """Yield the lines of a table of nodes with its heading; none if there are no nodes."""
    names = [printable(node.name) for node in nodes]
    width = max([_NAME_WIDTH, *map(len, names)])
    if nodes:
        yield f"{'node':<{width}} {'type':<12} {'bytes':>16} {'pages':>10} {'links':>8}  saved"
    for name, node in zip(names, nodes, strict=True):
        yield (
            f"{name:<{width}} {node.type:<12} {node.size:>16,} {node.pages:>10} "
            f"{node.links:>8}  {when(node.saved_ns)}"
        )
