"""Notices to the kernel: what it has cached of an inode and must not keep."""

import trio

from pramfs.fuse.protocol import INVAL_INODE_OUT, NOTIFY_INVAL_INODE, OUT_HEADER
from pramfs.fuse.seam import Seam

_THREADS_MAX = 16  # that wait for the kernel at a time
_ALL_BUT_DATA = -1
_LATE_S = 0.05


class Notices:
    """Sends notices at a seam, once it is opened."""

    def open(self, seam: Seam) -> None:
        self._seam = seam
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


def _inval_inode(ino: int, offset: int, size: int) -> bytes:
    notice = INVAL_INODE_OUT.pack(ino, offset, size)
    return OUT_HEADER.pack(OUT_HEADER.size + len(notice), NOTIFY_INVAL_INODE, 0) + notice
