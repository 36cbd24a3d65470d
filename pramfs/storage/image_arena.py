"""The arena of images that are memory already: fresh frames are written to their place there at once."""

import contextlib
from collections.abc import Iterator

from crc32c import crc32c

from pramfs.errors import LostPages, PramError
from pramfs.storage.arena import COPY_FRAMES, UNKNOWN_CSUM, Arena, Progress, pages_of
from pramfs.storage.extents import pieces_of
from pramfs.storage.frames import DROPPED, FRESH, PENDING, Extent, FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import PAGE_SHIFT
from pramfs.storage.memory_room import MemoryRoom
from pramfs.storage.piped import Data
from pramfs.storage.write_out import WriteOut


class ImageArena(Arena):
    """An arena whose fresh frames are written to their place in the image at once.

    After a write-back error the kernel marks the pages clean although they were not written: it may drop
    them, and the next sync succeeds. So from then on, until a save has succeeded, fresh frames are verified
    whenever they are read.
    """

    def __init__(self, image: Image, table: FrameTable) -> None:
        super().__init__(image, table)
        self._in_memory = image.in_memory()
        self._room = MemoryRoom()

    def write_back(self, progress: Progress) -> None:
        if self._writeback_failed:
            lost = [
                pfn
                for extent in self.table.extents(PENDING, DROPPED)
                for pfn in self._write_again(extent)
            ]
            if lost:
                raise LostPages(lost)
        if self._in_memory:
            progress(self.table.count(PENDING))
            return
        out = WriteOut(self.image, progress)
        for piece in pieces_of(self.table.extents(PENDING), COPY_FRAMES):
            out.add(*piece)
        out.finish()

    def move_to(self, image: Image) -> None:
        super().move_to(image)
        self._in_memory = image.in_memory()

    def abort_save(self) -> None:
        super().abort_save()
        self.mark_writeback_failed()

    def commit_save(self) -> None:
        super().commit_save()
        self._writeback_failed = False

    def mark_writeback_failed(self) -> None:
        self.verify_on_first_read(())
        self._writeback_failed = True
        # Frames written while the save ran: sum them now, while the kernel has not dropped them yet.
        for extent in self.table.extents(FRESH):
            with contextlib.suppress(OSError, PramError):
                self.csums(extent.pfn, extent.frames)

    def _write_again(self, extent: Extent) -> Iterator[int]:
        """Write pages to the medium once more; yield the frames that have lost what was written there."""
        for start, count in pieces_of([extent], COPY_FRAMES):
            data = self.image.read(start, count)
            for at, page in enumerate(pages_of(data)):
                csum = self._csums[start + at]
                known = csum != UNKNOWN_CSUM and not self._is_unverified(start + at)
                if known and csum != crc32c(page):
                    yield start + at
            self.image.write(start << PAGE_SHIFT, data)

    def _require_memory(self, count: int) -> None:
        if self._in_memory and not self._room.take(count):
            self._raise_no_memory(count)

    def _provide_extent(self, extent: Extent) -> None:
        self._require_memory(extent.frames)
        self.image.provide(*extent)

    def _store(self, start_bytes: int, data: Data) -> None:
        self.image.write(start_bytes, data)

    def _load(self, pfn: int, count: int) -> bytes:
        return self.image.read(pfn, count)

    def _mapping(self, pfn: int) -> memoryview:
        return self._saved

    def _same_store(self, pfn: int, count: int) -> bool:
        return True

    def _discard(self, extent: Extent) -> None:
        self._punch_later([extent])
