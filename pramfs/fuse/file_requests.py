"""Requests for the data of files: OPEN, READ, WRITE, RELEASE.

With the page cache of the kernel there are three ways to read and write: through it, past it (O_DIRECT, the
mount option direct_io), and out of it or into it, which is when READ and WRITE come for the first.
"""

import os
from collections.abc import Callable

from pramfs.errors import FramesHeld, NoRoom, ShortWrite, words_of
from pramfs.fuse.callers import in_group
from pramfs.fuse.front import Handler, Later
from pramfs.fuse.notices import Notices
from pramfs.fuse.open_files import OpenFiles, refuse_writers
from pramfs.fuse.page_cache import PageCache
from pramfs.fuse.protocol import (
    IN_HEADER,
    OPEN_IN,
    READ_IN,
    READ_LOCKOWNER,
    RELEASE_IN,
    WRITE_CACHE,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    WRITE_LOCKOWNER,
    WRITE_OUT,
    Opcode,
)
from pramfs.fuse.request import OddRequestError, Request
from pramfs.storage.piped import Piped
from pramfs.tree.attributes import CAPABILITY, Changes, gives_rights
from pramfs.tree.inodes import File
from pramfs.tree.tree import Tree

_DATA_AT = IN_HEADER.size + WRITE_IN.size  # in a message


class FileRequests:
    """Answers requests for the data of a tree's files.

    `when_written` returns the reply to a write of a mount with `direct_io`, or what waits for it.
    """

    def __init__(
        self,
        tree: Tree,
        files: OpenFiles,
        notices: Notices,
        cache: PageCache,
        when_written: Callable[[File, int, bytes | Later], bytes | Later],
        *,
        direct_io: bool,
        noatime: bool,
    ) -> None:
        self._tree = tree
        self._files = files
        self._notices = notices
        self._when_written = when_written
        self._direct_io = direct_io
        self._noatime_flags = os.O_NOATIME if noatime else 0
        self._cache = cache

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode."""
        return {
            Opcode.OPEN: self.open,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.RELEASE: self.release,
        }

    def open(self, request: Request) -> bytes:
        self._files.require_counted()
        flags, _ = request.fields(OPEN_IN)
        file = self._tree.file(request.nodeid)
        refuse_writers(file, flags)
        if flags & os.O_TRUNC:
            group = in_group(request.uid, request.gid, request.pid, file)
            self._tree.setattr(file, Changes(size=0, drop_setid=request.uid != 0, in_group=group))
            self._notices.drop_attributes(file.ino)  # the reply cannot say what changed
        return self._files.open(file, flags)

    def read(self, request: Request) -> bytes | memoryview:
        _, offset, size, read_flags, _, flags, _ = request.fields(READ_IN)
        file = self._tree.file(request.nodeid)
        if not (flags | self._noatime_flags) & os.O_NOATIME:
            self._tree.touch_atime(file)
        if not read_flags & READ_LOCKOWNER:
            self._cache.filled(file.ino, offset, offset + size)
        return self._tree.data.read(file, offset, size)

    def write(self, request: Request) -> bytes | Later:
        _, offset, size, write_flags, _, flags, _ = request.fields(WRITE_IN)
        file = self._tree.file(request.nodeid)
        if request.piped is not None and file.flags:
            request.keep()  # the tree compares them
        data = request.message[_DATA_AT:] if request.piped is None else request.piped
        if len(data) != size:
            raise OddRequestError(f"{len(data)} bytes to write, not {size}")
        if not write_flags & WRITE_CACHE and gives_rights(file):
            self._drop_rights(request, file, kill_setid=bool(write_flags & WRITE_KILL_SUIDGID))
        from_cache = bool(write_flags & WRITE_CACHE)
        # What is past the cache with O_DIRECT may be asynchronous: a short count becomes EIO in the kernel.
        in_part = self._direct_io and not from_cache and not flags & os.O_DIRECT
        written = self._write(request, file, offset, data, from_cache=from_cache, in_part=in_part)
        answer = WRITE_OUT.pack(written, 0)
        if write_flags & WRITE_LOCKOWNER:
            told = self._cache.overwritten(file.ino, offset, offset + written, answer)
            return self._when_written(file, flags, told) if self._direct_io else told
        self._cache.filled(file.ino, offset, offset + written)
        return answer

    def release(self, request: Request) -> bytes:
        _, flags, _, _ = request.fields(RELEASE_IN)
        self._files.close(self._tree.get(request.nodeid), flags)
        return b""

    # --- helpers ---------------------------------------------------------------------------------

    def _write(
        self,
        request: Request,
        file: File,
        offset: int,
        data: bytes | memoryview | Piped,
        *,
        from_cache: bool,
        in_part: bool,
    ) -> int:
        """Write what is not written yet; return how much is now, which is all of it unless `in_part`.

        From the cache it is taken, as its program knows: note a refusal.
        """
        # Where the kernel caches writes, it sets the times itself.
        set_times = self._direct_io
        try:
            left = data[request.taken :] if request.taken else data
            self._tree.write(file, offset + request.taken, left, set_times=set_times)
        except BaseException as exc:
            if isinstance(exc, ShortWrite):
                request.taken += exc.written
            if isinstance(exc, FramesHeld):
                request.so_far = WRITE_OUT.pack(request.taken, 0) if request.taken else b""
                if request.may_wait:
                    raise
            if from_cache and isinstance(exc, PermissionError):  # chattr(1) has forbidden it
                self._tree.data.refused.count_forbidden()
                self._notices.drop_refused(file.ino, offset, len(data))
            elif from_cache:
                start = offset + request.taken
                self._tree.data.refused.add(file, start, offset + len(data), words_of(exc))
                self._notices.drop_attributes(file.ino)  # so that the next write(2) asks for them
            if in_part and isinstance(exc, NoRoom):
                left = data[request.taken :]
                request.taken += self._write_what_fits(file, offset + request.taken, left)
            if in_part and request.taken and isinstance(exc, OSError):
                return request.taken
            raise
        return len(data)

    def _write_what_fits(self, file: File, offset: int, data: bytes | memoryview | Piped) -> int:
        """Write as much as there is room for; return how much, 0 for none or after another error."""
        fitting = self._tree.data.fitting(offset, len(data))
        try:
            return self._tree.write(file, offset, data[:fitting]) if fitting else 0
        except OSError as exc:
            return exc.written if isinstance(exc, ShortWrite) else 0

    def _drop_rights(self, request: Request, file: File, *, kill_setid: bool) -> None:
        """Drop what a write ends: capabilities; set-id bits, unless the writer may keep them."""
        if kill_setid:
            group = in_group(request.uid, request.gid, request.pid, file)
            self._tree.setattr(file, Changes(drop_setid=True, in_group=group))
        elif CAPABILITY in (file.xattrs or {}):
            self._tree.removexattr(file, CAPABILITY)
        else:
            return
        self._notices.drop_attributes(file.ino)
