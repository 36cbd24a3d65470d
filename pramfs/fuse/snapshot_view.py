"""The snapshots of a mounted tree, as `.snapshots` in its root has them: one read-only tree of trees.

Their inodes have numbers that no tree has, from 2^63 up: `.snapshots` the first of all, and each snapshot a
range of its own. Which one a number belongs to is in its upper bits. A snapshot is there as long as the
kernel has any of its inodes.
"""

import errno
import itertools
import stat
from collections.abc import Callable
from operator import itemgetter

import trio

from pramfs.errors import posix_error
from pramfs.pram.nodes import Node
from pramfs.pram.pram import Pram
from pramfs.saves.snapshot_trees import SnapshotTree, find_snapshot, find_snapshots
from pramfs.tree.inodes import DIRENT_SIZE, INO_MAX, Directory, Inode, now_ns
from pramfs.tree.read_only import ReadOnlyTree
from pramfs.tree.tree import Tree

FIRST_INO = INO_MAX + 1
_RANGE_SHIFT = 40  # more inodes than fit into the metadata of one tree


def require_same_tree(ino: int, other: int) -> None:
    """Raise EXDEV unless two inodes are in the mounted tree both, or in one snapshot."""
    if (ino > INO_MAX or other > INO_MAX) and _range_number(ino) != _range_number(other):
        raise posix_error(errno.EXDEV)


def _first_ino(number: int) -> int:
    return FIRST_INO + (number << _RANGE_SHIFT)


def _range_number(ino: int) -> int:
    return (ino - FIRST_INO) >> _RANGE_SHIFT


class SnapshotsDirectory(Directory):
    """The directory `.snapshots`. Its attributes never change, so that the kernel may keep them."""

    __slots__ = ()

    def __init__(self, parent: Directory) -> None:
        super().__init__(FIRST_INO, 0, stat.S_IFDIR | 0o555, parent.uid, parent.gid, now_ns())
        self.nlink = 1  # as for other directories that count no subdirectories
        self.parent = parent

    @property
    def size(self) -> int:
        return 2 * DIRENT_SIZE


class SnapshotView(ReadOnlyTree):
    """All snapshots of a tree, those that somebody looks at with their inodes.

    `on_free` is told the name of a snapshot that is freed while the kernel has it.
    """

    def __init__(self, pram: Pram, name: str, tree: Tree, on_free: Callable[[bytes], None]) -> None:
        super().__init__(pram.arena, inodes_max=0, generation=0)
        self._pram = pram
        self._name = name
        self._on_free = on_free
        self._directory = SnapshotsDirectory(tree.root)
        self._by_range: dict[int, SnapshotTree] = {}
        self._by_name: dict[bytes, SnapshotTree] = {}  # those that have not been freed
        self._ranges: dict[bytes, tuple[Node, int]] = {}  # by name, also of those not looked at
        self._next_range = itertools.count(1)
        self._reading: dict[SnapshotTree, trio.Event] = {}

    @property
    def root(self) -> Directory:
        """The directory `.snapshots`."""
        return self._directory

    def find(self, ino: int) -> Inode | None:
        number = _range_number(ino)
        at = ino - _first_ino(number)
        if not number:
            return None if at else self._directory
        snapshot = self._by_range.get(number)
        return snapshot.find(at) if snapshot is not None else None

    def get(self, ino: int) -> Inode:
        """Return the inode of that number. Raises ESTALE."""
        inode = self.find(ino)
        if inode is None:
            raise posix_error(errno.ESTALE)
        return inode

    def listing(self, first: int) -> list[tuple[bytes, int, int]]:
        """Return all snapshots: names, inode numbers of their roots, and positions from `first` on.

        A snapshot keeps its position, whichever others come and go.
        """
        found = []
        there = find_snapshots(self._pram, self._name)
        for name, meta in there.items():
            number = self._range_of(name, meta)
            found.append((name, _first_ino(number), first + number))
        for name in self._ranges.keys() - there.keys() - self._by_name.keys():
            del self._ranges[name]
        return sorted(found, key=itemgetter(2))

    def snapshot(self, name: bytes) -> Directory:
        """Return the root of a snapshot. Raises ENOENT, DamagedTree."""
        meta = find_snapshot(self._pram, self._name, name)
        if meta is None:
            raise posix_error(errno.ENOENT)
        snapshot = self._by_name.get(name)
        if snapshot is None or not snapshot.is_of(meta):
            snapshot = self._open(name, meta)
        return snapshot.root

    def unread(self, ino: int, *, more_than_xattrs: bool) -> SnapshotTree | None:
        """Return the snapshot that must be read before a request for that inode, None if none must.

        `more_than_xattrs`: the request is for more than the extended attributes of the inode.
        """
        snapshot = self._by_range.get(_range_number(ino))
        if snapshot is None or not snapshot.lacks(more_than_xattrs=more_than_xattrs):
            return None
        return snapshot

    async def read(self, snapshot: SnapshotTree) -> None:
        """Read a snapshot, or wait while another task does. Raises DamagedTree."""
        others = self._reading.get(snapshot)
        if others is not None:
            await others.wait()
            return
        self._reading[snapshot] = trio.Event()
        try:
            self.arena.verify_on_first_read(())
            snapshot.adopt(await trio.to_thread.run_sync(snapshot.read))
        finally:
            self._reading.pop(snapshot).set()
            self._close_unless_looked_up(snapshot)

    def forget(self, inode: Inode, count: int = 1) -> None:
        """Drop references to an inode, and with the last one its snapshot."""
        inode.refs -= count
        snapshot = self._by_range.get(_range_number(inode.ino))
        if snapshot is not None and not inode.refs:
            self._close_unless_looked_up(snapshot)

    # --- helpers ---------------------------------------------------------------------------------

    def _range_of(self, name: bytes, meta: Node) -> int:
        """Return the number of a snapshot's range of inode numbers: the same one while this runs."""
        known = self._ranges.get(name)
        if known is None or known[0] is not meta:
            known = self._ranges[name] = (meta, next(self._next_range))
        return known[1]

    def _open(self, name: bytes, meta: Node) -> SnapshotTree:
        number = self._range_of(name, meta)
        snapshot = SnapshotTree(
            self._pram,
            self._name,
            name,
            _first_ino(number),
            self._directory,
            lambda: self._freed(name),
        )
        self._by_name[name] = snapshot
        self._by_range[number] = snapshot
        return snapshot

    def _freed(self, name: bytes) -> None:
        """Note that a snapshot is no more: what the kernel has of it can be read on."""
        if self._by_name.pop(name, None) is not None:
            del self._ranges[name]
            self._on_free(name)

    def _close_unless_looked_up(self, snapshot: SnapshotTree) -> None:
        if snapshot in self._reading or snapshot.is_looked_up():
            return
        del self._by_range[_range_number(snapshot.first_ino)]
        if self._by_name.get(snapshot.name) is snapshot:
            del self._by_name[snapshot.name]
        snapshot.close()
