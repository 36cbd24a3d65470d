"""The tree of files: a complete synchronous POSIX tree over an arena, without FUSE.

Errors are OSErrors with the errno that the system call has on Linux. Permissions are not checked here (the
kernel does it, see the mount option default_permissions), but everything else is: existence, kinds of
files, limits, link counts, which times change, set-id bits, room for the next save.
"""

import errno
import stat
from collections.abc import MutableMapping
from typing import NamedTuple

from pramfs.errors import posix_error
from pramfs.storage import layout
from pramfs.storage.arena import Arena
from pramfs.tree.attributes import default_acl_of, inherited_acl_bytes
from pramfs.tree.file_calls import FileOperations
from pramfs.tree.file_flags import FIXED, IMMUTABLE, INHERITED, refuse
from pramfs.tree.hardened_dict import HardenedDict, is_dense
from pramfs.tree.inodes import (
    INO_MAX,
    KINDS,
    NAME_MAX_BYTES,
    NLINK_MAX,
    ROOT_INO,
    SYMLINK_MAX_BYTES,
    Directory,
    File,
    Inode,
    Special,
    Symlink,
    now_ns,
)
from pramfs.tree.saved_groups import GroupPlaces, SavedBirths

# Of the root: where snapshots are read in a mount. Only a tree that was made elsewhere has one of its own.
SNAPSHOTS_NAME = b".snapshots"

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

_DOT = ord(".")
_SLASH = ord("/")  # an int is found in less time than bytes

_INODE_BYTES, _DIRENT_BYTES = layout.INODE.size, layout.DIRENT.size

_RENAME_FLAGS = (
    0,
    RENAME_NOREPLACE,
    RENAME_EXCHANGE,
    RENAME_WHITEOUT,
    RENAME_WHITEOUT | RENAME_NOREPLACE,
)


class Owner(NamedTuple):
    """The uid and gid of a new file, and the umask, which counts where there is no default ACL."""

    uid: int
    gid: int
    umask: int = 0


class Tree(FileOperations):
    """All inodes of one tree and their names, with the operations on both."""

    def __init__(self, arena: Arena, *, inodes_max: int, generation: int) -> None:
        super().__init__(arena)
        self.inodes: MutableMapping[int, Inode] = {}
        self.next_ino = ROOT_INO
        self.inodes_max = inodes_max
        self.generation = generation  # of inodes made from now on
        self.orphans: set[Inode] = set()  # inodes without a name that are still open
        self._unnamed: set[Inode] = set()  # those of them that were made so, and may get a name

    def make_root(self, mode: int, owner: Owner) -> Directory:
        """Make the root directory of an empty tree."""
        root = self._new_inode(stat.S_IFDIR | stat.S_IMODE(mode), owner)
        assert isinstance(root, Directory)
        return root

    @property
    def root(self) -> Directory:
        root = self.inodes[ROOT_INO]
        assert isinstance(root, Directory)
        return root

    def adopt(
        self,
        inodes: MutableMapping[int, Inode],
        next_ino: int,
        *,
        metadata_bytes: int,
        pages: int,
        places: GroupPlaces | None = None,
    ) -> None:
        """Take over the tree of a save: its inodes, and the most metadata and pages that they take.

        `places` is where the save has them, if a save may use that.
        """
        self.inodes = inodes
        self.next_ino = next_ino
        self.space.pages = pages
        self.space.metadata_bytes = metadata_bytes
        self.groups.places = places
        self.groups.births = SavedBirths(next_ino)

    # --- looking ---------------------------------------------------------------------------------

    def get(self, ino: int) -> Inode:
        """Return the inode of that number. Raises ENOENT."""
        inode = self.inodes.get(ino)
        if inode is None:
            raise posix_error(errno.ENOENT)
        return inode

    def find(self, ino: int) -> Inode | None:
        """Return the inode of that number, None if there is none."""
        return self.inodes.get(ino)

    def directory(self, ino: int) -> Directory:
        """Return the directory of that number. Raises ENOENT, ENOTDIR."""
        inode = self.get(ino)
        if not isinstance(inode, Directory):
            raise posix_error(errno.ENOTDIR)
        return inode

    def file(self, ino: int) -> File:
        """Return the regular file of that number. Raises ENOENT, EISDIR, EINVAL."""
        inode = self.get(ino)
        if isinstance(inode, File):
            return inode
        raise posix_error(errno.EISDIR if isinstance(inode, Directory) else errno.EINVAL)

    def lookup(self, parent: Directory, name: bytes) -> Inode:
        """Return the inode of that name in `parent`. Raises ENOENT, ENAMETOOLONG."""
        inode = self.find_name(parent, name)
        if inode is None:
            raise posix_error(errno.ENOENT)
        return inode

    def find_name(self, parent: Directory, name: bytes) -> Inode | None:
        """Return the inode of that name in `parent`, None if there is none. Raises ENAMETOOLONG."""
        inode = parent.entries.get(name)
        if inode is not None:
            return inode
        if name == b".":
            return parent
        if name == b"..":
            return parent.parent
        if len(name) > NAME_MAX_BYTES:
            raise posix_error(errno.ENAMETOOLONG)
        return None

    # --- making and removing names ---------------------------------------------------------------

    def create(
        self,
        parent: Directory,
        name: bytes,
        mode: int,
        owner: Owner,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        """Create a file of the kind in `mode`. Raises EEXIST, ENOENT, ENAMETOOLONG, EPERM, EINVAL, ENOSPC."""
        _check_new_name(parent, name)
        if stat.S_IFMT(mode) not in KINDS or mode >> 16 or rdev >> 32:
            raise posix_error(errno.EINVAL)
        if stat.S_ISLNK(mode):
            _check_target(target)
        inode = self._make(parent, mode, owner, more_bytes=len(target) + len(name))
        if isinstance(inode, Directory):
            inode.parent = parent
            parent.nlink += 1
        elif isinstance(inode, Symlink):
            inode.target = target
            self.space.metadata_bytes += len(target)
        elif isinstance(inode, Special):
            inode.rdev = rdev
        self._add_entry(parent, name, inode, inode.ctime)
        return inode

    def create_unnamed(self, parent: Directory, mode: int, owner: Owner) -> Inode:
        """Create a file that has no name until `link` gives it one, as O_TMPFILE does in `parent`.

        It goes with its last reference, so the caller takes one. Raises EPERM, ENOENT, EINVAL, ENOSPC.
        """
        refuse(parent, IMMUTABLE)
        if not parent.nlink:
            raise posix_error(errno.ENOENT)
        inode = self._make(parent, stat.S_IFREG | stat.S_IMODE(mode), owner, more_bytes=0)
        inode.nlink = 0
        self.space.metadata_bytes -= inode.record_bytes()
        self.orphans.add(inode)
        self._unnamed.add(inode)
        return inode

    def link(self, inode: Inode, parent: Directory, name: bytes) -> None:
        """Give `inode` another name, or its first one if it was made without.

        Raises EPERM, ENOENT, EINVAL, EEXIST, ENAMETOOLONG, EMLINK, ENOSPC; DamagedPage if the medium has lost
        what was written to a file without a name.
        """
        if isinstance(inode, Directory):
            raise posix_error(errno.EPERM)
        refuse(inode, FIXED)
        if not inode.nlink and inode not in self._unnamed:
            raise posix_error(errno.ENOENT)
        _check_new_name(parent, name)
        if inode.nlink >= NLINK_MAX:
            raise posix_error(errno.EMLINK)
        record_bytes = 0 if inode.nlink else inode.record_bytes()
        self.space.require_metadata(record_bytes + _DIRENT_BYTES + len(name))
        if not inode.nlink:
            self._take_in(inode)
        now = now_ns()
        inode.nlink += 1
        inode.ctime = now
        self._add_entry(parent, name, inode, now)

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Remove a name of a file that is no directory. Raises ENOENT, EPERM, EISDIR, EBUSY."""
        inode = self._named(parent, name)
        if (parent.flags | inode.flags) & FIXED:
            raise posix_error(errno.EPERM)
        if isinstance(inode, Directory):
            raise posix_error(errno.EISDIR)
        self._remove_entry(parent, name, now_ns())

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Remove an empty directory. Raises ENOENT, EPERM, ENOTDIR, ENOTEMPTY, EINVAL, EBUSY."""
        if name == b".":
            raise posix_error(errno.EINVAL)
        inode = self._named(parent, name)
        _refuse_removal(parent, inode)
        if not isinstance(inode, Directory):
            raise posix_error(errno.ENOTDIR)
        if inode.entries or name == b"..":
            raise posix_error(errno.ENOTEMPTY)
        self._remove_entry(parent, name, now_ns())

    def rename(
        self,
        parent: Directory,
        name: bytes,
        new_parent: Directory,
        new_name: bytes,
        flags: int = 0,
        owner: Owner | None = None,
    ) -> None:
        """Move a name, with the flags of renameat2(2); a whiteout in the old place belongs to `owner`.

        Raises ENOENT, EBUSY, EEXIST, EINVAL, EPERM, ENOTDIR, EISDIR, ENOTEMPTY, ENAMETOOLONG, ENOSPC.
        """
        if flags not in _RENAME_FLAGS:
            raise posix_error(errno.EINVAL)
        if name in (b".", b".."):
            raise posix_error(errno.EBUSY)
        inode = self._named(parent, name)
        target = new_parent.entries.get(new_name)
        if flags == RENAME_EXCHANGE:
            if target is None:
                raise posix_error(errno.ENOENT)
            _refuse_loop(inode, new_parent)
            _refuse_loop(target, parent)
            _refuse_removal(parent, inode)
            _refuse_removal(new_parent, target)
            self._exchange(parent, name, inode, new_parent, new_name, target)
            return
        if target is not None and flags & RENAME_NOREPLACE:
            raise posix_error(errno.EEXIST)
        if target is inode:
            return
        _refuse_loop(inode, new_parent)
        _refuse_removal(parent, inode)
        if target is None:
            _check_new_name(new_parent, new_name)
        else:
            _refuse_removal(new_parent, target)
            _check_replaceable(inode, target)
        if len(new_name) > len(name):
            self.space.require_metadata(len(new_name) - len(name))
        if flags & RENAME_WHITEOUT:
            assert owner is not None
            whiteout = self._make(parent, stat.S_IFCHR, owner, more_bytes=len(new_name))
            self._move(parent, name, inode, new_parent, new_name, target)
            self._add_entry(parent, name, whiteout, whiteout.ctime)
        else:
            self._move(parent, name, inode, new_parent, new_name, target)

    # --- references ------------------------------------------------------------------------------

    def forget(self, inode: Inode, count: int = 1) -> None:
        """Drop `count` references to the inode; without references and names it is deleted."""
        inode.refs -= count
        if not inode.refs and not inode.nlink:
            self.orphans.remove(inode)
            self._delete(inode)

    def named_inodes(self) -> int:
        """Count the inodes that a save holds: all except orphan inodes."""
        return len(self.inodes) - len(self.orphans)

    # --- helpers ---------------------------------------------------------------------------------

    def _named(self, parent: Directory, name: bytes) -> Inode:
        """Return what `lookup` does, for a change of the name. Raises EBUSY for where snapshots are read."""
        inode = parent.entries.get(name)
        if inode is not None:
            return inode
        if _is_for_snapshots(parent, name):
            raise posix_error(errno.EBUSY)
        return self.lookup(parent, name)

    def _make(self, parent: Directory, mode: int, owner: Owner, *, more_bytes: int) -> Inode:
        """Create an inode for a name in `parent`; name and contents take `more_bytes` of metadata."""
        default_acl = None
        if parent.xattrs is not None and not stat.S_ISLNK(mode):
            default_acl = default_acl_of(parent)
            more_bytes += inherited_acl_bytes(default_acl)
        self.space.require_metadata(_INODE_BYTES + _DIRENT_BYTES + more_bytes)
        if parent.mode & stat.S_ISGID:
            owner = owner._replace(gid=parent.gid)
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        inode = self._new_inode(mode, owner)
        if parent.flags:
            inode.flags = parent.flags & INHERITED
        if default_acl is not None:
            self._inherit_permissions(inode, default_acl)
        elif not isinstance(inode, Symlink):
            inode.mode &= ~owner.umask
        return inode

    def _new_inode(self, mode: int, owner: Owner) -> Inode:
        if self.named_inodes() >= self.inodes_max or self.next_ino > INO_MAX:
            raise posix_error(errno.ENOSPC)
        kind = KINDS[stat.S_IFMT(mode)]
        inode = kind(self.next_ino, self.generation, mode, owner.uid, owner.gid, now_ns())
        if not is_dense(len(self.inodes), self.next_ino) and isinstance(self.inodes, dict):
            self.inodes = HardenedDict(self.inodes)
        self.inodes[inode.ino] = inode
        self.next_ino += 1
        self.space.metadata_bytes += _INODE_BYTES
        return inode

    def _take_in(self, inode: Inode) -> None:
        """Make an inode without a name one that saves hold. Raises ENOSPC, DamagedPage."""
        if self.named_inodes() >= self.inodes_max:
            raise posix_error(errno.ENOSPC)
        if isinstance(inode, File):
            self.data.verify(inode)
        self._unnamed.remove(inode)
        self.orphans.remove(inode)
        self.space.metadata_bytes += inode.record_bytes()

    def _add_entry(self, parent: Directory, name: bytes, inode: Inode, now: int) -> None:
        parent.entries[name] = inode
        self.space.metadata_bytes += _DIRENT_BYTES + len(name)
        self._note_names(parent, now)
        self.note_change(inode)

    def _drop_entry(self, parent: Directory, name: bytes, now: int) -> None:
        del parent.entries[name]
        self.space.metadata_bytes -= _DIRENT_BYTES + len(name)
        self._note_names(parent, now)

    def _note_names(self, directory: Directory, now: int) -> None:
        """Note that the names in a directory have changed."""
        directory.listed = False
        directory.mtime = directory.ctime = now
        self.note_change(directory)

    def _remove_entry(self, parent: Directory, name: bytes, now: int) -> None:
        """Remove a name, and the inode if it was the last."""
        inode = parent.entries[name]
        self._drop_entry(parent, name, now)
        self.note_change(inode)
        inode.ctime = now
        if isinstance(inode, Directory):
            parent.nlink -= 1
            inode.nlink = 0
        else:
            inode.nlink -= 1
        if inode.nlink:
            return
        self.space.metadata_bytes -= inode.record_bytes()
        if inode.refs:
            self.orphans.add(inode)
        else:
            self._delete(inode)

    def _delete(self, inode: Inode) -> None:
        if isinstance(inode, File):
            self.data.discard(inode)
        if self._unnamed:
            self._unnamed.discard(inode)
        del self.inodes[inode.ino]

    def _move(
        self,
        parent: Directory,
        name: bytes,
        inode: Inode,
        new_parent: Directory,
        new_name: bytes,
        target: Inode | None,
    ) -> None:
        now = now_ns()
        if target is not None:
            self._remove_entry(new_parent, new_name, now)
        del parent.entries[name]
        new_parent.entries[new_name] = inode
        self.space.metadata_bytes += len(new_name) - len(name)
        self._note_names(parent, now)
        if new_parent is not parent:
            self._note_names(new_parent, now)
        self._set_parent(inode, parent, new_parent)
        inode.ctime = now
        self.note_change(inode)

    def _exchange(
        self,
        parent: Directory,
        name: bytes,
        inode: Inode,
        new_parent: Directory,
        new_name: bytes,
        target: Inode,
    ) -> None:
        now = now_ns()
        parent.entries[name], new_parent.entries[new_name] = target, inode
        self._set_parent(inode, parent, new_parent)
        self._set_parent(target, new_parent, parent)
        self._note_names(parent, now)
        self._note_names(new_parent, now)
        for moved in (inode, target):
            moved.ctime = now
            self.note_change(moved)

    def _set_parent(self, inode: Inode, old: Directory, new: Directory) -> None:
        if isinstance(inode, Directory):
            inode.parent = new
            inode.listed = False
            old.nlink -= 1
            new.nlink += 1


# --- checks of names and moves -------------------------------------------------------------------


def _check_new_name(parent: Directory, name: bytes) -> None:
    """Raise EINVAL, EEXIST, ENOENT, ENAMETOOLONG or EPERM if `parent` cannot have a new file of that name."""
    if not name or _SLASH in name or 0 in name:
        raise posix_error(errno.EINVAL)
    if name in parent.entries:
        raise posix_error(errno.EEXIST)
    if name[0] == _DOT and (name in (b".", b"..") or _is_for_snapshots(parent, name)):
        raise posix_error(errno.EEXIST)
    if not parent.nlink:
        raise posix_error(errno.ENOENT)  # removed, but still the working directory of a process
    if len(name) > NAME_MAX_BYTES:
        raise posix_error(errno.ENAMETOOLONG)
    if parent.flags & IMMUTABLE:
        raise posix_error(errno.EPERM)


def _is_for_snapshots(parent: Directory, name: bytes) -> bool:
    return name == SNAPSHOTS_NAME and parent.parent is parent


def _refuse_removal(parent: Directory, inode: Inode) -> None:
    """Raise EPERM if a name of `inode` may not be removed from `parent`: for flags of either."""
    if (parent.flags | inode.flags) & FIXED:
        raise posix_error(errno.EPERM)


def _check_target(target: bytes) -> None:
    """Raise ENOENT, EINVAL or ENAMETOOLONG if no symbolic link can have this target."""
    if not target:
        raise posix_error(errno.ENOENT)
    if b"\0" in target:
        raise posix_error(errno.EINVAL)
    if len(target) > SYMLINK_MAX_BYTES:
        raise posix_error(errno.ENAMETOOLONG)


def _check_replaceable(inode: Inode, target: Inode) -> None:
    """Raise the error of rename(2) if `inode` cannot replace `target`."""
    if isinstance(target, Directory):
        if not isinstance(inode, Directory):
            raise posix_error(errno.EISDIR)
        if target.entries:
            raise posix_error(errno.ENOTEMPTY)
    elif isinstance(inode, Directory):
        raise posix_error(errno.ENOTDIR)


def _refuse_loop(inode: Inode, directory: Directory) -> None:
    """Raise EINVAL if `directory` is `inode` or below it."""
    if not isinstance(inode, Directory):
        return
    while directory is not inode:
        if directory is directory.parent:
            return
        directory = directory.parent
    raise posix_error(errno.EINVAL)
