"""Operations on one inode, whatever its names: attributes, extended attributes and ACLs, data.

This is the layer of `tree` that needs no directories. Errors are OSErrors with the errno that the system
call has on Linux.
"""

import errno
import stat
import time
from dataclasses import dataclass

from pramfs.errors import posix_error
from pramfs.storage import layout
from pramfs.storage.arena import Arena
from pramfs.storage.piped import Piped
from pramfs.tree import acl, file_flags
from pramfs.tree.file_data import FileData
from pramfs.tree.inodes import (
    FILE_MAX_BYTES,
    NAME_MAX_BYTES,
    XATTR_VALUE_MAX_BYTES,
    Directory,
    File,
    Inode,
    Symlink,
    now_ns,
)
from pramfs.tree.saved_groups import GROUP_SHIFT, SavedGroups
from pramfs.tree.space import Space

CAPABILITY = b"security.capability"
XATTR_NAMESPACES = (b"user.", b"trusted.", b"security.")

_RELATIME_NS = 24 * 3600 * 10**9


@dataclass(slots=True)
class Changes:
    """What `Tree.setattr` changes; None leaves an attribute as it is. Times are in nanoseconds.

    `drop_setid`: the contents change, and the caller may not keep set-id bits and capabilities. `in_group`:
    the caller is in the group of the file, or is root. `touch`: the times are those of now, which everybody
    may set who may write.
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
    touch: bool = False


class InodeOperations:
    """The operations of a tree on an inode that has been looked up."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.space = Space(arena)
        self.data = FileData(arena, self.space)
        self.changed = False  # since the last save
        self.groups = SavedGroups()

    def setattr(self, inode: Inode, changes: Changes) -> None:
        """Change attributes. Raises EPERM; EISDIR, EINVAL, EFBIG, ENOSPC for sizes. Changes nothing then."""
        if inode.flags & file_flags.FIXED:
            _refuse_changes(inode, changes)
        self.groups.changed.add(inode.ino >> GROUP_SHIFT)  # also if there is an error half-way
        now = now_ns()
        if changes.size is not None:
            self._set_size(inode, changes.size, now)
        if changes.uid is not None or changes.gid is not None:
            self._set_owner(inode, changes)
        if changes.drop_setid:
            _clear_setid(inode, changes.in_group)
            if CAPABILITY in (inode.xattrs or {}):
                self._put_xattr(inode, CAPABILITY, None)
        if changes.mode is not None:
            self._set_mode(inode, changes.mode)
        if changes.atime is not None:
            inode.atime = changes.atime
        if changes.mtime is not None:
            inode.mtime = changes.mtime
        inode.ctime = now if changes.ctime is None else changes.ctime
        self.changed = True

    def set_times(self, inode: Inode, mtime: int, ctime: int) -> None:
        """Do what `setattr` does with these two alone, with less work. Raises EPERM."""
        if inode.flags & file_flags.FIXED:
            _refuse_changes(inode, Changes(mtime=mtime, ctime=ctime))
        inode.mtime, inode.ctime = mtime, ctime
        self.note_change(inode)

    def set_cached_times(self, inode: Inode, mtime: int, ctime: int) -> None:
        """Set the times of the last write, which the kernel has kept. Raises EPERM for one that is forbidden.

        What was written before chattr(1) forbade it may be told of later.
        """
        if inode.flags & file_flags.IMMUTABLE:
            if mtime > inode.ctime:
                raise posix_error(errno.EPERM)
            ctime = inode.ctime
        inode.mtime, inode.ctime = mtime, ctime
        self.note_change(inode)

    def getxattr(self, inode: Inode, name: bytes) -> bytes:
        """Return the value of an extended attribute. Raises ENODATA, ENOTSUP, EINVAL."""
        if inode.xattrs is None or name not in inode.xattrs:
            _check_xattr_name(name)
            raise posix_error(errno.ENODATA)
        return inode.xattrs[name]

    def setxattr(self, inode: Inode, name: bytes, value: bytes, *, in_group: bool = True) -> None:
        """Set an extended attribute. Raises EPERM, ENOTSUP, ERANGE, EINVAL, E2BIG, ENOSPC; EACCES for ACLs.

        `in_group`: the caller is in the group of the file, or is root.
        """
        file_flags.refuse(inode, file_flags.FIXED)
        _check_xattr_name(name)
        if len(name) > NAME_MAX_BYTES:
            raise posix_error(errno.ERANGE)
        if len(value) > XATTR_VALUE_MAX_BYTES:
            raise posix_error(errno.E2BIG)
        self.space.require_metadata(layout.XATTR.size + len(name) + len(value))
        if name == acl.ACCESS:
            self._set_access_acl(inode, value)
            if not in_group:
                inode.mode &= ~stat.S_ISGID
            return
        if name == acl.DEFAULT:
            _check_default_acl(inode, value)
        self._put_xattr(inode, name, value)

    def removexattr(self, inode: Inode, name: bytes) -> None:
        """Remove an extended attribute. Raises EPERM, ENOTSUP, EINVAL; ENODATA, but not for ACLs."""
        file_flags.refuse(inode, file_flags.FIXED)
        if inode.xattrs is not None and name in inode.xattrs:
            self._put_xattr(inode, name, None)
        elif name not in (acl.ACCESS, acl.DEFAULT):
            _check_xattr_name(name)
            raise posix_error(errno.ENODATA)

    def readlink(self, inode: Inode) -> bytes:
        """Return the target of a symbolic link. Raises EINVAL for another kind of file."""
        if not isinstance(inode, Symlink):
            raise posix_error(errno.EINVAL)
        self.touch_atime(inode)
        return inode.target

    def set_flags(self, inode: Inode, flags: int, uid: int) -> None:
        """Set the flags of an inode, as user `uid` with chattr(1). Raises EPERM, EOPNOTSUPP, ENOTTY.

        Flags that forbid changes are for root, who is taken to have CAP_LINUX_IMMUTABLE.
        """
        if not isinstance(inode, (File, Directory)):
            raise posix_error(errno.ENOTTY)
        if uid not in (0, inode.uid) or (uid and (flags ^ inode.flags) & file_flags.FIXED):
            raise posix_error(errno.EPERM)
        if flags & ~file_flags.ALL:
            raise posix_error(errno.EOPNOTSUPP)
        inode.flags = flags
        # Not of the coarse clock: since Linux 6.13 the time of a cached write can be ahead of it.
        inode.ctime = time.time_ns()
        self.note_change(inode)

    def touch_atime(self, inode: Inode) -> None:
        """Update atime after a read, as relatime does, unless the inode has the flag for no such updates."""
        if inode.flags & file_flags.NOATIME:
            return
        now = now_ns()
        atime = inode.atime
        if atime <= inode.mtime or atime <= inode.ctime or now - atime >= _RELATIME_NS:
            inode.atime = now
            self.groups.changed.add(inode.ino >> GROUP_SHIFT)  # but no reason for a save

    def write(
        self, file: File, offset: int, data: bytes | memoryview | Piped, *, set_times: bool = True
    ) -> int:
        """Write all of `data`. Raises OSError(EFBIG, ENOSPC, EPERM), FramesHeld.

        Data in a pipe cannot go to a file that may only be appended to, or not be changed: it is compared
        there with what the file has. With a write-back cache the kernel sets the times later by `setattr`:
        then `set_times` is false.
        """
        if offset + len(data) > FILE_MAX_BYTES:
            raise posix_error(errno.EFBIG)
        if file.flags & file_flags.FIXED:
            assert not isinstance(data, Piped)
            self._refuse_write(file, offset, data)
        try:
            self.data.write(file, offset, data)
        finally:
            # Also after an error: a part may have been written.
            self.note_change(file)
            if set_times:
                file.mtime = file.ctime = now_ns()
        return len(data)

    def note_change(self, inode: Inode) -> None:
        """Note that an inode is not as it was saved: its record, or where its pages are."""
        self.changed = True
        self.groups.changed.add(inode.ino >> GROUP_SHIFT)

    # --- helpers ---------------------------------------------------------------------------------

    def _refuse_write(self, file: File, offset: int, data: bytes | memoryview) -> None:
        """Raise EPERM for a write that does more than append to a file that allows that.

        The kernel writes whole pages: the first one repeats the bytes that are there.
        """
        file_flags.refuse(file, file_flags.IMMUTABLE)
        there = self.data.copy_of(file, offset, len(data))
        if offset > file.length or there != data[: len(there)]:
            raise posix_error(errno.EPERM)

    def _set_size(self, inode: Inode, size: int, now: int) -> None:
        if isinstance(inode, Directory):
            raise posix_error(errno.EISDIR)
        if not isinstance(inode, File):
            raise posix_error(errno.EINVAL)
        if size > FILE_MAX_BYTES:
            raise posix_error(errno.EFBIG)
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
        """Set the permission bits, and update the ACL to match."""
        value = (inode.xattrs or {}).get(acl.ACCESS)
        if value is not None:
            self._put_xattr(inode, acl.ACCESS, acl.with_mode(_parse_acl(value), mode))
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)

    def _set_access_acl(self, inode: Inode, value: bytes) -> None:
        """Set the ACL, and update the permission bits to match; an ACL equal to the mode is not stored."""
        entries = _parse_acl(value)
        inode.mode = inode.mode & ~0o777 | acl.mode_of(entries)
        self._put_xattr(inode, acl.ACCESS, None if acl.is_mode(entries) else value)

    def _inherit_permissions(self, inode: Inode, default_acl: bytes) -> None:
        """Apply the default ACL of its directory to a new file."""
        entries = acl.inherited(acl.parse(default_acl), inode.mode)
        self._set_access_acl(inode, acl.pack(entries))
        if isinstance(inode, Directory):
            self._put_xattr(inode, acl.DEFAULT, default_acl)

    def _put_xattr(self, inode: Inode, name: bytes, value: bytes | None) -> None:
        """Set an extended attribute, or remove it if `value` is None."""
        before_bytes = inode.record_bytes()
        xattrs = inode.xattrs or {}
        if value is None:
            xattrs.pop(name, None)
        else:
            xattrs[name] = value
        inode.xattrs = xattrs or None
        if inode.nlink:
            self.space.metadata_bytes += inode.record_bytes() - before_bytes
        inode.ctime = now_ns()
        self.note_change(inode)


def _refuse_changes(inode: Inode, changes: Changes) -> None:
    """Raise EPERM for changes of an inode that may not be changed, or only be appended to.

    After an append, the kernel sets mtime and ctime, but not atime.
    """
    forbidden = [changes.mode, changes.uid, changes.gid, changes.size]
    after_append = changes.ctime is not None and changes.atime is None
    if inode.flags & file_flags.IMMUTABLE or not (changes.touch or after_append):
        forbidden += [changes.atime, changes.mtime]
    if any(value is not None for value in forbidden):
        raise posix_error(errno.EPERM)


def gives_rights(inode: Inode) -> bool:
    """Return whether the file, if executed, gives its caller more rights: set-id bits or capabilities."""
    return bool(inode.mode & (stat.S_ISUID | stat.S_ISGID)) or CAPABILITY in (inode.xattrs or {})


def default_acl_of(parent: Directory) -> bytes | None:
    """Return the default ACL of a directory. Raises EINVAL if it is invalid, as in a forged image."""
    value = (parent.xattrs or {}).get(acl.DEFAULT)
    if value is not None:
        _parse_acl(value)
    return value


def inherited_acl_bytes(default_acl: bytes | None) -> int:
    """Return the most bytes of metadata that a new file gets from the default ACL of its directory."""
    if default_acl is None:
        return 0
    return 2 * (layout.XATTR.size + len(acl.DEFAULT) + len(default_acl))


def _check_xattr_name(name: bytes) -> None:
    """Raise ENOTSUP for an unknown namespace, EINVAL for an empty name or one with a NUL."""
    if not name.startswith(XATTR_NAMESPACES) and name not in (acl.ACCESS, acl.DEFAULT):
        raise posix_error(errno.ENOTSUP)
    if name in XATTR_NAMESPACES or b"\0" in name:
        raise posix_error(errno.EINVAL)


def _parse_acl(value: bytes) -> list[acl.Entry]:
    try:
        return acl.parse(value)
    except ValueError:
        raise posix_error(errno.EINVAL) from None


def _check_default_acl(inode: Inode, value: bytes) -> None:
    """Raise EACCES if `inode` is no directory, EINVAL if `value` is no valid ACL."""
    if not isinstance(inode, Directory):
        raise posix_error(errno.EACCES)
    _parse_acl(value)


def _clear_setid(inode: Inode, in_group: bool) -> None:
    """Clear the set-id bits and capabilities of a file whose contents or owner have changed.

    Set-gid without execute permission for the group gives no rights, and stays if a member of the group
    made the change.
    """
    inode.mode &= ~stat.S_ISUID
    if inode.mode & stat.S_IXGRP or not in_group:
        inode.mode &= ~stat.S_ISGID
