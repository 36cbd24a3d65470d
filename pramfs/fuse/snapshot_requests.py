"""Requests for inodes in snapshots: those for a tree, and where the answers differ.

The tree refuses all changes with EROFS. Here are those that the kernel would otherwise see done: it is made
to ask before each write(2), and what was written to memory that is mapped is dropped.
"""

import errno
import functools
import os
from bisect import bisect_right
from collections.abc import Mapping
from operator import itemgetter

from pramfs.errors import posix_error
from pramfs.fuse.attribute_requests import AttributeRequests, sized
from pramfs.fuse.attributes_out import NOT_KEPT, entry, listed_name
from pramfs.fuse.dir_handles import OpenDirectories
from pramfs.fuse.directory_requests import DirectoryRequests
from pramfs.fuse.file_requests import FileRequests
from pramfs.fuse.front import Again, Answer, Handler, Later
from pramfs.fuse.name_requests import NameRequests
from pramfs.fuse.notices import Notices
from pramfs.fuse.open_files import OpenFiles
from pramfs.fuse.page_cache import PageCache
from pramfs.fuse.protocol import (
    GETXATTR_IN,
    LSEEK_IN,
    LSEEK_OUT,
    OPEN_IN,
    READ_IN,
    WRITE_CACHE,
    WRITE_IN,
    Opcode,
)
from pramfs.fuse.range_requests import RangeRequests
from pramfs.fuse.request import Request
from pramfs.fuse.snapshot_view import SnapshotView
from pramfs.tree.inodes import File, Inode
from pramfs.tree.refused_writes import RefusedWrites
from pramfs.tree.tree import Tree

# Answered from the root alone while nothing else of a snapshot has been read, the others if it has none.
_OF_THE_ROOT = {Opcode.GETATTR, Opcode.FORGET}
_OF_ITS_XATTRS = {Opcode.GETXATTR, Opcode.LISTXATTR}


class SnapshotNames(NameRequests):
    """Answers requests for names in snapshots, and for the names of snapshots."""

    def lookup(self, request: Request) -> bytes:
        name = request.name()
        if request.nodeid != self._snapshots.root.ino or name in (b".", b".."):
            return super().lookup(request)
        root = self._snapshots.snapshot(name)  # raises ENOENT, which the kernel does not keep
        root.refs += 1
        return entry(root, NOT_KEPT)


class SnapshotDirectories(DirectoryRequests):
    """Answers requests for listings of directories in snapshots, and of snapshots."""

    def __init__(self, snapshots: SnapshotView, directories: OpenDirectories) -> None:
        super().__init__(snapshots, directories, nodiratime=True)
        self._root = snapshots.root
        self._listing = snapshots.listing
        # What there was when somebody began to read last; positions do not change, so others go on with it.
        self._listed: list[tuple[bytes, int, int]] = []

    def readdirplus(self, request: Request) -> bytes:
        handle, start, size, _, _, _, _ = request.fields(READ_IN)
        root = self._root
        if self._directories[handle].directory is not root:
            return super().readdirplus(request)
        if start == 0 or not self._listed:
            dots = [(b".", root.ino, 1), (b"..", root.parent.ino, 2)]
            self._listed = dots + self._listing(2)
        listed: list[bytes] = []
        for at in range(bisect_right(self._listed, start, key=itemgetter(2)), len(self._listed)):
            name, ino, position = self._listed[at]
            entry = listed_name(name, ino, root.mode, position)
            size -= len(entry)
            if size < 0:
                break
            listed.append(entry)
        if not listed:  # somebody is at the end
            self._listed = []
        return b"".join(listed)


class SnapshotFiles(FileRequests):
    """Answers requests for the data of files in snapshots; tells the mounted tree of refused writes."""

    def __init__(
        self,
        snapshots: SnapshotView,
        files: OpenFiles,
        notices: Notices,
        cache: PageCache,
        refused: RefusedWrites,
    ) -> None:
        super().__init__(
            snapshots, files, notices, cache, _as_written, direct_io=False, noatime=True
        )
        self._refused = refused

    def open(self, request: Request) -> bytes:
        self._files.require_counted()
        flags, _ = request.fields(OPEN_IN)
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise posix_error(errno.EROFS)
        return self._files.open(self._tree.file(request.nodeid), flags)

    def write(self, request: Request) -> bytes | Later:
        _, offset, size, write_flags, _, _, _ = request.fields(WRITE_IN)
        if write_flags & WRITE_CACHE:  # memory that is mapped
            self._refused.count_forbidden()
            self._notices.drop_refused(request.nodeid, offset, size)
        raise posix_error(errno.EROFS)


class SnapshotAttributes(AttributeRequests):
    """Answers requests for attributes of inodes in snapshots."""

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode, also those that libfuse answers for the mounted tree."""
        return super().handlers() | {
            Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr,
        }

    def _refuses_writes(self, inode: Inode) -> bool:
        return True

    def listxattr(self, request: Request) -> bytes:
        room, _ = request.fields(GETXATTR_IN)
        xattrs = self._tree.get(request.nodeid).xattrs or {}
        return sized(b"".join(name + b"\0" for name in xattrs), room)

    def removexattr(self, request: Request) -> bytes:
        self._tree.removexattr(self._tree.get(request.nodeid), request.name())
        return b""


class SnapshotRanges(RangeRequests):
    """Answers requests for ranges of files in snapshots."""

    def __init__(
        self,
        snapshots: SnapshotView,
        mounted: Tree,
        files: OpenFiles,
        notices: Notices,
        *,
        cached_writes: bool,
    ) -> None:
        super().__init__(snapshots, files, notices, cached_writes=cached_writes)
        self._mounted = mounted

    def lseek(self, request: Request) -> bytes | Later:
        _, offset, whence, _ = request.fields(LSEEK_IN)
        return LSEEK_OUT.pack(self._tree.seek(self._tree.file(request.nodeid), offset, whence))

    def _copied(self, request: Request, most: int) -> int:
        """Copy a piece to the mounted tree, which shares its whole pages."""
        source = self._tree.get(request.nodeid)
        atime = source.atime
        try:
            return self._copy(request, self._mounted, most)
        finally:
            source.atime = atime


class SnapshotSyncs:
    """Answers requests to make snapshots durable, which they are."""

    def __init__(self, *, of_files: bool) -> None:
        self._of_files = of_files

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode."""
        return {Opcode.FSYNC: self.fsync, Opcode.FSYNCDIR: self.fsyncdir}

    def fsync(self, request: Request) -> bytes:
        if not self._of_files:
            raise posix_error(errno.ENOSYS)
        return b""

    def fsyncdir(self, request: Request) -> bytes:
        return b""


def once_read(snapshots: SnapshotView, handlers: Mapping[Opcode, Handler]) -> dict[Opcode, Handler]:
    """Return the handlers, each of which has a snapshot read first where that is needed."""
    return {opcode: _once_read(snapshots, opcode, handlers[opcode]) for opcode in handlers}


def _as_written(file: File, flags: int, answer: bytes | Later) -> bytes | Later:
    return answer


def _once_read(snapshots: SnapshotView, opcode: Opcode, handler: Handler) -> Handler:
    if opcode in _OF_THE_ROOT:
        return handler
    more_than_xattrs = opcode not in _OF_ITS_XATTRS

    @functools.wraps(handler)
    def handle(request: Request) -> Answer:
        unread = snapshots.unread(request.nodeid, more_than_xattrs=more_than_xattrs)
        if unread is not None:
            return Again(functools.partial(snapshots.read, unread))
        return handler(request)

    return handle
