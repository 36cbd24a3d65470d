"""Requests for listings: OPENDIR, READDIRPLUS, RELEASEDIR."""

from pramfs.fuse.attributes_out import listed_entry
from pramfs.fuse.dir_handles import OpenDirectories
from pramfs.fuse.front import Handler
from pramfs.fuse.protocol import (
    FOPEN_CACHE_DIR,
    FOPEN_KEEP_CACHE,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    Opcode,
)
from pramfs.fuse.request import Request
from pramfs.tree.tree import Tree

_CACHED = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE


class DirectoryRequests:
    """Answers requests for the listings of a tree's directories."""

    def __init__(self, tree: Tree, directories: OpenDirectories, *, nodiratime: bool) -> None:
        self._tree = tree
        self._directories = directories
        self._nodiratime = nodiratime

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode."""
        return {
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
        }

    def opendir(self, request: Request) -> bytes:
        directory = self._tree.directory(request.nodeid)
        handle = self._directories.open(directory, request.pid)
        # What is listed again without a change. Without the flags the kernel drops what it had cached.
        return OPEN_OUT.pack(handle, _CACHED if directory.listed else 0, 0)

    def readdirplus(self, request: Request) -> bytes:
        handle, start, size, _, _, _, _ = request.fields(READ_IN)
        listing = self._directories[handle]
        if start == 0:
            listing.begin()
            if not self._nodiratime:
                self._tree.touch_atime(listing.directory)
        listed: list[bytes] = []
        for position, name, inode in listing.entries(start):
            entry = listed_entry(name, inode, position)
            size -= len(entry)
            if size < 0:
                break
            listed.append(entry)
            if name not in (b".", b".."):
                inode.refs += 1
        return b"".join(listed)

    def releasedir(self, request: Request) -> bytes:
        handle, _, _, _ = request.fields(RELEASE_IN)
        self._directories.close(handle)
        return b""
