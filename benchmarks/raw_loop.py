"""The floor of what Python can do: the loop and the front of pramfs, whose handlers answer with constants.

Nothing that pramfs does can be faster. One flat directory; files have names and inode numbers (the
kernel needs those), and everything else about them is the same constant. Not a file system: what
is written is gone.

Run as `python -m benchmarks.raw_loop MOUNTPOINT FILE_SIZE_BYTES`, in the foreground.
"""

import errno
import functools
import itertools
import os
import stat
import sys

import pyfuse3
import trio

from pramfs.errors import posix_error
from pramfs.fuse.front import Front, Handler
from pramfs.fuse.notices import Notices
from pramfs.fuse.protocol import (
    ATTR_OUT,
    DIRENT,
    ENTRY_OUT,
    FOPEN_KEEP_CACHE,
    MKNOD_IN,
    OPEN_OUT,
    READ_IN,
    RENAME_IN,
    WRITE_IN,
    WRITE_OUT,
    Opcode,
)
from pramfs.fuse.request import Request
from pramfs.fuse.session import Session

CACHED_S = 86400
LONGEST_READ_BYTES = 1 << 20
_OPENED = OPEN_OUT.pack(1, FOPEN_KEEP_CACHE, 0)
_CARRIED = frozenset({Opcode.STATFS, Opcode.DESTROY})


class RawLoop:
    """Every handler answers without work beyond a dictionary's."""

    def __init__(self, file_size_bytes: int) -> None:
        self._size = file_size_bytes
        self._inodes: dict[bytes, int] = {}
        self._numbers = itertools.count(2)
        self._listing: list[tuple[bytes, int]] = []
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self._zeros = memoryview(bytes(LONGEST_READ_BYTES))

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode."""
        nothing = dict.fromkeys((Opcode.RELEASE, Opcode.RELEASEDIR), lambda request: b"")
        silence = dict.fromkeys((Opcode.FORGET, Opcode.BATCH_FORGET), lambda request: None)
        return {
            **nothing,
            **silence,
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._attributes,
            Opcode.SETATTR: self._attributes,
            Opcode.GETXATTR: self._no_attribute,
            Opcode.MKNOD: self._make,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.RENAME: self._rename,
            Opcode.UNLINK: self._unlink,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIRPLUS: self._readdir,
        }

    def _attr(self, ino: int) -> tuple[int, ...]:
        mode, size = (
            (stat.S_IFDIR | 0o755, 4096) if ino == 1 else (stat.S_IFREG | 0o644, self._size)
        )
        return (ino, size, (size + 511) // 512, *[0] * 6, mode, 1, 0, 0, 0, 4096, 0)

    def _entry(self, ino: int) -> bytes:
        return ENTRY_OUT.pack(ino, 0, CACHED_S, CACHED_S, 0, 0, *self._attr(ino))

    def _lookup(self, request: Request) -> bytes:
        ino = self._inodes.get(request.name())
        if ino is None:
            raise posix_error(errno.ENOENT)
        return self._entry(ino)

    def _attributes(self, request: Request) -> bytes:
        return ATTR_OUT.pack(CACHED_S, 0, 0, *self._attr(request.nodeid))

    def _no_attribute(self, request: Request) -> bytes:
        """Answer what the kernel asks before the first write to each file of a file system with xattrs."""
        raise posix_error(errno.ENODATA)

    def _make(self, request: Request) -> bytes:
        ino = self._inodes[request.name(MKNOD_IN)] = next(self._numbers)
        return self._entry(ino)

    def _read(self, request: Request) -> memoryview:
        return self._zeros[: request.fields(READ_IN)[2]]

    def _write(self, request: Request) -> bytes:
        if request.piped is not None:
            request.piped.move_to(self._nowhere, 0)
        return WRITE_OUT.pack(request.fields(WRITE_IN)[2], 0)

    def _rename(self, request: Request) -> bytes:
        old, new = request.names(2, RENAME_IN)
        self._inodes[new] = self._inodes.pop(old)
        return b""

    def _unlink(self, request: Request) -> bytes:
        del self._inodes[request.name()]
        return b""

    def _opendir(self, request: Request) -> bytes:
        self._listing = list(self._inodes.items())
        return _OPENED

    def _readdir(self, request: Request) -> bytes:
        _, start, room, *_ = request.fields(READ_IN)
        listed: list[bytes] = []
        for place in range(start, len(self._listing)):
            name, ino = self._listing[place]
            dirent = DIRENT.pack(ino, place + 1, len(name), stat.S_IFREG >> 12)
            listed.append(self._entry(ino) + dirent + name + bytes(-len(name) % 8))
            room -= len(listed[-1])
            if room < 0:
                return b"".join(listed[:-1])
        return b"".join(listed)


class _Rest(pyfuse3.Operations):
    """What pyfuse3 is asked while it mounts."""

    enable_writeback_cache = True

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        status = pyfuse3.StatvfsData()
        status.f_bsize = status.f_frsize = 4096
        status.f_blocks = status.f_bfree = status.f_bavail = 1 << 30
        status.f_namemax = 255
        return status


async def _no_room() -> bool:
    return False


def main() -> None:
    """Serve MOUNTPOINT until it is unmounted."""
    mountpoint, file_size_bytes = sys.argv[1:]
    session = Session(
        idle_work=lambda: False, on_ready=lambda: None, on_internal_error=lambda: None
    )
    everything_else = frozenset(Opcode)
    handlers = RawLoop(int(file_size_bytes)).handlers()
    front = Front(
        handlers,
        {},
        _CARRIED,
        everything_else - handlers.keys() - _CARRIED,
        make_room=_no_room,
        note_change=lambda: True,
        on_internal_error=lambda: None,
    )
    options = set(pyfuse3.default_options) | {"fsname=floor"}
    pyfuse3.init(_Rest(), mountpoint, options)
    try:
        trio.run(
            functools.partial(
                session.run, front, Notices(lambda: None), answers_open=False, cached_writes=True
            )
        )
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
