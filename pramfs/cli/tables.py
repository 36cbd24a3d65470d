"""How several commands print frames and nodes."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pramfs.system.text import printable, when

if TYPE_CHECKING:
    from pramfs.pram.nodes import NodeInfo
    from pramfs.storage.frames import FrameCounts


def frame_counts(frames: "FrameCounts") -> str:
    """Return the numbers of frames as text."""
    counts = f"{frames.used} used, {frames.free} free, {frames.banned} banned, {frames.reserved} reserved"
    return counts + (f"; sharing spares {frames.spared}" if frames.spared else "")


def node_lines(nodes: Sequence["NodeInfo"]) -> Iterator[str]:
    """Yield the lines of a table of nodes with its heading; none if there are no nodes."""
    if nodes:
        yield f"{'node':<24} {'type':<12} {'bytes':>16} {'pages':>10} {'links':>8}  saved"
    for node in nodes:
        yield (
            f"{printable(node.name):<24} {node.type:<12} {node.size:>16,} {node.pages:>10} "
            f"{node.links:>8}  {when(node.saved_ns)}"
        )
