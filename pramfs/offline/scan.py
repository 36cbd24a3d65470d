"""Scan the save in force, noting damage instead of failing, for commands that inspect damaged images.

`reserve` takes everything or nothing; a scan goes as far as it can trust what it reads. It leaves a chain,
and the list of nodes, at the first damaged page. It reads only metadata, and changes nothing.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from pramfs.errors import CorruptedPage, InvalidPfn, PramError
from pramfs.pram import verify
from pramfs.pram.links import Chain, ReadAhead, reserve_chain
from pramfs.pram.nodes import Node, NodeList, check_chain
from pramfs.pram.pram import TRUNCATED_TIMES_MAX
from pramfs.pram.reserve import may_share
from pramfs.storage import superblock
from pramfs.storage.arena import Progress
from pramfs.storage.extents import extents_of
from pramfs.storage.frames import FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import SHARED, SuperBlock
from pramfs.system.text import printable


@dataclass(slots=True)
class ScannedNode:
    """A node, the part of its chain that could be read, and what is wrong with it ("" for nothing)."""

    node: Node
    chain: Chain
    damage: str = ""


@dataclass(slots=True)
class Scan:
    """The contents of the save in force. `damaged` are pfns, `damage` is the same in words."""

    image: Image
    current: SuperBlock
    frames: int
    nodes: dict[str, ScannedNode] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    def require(self, name: str) -> ScannedNode:
        """Return the node of that name. Raises PramError, naming those that exist."""
        if name not in self.nodes:
            there_are = ", ".join(sorted(self.nodes)) or "none"
            raise PramError(f"no node '{printable(name)}'; there are: {printable(there_are)}")
        return self.nodes[name]

    def verify_data(self, progress: Progress) -> None:
        """Verify every data page, and note the damaged ones."""
        read = verify.FramesRead(self.frames) if self.current.incompatible & SHARED else None
        for found in self.nodes.values():
            pfns = found.chain.entries.pfns
            for at in verify.damaged_entries(self.image, found.chain, progress, read):
                self.damaged.append(pfns[at])
                name = printable(found.node.name)
                self.damage.append(f"node '{name}': pfn:{pfns[at]:x} corrupted")


def scan_image(image: Image, only: Collection[str] | None = None) -> Scan:
    """Return the contents of the save in force, as far as it is readable.

    With `only`, the chains of other nodes are taken for empty. Raises PramError if there is no super block.
    """
    current = superblock.require(image)
    # A truncated image refers to frames past its end, but a table of them must not fill memory.
    frames = min(current.frames, TRUNCATED_TIMES_MAX * image.frames)
    found = Scan(image, current, frames)
    if image.frames < current.frames:
        found.damage.append(f"truncated: {image.frames} of {current.frames} frames are there")
    table = FrameTable(frames)
    links = ReadAhead(image)
    nodes = NodeList(image, table, current)
    scanned: dict[str, ScannedNode] = {}
    try:
        for node in nodes:
            if only is None or node.name in only:
                scanned[node.name] = _scan_chain(found, table, links, node)
            else:
                scanned[node.name] = ScannedNode(node, Chain())
    except PramError as exc:
        _note(found, exc, nodes.pfn, f"node list: {exc}")
    # In the list the last ones come first.
    found.nodes |= sorted(scanned.items(), key=lambda item: item[1].node.saved_ns)
    if nodes.pfn:
        return found
    if len(found.nodes) != current.nodes:
        found.damage.append(f"{len(found.nodes)} nodes in the list, not {current.nodes}")
    return found


def file_name(name: bytes) -> str:
    """Return the name or path of a file in a printable form."""
    return printable(os.fsdecode(name))


def _scan_chain(found: Scan, table: FrameTable, links: ReadAhead, node: Node) -> ScannedNode:
    chain = Chain()
    scanned = ScannedNode(node, chain)
    try:
        reserve_chain(
            links.read,
            found.current.uuid,
            table,
            node.link_pfn,
            lambda extent: None,
            chain,
            shared=may_share(found.current, node),
        )
        check_chain(node, chain)
    except PramError as exc:
        scanned.damage = f"node '{printable(node.name)}': {exc}"
        _note(found, exc, node.pfn, scanned.damage)
        _drop_half_a_link(chain)
    return scanned


def _note(found: Scan, exc: PramError, pfn: int, words: str) -> None:
    """Note damage and its frame, which is `pfn` if the error names none inside the image."""
    if isinstance(exc, (CorruptedPage, InvalidPfn)) and 0 < exc.args[0] < found.frames:
        pfn = exc.args[0]
    if pfn < found.frames:
        found.damaged.append(pfn)
    found.damage.append(words)


def _drop_half_a_link(chain: Chain) -> None:
    """Drop the entries of the last link if that was not read completely."""
    entries, count = chain.entries, len(chain.entries)
    del entries.flags[count:], entries.csums[count:], entries.indices[count:]
    chain.extents = list(extents_of(entries.pfns))
