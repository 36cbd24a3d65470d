"""The pyfuse3 adapter for what is rare, see `front`: arguments in, attributes and errnos out, no logic.

What a call does is in `tree`. `_errno_guard` logs an unexpected exception and answers EIO, because pyfuse3
would end the whole mount.
"""

import errno
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import FUSEError, RequestContext, StatvfsData

from pramfs.control import control_xattrs
from pramfs.fuse.failures import errno_of
from pramfs.fuse.protocol import Opcode
from pramfs.storage.frames import BANNED, FREE_IN_TIME, SUPER
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.inodes import NAME_MAX_BYTES
from pramfs.tree.tree import Tree

# What the front carries to pyfuse3; none of it ever waits.
CARRIED = frozenset({Opcode.STATFS, Opcode.LISTXATTR, Opcode.REMOVEXATTR, Opcode.DESTROY})

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
        note_change: Callable[[], bool],
        on_internal_error: Callable[[], None],
    ) -> None:
        super().__init__()
        self.enable_writeback_cache = cached_writes
        self.note_change = note_change
        self.on_internal_error = on_internal_error
        self._tree = tree

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

    def _require_control(self, uid: int) -> None:
        """Raise EPERM unless the user may set control attributes."""
        if not control_xattrs.may_control(uid, self._tree.root.uid):
            raise FUSEError(errno.EPERM)
