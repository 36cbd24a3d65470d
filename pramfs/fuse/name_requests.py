"""Requests for names: finding, making, moving and removing them, and the kernel's lookup counts."""

import stat
from collections.abc import Callable

from pramfs.fuse.attributes_out import FOREVER_S, NO_ENTRY, NOT_KEPT, entry
from pramfs.fuse.front import Handler
from pramfs.fuse.open_files import OpenFiles
from pramfs.fuse.protocol import (
    BATCH_FORGET_IN,
    CREATE_IN,
    FORGET_IN,
    FORGET_ONE,
    LINK_IN,
    MKDIR_IN,
    MKNOD_IN,
    RENAME2_IN,
    RENAME_IN,
    Opcode,
)
from pramfs.fuse.request import OddRequestError, Request
from pramfs.fuse.snapshot_view import SnapshotView, require_same_tree
from pramfs.tree.inodes import INO_MAX, Directory, Inode
from pramfs.tree.tree import SNAPSHOTS_NAME, Owner, Tree


class NameRequests:
    """Answers requests for the names in a tree, of which `snapshots` has those.

    `forgotten` is told of each inode that the kernel has dropped.
    """

    def __init__(
        self,
        tree: Tree,
        snapshots: SnapshotView,
        files: OpenFiles,
        forgotten: Callable[[int], None],
    ) -> None:
        self._tree = tree
        self._snapshots = snapshots
        self._files = files
        self._forgotten = forgotten

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode."""
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.CREATE: self.create,
            Opcode.SYMLINK: self.symlink,
            Opcode.LINK: self.link,
            Opcode.TMPFILE: self.tmpfile,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
        }

    # --- finding ---------------------------------------------------------------------------------

    def lookup(self, request: Request) -> bytes:
        name = request.name()
        tree = self._tree
        directory = tree.get(request.nodeid) if name == b"." else tree.directory(request.nodeid)
        if not isinstance(directory, Directory):
            return _entry(directory)  # of a file handle: see open_by_handle_at(2)
        inode = tree.find_name(directory, name)
        if inode is not None:
            return _entry(inode)
        if name == SNAPSHOTS_NAME and directory is tree.root:
            return _entry(self._snapshots.root, NOT_KEPT)  # there may be one of its own later
        return NO_ENTRY

    def forget(self, request: Request) -> None:
        (count,) = request.fields(FORGET_IN)
        self._forget(request.nodeid, count)

    def batch_forget(self, request: Request) -> None:
        count, _ = request.fields(BATCH_FORGET_IN)
        body = request.body[BATCH_FORGET_IN.size :]
        if len(body) != count * FORGET_ONE.size:
            raise OddRequestError(f"{len(body)} bytes for {count} inodes to forget")
        for nodeid, lookups in FORGET_ONE.iter_unpack(body):
            self._forget(nodeid, lookups)

    # --- making ----------------------------------------------------------------------------------

    def mknod(self, request: Request) -> bytes:
        mode, rdev, umask, _ = request.fields(MKNOD_IN)
        parent = self._tree.directory(request.nodeid)
        owner = _owner(request, umask)
        return _entry(self._tree.create(parent, request.name(MKNOD_IN), mode, owner, rdev=rdev))

    def mkdir(self, request: Request) -> bytes:
        mode, umask = request.fields(MKDIR_IN)
        parent = self._tree.directory(request.nodeid)
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        owner = _owner(request, umask)
        return _entry(self._tree.create(parent, request.name(MKDIR_IN), mode, owner))

    def create(self, request: Request) -> bytes:
        self._files.require_counted()  # else the kernel uses MKNOD, and has no handle to RELEASE later
        flags, mode, umask, _ = request.fields(CREATE_IN)
        parent = self._tree.directory(request.nodeid)
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        owner = _owner(request, umask)
        file = self._tree.create(parent, request.name(CREATE_IN), mode, owner)
        return _entry(file) + self._files.open(file, flags)

    def tmpfile(self, request: Request) -> bytes:
        flags, mode, umask, _ = request.fields(CREATE_IN)
        parent = self._tree.directory(request.nodeid)
        file = self._tree.create_unnamed(parent, mode, _owner(request, umask))
        return _entry(file) + self._files.open(file, flags)

    def symlink(self, request: Request) -> bytes:
        name, target = request.names(2)
        parent = self._tree.directory(request.nodeid)
        mode = stat.S_IFLNK | 0o777
        return _entry(self._tree.create(parent, name, mode, _owner(request, 0), target=target))

    def link(self, request: Request) -> bytes:
        (ino,) = request.fields(LINK_IN)
        require_same_tree(request.nodeid, ino)
        inode = self._tree.get(ino)
        self._tree.link(inode, self._tree.directory(request.nodeid), request.name(LINK_IN))
        return _entry(inode)

    # --- moving and removing ---------------------------------------------------------------------

    def unlink(self, request: Request) -> bytes:
        self._tree.unlink(self._tree.directory(request.nodeid), request.name())
        return b""

    def rmdir(self, request: Request) -> bytes:
        self._tree.rmdir(self._tree.directory(request.nodeid), request.name())
        return b""

    def rename(self, request: Request) -> bytes:
        (new_parent,) = request.fields(RENAME_IN)
        name, new_name = request.names(2, RENAME_IN)
        require_same_tree(request.nodeid, new_parent)
        old = new = self._tree.directory(request.nodeid)
        if new_parent != request.nodeid:
            new = self._tree.directory(new_parent)
        self._tree.rename(old, name, new, new_name)
        return b""

    def rename2(self, request: Request) -> bytes:
        new_parent, flags, _ = request.fields(RENAME2_IN)
        name, new_name = request.names(2, RENAME2_IN)
        require_same_tree(request.nodeid, new_parent)
        tree = self._tree
        old, new = tree.directory(request.nodeid), tree.directory(new_parent)
        tree.rename(old, name, new, new_name, flags, _owner(request, 0))
        return b""

    # --- helpers ---------------------------------------------------------------------------------

    def _forget(self, ino: int, count: int) -> None:
        tree = self._tree if ino <= INO_MAX else self._snapshots
        inode = tree.find(ino)
        if inode is not None:
            tree.forget(inode, count)
            if not inode.refs:
                self._forgotten(ino)


def _entry(inode: Inode, name_valid_s: int = FOREVER_S) -> bytes:
    """Return a reply that adds one to the kernel's lookup count of the inode."""
    inode.refs += 1
    return entry(inode, name_valid_s)


def _owner(request: Request, umask: int) -> Owner:
    return Owner._make((request.uid, request.gid, umask & 0o777))  # in half the time of Owner()
