"""What the kernel may have of files in its page cache, and how it drops what a direct write has made stale.

The kernel drops pages before each direct write, but not after all: programs that read meanwhile, through the
cache, would see the old data for ever after asynchronous writes, or in a mapping under direct_io.
"""

import functools

from pramfs.fuse.front import Later
from pramfs.fuse.notices import Notices
from pramfs.tree.inodes import FILE_MAX_BYTES

_ALIGNMENT = 65536  # the largest pages of any kernel: what it has of one part it has of the rest


class PageCache:
    """For each inode one range of bytes that has all that went through the cache of the kernel."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._ranges: dict[int, tuple[int, int]] = {}
        self._dropping: dict[int, int] = {}  # how many notices are on their way

    def filled(self, ino: int, start: int, end: int) -> None:
        """Note a read or a write through the cache."""
        known = self._ranges.get(ino)
        if known is None:
            self._ranges[ino] = (start, end)
        elif start < known[0] or end > known[1]:
            self._ranges[ino] = (min(start, known[0]), max(end, known[1]))

    def forgotten(self, ino: int) -> None:
        """Note that the kernel has dropped the inode, and all that it had of it."""
        self._ranges.pop(ino, None)

    def overwritten(self, ino: int, start: int, end: int, answer: bytes) -> bytes | Later:
        """Return the reply to a direct write, or what waits for it until the kernel has no older data.

        Everything that it has of the inode is dropped: a program that only writes directly waits once.
        """
        start, end = start & -_ALIGNMENT, (end + _ALIGNMENT - 1) & -_ALIGNMENT
        known = self._ranges.get(ino)
        if known is not None and known[0] < end and known[1] > start:
            start, end = min(start, known[0] & -_ALIGNMENT), max(end, known[1])
            del self._ranges[ino]
        elif ino not in self._dropping:
            return answer
        start, end = min(start, FILE_MAX_BYTES), min(end, FILE_MAX_BYTES)  # a notice takes no more
        self._dropping[ino] = self._dropping.get(ino, 0) + 1
        return functools.partial(self._drop, ino, start, end, answer)

    async def _drop(self, ino: int, start: int, end: int, answer: bytes) -> bytes:
        try:
            await self._notices.drop_data(ino, start, end - start)
        finally:
            self._dropping[ino] -= 1
            if not self._dropping[ino]:
                del self._dropping[ino]
        return answer
