"""Inodes: the data of each kind of file, and its limits. Operations on them are in `tree`.

Times are nanoseconds since the epoch. `refs` counts the references by open files and by the kernel's cache
(its lookup count), which keep an inode alive without a name.
"""

import stat
from time import clock_gettime_ns

from pramfs.storage import layout
from pramfs.tree.page_ranges import ReservedPages
from pramfs.tree.pagemap import PageMap

ROOT_INO = 1
INO_MAX = (1 << 63) - 1  # those above are of inodes in snapshots, see `fuse.snapshot_view`
NAME_MAX_BYTES = 255
SYMLINK_MAX_BYTES = 4095
PATH_MAX_BYTES = 4096  # of a path that a system call accepts
FILE_MAX_BYTES = (1 << 63) - 1
FILE_MAX_PAGES = 1 << (63 - layout.PAGE_SHIFT)
XATTR_VALUE_MAX_BYTES = 65536
NLINK_MAX = (1 << 32) - 1

_CLOCK_REALTIME_COARSE = 5  # as in linux/time.h; Python has no name for it

DIRENT_SIZE = 20  # bytes that an entry adds to st_size of its directory, as on tmpfs


def now_ns() -> int:
    """Return nanoseconds since the epoch, from the clock that the kernel uses for cached writes.

    With a finer clock, a file could seem to be modified before it was created.
    """
    return clock_gettime_ns(_CLOCK_REALTIME_COARSE)


class Inode:
    """The attributes that all kinds of files have.

    `mode` is st_mode of stat(2); `atime`, `mtime`, `ctime` and `born` (when it was made, 0 if unknown) are
    nanoseconds since the epoch; `flags` are those of chattr(1), see `file_flags`; `xattrs` maps names to
    values, and is None if there are none, as for most.
    """

    __slots__ = (
        "atime",
        "born",
        "ctime",
        "flags",
        "generation",
        "gid",
        "ino",
        "mode",
        "mtime",
        "nlink",
        "refs",
        "uid",
        "xattrs",
    )

    rdev = 0

    def __init__(self, ino: int, generation: int, mode: int, uid: int, gid: int, now: int) -> None:
        self.ino = ino
        self.generation = generation
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = 1
        self.flags = 0
        self.atime = self.mtime = self.ctime = self.born = now
        self.xattrs: dict[bytes, bytes] | None = None
        self.refs = 0

    @property
    def size(self) -> int:
        """st_size of stat(2), in bytes."""
        return 0

    @property
    def blocks(self) -> int:
        """512-byte units that the data takes."""
        return 0

    def record_bytes(self) -> int:
        """Return the bytes that the inode takes in the metadata, not counting entries of a directory."""
        size = layout.INODE.size
        if self.xattrs is not None:
            for name, value in self.xattrs.items():
                size += layout.XATTR.size + len(name) + len(value)
        return size


class File(Inode):
    """A regular file of `length` bytes."""

    __slots__ = ("length", "pages", "reserved")

    def __init__(self, ino: int, generation: int, mode: int, uid: int, gid: int, now: int) -> None:
        Inode.__init__(self, ino, generation, mode, uid, gid, now)  # takes less time than super()
        self.length = 0
        self.pages: PageMap | None = None
        self.reserved: ReservedPages | None = None

    @property
    def size(self) -> int:
        return self.length

    @property
    def blocks(self) -> int:
        pages = self.pages.count if self.pages is not None else 0
        if self.reserved is not None:
            pages += self.reserved.claims
        return pages * (layout.PAGE_SIZE // 512)


class Directory(Inode):
    """A directory: `entries` maps names to inodes. The root is its own `parent`.

    `listed`: whether it has been since its names or its parent changed last.
    """

    __slots__ = ("entries", "listed", "parent")

    def __init__(self, ino: int, generation: int, mode: int, uid: int, gid: int, now: int) -> None:
        super().__init__(ino, generation, mode, uid, gid, now)
        self.nlink = 2
        self.entries: dict[bytes, Inode] = {}
        self.parent: Directory = self
        self.listed = False

    @property
    def size(self) -> int:
        return (len(self.entries) + 2) * DIRENT_SIZE


class Symlink(Inode):
    """A symbolic link to `target`."""

    __slots__ = ("target",)

    def __init__(self, ino: int, generation: int, mode: int, uid: int, gid: int, now: int) -> None:
        super().__init__(ino, generation, mode, uid, gid, now)
        self.target = b""

    @property
    def size(self) -> int:
        return len(self.target)

    def record_bytes(self) -> int:
        return super().record_bytes() + len(self.target)


class Special(Inode):
    """A fifo, a socket or a device node with the number `rdev`."""

    __slots__ = ("rdev",)

    def __init__(self, ino: int, generation: int, mode: int, uid: int, gid: int, now: int) -> None:
        super().__init__(ino, generation, mode, uid, gid, now)
        self.rdev = 0


KINDS: dict[int, type[Inode]] = {
    stat.S_IFREG: File,
    stat.S_IFDIR: Directory,
    stat.S_IFLNK: Symlink,
    stat.S_IFIFO: Special,
    stat.S_IFSOCK: Special,
    stat.S_IFCHR: Special,
    stat.S_IFBLK: Special,
}
