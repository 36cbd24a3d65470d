"""An images directory, written and read as CRIU does: by a descriptor of it, and names in it.

Not CRIU's protocol buffers: a small image is two magic numbers and then records, each a u32 length
and so many bytes, which is the frame that CRIU puts around them. A record of pagemap-PID.img says
where a run of pages was in memory, and whether its bytes are the next ones of pages-N.img or have
not changed since the dump that the link `parent` leads to.
"""

import fcntl
import hashlib
import os
import socket
import stat
import struct
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from examples.criu_dump.process import Run

PIECE_BYTES = 1 << 20  # what CRIU moves at a time: the capacity of its pipe
PARENT_LINK = "parent"
PAGEMAP_RECORD = struct.Struct("<QQI")  # start, length, flags
IN_PARENT = 1

_MAGIC = struct.pack("<II", 0x54564319, 0x50524D44)
_RECORD_LENGTH = struct.Struct("<I")


class ImagesError(Exception):
    """The images are not what was written into them."""


class ImagesWriter:
    """A new images directory. Remembers the digest of every file, to compare with later."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.digests: dict[Path, str] = {}
        self.page_bytes = 0
        self.splice_seconds = 0.0
        self.log_lines = 0
        self._began = time.monotonic()
        self._stack = ExitStack()
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, self._fd)
        self._log_digest = hashlib.sha256()
        self._log_fd = self._create("dump.log", os.O_APPEND)
        self._stack.callback(os.close, self._log_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        self.digests[self.directory / "dump.log"] = self._log_digest.hexdigest()

    def log(self, text: str) -> None:
        """Append a line to dump.log, in a write(2) of its own."""
        line = f"({time.monotonic() - self._began:09.6f}) {text}\n".encode()
        os.write(self._log_fd, line)
        self._log_digest.update(line)
        self.log_lines += 1

    def write_records(self, name: str, records: Iterable[bytes]) -> None:
        """Write a small image: the magic numbers, then each record with one writev(2)."""
        fd = self._create(name)
        try:
            os.write(fd, _MAGIC)
            digest = hashlib.sha256(_MAGIC)
            for record in records:
                length = _RECORD_LENGTH.pack(len(record))
                os.writev(fd, [length, record])
                digest.update(length + record)
        finally:
            os.close(fd)
        self.digests[self.directory / name] = digest.hexdigest()

    def write_copy(self, name: str, source_fd: int) -> None:
        """Write an image that is a copy of an open file, with sendfile(2)."""
        fd = self._create(name)
        try:
            at = 0
            while moved := os.sendfile(fd, source_fd, at, PIECE_BYTES):
                at += moved
        finally:
            os.close(fd)
        digest = hashlib.sha256(os.pread(source_fd, at, 0))
        self.digests[self.directory / name] = digest.hexdigest()

    def open_pages(self, name: str) -> "PagesWriter":
        """Create an image of pages."""
        return PagesWriter(self, name, self._create(name))

    def link_parent(self, parent: Path) -> None:
        """Point to the directory of the dump before this one."""
        os.symlink(os.path.relpath(parent, self.directory), PARENT_LINK, dir_fd=self._fd)

    def bind_socket(self, name: str) -> None:
        """Leave a socket in the directory, as CRIU's server of lazy pages does."""
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{self._fd}/{name}")

    def _create(self, name: str, flags: int = 0) -> int:
        # CRIU clears away what an earlier dump may have left, and knows not whether it has.
        try:
            os.unlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            pass
        else:
            raise FileExistsError(f"{self.directory / name} was there before it was created")
        flags |= os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._fd)


class PagesWriter:
    """An image of pages: they go into a pipe, and are spliced out of it."""

    def __init__(self, images: ImagesWriter, name: str, fd: int) -> None:
        self._images = images
        self._path = images.directory / name
        self._fd = fd
        self._digest = hashlib.sha256()
        self._source, self._sink = os.pipe()
        # The system may grant less than a MiB; a write of more than the capacity would block.
        self.piece_bytes = fcntl.fcntl(self._sink, fcntl.F_SETPIPE_SZ, PIECE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for fd in (self._fd, self._source, self._sink):
            os.close(fd)
        self._images.digests[self._path] = self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append at most `piece_bytes` bytes."""
        os.write(self._sink, data)
        began = time.monotonic()
        left = len(data)
        while left:
            left -= os.splice(self._source, self._fd, left)
        self._images.splice_seconds += time.monotonic() - began
        self._images.page_bytes += len(data)
        self._digest.update(data)


class Extent(NamedTuple):
    """A run of pages in memory, and where its bytes are: an open image, and the offset in it."""

    start: int
    length: int
    fd: int
    at: int


class PagesReader:
    """The pages of one process in an images directory, with those that are in its parents."""

    def __init__(self, directory: Path, pid: int, pages_name: str) -> None:
        self._stack = ExitStack()
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, directory_fd)
        self._extents = self._open_extents(directory_fd, pid, pages_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def runs(self) -> list[Run]:
        """The runs of pages in memory that the images hold, in the order of their addresses."""
        return [Run(extent.start, extent.length) for extent in self._extents]

    def read(self, start: int, length: int) -> bytes | None:
        """Return the bytes that were at an address; None when the images lack any of them."""
        data = bytearray(length)
        unread = memoryview(data)
        for extent in _overlap(self._extents, start, length):
            _read_fully(extent.fd, unread[: extent.length], extent.at)
            unread = unread[extent.length :]
        return None if unread else bytes(data)

    def _open_extents(self, directory_fd: int, pid: int, pages_name: str) -> list[Extent]:
        """Open the image of pages in a directory, and those in its parents."""
        parents: list[Extent] = []
        if _has_parent(directory_fd):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            parent_fd = os.open(PARENT_LINK, flags, dir_fd=directory_fd)
            self._stack.callback(os.close, parent_fd)
            parents = self._open_extents(parent_fd, pid, pages_name)
        fd = os.open(pages_name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
        self._stack.callback(os.close, fd)
        extents: list[Extent] = []
        at = 0
        for record in read_records(directory_fd, f"pagemap-{pid}.img"):
            start, length, flags = PAGEMAP_RECORD.unpack(record)
            if flags & IN_PARENT:
                found = list(_overlap(parents, start, length))
                if sum(extent.length for extent in found) != length:
                    raise ImagesError(f"{length} bytes at {start:#x} are not all in the parent")
                extents.extend(found)
            else:
                extents.append(Extent(start, length, fd, at))
                at += length
        return extents


def read_records(directory_fd: int, name: str) -> list[bytes]:
    """Return the records of a small image; ImagesError when it is none."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory_fd)
    with os.fdopen(fd, "rb") as image:
        if image.read(len(_MAGIC)) != _MAGIC:
            raise ImagesError(f"{name} does not start with the magic numbers of an image")
        records: list[bytes] = []
        while head := image.read(_RECORD_LENGTH.size):
            (length,) = _RECORD_LENGTH.unpack(head)
            records.append(image.read(length))
        return records


def _has_parent(directory_fd: int) -> bool:
    try:
        status = os.stat(PARENT_LINK, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISLNK(status.st_mode):
        raise ImagesError(f"{PARENT_LINK} is not a symbolic link")
    return True


def _read_fully(fd: int, target: memoryview, at: int) -> None:
    # CRIU goes on reading when it gets 0 before the end; better to say so.
    while target:
        moved = os.preadv(fd, [target], at)
        if not moved:
            raise ImagesError(f"an image of pages ends at {at:#x}, {len(target)} bytes too early")
        at += moved
        target = target[moved:]


def _overlap(extents: list[Extent], start: int, length: int) -> Iterator[Extent]:
    """Yield what extents, sorted by address, hold of a range from its start up to the first gap."""
    end = start + length
    index = max(bisect_right(extents, start, key=lambda extent: extent.start) - 1, 0)
    for extent in islice(extents, index, None):
        inside = start - extent.start
        if start == end or not 0 <= inside < extent.length:
            return
        taken = min(extent.length - inside, end - start)
        yield Extent(start, taken, extent.fd, extent.at + inside)
        start += taken
