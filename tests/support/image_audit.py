"""An independent look at an image and at the table of its frames.

The walk follows super block, nodes, links and entries with the structs of the format and nothing else of
pramfs; the audit compares what it finds with what a Pram believes.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from crc32c import crc32c

from pramfs.pram.pram import Pram
from pramfs.storage.frames import (
    BANNED,
    FREE,
    FRESH,
    GOING,
    HELD,
    KEPT,
    PENDING,
    SAVED,
    STATE_NAMES,
    SUPER,
    WRITTEN,
    WRITTEN_PENDING,
    FrameTable,
)
from pramfs.storage.image import Image
from pramfs.storage.layout import (
    BYTE_STREAM,
    ENTRY,
    LINK,
    LINK_MAGIC,
    NODE,
    NODE_MAGIC,
    PAGE_STREAM,
    SHARED,
    SUPER_MAGIC,
    LinkHeader,
    NodePage,
    SuperBlock,
    is_slot,
    page_csum,
)
from pramfs.storage.layout import SUPER as SUPER_STRUCT
from pramfs.tree.inodes import File
from pramfs.tree.tree import Tree


class Entry(NamedTuple):
    """One entry of a link."""

    flags: int
    csum: int
    pfn: int
    page: int


class WalkedNode(NamedTuple):
    """A node as the walk found it."""

    pfn: int
    page: NodePage
    links: list[int]
    entries: list[Entry]

    @property
    def name(self) -> str:
        return self.page.name.rstrip(b"\0").decode()


class Walk(NamedTuple):
    """Everything that the save in force consists of."""

    block: SuperBlock
    nodes: list[WalkedNode]
    frames: set[int]  # the slot in force included, the other one not


def super_blocks(image: Image) -> list[SuperBlock]:
    """All valid super blocks of the image, by a plain look at every frame that may hold one."""
    found = []
    for pfn in filter(is_slot, range(image.frames)):
        page = image.read(pfn)
        block = SuperBlock._make(SUPER_STRUCT.unpack_from(page))
        if (block.magic, block.pfn) != (SUPER_MAGIC, pfn):
            continue
        if block.csum == page_csum(block.uuid, pfn, page):
            found.append(block)
    return found


def walk(image: Image, *, verify: bool = True, without: int | None = None) -> Walk:
    """Walk the save in force. Raises AssertionError for anything that is not as it should be.

    With `verify` data pages are among that. `without` a slot: the save in force if that one were torn.
    """
    blocks = [block for block in super_blocks(image) if block.pfn != without]
    block = max(blocks, key=lambda block: block.generation)
    frames = {block.pfn}
    named: Counter[int] = Counter()  # by entries of page streams, which may share frames
    nodes = []
    pfn = block.node_pfn
    while pfn:
        node = _walk_node(image, block.uuid, pfn, verify)
        data = [entry.pfn for entry in node.entries]
        for frame in [pfn, *node.links, *data]:
            assert not is_slot(frame), f"frame {frame} is for super blocks only"
        for frame in [pfn, *node.links, *(data if node.page.type == BYTE_STREAM else ())]:
            assert frame not in frames, f"frame {frame} is used twice"
            frames.add(frame)
        if node.page.type == PAGE_STREAM:
            named.update(data)
        nodes.append(node)
        pfn = node.page.node_pfn
    assert not frames & named.keys(), "metadata and data in one frame"
    assert bool(block.incompatible & SHARED) == any(times > 1 for times in named.values())
    frames |= named.keys()
    assert len({node.name for node in nodes}) == len(nodes) == block.nodes
    assert len(frames) + 1 == block.frames_used
    return Walk(block, nodes, frames)


def frames_in_force(image: Image) -> set[int]:
    """The frames that must not be written now; none before the first save."""
    return walk(image, verify=False).frames if super_blocks(image) else set()


def check_table(table: FrameTable) -> None:
    """The counts, the hints and the bans of the table are true."""
    states = [table.state(pfn) for pfn in range(len(table))]
    for state, name in enumerate(STATE_NAMES):
        assert table.count(state) == states.count(state), f"the count of {name} frames is wrong"
    free = [pfn for pfn, state in enumerate(states) if state == FREE]
    assert not free or table._single_hint <= free[0]
    assert not any(pfn in table.banned for pfn in free), "a banned frame is free"
    supers = {pfn for pfn, state in enumerate(states) if state == SUPER}
    assert supers == {pfn for pfn in range(len(states)) if is_slot(pfn) and pfn not in table.banned}
    banned = [pfn for pfn, state in enumerate(states) if state == BANNED]
    assert all(pfn in table.banned for pfn in banned), "a frame is banned and nobody banned it"


def check_owners(pram: Pram, tree: Tree | None = None) -> None:
    """Frames in use are exactly those that a node, the node list or a file of `tree` holds, each counted."""
    table = pram.arena.table
    check_table(table)
    owned = _owned(pram, tree)
    in_use = (FRESH, SAVED, PENDING, GOING, WRITTEN, WRITTEN_PENDING)
    used = {pfn for pfn in range(len(table)) if table.state(pfn) in in_use}
    if tree is not None:
        _check_promises(tree)
    held = set(owned)
    assert used == held, f"nobody owns {sorted(used - held)}; not in use: {sorted(held - used)}"
    assert {pfn: table.holders(pfn) for pfn in held} == owned
    assert table.repeats == owned.total() - len(owned)
    assert table.summary().spared == table.repeats


def check_pram(pram: Pram, tree: Tree | None = None, *, orphans: bool = False) -> Walk:
    """Every frame is accounted for, while no save is under way. Returns the walk of the save in force.

    The save in force lies in frames that are saved or held, and none but those are held; frames that
    `orphans` leave, files that were open without a name, are held without being in a save.
    """
    check_owners(pram, tree)
    table = pram.arena.table
    save = walk(pram.image)
    ours, found = (
        (block.generation, block.uuid, block.pfn, block.other_pfn, block.node_pfn, block.frames)
        for block in (pram.current, save.block)
    )
    assert ours == found
    persistent = save.frames - {save.block.pfn}
    for pfn in persistent:
        assert table.state(pfn) in (SAVED, HELD), f"frame {pfn} of the save in force may be written"
    held = {pfn for pfn in range(len(table)) if table.state(pfn) == HELD}
    assert orphans or held <= persistent, f"held for no save: {sorted(held - persistent)}"
    return save


def check_bans(pram: Pram, names: Iterable[str]) -> None:
    """Nothing that the save in force holds of the nodes `names`, or of the list, is in a banned frame."""
    save = walk(pram.image)
    banned = pram.arena.table.banned
    assert save.block.pfn not in banned
    for node in save.nodes:
        assert node.pfn not in banned
        if node.name in names:
            assert not [pfn for pfn in node.links if pfn in banned]
            assert not [entry.pfn for entry in node.entries if entry.pfn in banned]


def _walk_node(image: Image, uuid: bytes, pfn: int, verify: bool) -> WalkedNode:
    page = image.read(pfn)
    record = NodePage._make(NODE.unpack_from(page))
    assert record.magic == NODE_MAGIC
    assert record.csum == page_csum(uuid, pfn, page)
    links: list[int] = []
    entries: list[Entry] = []
    link_pfn = record.link_pfn
    while link_pfn:
        assert link_pfn not in links
        page = image.read(link_pfn)
        header = LinkHeader._make(LINK.unpack_from(page))
        assert header.magic == LINK_MAGIC
        assert header.csum == page_csum(uuid, link_pfn, page)
        for number in range(header.len):
            entry = Entry._make(ENTRY.unpack_from(page, LINK.size + number * ENTRY.size))
            assert not verify or crc32c(image.read(entry.pfn)) == entry.csum
            entries.append(entry)
        links.append(link_pfn)
        link_pfn = header.link_pfn
    assert (len(links), len(entries)) == (record.links, record.entries)
    return WalkedNode(pfn, record, links, entries)


def _check_promises(tree: Tree) -> None:
    """The tree has counted what it has promised to files, and which of that has no frame yet."""
    promised = claimed = ranges = 0
    for file in tree.inodes.values():
        if isinstance(file, File) and file.reserved is not None:
            pages = [page for start, end in file.reserved for page in range(start, end)]
            claims = sum(not (file.pages is not None and file.pages.get(page)) for page in pages)
            assert file.reserved.claims == claims
            promised, claimed = promised + len(pages), claimed + claims
            ranges += len(file.reserved)
    space = tree.space
    assert (space.promised, space.claimed, space.promised_ranges) == (promised, claimed, ranges)
    # The rest may be in use until the next save, or there is no memory for it.
    assert tree.arena.table.count(KEPT) <= space.claimed + space.spare


def _owned(pram: Pram, tree: Tree | None) -> Counter[int]:
    """How many hold each frame."""
    owned: list[int] = []
    owned.extend(pram.publisher.node_pages)
    owned.extend(pram.pins.kept_pfns())
    for node in pram.nodes.values():
        for extent in node.owned:
            owned.extend(range(extent.pfn, extent.pfn + extent.frames))
    for inode in tree.inodes.values() if tree is not None else ():
        if isinstance(inode, File) and inode.pages is not None:
            pages = [pfn for _, pfns in inode.pages.chunks() for pfn in pfns if pfn]
            assert len(pages) == inode.pages.count
            owned.extend(pages)
    return Counter(owned)
