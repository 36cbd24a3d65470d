"""Notices to the kernel: what it has cached of an inode and must not keep."""

import logging
from collections.abc import Callable
from typing import Any

import trio

from pramfs.fuse.protocol import INVAL_INODE_OUT, NOTIFY_INVAL_INODE, OUT_HEADER
from pramfs.fuse.seam import Seam

log = logging.getLogger("pramfs")

_THREADS_MAX = 16  # that wait for the kernel at a time
_ALL_BUT_DATA = -1
_LATE_S = 0.05


class Notices:
    """Sends notices at a seam, once it is opened."""

    def __init__(self, on_internal_error: Callable[[], None]) -> None:
        self._on_internal_error = on_internal_error
        self._refused: dict[int, tuple[int, int]] = {}  # bytes to drop, by inode

    def open(self, seam: Seam, spawn: Callable[..., Any]) -> None:
        """Begin to send at that seam; `spawn` starts a task."""
        self._seam = seam
        self._spawn = spawn
        self._limiter = trio.CapacityLimiter(_THREADS_MAX)

    def drop_attributes(self, ino: int) -> None:
        """Have the kernel ask for the attributes when they are needed next."""
        self._seam.tell(_inval_inode(ino, _ALL_BUT_DATA, 0))

    async def hand_over(self, ino: int, offset: int, size: int) -> None:
        """Have the kernel hand over what programs have written to a range; to the end, if `size` is 0."""
        message = _inval_inode(ino, offset, size)
        await trio.to_thread.run_sync(
            self._seam.tell, message, abandon_on_cancel=True, limiter=self._limiter
        )

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

    async def _drop_refused(self, ino: int) -> None:
        start, end = self._refused.pop(ino)
        try:
            await self.hand_over(ino, start, end - start)
        except Exception:  # the mount goes on
            log.exception("internal error in a notice")
            self._on_internal_error()


def _inval_inode(ino: int, offset: int, size: int) -> bytes:
    notice = INVAL_INODE_OUT.pack(ino, offset, size)
    return OUT_HEADER.pack(OUT_HEADER.size + len(notice), NOTIFY_INVAL_INODE, 0) + notice
