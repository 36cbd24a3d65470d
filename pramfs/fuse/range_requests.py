"""Requests for ranges of files: FALLOCATE, LSEEK for data and holes, COPY_FILE_RANGE."""

import errno
import functools
import os

import trio

from pramfs.errors import posix_error
from pramfs.fuse.front import Again, Handler, Later
from pramfs.fuse.notices import Notices
from pramfs.fuse.open_files import OpenFiles
from pramfs.fuse.protocol import (
    COPY_FILE_RANGE_64_OUT,
    COPY_FILE_RANGE_IN,
    FALLOCATE_IN,
    LSEEK_IN,
    LSEEK_OUT,
    WRITE_OUT,
    Opcode,
)
from pramfs.fuse.request import Request
from pramfs.tree.inodes import FILE_MAX_BYTES, INO_MAX, File
from pramfs.tree.tree import Tree

_LOOKS_MAX = 16  # at a file into which somebody writes all the time
_TO_THE_END = 0
_COPY_MAX_BYTES = 1 << 31  # in the reply to the first of the opcodes there are 32 bits for them


class RangeRequests:
    """Answers requests for ranges of a tree's files."""

    def __init__(
        self, tree: Tree, files: OpenFiles, notices: Notices, *, cached_writes: bool
    ) -> None:
        self._tree = tree
        self._files = files
        self._notices = notices
        self._cached_writes = cached_writes

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode."""
        return {
            Opcode.FALLOCATE: self.fallocate,
            Opcode.LSEEK: self.lseek,
            Opcode.COPY_FILE_RANGE: self.copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self.copy_file_range_64,
        }

    def fallocate(self, request: Request) -> bytes | Again:
        _, offset, length, mode, _ = request.fields(FALLOCATE_IN)
        inode = self._tree.get(request.nodeid)
        if request.taken < length:
            request.taken += self._tree.unshare(
                inode, mode, offset + request.taken, length - request.taken
            )
            if request.taken < length:
                return Again(trio.lowlevel.checkpoint)
        # Where the kernel caches writes, it sets the times itself.
        self._tree.fallocate(inode, mode, offset, length, set_times=not self._cached_writes)
        return b""

    def lseek(self, request: Request) -> bytes | Later:
        _, offset, whence, _ = request.fields(LSEEK_IN)
        file = self._tree.file(request.nodeid)
        if offset <= FILE_MAX_BYTES and self._files.has_writers(file):
            hole = self._hole(file, offset, whence, self._seek(file, offset, whence))
            if hole is not None and not self._notices.has_nothing(file.ino, *hole):
                return functools.partial(self._seek_written, file, offset, whence)
        return LSEEK_OUT.pack(self._tree.seek(file, offset, whence))

    def copy_file_range(self, request: Request) -> bytes:
        return WRITE_OUT.pack(self._copied(request, _COPY_MAX_BYTES), 0)

    def copy_file_range_64(self, request: Request) -> bytes:
        return COPY_FILE_RANGE_64_OUT.pack(self._copied(request, FILE_MAX_BYTES))

    def _copied(self, request: Request, most: int) -> int:
        """Copy a piece within the tree; the program calls again for the rest."""
        return self._copy(request, self._tree, most)

    def _copy(self, request: Request, into: Tree, most: int) -> int:
        """Copy a piece to a file of that tree. The kernel has handed over both ranges."""
        _, offset, target, _, target_offset, length, _ = request.fields(COPY_FILE_RANGE_IN)
        if target > INO_MAX:
            raise posix_error(errno.EROFS)
        return into.copy_range(
            self._tree.get(request.nodeid),
            offset,
            into.get(target),
            target_offset,
            min(length, most),
            set_times=not self._cached_writes,
        )

    async def _seek_written(self, file: File, offset: int, whence: int) -> bytes:
        """Seek in a file of which the kernel may have data that it has not handed over.

        Before a range is called a hole, the kernel is made to hand over what it has there.
        """
        for _ in range(_LOOKS_MAX):
            found = self._seek(file, offset, whence)
            hole = self._hole(file, offset, whence, found)
            if hole is None:
                break
            await self._notices.hand_over(file.ino, *hole)
            if self._seek(file, offset, whence) == found:
                break
        return LSEEK_OUT.pack(self._tree.seek(file, offset, whence))

    def _hole(
        self, file: File, offset: int, whence: int, found: int | None
    ) -> tuple[int, int] | None:
        """Return the range that an answer would call a hole, None if there is none: (start, size)."""
        if whence == os.SEEK_DATA:
            start, end = offset, found
        else:
            start = offset if found is None else found
            end = self._seek(file, start, os.SEEK_DATA)
        if start == end:
            return None
        return start, _TO_THE_END if end is None else end - start

    def _seek(self, file: File, offset: int, whence: int) -> int | None:
        """Return what is found, None if the rest of the file is one hole. Raises EINVAL."""
        try:
            return self._tree.seek(file, offset, whence)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            return None
