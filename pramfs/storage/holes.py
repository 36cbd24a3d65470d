"""Give memory and disk space of free frames back to the system, in whole pages of the kernel.

A frame has 4 KiB everywhere, a page of the kernel 4, 16 or 64 KiB. MADV_REMOVE refuses to start within a
page and rounds the length *up* to a whole one: asked to remove a single frame, a kernel with larger pages
would empty its neighbours, too. So a page is given back when no frame in it is needed any more.
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
        """Give back every kernel page with a frame of `extents`, if all its frames are in `idle` states.

        Pages given back read as zeros. A page that reaches past the last frame stays.
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
        # Where the file system cannot make holes, the space simply stays allocated.
        with contextlib.suppress(OSError):
            self._mapping.madvise(mmap.MADV_REMOVE, pfn << PAGE_SHIFT, frames << PAGE_SHIFT)
