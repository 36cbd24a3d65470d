"""The arena of images on disks: fresh frames are in memory until a save, or write-back before it.

They lie in a memfd, at the same offset as in the image. When there are too many, or memory is short, some are
written back, and their memory is given back once they are durable. No save knows of them yet, so that a crash
leaves the last one as it was. A frame that is written once more comes back into memory.
"""

import mmap
import os
import threading
from array import array

from crc32c import crc32c

from pramfs.errors import FramesHeld, PramError, SystemFault, fault_of
from pramfs.storage.arena import COPY_FRAMES, UNKNOWN_CSUM, Arena, Progress, pages_of
from pramfs.storage.extents import pieces_of
from pramfs.storage.frames import (
    DROPPED,
    FREE,
    FRESH,
    GOING,
    KEPT,
    PENDING,
    STATE_NAMES,
    UNWRITTEN,
    WRITTEN,
    Extent,
    FrameTable,
)
from pramfs.storage.holes import Holes
from pramfs.storage.image import Image, write_all
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.storage.memory_room import MemoryRoom
from pramfs.storage.piped import Data
from pramfs.storage.write_out import WriteOut

# What goes on in a group without more memory: up to twelve cached writes of 1 MiB wait, while a write-back
# copies 4 MiB and has 8 MiB on their way to the disk.
_FOR_WRITE_BACK_BYTES = 32 << 20
_UNWRITTEN_MIN = 4096  # frames, 16 MiB: so much may be in memory however short that is


class MemoryArena(Arena):
    """An arena whose fresh frames are in a memfd until they are copied into the image."""

    _NOT_IN_IMAGE = (FREE, FRESH)
    _FRESH_IN_IMAGE = (WRITTEN,)
    _IN_MEMORY = bytes(UNWRITTEN)
    _NOT_IN_MEMORY = tuple(set(range(len(STATE_NAMES))) - set(_IN_MEMORY) - {KEPT})

    def __init__(self, image: Image, table: FrameTable) -> None:
        super().__init__(image, table)
        self._fd = os.memfd_create("pramfs-arena", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, len(table) << PAGE_SHIFT)
        self._memory = mmap.mmap(self._fd, len(table) << PAGE_SHIFT)
        self._fresh = memoryview(self._memory)
        self._unused = Holes(self._memory, image.page_bytes)
        self.can_write_back = not image.in_memory()  # else it would take as much memory there
        self._room = MemoryRoom(_FOR_WRITE_BACK_BYTES)
        self._next_back = 0  # the frame from which on the next write-back takes some

    def write(self, pfn: int, data: Data, offset: int = 0) -> None:
        """Write as every arena does. Raises FramesHeld or NoRoom, too: what is in the image comes back."""
        if self.table.count(WRITTEN):
            frames = (offset + len(data) + PAGE_SIZE - 1) >> PAGE_SHIFT
            coming_back = self.table.states(pfn, frames).count(WRITTEN)
            if coming_back:
                self._require_memory(coming_back)
        super().write(pfn, data, offset)

    # --- write-back ------------------------------------------------------------------------------

    @property
    def memory_is_short(self) -> bool:
        """Whether pages should go out, and their memory come back, before more is written."""
        return self._has_unwritten and self._room.is_short()

    @property
    def memory_is_ample(self) -> bool:
        """Whether those who have waited for memory may go on."""
        return not self._has_unwritten or self._room.is_ample()

    def begin_write_back(self, frames: int) -> "WriteBack":
        """Begin to write up to `frames` fresh frames back; no save may begin before that has ended."""
        extents = self.table.begin_write_back(frames, self._next_back)
        if extents:
            self._next_back = sum(extents[-1])
        return WriteBack(self, extents)

    def copy_back(self, extent: Extent) -> "array[int]":
        """Copy a GOING extent to the image; return the checksums of its pages. Thread-safe."""
        pfn, count = extent
        data = os.pread(self._fd, count << PAGE_SHIFT, pfn << PAGE_SHIFT)
        self.image.write(pfn << PAGE_SHIFT, data)
        return array("I", map(crc32c, pages_of(data)))

    def end_write_back(self, extents: dict[Extent, "array[int]"], *, durable: bool) -> None:
        """Give back the memory of what is `durable`, unless it was written again meanwhile."""
        for extent, csums in extents.items():
            for pfn, count in self.table.end_write_back(extent, written=durable):
                if durable:
                    self._note_csums(pfn, csums[pfn - extent.pfn :][:count])
                    self._discard(Extent(pfn, count))
            # What was released meanwhile may have been copied after that; what failed is not needed.
            self._punch_later(
                list(self.table.extents(*self._NOT_IN_IMAGE, first=extent.pfn, count=extent.frames))
            )
        if not durable:
            self._punch_image()

    # --- saves -----------------------------------------------------------------------------------

    def write_back(self, progress: Progress) -> None:
        out = WriteOut(self.image, progress)
        for pfn, count in pieces_of(self.table.extents(PENDING, DROPPED), COPY_FRAMES):
            # Released at once: a traceback could keep the view alive, and `close` would then fail.
            self._count_viewed(count)
            with self._fresh[pfn << PAGE_SHIFT : (pfn + count) << PAGE_SHIFT] as data:
                self.image.write(pfn << PAGE_SHIFT, data)
            out.add(pfn, count)
        out.finish()

    def commit_save(self) -> None:
        copied = list(self.table.extents(PENDING, DROPPED))
        super().commit_save()
        for extent in copied:
            self._discard(extent)

    def move_to(self, image: Image) -> None:
        super().move_to(image)
        self.can_write_back = not image.in_memory()

    def abort_save(self) -> None:
        copied = list(self.table.extents(PENDING, DROPPED))
        super().abort_save()
        # The disk may be full: give back what was copied so far, or it stays full because of that.
        if self._holes is not None:
            self._holes.give_back(self.table, self._NOT_IN_IMAGE, copied)

    def mark_writeback_failed(self) -> None:
        """Do nothing: fresh frames are still in memory, and the next save writes them again."""

    def close(self) -> None:
        self._fresh.release()
        self._unused.close()
        os.close(self._fd)
        super().close()

    # --- helpers ---------------------------------------------------------------------------------

    @property
    def _has_unwritten(self) -> bool:
        """Whether it is worth while to write some back."""
        return self.table.unwritten > _UNWRITTEN_MIN // 2

    def _note_csums(self, pfn: int, csums: "array[int]") -> None:
        for one, csum in enumerate(csums, pfn):
            # A page that was never verified keeps the checksum of the last save.
            if self._csums[one] == UNKNOWN_CSUM and not self._is_unverified(one):
                self._csums[one] = csum

    def _require_memory(self, count: int) -> None:
        unwritten = self.table.unwritten
        if unwritten + count <= _UNWRITTEN_MIN:
            return
        if self.can_write_back:
            if not self._room.take(count):
                raise FramesHeld
        # In an image that is memory a save takes as much once more, before it gives any back.
        elif not self._room.take(2 * count, unwritten):
            self._raise_no_memory(count)

    @property
    def _kept_is_memory(self) -> bool:
        return not self.can_write_back

    def _provide_extent(self, extent: Extent) -> None:
        """Only where nothing can go out for it, a promise takes memory."""
        if not self.can_write_back:
            self._require_memory(extent.frames)
            os.posix_fallocate(self._fd, extent.pfn << PAGE_SHIFT, extent.frames << PAGE_SHIFT)
        self.image.provide(*extent)

    def _store(self, start_bytes: int, data: Data) -> None:
        table = self.table
        if not (table.count(WRITTEN) or table.count(GOING)):
            write_all(self._fd, start_bytes, data)
            return
        end_bytes = start_bytes + len(data)
        first, last = start_bytes >> PAGE_SHIFT, (end_bytes - 1) >> PAGE_SHIFT
        count = last + 1 - first
        # Before the first byte changes: what is GOING may be copied only in part then.
        table.renew(first, count, GOING)
        if not table.uniform(first, count) or table.state(first) == WRITTEN:
            parts = {first} if start_bytes % PAGE_SIZE else set()
            parts |= {last} if end_bytes % PAGE_SIZE else set()
            for pfn in parts:
                if table.state(pfn) == WRITTEN:
                    write_all(self._fd, pfn << PAGE_SHIFT, self.image.read(pfn))
        write_all(self._fd, start_bytes, data)
        # Not before: a write that fails leaves what is in the image.
        table.renew(first, count, WRITTEN)

    def _load(self, pfn: int, count: int) -> bytes:
        if self._waits_in_memory(pfn):
            return os.pread(self._fd, count << PAGE_SHIFT, pfn << PAGE_SHIFT)
        return self.image.read(pfn, count)

    def _mapping(self, pfn: int) -> memoryview:
        return self._fresh if self._waits_in_memory(pfn) else self._saved

    def _viewed_mappings(self) -> list[mmap.mmap]:
        return [self._map, self._memory]

    def _waits_in_memory(self, pfn: int) -> bool:
        return self.table.state(pfn) in self._IN_MEMORY

    def _same_store(self, pfn: int, count: int) -> bool:
        return count == 1 or self.table.uniform(pfn, count)

    def _discard(self, extent: Extent) -> None:
        self._unused.give_back(self.table, self._NOT_IN_MEMORY, [extent])


class WriteBack:
    """Fresh frames on their way to the image. `write` may run in another thread; `finish` must not."""

    def __init__(self, arena: MemoryArena, extents: list[Extent]) -> None:
        self._arena = arena
        self._extents = list(pieces_of(sorted(extents), COPY_FRAMES))
        self._csums: dict[Extent, array[int]] = {extent: array("I") for extent in self._extents}
        self._lock = threading.Lock()  # held while it is being written
        self._is_over = False
        self._error: OSError | PramError | None = SystemFault("nothing was written")

    @property
    def frames(self) -> int:
        """How many frames there are to write."""
        return sum(extent.frames for extent in self._extents)

    def write(self) -> OSError | PramError | None:
        """Copy all frames, and make them durable. Returns the error that prevented this."""
        with self._lock:
            if not self._is_over:
                self._error = self._write()
            return self._error

    def finish(self) -> OSError | PramError | None:
        """Wait for `write`, and record how it ended: after an error everything stays in memory."""
        with self._lock:
            self._is_over = True
        self._arena.end_write_back(self._csums, durable=self._error is None)
        return self._error

    def _write(self) -> OSError | PramError | None:
        # Little is dirty at a time: it takes memory once more, and is written back when that is short.
        out = WriteOut(self._arena.image, lambda _frames: None)
        try:
            for extent in self._extents:
                self._csums[extent] = self._arena.copy_back(extent)
                out.add(*extent)
            out.finish()
            self._arena.image.sync()
        except Exception as exc:  # noqa: BLE001 - it must not end the mount: a save tries once more
            return fault_of(exc)
        return None
