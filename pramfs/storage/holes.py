"""Give memory and disk space of free frames back to the system, in whole pages of the kernel.

A frame has 4 KiB everywhere; a page of the kernel has 4, 16 or 64 KiB. MADV_REMOVE refuses a start within a
page and rounds the length *up* to a whole one: asked for a single frame, a kernel with larger pages empties
the frames beside it too. So a page goes back when the last frame in it is no longer needed.
"""

import contextlib
import mmap
from collections.abc import Iterable

from pramfs.storage.frames import Extent, FrameTable
from pramfs.storage.layout import PAGE_SHIFT


class Holes:
    """A writable shared mapping of a file of frames, from frame 0 on, in which holes are made.

    `page_bytes` is the page size of the kernel, a power of two of at least 4,096 bytes.
    """

    def __init__(self, mapping: mmap.mmap, page_bytes: int) -> None:
        self._mapping = mapping
        self._page_frames = page_bytes >> PAGE_SHIFT

    def give_back(self, table: FrameTable, idle: Iterable[int], extents: Iterable[Extent]) -> None:
        """Give back every kernel page that holds a frame of `extents` and none but frames in `idle` states.

        What was given back reads as zeros. A page that reaches past the last frame stays.
        """
        idle, size = tuple(idle), self._page_frames
        for pfn, count in extents:
            first = pfn - pfn % size
            end = min(-(-(pfn + count) // size) * size, len(table))
            for extent in table.extents(*idle, first=first, count=end - first):
                start = -(-extent.pfn // size) * size
                frames = (extent.pfn + extent.frames) // size * size - start
                if frames > 0:
                    self._remove(start, frames)

    def close(self) -> None:
        self._mapping.close()

    def _remove(self, pfn: int, frames: int) -> None:
        # Where the file system cannot make holes the space just stays in the file.
        with contextlib.suppress(OSError):
            self._mapping.madvise(mmap.MADV_REMOVE, pfn << PAGE_SHIFT, frames << PAGE_SHIFT)
