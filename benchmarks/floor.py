"""The floor: a pyfuse3 file system whose handlers answer at once with constants.

What it costs is what Python and pyfuse3 cost. One flat directory; files have names and inode
numbers (the kernel needs those), and everything else about them is the same constant. Not a file
system: what is written is gone.

Run as `python -m benchmarks.floor MOUNTPOINT FILE_SIZE_BYTES`, in the foreground.
"""

import errno
import itertools
import stat
import sys

import pyfuse3
import trio

CACHED_S = 86400.0
LONGEST_READ_BYTES = 1 << 20


def _attributes(mode: int, size_bytes: int) -> pyfuse3.EntryAttributes:
    attributes = pyfuse3.EntryAttributes()
    attributes.st_mode = mode
    attributes.st_size = size_bytes
    attributes.st_nlink = 1
    attributes.st_blksize = 4096
    attributes.st_blocks = (size_bytes + 511) // 512
    attributes.entry_timeout = CACHED_S
    attributes.attr_timeout = CACHED_S
    return attributes


class Floor(pyfuse3.Operations):
    """Every handler answers without waiting, and without work beyond a dictionary's.

    flush and fsync are not there: the first ENOSYS ends these requests, as it does for pramfs.
    """

    enable_writeback_cache = True

    def __init__(self, file_size_bytes: int) -> None:
        super().__init__()
        self._root = _attributes(stat.S_IFDIR | 0o755, 4096)
        self._root.st_ino = pyfuse3.ROOT_INODE
        self._file = _attributes(stat.S_IFREG | 0o644, file_size_bytes)
        self._inodes: dict[bytes, pyfuse3.InodeT] = {}
        self._numbers = itertools.count(int(pyfuse3.ROOT_INODE) + 1)
        self._listing: list[tuple[bytes, pyfuse3.InodeT]] = []
        self._status = pyfuse3.StatvfsData()
        self._status.f_bsize = self._status.f_frsize = 4096
        self._status.f_blocks = self._status.f_bfree = self._status.f_bavail = 1 << 30
        self._status.f_namemax = 255
        self._zeros = bytes(LONGEST_READ_BYTES)
        self._opened = pyfuse3.FileInfo(fh=1, keep_cache=True)

    def _answer(self, inode: pyfuse3.InodeT) -> pyfuse3.EntryAttributes:
        if inode == pyfuse3.ROOT_INODE:
            return self._root
        self._file.st_ino = inode
        return self._file

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        inode = self._inodes.get(name)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._answer(inode)

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._answer(inode)

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        return self._answer(inode)

    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        inode = self._inodes[name] = next(self._numbers)
        return self._opened, self._answer(inode)

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        return self._opened

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return self._zeros if size == LONGEST_READ_BYTES else self._zeros[:size]

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        return len(buf)

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        return None

    async def getxattr(
        self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext
    ) -> bytes:
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR)

    async def rename(
        self,
        parent_inode_old: pyfuse3.InodeT,
        name_old: pyfuse3.FileNameT,
        parent_inode_new: pyfuse3.InodeT,
        name_new: pyfuse3.FileNameT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        self._inodes[name_new] = self._inodes.pop(name_old)

    async def unlink(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> None:
        del self._inodes[name]

    async def forget(self, inode_list: object) -> None:
        return None

    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        self._listing = list(self._inodes.items())
        return 1

    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        for place in range(start_id, len(self._listing)):
            name, inode = self._listing[place]
            if not pyfuse3.readdir_reply(token, name, self._answer(inode), place + 1):
                return

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        return None

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return self._status


def main() -> None:
    """Serve MOUNTPOINT until it is unmounted."""
    mountpoint, file_size_bytes = sys.argv[1:]
    options = set(pyfuse3.default_options) | {"fsname=floor"}
    pyfuse3.init(Floor(int(file_size_bytes)), mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
