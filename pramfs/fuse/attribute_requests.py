"""Requests for attributes: GETATTR, STATX, SETATTR, GETXATTR, SETXATTR, READLINK; IOCTL for chattr(1).

Some of the control attributes are requests to save or to deduplicate, which may take long. They come by
IOCTL, too.
"""

import errno
import functools
import os
from collections.abc import Awaitable, Callable, Mapping

from pramfs.control import control_xattrs
from pramfs.control.control_xattrs import ControlAttributes
from pramfs.errors import posix_error
from pramfs.fuse.attributes_out import attributes, birth
from pramfs.fuse.callers import in_group
from pramfs.fuse.front import Handler, Later, LongWait
from pramfs.fuse.notices import Notices
from pramfs.fuse.protocol import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_CTIME,
    FATTR_FH,
    FATTR_GID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    FS_IOC_FSGETXATTR,
    FS_IOC_FSSETXATTR,
    FS_IOC_GETFLAGS,
    FS_IOC_SETFLAGS,
    FSXATTR,
    GETATTR_FH,
    GETATTR_IN,
    GETXATTR_IN,
    GETXATTR_OUT,
    IOC_FLAGS,
    IOCTL_IN,
    IOCTL_OUT,
    SETATTR_IN,
    SETXATTR_IN,
    Opcode,
)
from pramfs.fuse.request import OddRequestError, Refusal, Request
from pramfs.tree import file_flags
from pramfs.tree.attributes import CAPABILITY, Changes
from pramfs.tree.inodes import Directory, File, Inode, now_ns
from pramfs.tree.tree import Tree

_NS = 10**9
_CAPABILITY_BYTES = 20  # of a value of security.capability
_NO_ATTRIBUTE = Refusal(errno.ENODATA)
_IOCTL_DONE = IOCTL_OUT.pack(0, 0, 0, 0)
# The kernel keeps them where it caches writes. It tells of them after each rename, link and unlink, too.
_WRITE_TIMES = FATTR_MTIME | FATTR_CTIME
_ANY = (
    FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE
    | FATTR_ATIME | FATTR_ATIME_NOW | FATTR_MTIME | FATTR_MTIME_NOW
)  # fmt: skip


class AttributeRequests:
    """Answers requests for the attributes of a tree's inodes, and the control attributes.

    `dedup` deduplicates as long as a callable says that it is wanted; `orders` is what other control
    attributes ask for, by name: called with the pid of who sets one, and its value.
    """

    def __init__(
        self,
        tree: Tree,
        control: ControlAttributes,
        notices: Notices,
        dedup: Callable[[Callable[[], bool]], Awaitable[None]],
        orders: Mapping[bytes, Callable[[int, bytes], Awaitable[None]]],
        *,
        cached_writes: bool,
        noatime: bool,
    ) -> None:
        self._tree = tree
        self._notices = notices
        self._control = control
        self._dedup = dedup
        self._orders = orders
        self._cached_writes = cached_writes
        self._noatime = noatime

    def handlers(self) -> dict[Opcode, Handler]:
        """Return what answers each opcode."""
        return {
            Opcode.GETATTR: self.getattr,
            Opcode.STATX: self.statx,
            Opcode.SETATTR: self.setattr,
            Opcode.IOCTL: self.ioctl,
            Opcode.GETXATTR: self.getxattr,
            Opcode.SETXATTR: self.setxattr,
            Opcode.READLINK: self.readlink,
        }

    def getattr(self, request: Request) -> bytes:
        inode = self._tree.get(request.nodeid)
        flags, _, _ = request.fields(GETATTR_IN)
        if flags & GETATTR_FH and isinstance(inode, File):
            # Before write(2): the kernel would take data for ever that nobody has room for.
            self._tree.data.require_room_again(inode)
        return attributes(inode)

    def statx(self, request: Request) -> bytes:
        return birth(self._tree.get(request.nodeid))

    def setattr(self, request: Request) -> bytes:
        (
            valid, _, _, size, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
            mode, _, uid, gid, _,
        ) = request.fields(SETATTR_IN)  # fmt: skip
        if atime_ns >= _NS or mtime_ns >= _NS or ctime_ns >= _NS:
            raise OddRequestError("a time with more than a second of nanoseconds")
        inode = self._tree.get(request.nodeid)
        if valid & ~FATTR_FH == _WRITE_TIMES:
            times = mtime * _NS + mtime_ns, ctime * _NS + ctime_ns
            if valid & FATTR_FH:  # by nobody but the kernel
                self._tree.set_cached_times(inode, *times)
            else:
                self._tree.set_times(inode, *times)
            return attributes(inode)
        changes = Changes(
            mode=mode if valid & FATTR_MODE else None,
            uid=uid if valid & FATTR_UID else None,
            gid=gid if valid & FATTR_GID else None,
            size=size if valid & FATTR_SIZE else None,
            atime=_time(valid, FATTR_ATIME, FATTR_ATIME_NOW, atime * _NS + atime_ns),
            mtime=_time(valid, FATTR_MTIME, FATTR_MTIME_NOW, mtime * _NS + mtime_ns),
            ctime=ctime * _NS + ctime_ns if valid & FATTR_CTIME else None,
        )
        if self._cached_writes and changes.size is not None and changes.mtime is None:
            # The kernel keeps these two times, and found that nothing changed.
            changes.mtime, changes.ctime = inode.mtime, inode.ctime
        # The kernel requests an empty change when a process writes that may not keep set-id bits.
        changes.drop_setid = request.uid != 0 if valid & FATTR_SIZE else not valid & _ANY
        changes.touch = bool(valid & (FATTR_ATIME_NOW | FATTR_MTIME_NOW))
        changes.in_group = in_group(request.uid, request.gid, request.pid, inode)
        self._tree.setattr(inode, changes)
        return attributes(inode)

    def getxattr(self, request: Request) -> bytes | Refusal:
        room, _ = request.fields(GETXATTR_IN)
        name = request.name(GETXATTR_IN)
        if name == CAPABILITY and not room:
            return self._capability_size(self._tree.get(request.nodeid))
        if name.startswith(control_xattrs.PREFIX):
            return sized(self._control.read(name), room)
        return sized(self._tree.getxattr(self._tree.get(request.nodeid), name), room)

    def setxattr(self, request: Request) -> bytes | LongWait:
        size, flags = request.fields(SETXATTR_IN)
        name = request.name(SETXATTR_IN)
        value = bytes(request.body[SETXATTR_IN.size + len(name) + 1 :])
        if len(value) != size:
            raise OddRequestError(f"a value of {len(value)} bytes, not {size}")
        if name.startswith(control_xattrs.PREFIX):
            if name == control_xattrs.PERMIT:
                self._require_control(request)
                self._control.permit(request.uid, value)
                return b""
            return LongWait(self._control_by(request, name, value, b""))
        inode = self._tree.get(request.nodeid)
        exists = name in (inode.xattrs or {})
        if exists and flags & os.XATTR_CREATE:
            raise posix_error(errno.EEXIST)
        if not exists and flags & os.XATTR_REPLACE:
            raise posix_error(errno.ENODATA)
        group = in_group(request.uid, request.gid, request.pid, inode)
        self._tree.setxattr(inode, name, value, in_group=group)
        return b""

    def ioctl(self, request: Request) -> bytes | Later | LongWait:
        _, _, command, _, _, _ = request.fields(IOCTL_IN)
        inode = self._tree.get(request.nodeid)
        data = bytes(request.body[IOCTL_IN.size :])
        setting = control_xattrs.decode_setting(command, data)
        if setting is not None:
            on_root = inode is self._tree.root
            self._control.require_permit(request.uid, setting, on_root=on_root)
            later = self._control_by(request, setting.name, setting.value, _IOCTL_DONE)
            return LongWait(later)
        if command == FS_IOC_GETFLAGS:
            return _IOCTL_DONE + IOC_FLAGS.pack(self._flags(inode))
        if command == FS_IOC_FSGETXATTR:
            return _IOCTL_DONE + FSXATTR.pack(file_flags.to_xflags(self._flags(inode)))
        if command == FS_IOC_SETFLAGS and len(data) >= IOC_FLAGS.size:
            (flags,) = IOC_FLAGS.unpack_from(data)
        elif command == FS_IOC_FSSETXATTR and len(data) >= FSXATTR.size:
            flags = file_flags.from_xflags(*FSXATTR.unpack_from(data))
        else:
            raise posix_error(errno.ENOTTY)
        if flags & ~inode.flags & file_flags.FIXED and not self._notices.has_nothing(
            inode.ino, 0, 0
        ):
            return functools.partial(self._set_flags_later, inode, flags, request.uid)
        return self._set_flags(inode, flags, request.uid)

    async def _set_flags_later(self, inode: Inode, flags: int, uid: int) -> bytes:
        """Set flags that forbid writes when the tree has what was written before."""
        await self._notices.hand_over(inode.ino, 0, 0)
        return self._set_flags(inode, flags, uid)

    def _set_flags(self, inode: Inode, flags: int, uid: int) -> bytes:
        self._tree.set_flags(inode, flags, uid)
        self._notices.drop_attributes(inode.ino)
        return _IOCTL_DONE

    def _control_by(self, request: Request, name: bytes, value: bytes, answer: bytes) -> Later:
        """Return what does the work that a control attribute asks for, and answers. Raises EPERM, EACCES."""
        self._require_control(request)
        if name == control_xattrs.DEDUP:
            return functools.partial(_done, answer, self._dedup, lambda: not request.is_withdrawn)
        if name in self._orders:
            return functools.partial(_done, answer, self._orders[name], request.pid, value)
        raise posix_error(errno.EACCES)

    def _require_control(self, request: Request) -> None:
        if not control_xattrs.may_control(request.uid, self._tree.root.uid):
            raise posix_error(errno.EPERM)

    def _capability_size(self, inode: Inode) -> bytes | Refusal:
        """Tell the kernel, which asks before the first write(2) to each file, how long its capabilities are.

        One that refuses writes pretends to have some. The kernel then asks before each write, to take them
        away, and is refused that. Otherwise it would take the data, and the size that they give the file, and
        hear of the refusal later.
        """
        if inode.xattrs is not None and CAPABILITY in inode.xattrs:
            return GETXATTR_OUT.pack(len(inode.xattrs[CAPABILITY]), 0)
        if self._refuses_writes(inode):
            return GETXATTR_OUT.pack(_CAPABILITY_BYTES, 0)
        return _NO_ATTRIBUTE

    def _refuses_writes(self, inode: Inode) -> bool:
        return bool(inode.flags & file_flags.IMMUTABLE)

    def _flags(self, inode: Inode) -> int:
        """Return the flags of a file or directory. Raises ENOTTY for others."""
        if not isinstance(inode, (File, Directory)):
            raise posix_error(errno.ENOTTY)
        return inode.flags

    def readlink(self, request: Request) -> bytes:
        link = self._tree.get(request.nodeid)
        atime = link.atime
        target = self._tree.readlink(link)
        if self._noatime:
            link.atime = atime
        return target


def sized(value: bytes, room: int) -> bytes:
    """Return the reply with an attribute or their names: the size if there is no `room`. Raises ERANGE."""
    if not room:
        return GETXATTR_OUT.pack(len(value), 0)
    if len(value) > room:
        raise posix_error(errno.ERANGE)
    return value


async def _done(answer: bytes, call: Callable[..., Awaitable[None]], *args: object) -> bytes:
    await call(*args)
    return answer


def _time(valid: int, given: int, now: int, value_ns: int) -> int | None:
    """Return the time that SETATTR sets, None if it does not set it."""
    if valid & now:
        return now_ns()
    return value_ns if valid & given else None
