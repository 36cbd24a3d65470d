"""The pyfuse3 adapter: arguments in, attributes and errnos out, no logic.

What a call does is in `tree`. Here are the kernel's lookup counts, the handles of open directories, and
`_errno_guard`: it logs an unexpected exception and answers EIO, because pyfuse3 would end the whole mount.
"""

import contextlib
import errno
import functools
import itertools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence, Set
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from pramfs.control import control_xattrs
from pramfs.control.control_xattrs import ControlAttributes
from pramfs.control.status import MountStatus
from pramfs.errors import FramesHeld, PramError, posix_error, words_of
from pramfs.fuse.dir_handles import DirectoryHandle
from pramfs.storage.frames import BANNED, DROPPED, FREE, HELD, OLD, SUPER
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.attributes import Changes, gives_rights
from pramfs.tree.inodes import NAME_MAX_BYTES, Directory, File, Inode
from pramfs.tree.tree import Owner, Tree

log = logging.getLogger("pramfs")

# Only the daemon changes the tree, so the kernel may cache names and attributes for ever.
_FOREVER_S = 1 << 30

# A file handle is the number of the inode, with one bit for O_NOATIME and one for O_DIRECT. Only a forged
# tree has inode numbers so large that they have the second of these.
_NOATIME = 1 << 63
_DIRECT = 1 << 62

# The most saves that one request waits for: frames that a save holds are freed by the next one.
_SAVES_FOR_ROOM = 4

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
    if isinstance(exc, OSError):
        return FUSEError(exc.errno or errno.EIO)
    if isinstance(exc, MemoryError):
        log.error("out of memory in %s", handler)
        operations.on_internal_error()  # the operation may be half done
        return FUSEError(errno.ENOMEM)
    if isinstance(exc, PramError):
        log.error("%s", exc)
    else:
        log.error("internal error in %s", handler, exc_info=exc)
        operations.on_internal_error()
    return FUSEError(errno.EIO)


class Operations(pyfuse3.Operations):
    """Answers requests of the kernel from a tree."""

    supports_dot_lookup = True
    enable_acl = True

    def __init__(
        self,
        tree: Tree,
        *,
        direct_io: bool,
        noatime: bool,
        nodiratime: bool,
        status: Callable[[], MountStatus],
        publish: Callable[[], Awaitable[None]],
        make_room: Callable[[], Awaitable[bool]],
        on_change: Callable[[], bool],
        on_internal_error: Callable[[], None],
    ) -> None:
        super().__init__()
        self.enable_writeback_cache = not direct_io
        self.on_internal_error = on_internal_error
        self._tree = tree
        self._direct_io = direct_io
        self._control = ControlAttributes(status, tree.arena.table)
        self._on_change: Callable[[], bool] | None = on_change
        self._direct_flag = _DIRECT if tree.next_ino < _DIRECT else 0
        self._ino_mask = ~(_NOATIME | self._direct_flag)
        self._noatime_flags = os.O_NOATIME if noatime else 0
        self._nodiratime = nodiratime
        self._publish = publish
        self._make_room = make_room
        self._dir_handles: dict[int, DirectoryHandle] = {}
        self._closed = trio.Event()  # set when a directory is closed; replaced by the next waiter
        self._handles = itertools.count(1)

    def note_change(self) -> None:
        """After the first request that changes the tree, and before it is answered: call `on_change`."""
        if self._on_change is not None and self._tree.changed and self._on_change():
            self._on_change = None

    def open_directories(self) -> Set[int]:
        """Return the handles of all open directories."""
        return frozenset(self._dir_handles)

    async def closed_by(self, pid: int, *, but: Set[int]) -> None:
        """Wait until process `pid` has no directory open any more, except those in `but`."""
        while any(
            listing.opener == pid and handle not in but
            for handle, listing in self._dir_handles.items()
        ):
            if self._closed.is_set():
                self._closed = trio.Event()
            await self._closed.wait()

    # --- names -----------------------------------------------------------------------------------

    @_errno_guard
    def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        tree = self._tree
        directory = tree.directory(parent_inode) if name != b"." else tree.get(parent_inode)
        if not isinstance(directory, Directory):
            return self._entry(directory)  # of a file handle: see open_by_handle_at(2)
        try:
            return self._entry(tree.lookup(directory, name))
        except FileNotFoundError:
            return _no_entry()

    @_errno_guard
    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            inode = self._tree.inodes.get(ino)
            if inode is not None:
                self._tree.forget(inode, count)

    @_errno_guard
    def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self._tree.directory(parent_inode)
        return self._entry(self._tree.create(parent, name, mode, _owner(ctx), rdev=rdev))

    @_errno_guard
    def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        parent = self._tree.directory(parent_inode)
        return self._entry(self._tree.create(parent, name, mode | stat.S_IFDIR, _owner(ctx)))

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

    @_errno_guard
    def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._tree.unlink(self._tree.directory(parent_inode), name)

    @_errno_guard
    def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._tree.rmdir(self._tree.directory(parent_inode), name)

    @_errno_guard
    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        old = self._tree.directory(parent_inode_old)
        new = self._tree.directory(parent_inode_new)
        if flags:
            self._tree.rename(old, name_old, new, name_new, flags, _owner(ctx))
        else:
            self._tree.rename(old, name_old, new, name_new)

    @_errno_guard
    def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        link = self._tree.get(inode)
        atime = link.atime
        target = self._tree.readlink(link)
        if self._noatime_flags:
            link.atime = atime
        return target

    # --- attributes ------------------------------------------------------------------------------

    @_errno_guard
    def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return _attributes(self._tree.get(inode))

    @_errno_guard
    def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        target = self._tree.get(inode)
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            mtime=attr.st_mtime_ns if fields.update_mtime else None,
            ctime=attr.st_ctime_ns if fields.update_ctime else None,
        )
        if self.enable_writeback_cache and fields.update_size and not fields.update_mtime:
            # The kernel keeps these two times, and found that nothing changed.
            changes.mtime, changes.ctime = target.mtime, target.ctime
        # The kernel requests an empty change when a process writes that may not keep set-id bits.
        changes.drop_setid = ctx.uid != 0 if fields.update_size else not _any(fields)
        changes.in_group = _in_group(ctx, target)
        self._tree.setattr(target, changes)
        return _attributes(target)

    @_errno_guard
    def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if name.startswith(control_xattrs.PREFIX):
            return self._control.read(name)
        return self._tree.getxattr(self._tree.get(inode), name)

    @_async_errno_guard
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        if name.startswith(control_xattrs.PREFIX):
            self._require_control(ctx)
            if name != control_xattrs.SAVE:
                raise FUSEError(errno.EACCES)
            await self._publish()
            return
        target = self._tree.get(inode)
        in_group = _in_group(ctx, target)
        try:
            self._tree.setxattr(target, name, value, in_group=in_group)
        except FramesHeld:
            await self.once_there_is_room(
                lambda: self._tree.setxattr(target, name, value, in_group=in_group)
            )

    @_errno_guard
    def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return list(self._tree.get(inode).xattrs or ())

    @_errno_guard
    def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        if name.startswith(control_xattrs.PREFIX):
            self._require_control(ctx)
            raise FUSEError(errno.EACCES)
        self._tree.removexattr(self._tree.get(inode), name)

    @_errno_guard
    def statfs(self, ctx: RequestContext) -> StatvfsData:
        tree, table = self._tree, self._tree.arena.table
        free = sum(table.count(state) for state in (FREE, HELD, OLD, DROPPED)) - tree.space.claimed
        stats = StatvfsData()
        stats.f_bsize = stats.f_frsize = PAGE_SIZE
        stats.f_blocks = len(table) - table.count(BANNED) - table.count(SUPER)
        stats.f_bfree = free
        stats.f_bavail = max(0, free - tree.space.frames_to_keep_free())
        stats.f_files = tree.inodes_max
        stats.f_ffree = stats.f_favail = max(0, tree.inodes_max - tree.named_inodes())
        stats.f_namemax = NAME_MAX_BYTES
        return stats

    # --- files -----------------------------------------------------------------------------------

    @_errno_guard
    def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        file = self._tree.file(inode)
        if flags & os.O_TRUNC:
            changes = Changes(size=0, drop_setid=ctx.uid != 0, in_group=_in_group(ctx, file))
            self._tree.setattr(file, changes)
            pyfuse3.invalidate_inode(inode, attr_only=True)  # the reply cannot say what changed
        return self._opened(file, flags)

    @_errno_guard
    def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        parent = self._tree.directory(parent_inode)
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        file = self._tree.create(parent, name, mode, _owner(ctx))
        return self._opened(file, flags), self._entry(file)

    @_errno_guard
    def read(self, fh: int, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]  # pyfuse3 takes any buffer
        file = self._tree.file(fh & self._ino_mask)
        if not fh & _NOATIME:
            self._tree.touch_atime(file)
        return self._tree.data.read(file, off, size)

    @_async_errno_guard
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        file = self._tree.file(fh & self._ino_mask)
        if self._direct_io and gives_rights(file):
            # The request does not tell whether the writer may keep set-id bits.
            self._tree.setattr(file, Changes(drop_setid=True, in_group=False))
            pyfuse3.invalidate_inode(file.ino, attr_only=True)
        try:
            return self._tree.write(file, off, buf, set_times=self._direct_io)
        except FramesHeld as held:
            with self._refusal_noted(fh, file, off, len(buf)):
                return await self._write_rest(file, off, buf, held.written)
        except BaseException:
            with self._refusal_noted(fh, file, off, len(buf)):
                raise

    @_errno_guard
    def flush(self, fh: int) -> None:
        """Answer ENOSYS, so that the kernel does not ask again: data written is in the tree already."""
        raise FUSEError(errno.ENOSYS)

    @_errno_guard
    def fsync(self, fh: int, datasync: bool) -> None:
        """Answer ENOSYS: programs then see success, and the kernel does not ask again.

        As on tmpfs, a file only becomes durable with the whole tree, see docs/guarantees.md.
        """
        raise FUSEError(errno.ENOSYS)

    @_errno_guard
    def release(self, fh: int) -> None:
        self._tree.forget(self._tree.get(fh & self._ino_mask))

    # --- directories -----------------------------------------------------------------------------

    @_errno_guard
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        handle = next(self._handles)
        self._dir_handles[handle] = DirectoryHandle(self._tree.directory(inode), ctx.pid)
        return handle

    @_errno_guard
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        listing = self._dir_handles[fh]
        if start_id == 0:
            listing.rewind()
            if not self._nodiratime:
                self._tree.touch_atime(listing.directory)
        for position, name, inode in listing.entries(start_id):
            if not pyfuse3.readdir_reply(token, name, _attributes(inode), position + 1):
                return
            if name not in (b".", b".."):
                inode.refs += 1

    @_errno_guard
    def releasedir(self, fh: int) -> None:
        del self._dir_handles[fh]
        self._closed.set()

    @_async_errno_guard
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        if self._dir_handles[fh].directory is self._tree.root:
            await self._publish()

    # --- helpers ---------------------------------------------------------------------------------

    async def once_there_is_room(self, operation: Callable[[], _R]) -> _R:
        """Return what `operation` returns, called after each save that may have made room for it.

        Other requests are served meanwhile. Raises FUSEError(ENOSPC) when saves fail or free too little.
        """
        for _ in range(_SAVES_FOR_ROOM):
            if not await self._make_room():
                break
            try:
                return operation()
            except FramesHeld:
                continue
            except Exception as exc:  # noqa: BLE001 - as above
                raise _failure(exc, "a call that waited for room", self) from None
        raise FUSEError(errno.ENOSPC)

    @contextlib.contextmanager
    def _refusal_noted(self, fh: int, file: File, off: int, size: int) -> Iterator[None]:
        """Remember that a write was refused, if the kernel has told its program that it was taken."""
        try:
            yield
        except BaseException as exc:
            if self.enable_writeback_cache and not fh & self._direct_flag:
                error = posix_error(exc.errno) if isinstance(exc, FUSEError) else exc
                self._tree.data.refused.add(file, off, off + size, words_of(error))
            raise

    async def _write_rest(self, file: File, off: int, buf: bytes, written: int) -> int:
        """Write `buf` from byte `written` on, piece by piece as saves make room."""

        def write_on() -> int:
            nonlocal written
            try:
                self._tree.write(
                    file, off + written, memoryview(buf)[written:], set_times=self._direct_io
                )
            except FramesHeld as held:
                written += held.written
                raise
            return len(buf)

        return await self.once_there_is_room(write_on)

    def _entry(self, inode: Inode) -> EntryAttributes:
        """Return attributes for a reply that adds one to the kernel's lookup count of the inode."""
        inode.refs += 1
        return _attributes(inode)

    def _require_control(self, ctx: RequestContext) -> None:
        """Raise EPERM unless the caller may set control attributes."""
        if not control_xattrs.may_control(ctx.uid, self._tree.root.uid):
            raise FUSEError(errno.EPERM)

    def _opened(self, file: Inode, flags: int) -> FileInfo:
        file.refs += 1
        fh = file.ino | (_NOATIME if (flags | self._noatime_flags) & os.O_NOATIME else 0)
        fh |= self._direct_flag if flags & os.O_DIRECT else 0
        return FileInfo(fh=fh, direct_io=self._direct_io, keep_cache=True)


def _attributes(inode: Inode) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = inode.ino
    entry.generation = inode.generation
    entry.entry_timeout = _FOREVER_S
    entry.attr_timeout = _FOREVER_S
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


def _in_group(ctx: RequestContext, inode: Inode) -> bool:
    """Return whether a process is in the group of a set-gid file, or root; True for all other files."""
    if not inode.mode & stat.S_ISGID or ctx.uid == 0 or ctx.gid == inode.gid:
        return True
    try:
        return inode.gid in pyfuse3.get_sup_groups(ctx.pid)
    except (OSError, RuntimeError):
        return False  # the process is gone, or in another namespace


def _any(fields: SetattrFields) -> bool:
    """Return whether anything but ctime is to be changed."""
    return any((
        fields.update_mode, fields.update_uid, fields.update_gid, fields.update_size,
        fields.update_atime, fields.update_mtime,
    ))  # fmt: skip


def _no_entry() -> EntryAttributes:
    """Return the entry that lets the kernel cache that the name does not exist."""
    entry = EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = _FOREVER_S
    return entry


def _owner(ctx: RequestContext) -> Owner:
    return Owner(ctx.uid, ctx.gid, ctx.umask & 0o777)
