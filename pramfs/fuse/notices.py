"""Notices to the kernel: what it has cached of an inode and must not keep.

A thread that the kernel makes wait in one cannot be killed, and keeps /dev/fuse open: it ends when the
requests that it waits for are answered. So a session ends after them.
"""

import errno
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

import trio

from pramfs.errors import posix_error
from pramfs.fuse.protocol import (
    INVAL_ENTRY_OUT,
    INVAL_INODE_OUT,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
    OUT_HEADER,
)
from pramfs.fuse.seam import Seam
from pramfs.system import mount_tools

log = logging.getLogger("pramfs")

_THREADS_MAX = 16  # that wait for the kernel at a time
_ALL_BUT_DATA = -1
_LATE_S = 0.05
_AT_ONCE_S = 0.0003


class Notices:
    """Sends notices at a seam, once it is opened."""

    def __init__(self, on_internal_error: Callable[[], None]) -> None:
        self._on_internal_error = on_internal_error
        self._refused: dict[int, tuple[int, int]] = {}  # bytes to drop, by inode
        self._under_way: set[object] = set()  # one for each thread that is in a notice
        self._is_over = False

    def open(self, seam: Seam, spawn: Callable[..., Any]) -> None:
        """Begin to send at that seam; `spawn` starts a task."""
        self._seam = seam
        self._spawn = spawn
        self._limiter = trio.CapacityLimiter(_THREADS_MAX)
        # A copy that is on its way would not be waited for.
        self._messenger = None if mount_tools.hands_over_copies() else _Messenger(seam)

    @property
    def are_under_way(self) -> bool:
        """Whether the kernel has not taken all of them yet."""
        messenger = self._messenger
        return bool(self._under_way) or (messenger is not None and messenger.is_waiting)

    def begin_no_more(self) -> None:
        """Let the kernel take what is under way; who wants more hears that the mount is gone."""
        self._is_over = True

    def close(self) -> None:
        """Send no more."""
        self._is_over = True
        if self._messenger is not None:
            self._messenger.close()

    def drop_attributes(self, ino: int) -> None:
        """Have the kernel ask for the attributes when they are needed next."""
        self._seam.tell(_inval_inode(ino, _ALL_BUT_DATA, 0))

    def has_nothing(self, ino: int, offset: int, size: int) -> bool:
        """Return whether the kernel has nothing to hand over of a range; to the end, if `size` is 0.

        It drops what it has of the range. When this is false it may have something: see `hand_over`.
        """
        notice = _inval_inode(ino, offset, size)
        if self._messenger is None or self._is_over:
            return False
        return self._messenger.deliver(notice)

    async def hand_over(self, ino: int, offset: int, size: int) -> None:
        """Have the kernel hand over what programs have written to a range; to the end, if `size` is 0.

        Raises ENOTCONN at the end of the session.
        """
        if not await self._tell_in_thread(_inval_inode(ino, offset, size)):
            raise posix_error(errno.ENOTCONN)

    async def drop_data(self, ino: int, offset: int, size: int) -> None:
        """Have the kernel hand over what it has written in a range, and forget it; wait until it has.

        In a thread, because the kernel waits for requests that it has made for these pages. It makes none
        while too many others are unanswered, perhaps those that wait for this; so nobody waits for long.
        """
        with trio.move_on_after(_LATE_S):
            await self.hand_over(ino, offset, size)

    def drop_refused(self, ino: int, offset: int, size: int) -> None:
        """Have the kernel forget what the tree has refused of an inode, some time after the reply."""
        known = self._refused.get(ino)
        end = offset + size
        if known is None:
            self._refused[ino] = (offset, end)
            self._spawn(self._drop_refused, ino)
        else:
            self._refused[ino] = (min(offset, known[0]), max(end, known[1]))

    def drop_name(self, directory: int, name: bytes) -> None:
        """Have the kernel forget a name, and what is below it as far as nobody uses that."""
        notice = INVAL_ENTRY_OUT.pack(directory, len(name), 0) + name + b"\0"
        self._spawn(self._send, _message(NOTIFY_INVAL_ENTRY, notice))

    async def _drop_refused(self, ino: int) -> None:
        start, end = self._refused.pop(ino)
        await self._send(_inval_inode(ino, start, end - start))

    async def _send(self, message: bytes) -> None:
        """Tell the kernel what nobody waits for; the mount goes on whatever happens."""
        try:
            await self._tell_in_thread(message)
        except Exception:
            log.exception("internal error in a notice")
            self._on_internal_error()

    async def _tell_in_thread(self, message: bytes) -> bool:
        return await trio.to_thread.run_sync(
            self._tell, message, abandon_on_cancel=True, limiter=self._limiter
        )

    def _tell(self, message: bytes) -> bool:
        """Tell the kernel, and wait until it has taken that; return False if none are begun any more."""
        notice = object()
        self._under_way.add(notice)  # first: who asks for it has said before that it is over
        try:
            if self._is_over:
                return False
            self._seam.tell(message)
            return True
        finally:
            self._under_way.discard(notice)


class _Messenger:
    """A thread of its own for notices that the kernel mostly takes at once.

    Through trio's threads each takes several times as long.
    """

    def __init__(self, seam: Seam) -> None:
        self._seam = seam
        self._messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._taken = threading.Lock()  # held while the kernel has not taken the last one
        self._thread: threading.Thread | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the kernel has not taken the last one yet."""
        return self._taken.locked()

    def deliver(self, message: bytes) -> bool:
        """Send a notice; return whether the kernel has taken it without waiting for any request.

        The loop is held up until then, so that no request is answered. If the kernel waits for one, this
        gives up after 0.3 ms, and the thread goes on waiting.
        """
        if not self._taken.acquire(blocking=False):
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="notices", daemon=True)
            self._thread.start()
        self._messages.put(message)
        if not self._taken.acquire(timeout=_AT_ONCE_S):
            return False
        self._taken.release()
        return True

    def close(self) -> None:
        """Have the thread end when it waits no more."""
        self._messages.put(b"")

    def _run(self) -> None:
        while message := self._messages.get():
            self._seam.tell(message)
            self._taken.release()


def _inval_inode(ino: int, offset: int, size: int) -> bytes:
    return _message(NOTIFY_INVAL_INODE, INVAL_INODE_OUT.pack(ino, offset, size))


def _message(code: int, notice: bytes) -> bytes:
    return OUT_HEADER.pack(OUT_HEADER.size + len(notice), code, 0) + notice
