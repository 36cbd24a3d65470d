"""Snapshots that are read beside the tree that an image is mounted for.

Of each, the attributes of the root are read at first, which takes two pages, and the rest when somebody
looks below it. Its nodes are pinned meanwhile. Pages are verified when they are first read.
"""

import itertools
import os
from collections.abc import Callable

from pramfs.errors import DamagedTree, PramError
from pramfs.pram.links import Chain, ReadAhead, first_page, read_stream, reserve_chain
from pramfs.pram.nodes import Node
from pramfs.pram.pins import Pin
from pramfs.pram.pram import Pram
from pramfs.saves import codec
from pramfs.saves.codec import UnreadRoot
from pramfs.saves.load import map_pages
from pramfs.saves.more import apply_births, decode_more
from pramfs.saves.snapshot_names import SNAPSHOT_MARK
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, MORE_SUFFIX
from pramfs.storage.frames import SAVED, FrameTable
from pramfs.storage.layout import BYTE_STREAM, PAGE_STREAM
from pramfs.tree.inodes import ROOT_INO, Directory, Inode


def find_snapshots(pram: Pram, tree: str) -> dict[bytes, Node]:
    """Return the metadata nodes of the snapshots of a tree that are in force, by their names as files."""
    prefix = tree + SNAPSHOT_MARK
    stems = [
        node.removesuffix(META_SUFFIX)
        for node in pram.nodes
        if node.startswith(prefix) and node.endswith(META_SUFFIX)
    ]
    names = [os.fsencode(stem.removeprefix(prefix)) for stem in stems]
    found = ((name, find_snapshot(pram, tree, name)) for name in names)
    return {name: meta for name, meta in found if meta is not None}


def find_snapshot(pram: Pram, tree: str, name: bytes) -> Node | None:
    """Return the metadata node of a snapshot that is in force, None if there is none of that name."""
    if name in (b"", b".", b"..") or b"/" in name or SNAPSHOT_MARK.encode() in name:
        return None  # of an image that nobody has made for this
    stem = tree + SNAPSHOT_MARK + os.fsdecode(name)
    meta, data = pram.nodes.get(stem + META_SUFFIX), pram.nodes.get(stem + DATA_SUFFIX)
    if meta is None or data is None or meta.type != BYTE_STREAM or data.type != PAGE_STREAM:
        return None
    return meta if pram.arena.table.state(meta.link_pfn) == SAVED else None


class SnapshotTree:
    """One snapshot. Its inodes get the numbers from `first_ino` on, in the order of the records.

    `inodes` is empty until all of it has been read.
    """

    def __init__(
        self,
        pram: Pram,
        tree: str,
        name: bytes,
        first_ino: int,
        parent: Directory,
        on_free: Callable[[], None],
    ) -> None:
        """Pin the snapshot of that name and read its root. Raises DamagedTree."""
        stem = tree + SNAPSHOT_MARK + os.fsdecode(name)
        self.name = name
        self.first_ino = first_ino
        self.inodes: list[Inode] = []
        self._looked_up_at = 0  # which inode was found looked up last
        self._pram = pram
        self._stem = stem
        self._meta = pram.nodes[stem + META_SUFFIX]
        self._data = pram.nodes[stem + DATA_SUFFIX]
        self._more = pram.nodes.get(stem + MORE_SUFFIX)
        self._uuid = pram.current.uuid
        frames = len(pram.arena.table)
        try:
            page = first_page(pram.image.read, self._uuid, frames, self._meta.link_pfn)
            self._unread: UnreadRoot | None = codec.decode_root(page[: self._meta.data_len])
        except (PramError, ValueError) as exc:
            raise DamagedTree(stem, exc) from exc
        self.root: Directory = self._unread
        self._parent = parent
        self._adopt_root(self.root)
        nodes = [self._meta, self._data, *([self._more] if self._more is not None else [])]
        self._pin = Pin(nodes, on_free)
        pram.pins.add(self._pin)

    def is_of(self, meta: Node | None) -> bool:
        """Return whether this is the snapshot with that node, and not another one of the same name."""
        return self._meta is meta

    def lacks(self, *, more_than_xattrs: bool) -> bool:
        """Return whether it must be read before it is used, or before xattrs of the root are."""
        return self._unread is not None and (more_than_xattrs or self._unread.has_xattrs)

    def find(self, at: int) -> Inode | None:
        """Return the inode with the number `first_ino` + `at`."""
        if not at:
            return self.root
        return self.inodes[at] if at < len(self.inodes) else None

    def is_looked_up(self) -> bool:
        """Return whether the kernel has any of its inodes."""
        if self.root.refs > 0:
            return True
        # From where one was the last time: else to forget all takes the square of their number.
        inodes = self.inodes
        last = min(self._looked_up_at, len(inodes))
        order = itertools.chain(range(last, len(inodes)), range(last))
        at = next((at for at in order if inodes[at].refs), None)
        self._looked_up_at = at or 0
        return at is not None

    def read(self) -> list[Inode]:
        """Return all inodes, to be put in force by `adopt`. May run in another thread. Raises DamagedTree."""
        try:
            return self._read()
        except (PramError, ValueError) as exc:
            raise DamagedTree(self._stem, exc) from exc

    def adopt(self, inodes: list[Inode]) -> None:
        """Put in force what `read` has returned."""
        root = inodes[0]
        assert isinstance(root, Directory)
        root.refs = self.root.refs
        self._adopt_root(root)
        self.root, self.inodes, self._unread = root, inodes, None

    def close(self) -> None:
        """Let go of it, when nobody has any of its inodes."""
        for inode in self.inodes:
            if isinstance(inode, Directory):
                inode.entries = {}  # or they would refer to each other in cycles
        self.inodes = []
        self._pram.pins.release(self._pin)

    def _adopt_root(self, root: Directory) -> None:
        root.ino = self.first_ino
        root.parent = self._parent

    def _read(self) -> list[Inode]:
        pram = self._pram
        decoded = codec.decode_tree(self._stream(self._meta))
        chain = self._chain(self._data)
        map_pages(decoded, chain)
        if self._more is not None:
            more = decode_more(self._stream(self._more), len(pram.arena.table))
            apply_births(more, decoded.inodes)
        for pfn, csums in chain.csums_by_extent():
            pram.arena.expect(pfn, csums)
        root = decoded.inodes[ROOT_INO]
        inodes = [root, *(inode for inode in decoded.inodes.values() if inode is not root)]
        for number, inode in enumerate(inodes, self.first_ino):
            inode.ino = number
        return inodes

    def _stream(self, node: Node) -> bytes:
        entries = self._chain(node).entries
        return read_stream(self._pram.image.read, entries, node.data_len, f"node '{node.name}'")

    def _chain(self, node: Node) -> Chain:
        if node.chain is not None:
            return node.chain
        scratch = FrameTable(len(self._pram.arena.table))
        return reserve_chain(
            ReadAhead(self._pram.image).read,
            self._uuid,
            scratch,
            node.link_pfn,
            lambda extent: None,
            shared=node.type == PAGE_STREAM,
        )
