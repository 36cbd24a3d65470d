"""The pyfuse3 adapter for what is rare, see `front`: arguments in, attributes and errnos out, no logic.

What a call does is in `tree`. `_errno_guard` logs an unexpected exception and answers EIO, because pyfuse3
would end the whole mount.
"""

import errno
import functools
import stat
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext, StatvfsData

from pramfs.control import control_xattrs
from pramfs.errors import FramesHeld
from pramfs.fuse.attributes_out import FOREVER_S
from pramfs.fuse.callers import in_group
from pramfs.fuse.failures import errno_of
from pramfs.fuse.front import SAVES_FOR_ROOM
from pramfs.fuse.protocol import Opcode
from pramfs.storage.frames import BANNED, FREE_IN_TIME, SUPER
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.inodes import NAME_MAX_BYTES, Inode
from pramfs.tree.tree import Owner, Tree

# What the front carries to pyfuse3. `getxattr` is no handler: setxattr asks it, for XATTR_CREATE.
CARRIED = frozenset({
    Opcode.SYMLINK, Opcode.LINK, Opcode.STATFS,
    Opcode.SETXATTR, Opcode.LISTXATTR, Opcode.REMOVEXATTR,
    Opcode.DESTROY,
})  # fmt: skip

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _errno_guard(handler: Callable[_P, _R]) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """Wrap `handler` so that it answers its result, or the errno of the exception that it raises."""

    @functools.wraps(handler)
    async def answer(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        operations: Any = args[0]
        try:
            result = handler(*args, **kwargs)
            operations.note_change()
        except FramesHeld:
            answered: _R = await operations.once_there_is_room(lambda: handler(*args, **kwargs))
            return answered
        except Exception as exc:  # noqa: BLE001 - pyfuse3 would end the mount
            raise _failure(exc, handler.__name__, operations) from None
        return result

    return answer


def _async_errno_guard(
    handler: Callable[_P, Awaitable[_R]],
) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """Wrap an asynchronous handler as `_errno_guard` does a synchronous one."""

    @functools.wraps(handler)
    async def answer(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        operations: Any = args[0]
        try:
            result = await handler(*args, **kwargs)
            operations.note_change()
        except Exception as exc:  # noqa: BLE001 - pyfuse3 would end the mount
            raise _failure(exc, handler.__name__, operations) from None
        return result

    return answer


def _failure(exc: Exception, handler: str, operations: Any) -> FUSEError:
    """Return the answer of a handler that raised `exc`."""
    if isinstance(exc, FUSEError):
        return exc
    return FUSEError(errno_of(exc, handler, operations.on_internal_error))


class Operations(pyfuse3.Operations):
    """Answers requests of the kernel from a tree."""

    supports_dot_lookup = True
    enable_acl = True

    def __init__(
        self,
        tree: Tree,
        *,
        cached_writes: bool,
        getxattr: Callable[[int, bytes], bytes],
        publish: Callable[[], Awaitable[None]],
        publish_to: Callable[[int, bytes], Awaitable[None]],
        make_room: Callable[[], Awaitable[bool]],
        note_change: Callable[[], None],
        on_internal_error: Callable[[], None],
    ) -> None:
        super().__init__()
        self.enable_writeback_cache = cached_writes
        self.note_change = note_change
        self.on_internal_error = on_internal_error
        self._tree = tree
        self._getxattr = getxattr
        self._publish = publish
        self._publish_to = publish_to
        self._make_room = make_room

    # --- names -----------------------------------------------------------------------------------

    @_errno_guard
    def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self._tree.directory(parent_inode)
        mode = stat.S_IFLNK | 0o777
        return self._entry(self._tree.create(parent, name, mode, _owner(ctx), target=target))

    @_errno_guard
    def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        target = self._tree.get(inode)
        self._tree.link(target, self._tree.directory(new_parent_inode), new_name)
        return self._entry(target)

    # --- attributes ------------------------------------------------------------------------------

    @_errno_guard
    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        return self._getxattr(inode, name)

    @_async_errno_guard
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        if name.startswith(control_xattrs.PREFIX):
            self._require_control(ctx.uid)
            if name == control_xattrs.SAVE:
                await self._publish()
            elif name == control_xattrs.SAVE_TO:
                await self._publish_to(ctx.pid, value)
            else:
                raise FUSEError(errno.EACCES)
            return
        target = self._tree.get(inode)
        group = in_group(ctx.uid, ctx.gid, ctx.pid, target)
        try:
            self._tree.setxattr(target, name, value, in_group=group)
        except FramesHeld:
            await self.once_there_is_room(
                lambda: self._tree.setxattr(target, name, value, in_group=group)
            )

    @_errno_guard
    def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return list(self._tree.get(inode).xattrs or ())

    @_errno_guard
    def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        if name.startswith(control_xattrs.PREFIX):
            self._require_control(ctx.uid)
            raise FUSEError(errno.EACCES)
        self._tree.removexattr(self._tree.get(inode), name)

    @_errno_guard
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        tree, table = self._tree, self._tree.arena.table
        free = table.count_all(FREE_IN_TIME) - tree.space.claimed
        stats = StatvfsData()
        stats.f_bsize = stats.f_frsize = PAGE_SIZE
        stats.f_blocks = len(table) - table.count(BANNED) - table.count(SUPER)
        stats.f_bfree = free
        stats.f_bavail = max(0, free - tree.space.frames_to_keep_free())
        stats.f_files = tree.inodes_max
        stats.f_ffree = stats.f_favail = max(0, tree.inodes_max - tree.named_inodes())
        stats.f_namemax = NAME_MAX_BYTES
        return stats

    # --- helpers ---------------------------------------------------------------------------------

    async def once_there_is_room(self, operation: Callable[[], _R]) -> _R:
        """Return what `operation` returns, called after each save that may have made room for it.

        Other requests are served meanwhile. Raises FUSEError(ENOSPC) when saves fail or free too little.
        """
        for _ in range(SAVES_FOR_ROOM):
            if not await self._make_room():
                break
            try:
                return operation()
            except FramesHeld:
                continue
            except Exception as exc:  # noqa: BLE001 - as above
                raise _failure(exc, "a call that waited for room", self) from None
        raise FUSEError(errno.ENOSPC)

    def _entry(self, inode: Inode) -> EntryAttributes:
        """Return attributes for a reply that adds one to the kernel's lookup count of the inode."""
        inode.refs += 1
        return _attributes(inode)

    def _require_control(self, uid: int) -> None:
        """Raise EPERM unless the user may set control attributes."""
        if not control_xattrs.may_control(uid, self._tree.root.uid):
            raise FUSEError(errno.EPERM)


def _attributes(inode: Inode) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = inode.ino
    entry.generation = inode.generation
    entry.entry_timeout = FOREVER_S
    entry.attr_timeout = FOREVER_S
    entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size
    entry.st_blocks = inode.blocks
    entry.st_atime_ns = inode.atime
    entry.st_mtime_ns = inode.mtime
    entry.st_ctime_ns = inode.ctime
    return entry


def _owner(ctx: RequestContext) -> Owner:
    return Owner(ctx.uid, ctx.gid, ctx.umask & 0o777)
