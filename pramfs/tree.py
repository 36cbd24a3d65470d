"""The tree of files: a complete synchronous POSIX tree over an arena. No FUSE in it.

Errors are OSErrors with the errno that the call has on Linux. Permissions are the caller's business
(the kernel checks them, see mount option default_permissions); everything else of a call is done here:
existence, kinds, limits, link counts, which times change, set-id bits, accounting for the next save.
"""

import errno
import os
import stat
import time
from dataclasses import dataclass, replace

from pramfs import acl, layout
from pramfs.arena import Arena
from pramfs.chains import link_count
from pramfs.data import FileData
from pramfs.inodes import KINDS, Directory, File, Inode, Special, Symlink
from pramfs.layout import PAGE_SIZE

ROOT_INO = 1
INO_MAX = (1 << 64) - 2  # so that the number after it can be saved
NAME_MAX_BYTES = 255
XATTR_NAMESPACES = (b"user.", b"trusted.", b"security.")
XATTR_VALUE_MAX_BYTES = 65536
SYMLINK_MAX_BYTES = 4095
FILE_MAX_BYTES = (1 << 63) - 1
NLINK_MAX = (1 << 32) - 1

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

_CLOCK_REALTIME_COARSE = 5  # as in linux/time.h; Python has no name for it
_RELATIME_NS = 24 * 3600 * 10**9


@dataclass(frozen=True, slots=True)
class Owner:
    """Who makes a new file, and which permissions they never give (where no default ACL says)."""

    uid: int
    gid: int
    umask: int = 0


@dataclass(slots=True)
class Changes:
    """What `Tree.setattr` is to change; None is left as it is. Times in nanoseconds.

    `drop_setid`: the content changes, by somebody who may not keep set-id bits. `in_group`: who asks is in
    the file's group, or root.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None
    drop_setid: bool = False
    in_group: bool = True


class Tree:
    """All inodes of one tree, and the operations on them."""

    def __init__(self, arena: Arena, *, inodes_max: int, generation: int) -> None:
        self.arena = arena
        self.inodes: dict[int, Inode] = {}
        self.next_ino = ROOT_INO
        self.inodes_max = inodes_max
        self.generation = generation  # of inodes made from now on
        self.node_frames = 2  # for the node list of the next save
        self.node_moves = 0  # that the next save takes to move other nodes out of banned frames
        self.saved_frames = 0  # of the last save, besides data: the next one gives them back
        self.relocations = 0  # pages that the next save has to move
        self.changed = False  # since the last save
        self.data = FileData(arena, self.frames_to_keep_free)
        self._orphans = 0  # inodes that no directory names and somebody still has open
        self._metadata_bytes = layout.TREE_HEADER.size

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
        self, inodes: dict[int, Inode], next_ino: int, *, metadata_bytes: int, pages: int
    ) -> None:
        """Become the tree that a save holds: its inodes, and what they take (at most)."""
        self.inodes = inodes
        self.next_ino = next_ino
        self.data.pages = pages
        self._metadata_bytes = metadata_bytes

    # --- looking ---------------------------------------------------------------------------------

    def get(self, ino: int) -> Inode:
        """The inode of that number. Raises ENOENT."""
        inode = self.inodes.get(ino)
        if inode is None:
            raise _error(errno.ENOENT)
        return inode

    def directory(self, ino: int) -> Directory:
        """The directory of that number. Raises ENOENT, ENOTDIR."""
        inode = self.get(ino)
        if not isinstance(inode, Directory):
            raise _error(errno.ENOTDIR)
        return inode

    def file(self, ino: int) -> File:
        """The regular file of that number. Raises ENOENT, EISDIR, EINVAL."""
        inode = self.get(ino)
        if isinstance(inode, File):
            return inode
        raise _error(errno.EISDIR if isinstance(inode, Directory) else errno.EINVAL)

    def lookup(self, parent: Directory, name: bytes) -> Inode:
        """The inode that `name` names. Raises ENOENT, ENAMETOOLONG."""
        inode = parent.entries.get(name)
        if inode is not None:
            return inode
        if name == b".":
            return parent
        if name == b"..":
            return parent.parent
        if len(name) > NAME_MAX_BYTES:
            raise _error(errno.ENAMETOOLONG)
        raise _error(errno.ENOENT)

    def readlink(self, inode: Inode) -> bytes:
        """The target of a symbolic link. Raises EINVAL for another kind."""
        if not isinstance(inode, Symlink):
            raise _error(errno.EINVAL)
        self.touch_atime(inode)
        return inode.target

    def touch_atime(self, inode: Inode) -> None:
        """It has been read: update atime as relatime does."""
        now = _now()
        atime = inode.atime
        if atime <= inode.mtime or atime <= inode.ctime or now - atime >= _RELATIME_NS:
            inode.atime = now

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
        """Make a file of the kind that `mode` says. Raises EEXIST, ENOENT, ENAMETOOLONG, EINVAL, ENOSPC."""
        self._check_new_name(parent, name)
        if stat.S_IFMT(mode) not in KINDS or mode >> 16 or rdev >> 32:
            raise _error(errno.EINVAL)
        if stat.S_ISLNK(mode):
            _check_target(target)
        default_acl = None if stat.S_ISLNK(mode) else _default_acl(parent)
        own_bytes = layout.INODE.size + len(target) + layout.DIRENT.size + len(name)
        self._require_metadata(own_bytes + _inherited_bytes(default_acl))
        if parent.mode & stat.S_ISGID:
            owner = replace(owner, gid=parent.gid)
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        inode = self._new_inode(mode, owner)
        if isinstance(inode, Directory):
            inode.parent = parent
            parent.nlink += 1
        elif isinstance(inode, Symlink):
            inode.target = target
            self._metadata_bytes += len(target)
        elif isinstance(inode, Special):
            inode.rdev = rdev
        if not isinstance(inode, Symlink):
            self._inherit_permissions(inode, default_acl, owner.umask)
        self._add_entry(parent, name, inode, inode.ctime)
        return inode

    def link(self, inode: Inode, parent: Directory, name: bytes) -> None:
        """Give `inode` another name. Raises EPERM, ENOENT, EINVAL, EEXIST, ENAMETOOLONG, EMLINK, ENOSPC."""
        if isinstance(inode, Directory):
            raise _error(errno.EPERM)
        if not inode.nlink:
            raise _error(errno.ENOENT)
        self._check_new_name(parent, name)
        if inode.nlink >= NLINK_MAX:
            raise _error(errno.EMLINK)
        self._require_metadata(layout.DIRENT.size + len(name))
        now = _now()
        inode.nlink += 1
        inode.ctime = now
        self._add_entry(parent, name, inode, now)

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Remove a name of what is no directory. Raises ENOENT, EISDIR."""
        inode = self.lookup(parent, name)
        if isinstance(inode, Directory):
            raise _error(errno.EISDIR)
        self._remove_entry(parent, name, _now())

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Remove an empty directory. Raises ENOENT, ENOTDIR, ENOTEMPTY, EINVAL."""
        if name == b".":
            raise _error(errno.EINVAL)
        inode = self.lookup(parent, name)
        if not isinstance(inode, Directory):
            raise _error(errno.ENOTDIR)
        if inode.entries or name == b"..":
            raise _error(errno.ENOTEMPTY)
        self._remove_entry(parent, name, _now())

    def rename(
        self, parent: Directory, name: bytes, new_parent: Directory, new_name: bytes, flags: int = 0
    ) -> None:
        """Move a name, with renameat2(2)'s RENAME_NOREPLACE or RENAME_EXCHANGE.

        Raises ENOENT, EBUSY, EEXIST, EINVAL, ENOTDIR, EISDIR, ENOTEMPTY, ENAMETOOLONG, ENOSPC.
        """
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise _error(errno.EINVAL)
        if name in (b".", b".."):
            raise _error(errno.EBUSY)
        inode = self.lookup(parent, name)
        target = new_parent.entries.get(new_name)
        if flags == RENAME_EXCHANGE:
            if target is None:
                raise _error(errno.ENOENT)
            self._refuse_loop(inode, new_parent)
            self._refuse_loop(target, parent)
            self._exchange(parent, name, inode, new_parent, new_name, target)
            return
        if target is not None and flags == RENAME_NOREPLACE:
            raise _error(errno.EEXIST)
        if target is inode:
            return
        self._refuse_loop(inode, new_parent)
        if target is None:
            self._check_new_name(new_parent, new_name)
        else:
            _check_replaceable(inode, target)
        if len(new_name) > len(name):
            self._require_metadata(len(new_name) - len(name))
        self._move(parent, name, inode, new_parent, new_name, target)

    # --- attributes ------------------------------------------------------------------------------

    def setattr(self, inode: Inode, changes: Changes) -> None:
        """Change attributes. Raises EISDIR, EINVAL, EFBIG, ENOSPC for sizes; nothing is changed then."""
        now = _now()
        if changes.size is not None:
            self._set_size(inode, changes.size, now)
        if changes.uid is not None or changes.gid is not None:
            self._set_owner(inode, changes)
        if changes.drop_setid:
            _clear_setid(inode, changes.in_group)
        if changes.mode is not None:
            self._set_mode(inode, changes.mode)
        if changes.atime is not None:
            inode.atime = changes.atime
        if changes.mtime is not None:
            inode.mtime = changes.mtime
        inode.ctime = now if changes.ctime is None else changes.ctime
        self.changed = True

    def getxattr(self, inode: Inode, name: bytes) -> bytes:
        """The value of an extended attribute. Raises ENODATA, ENOTSUP, EINVAL."""
        if inode.xattrs is None or name not in inode.xattrs:
            _check_xattr_name(name)
            raise _error(errno.ENODATA)
        return inode.xattrs[name]

    def setxattr(self, inode: Inode, name: bytes, value: bytes, *, in_group: bool = True) -> None:
        """Set an extended attribute. Raises ENOTSUP, ERANGE, EINVAL, E2BIG, ENOSPC; EACCES for ACLs.

        `in_group`: who asks is in the file's group, or root.
        """
        _check_xattr_name(name)
        if len(name) > NAME_MAX_BYTES:
            raise _error(errno.ERANGE)
        if len(value) > XATTR_VALUE_MAX_BYTES:
            raise _error(errno.E2BIG)
        self._require_metadata(layout.XATTR.size + len(name) + len(value))
        if name == acl.ACCESS:
            self._set_access_acl(inode, value)
            if not in_group:
                inode.mode &= ~stat.S_ISGID
            return
        if name == acl.DEFAULT:
            _check_default_acl(inode, value)
        self._put_xattr(inode, name, value)

    def removexattr(self, inode: Inode, name: bytes) -> None:
        """Remove an extended attribute. Raises ENOTSUP, EINVAL; ENODATA, but not for ACLs."""
        if inode.xattrs is not None and name in inode.xattrs:
            self._put_xattr(inode, name, None)
        elif name not in (acl.ACCESS, acl.DEFAULT):
            _check_xattr_name(name)
            raise _error(errno.ENODATA)

    # --- data ------------------------------------------------------------------------------------

    def write(self, file: File, offset: int, data: bytes, *, set_times: bool = True) -> int:
        """Write all of `data`. Raises OSError(EFBIG, ENOSPC).

        Whoever caches writes says later by `setattr` when they were made, and clears `set_times`.
        """
        if offset + len(data) > FILE_MAX_BYTES:
            raise _error(errno.EFBIG)
        try:
            self.data.write(file, offset, data)
        finally:
            self.changed = True  # a checkpoint that made room for it was of the time before
        if set_times:
            file.mtime = file.ctime = _now()
        return len(data)

    # --- references ------------------------------------------------------------------------------

    def forget(self, inode: Inode, count: int = 1) -> None:
        """Drop `count` of the inode's refs; what nobody names or knows any more is gone."""
        inode.refs -= count
        if not inode.refs and not inode.nlink:
            self._orphans -= 1
            self._delete(inode)

    # --- accounting ------------------------------------------------------------------------------

    def frames_to_keep_free(self, pages: int = 0, metadata_bytes: int = 0) -> int:
        """Frames that data and metadata may not take: a save needs them, and then the save after it.

        The next save gives the frames of the last one back. Where these are fewer than it takes, a
        full tree could be saved, and then not be mounted again for want of frames for one more save.
        With that many more `pages` and `metadata_bytes` than there are now.
        """
        lasting = self._frames_of_a_save(pages, metadata_bytes)
        moves = self.relocations + self.node_moves
        return moves + lasting + max(0, lasting - self.saved_frames)

    def _frames_of_a_save(self, pages: int = 0, metadata_bytes: int = 0) -> int:
        metadata = -(-(self._metadata_bytes + metadata_bytes) // PAGE_SIZE)
        links = link_count(self.data.pages + pages) + link_count(metadata)
        return metadata + links + self.node_frames

    def named_inodes(self) -> int:
        """Inodes that a save holds: not those that are only open."""
        return len(self.inodes) - self._orphans

    # --- helpers ---------------------------------------------------------------------------------

    def _new_inode(self, mode: int, owner: Owner) -> Inode:
        if self.named_inodes() >= self.inodes_max or self.next_ino > INO_MAX:
            raise _error(errno.ENOSPC)
        kind = KINDS[stat.S_IFMT(mode)]
        inode = kind(self.next_ino, self.generation, mode, owner.uid, owner.gid, _now())
        self.inodes[inode.ino] = inode
        self.next_ino += 1
        self._metadata_bytes += layout.INODE.size
        return inode

    def _check_new_name(self, parent: Directory, name: bytes) -> None:
        if not name or b"/" in name or b"\0" in name:
            raise _error(errno.EINVAL)
        if name in parent.entries or name in (b".", b".."):
            raise _error(errno.EEXIST)
        if not parent.nlink:
            raise _error(errno.ENOENT)  # removed, and somebody's working directory
        if len(name) > NAME_MAX_BYTES:
            raise _error(errno.ENAMETOOLONG)

    def _require_metadata(self, more_bytes: int) -> None:
        """Raise ENOSPC unless saves still fit with that much more metadata."""
        self.arena.require_free(self.frames_to_keep_free(metadata_bytes=more_bytes))

    def _add_entry(self, parent: Directory, name: bytes, inode: Inode, now: int) -> None:
        parent.entries[name] = inode
        parent.mtime = parent.ctime = now
        self._metadata_bytes += layout.DIRENT.size + len(name)
        self.changed = True

    def _drop_entry(self, parent: Directory, name: bytes, now: int) -> None:
        del parent.entries[name]
        parent.mtime = parent.ctime = now
        self._metadata_bytes -= layout.DIRENT.size + len(name)
        self.changed = True

    def _remove_entry(self, parent: Directory, name: bytes, now: int) -> None:
        """Remove a name, and the inode if it was the last."""
        inode = parent.entries[name]
        self._drop_entry(parent, name, now)
        inode.ctime = now
        if isinstance(inode, Directory):
            parent.nlink -= 1
            inode.nlink = 0
        else:
            inode.nlink -= 1
        if inode.nlink:
            return
        self._metadata_bytes -= inode.record_bytes()
        if inode.refs:
            self._orphans += 1
        else:
            self._delete(inode)

    def _delete(self, inode: Inode) -> None:
        if isinstance(inode, File):
            self.data.discard(inode)
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
        now = _now()
        if target is not None:
            self._remove_entry(new_parent, new_name, now)
        self._drop_entry(parent, name, now)
        self._add_entry(new_parent, new_name, inode, now)
        self._set_parent(inode, parent, new_parent)
        inode.ctime = now

    def _exchange(
        self,
        parent: Directory,
        name: bytes,
        inode: Inode,
        new_parent: Directory,
        new_name: bytes,
        target: Inode,
    ) -> None:
        now = _now()
        parent.entries[name], new_parent.entries[new_name] = target, inode
        self._set_parent(inode, parent, new_parent)
        self._set_parent(target, new_parent, parent)
        for changed in (parent, new_parent):
            changed.mtime = changed.ctime = now
        inode.ctime = target.ctime = now
        self.changed = True

    def _set_parent(self, inode: Inode, old: Directory, new: Directory) -> None:
        if isinstance(inode, Directory):
            inode.parent = new
            old.nlink -= 1
            new.nlink += 1

    def _refuse_loop(self, inode: Inode, directory: Directory) -> None:
        """Raise EINVAL if `directory` is `inode` or below it."""
        if not isinstance(inode, Directory):
            return
        while directory is not inode:
            if directory is directory.parent:
                return
            directory = directory.parent
        raise _error(errno.EINVAL)

    def _set_size(self, inode: Inode, size: int, now: int) -> None:
        if isinstance(inode, Directory):
            raise _error(errno.EISDIR)
        if not isinstance(inode, File):
            raise _error(errno.EINVAL)
        if size > FILE_MAX_BYTES:
            raise _error(errno.EFBIG)
        self.data.truncate(inode, size)
        inode.mtime = now

    def _set_owner(self, inode: Inode, changes: Changes) -> None:
        if changes.uid is not None:
            inode.uid = changes.uid
        if changes.gid is not None:
            inode.gid = changes.gid
        if not isinstance(inode, Directory):
            _clear_setid(inode, changes.in_group)

    def _set_mode(self, inode: Inode, mode: int) -> None:
        """Set the permission bits, and the ACL with them."""
        value = (inode.xattrs or {}).get(acl.ACCESS)
        if value is not None:
            self._put_xattr(inode, acl.ACCESS, acl.with_mode(_parse_acl(value), mode))
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)

    def _set_access_acl(self, inode: Inode, value: bytes) -> None:
        """Set the ACL, and the permission bits with it; one that only says the mode is not kept."""
        entries = _parse_acl(value)
        inode.mode = inode.mode & ~0o777 | acl.mode_of(entries)
        self._put_xattr(inode, acl.ACCESS, None if acl.is_mode(entries) else value)

    def _inherit_permissions(self, inode: Inode, default_acl: bytes | None, umask: int) -> None:
        """Give a new file what the default ACL of its directory says; without one the umask counts."""
        if default_acl is None:
            inode.mode &= ~umask
            return
        entries = acl.inherited(acl.parse(default_acl), inode.mode)
        self._set_access_acl(inode, acl.pack(entries))
        if isinstance(inode, Directory):
            self._put_xattr(inode, acl.DEFAULT, default_acl)

    def _put_xattr(self, inode: Inode, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute, or with None remove it."""
        before_bytes = inode.record_bytes()
        xattrs = inode.xattrs or {}
        if value is None:
            xattrs.pop(name, None)
        else:
            xattrs[name] = value
        inode.xattrs = xattrs or None
        if inode.nlink:
            self._metadata_bytes += inode.record_bytes() - before_bytes
        inode.ctime = _now()
        self.changed = True


def _check_target(target: bytes) -> None:
    """Raise ENOENT, EINVAL or ENAMETOOLONG for what no symbolic link can have as its target."""
    if not target:
        raise _error(errno.ENOENT)
    if b"\0" in target:
        raise _error(errno.EINVAL)
    if len(target) > SYMLINK_MAX_BYTES:
        raise _error(errno.ENAMETOOLONG)


def _check_replaceable(inode: Inode, target: Inode) -> None:
    """Raise the error of a rename of `inode` over `target` if that cannot be."""
    if isinstance(target, Directory):
        if not isinstance(inode, Directory):
            raise _error(errno.EISDIR)
        if target.entries:
            raise _error(errno.ENOTEMPTY)
    elif isinstance(inode, Directory):
        raise _error(errno.ENOTDIR)


def _default_acl(parent: Directory) -> bytes | None:
    """The default ACL of a directory. Raises EINVAL for one that is none: images may hold anything."""
    value = (parent.xattrs or {}).get(acl.DEFAULT)
    if value is not None:
        _parse_acl(value)
    return value


def _inherited_bytes(default_acl: bytes | None) -> int:
    """The metadata, at most, that a new file gets from the default ACL of its directory."""
    if default_acl is None:
        return 0
    return 2 * (layout.XATTR.size + len(acl.DEFAULT) + len(default_acl))


def _check_xattr_name(name: bytes) -> None:
    """Raise ENOTSUP for a namespace that there is not, EINVAL for no name in it or one with a NUL."""
    if not name.startswith(XATTR_NAMESPACES) and name not in (acl.ACCESS, acl.DEFAULT):
        raise _error(errno.ENOTSUP)
    if name in XATTR_NAMESPACES or b"\0" in name:
        raise _error(errno.EINVAL)


def _parse_acl(value: bytes) -> list[acl.Entry]:
    try:
        return acl.parse(value)
    except ValueError:
        raise _error(errno.EINVAL) from None


def _check_default_acl(inode: Inode, value: bytes) -> None:
    """Raise EACCES for what is no directory, EINVAL for what is no ACL."""
    if not isinstance(inode, Directory):
        raise _error(errno.EACCES)
    _parse_acl(value)


def _clear_setid(inode: Inode, in_group: bool) -> None:
    """The file has got other content or another owner: it may not lend its owner's rights any more.

    Without execution by the group, set-gid lends none and stays for a member of the group.
    """
    inode.mode &= ~stat.S_ISUID
    if inode.mode & stat.S_IXGRP or not in_group:
        inode.mode &= ~stat.S_ISGID


def _now() -> int:
    """The time in nanoseconds, by the clock that the kernel sets times of cached writes with.

    A finer one would let a file be changed before it was made.
    """
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
