"""Frames as memory: allocate, write, read and checksum them, whatever they hold.

There are two places for fresh frames (`arena=`). ImageArena writes them directly to their place in the
image, for images that are memory already. MemoryArena keeps them in a memfd, at the same offset, until a
save copies them to the image, which is not written before. Both read frames of the last save from the
image in place.

Python accesses pages with pread and pwrite only, so that a failing medium, or an image that was truncated
meanwhile, is an error of one call and not a SIGBUS. The views are for the kernel to copy from.
"""

import contextlib
import errno
import mmap
import os
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from crc32c import crc32c

from pramfs.errors import DamagedPage, FramesHeld, LostPages, PramError, posix_error
from pramfs.storage.extents import extents_of
from pramfs.storage.frames import (
    DROPPED,
    FREE,
    FRESH,
    HELD,
    OLD,
    PENDING,
    STATE_NAMES,
    Extent,
    FrameTable,
)
from pramfs.storage.holes import Holes
from pramfs.storage.image import Image, write_all
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.storage.write_out import WriteOut

UNKNOWN_CSUM = 0  # a page whose checksum really is 0 is merely summed again
_UNKNOWN_BYTES = bytes(4)

_COPY_FRAMES = 1024
_SUM_FRAMES = 16  # at a time while idle: few, because a request that arrives has to wait for them
_VIEWED_FRAMES_MAX = 6144  # that may be mapped at a time: 24 MiB
_MAPPED_AROUND_FRAMES = 16  # that a fault maps, as fault_around_bytes has it
_PUNCH_BACKLOG = 1024  # freed frames that may wait to be given back to the system
_UNSUMMED_MAX = 4096  # extents that wait for idle time; older ones are left to the save

Progress = Callable[[int], None]


class Arena(ABC):
    """All frames of one image as memory."""

    # States of frames for which the image holds nothing.
    _NOT_IN_IMAGE: tuple[int, ...] = (FREE,)
    # States of frames that are in no save, and in the image all the same.
    _FRESH_IN_IMAGE: tuple[int, ...] = (FRESH,)

    def __init__(self, image: Image, table: FrameTable) -> None:
        self.image = image
        self.table = table
        self._map = image.map(len(table))
        self._saved = memoryview(self._map)
        mapping = image.map_for_holes(len(table))
        self._holes = Holes(mapping, image.page_bytes) if mapping is not None else None
        self._unpunched: list[Extent] = []
        self._unpunched_frames = 0
        self._csums = memoryview(mmap.mmap(-1, max(4, len(table) * 4))).cast("I")
        self._unverified: bytearray | None = None
        self._viewed_frames = 0  # since the mappings were emptied
        self._writeback_failed = False  # pages written since the last sync may be lost: ImageArena
        self._unsummed: deque[Extent] = deque(maxlen=_UNSUMMED_MAX)

    # --- what a tree does with frames ------------------------------------------------------------

    def allocate(self, count: int, keep_free: int = 0) -> list[Extent]:
        """Allocate `count` frames, leaving `keep_free` free for the next save.

        Raises FramesHeld, or OSError(ENOSPC), as `require_free` does.
        """
        self.require_free(count + keep_free)
        return self.table.allocate(count)

    def require_free(self, count: int) -> None:
        """Raise FramesHeld unless `count` frames are free; OSError(ENOSPC) if no save would free enough."""
        table = self.table
        free = table.count(FREE)
        if free >= count:
            return
        if free + table.count(HELD) + table.count(OLD) + table.count(DROPPED) < count:
            raise posix_error(errno.ENOSPC)
        raise FramesHeld()

    def relocate(self, pfn: int) -> int:
        """Move the page in frame `pfn`, which has become banned, and return the new frame.

        As in patch 9 of the 2013 series. A page that was not verified yet is not verified here either: if
        it is damaged it stays so, and does not prevent all others from being saved.
        """
        new = self.table.allocate(1)[0].pfn
        try:
            self.write(new, self._load(Extent(pfn, 1)))
        except BaseException:
            self.release(new, 1)
            raise
        self._csums[new] = self._csums[pfn]
        if self._unverified is not None:
            self._unverified[new] = self._unverified[pfn]
        self.release(pfn, 1)
        return new

    def write(self, pfn: int, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        """Write `data` into FRESH frames from byte `offset` of frame `pfn` on."""
        start = (pfn << PAGE_SHIFT) + offset
        first = start >> PAGE_SHIFT
        count = ((start + len(data) + PAGE_SIZE - 1) >> PAGE_SHIFT) - first
        if self._unverified is not None and self._is_doubtful(first, count):
            if offset or len(data) % PAGE_SIZE:
                self.read(first, count)  # verifies the part that is not overwritten
            self._unverified[first : first + count] = bytes(count)
        # Before the write, because one that fails half-way has changed pages, too.
        if count == 1:
            self._csums[first] = UNKNOWN_CSUM
        else:
            self._csums[first : first + count] = array("I", bytes(4 * count))
        self._remember_unsummed(first, count)
        self._store(start, data)

    def read(self, pfn: int, count: int = 1) -> bytes:
        """Return a copy of `count` frames. Raises DamagedPage if one fails its first verification."""
        data = b"".join(self._load(extent) for extent in self._uniform_extents(pfn, count))
        if self._unverified is not None and self._is_doubtful(pfn, count):
            self._verify(pfn, data, self._unverified)
        return data

    def view(self, pfn: int, count: int) -> memoryview | bytes:
        """Return `count` frames for the kernel to copy from: no copy if they are all in one mapping.

        Raises DamagedPage as `read` does.
        """
        if self._unverified is not None and self._is_doubtful(pfn, count):
            return self.read(pfn, count)
        if self._same_store(pfn, count):
            self._count_viewed(count)
            return self._mapping(pfn)[pfn << PAGE_SHIFT : (pfn + count) << PAGE_SHIFT]
        return b"".join(self._load(extent) for extent in self._uniform_extents(pfn, count))

    def write_extents(self, extents: Iterable[Extent], pages: memoryview) -> None:
        """Write `pages`, one after the other, into these FRESH frames."""
        for pfn, count in extents:
            self.write(pfn, pages[: count << PAGE_SHIFT])
            pages = pages[count << PAGE_SHIFT :]

    def release(self, pfn: int, count: int) -> None:
        """Release frames; the system gets their memory back once no save needs them."""
        table = self.table
        if table.writable(pfn, count):
            fresh = [Extent(pfn, count)]
        else:
            fresh = list(table.extents(FRESH, first=pfn, count=count))
        table.release(pfn, count)
        for extent in fresh:
            self._discard(extent)

    def release_extents(self, extents: Iterable[Extent]) -> None:
        """Release every frame of `extents`."""
        for pfn, count in extents:
            self.release(pfn, count)

    # --- checksums -------------------------------------------------------------------------------

    def csums(self, pfn: int, count: int) -> "array[int]":
        """Return the data checksums (u32) of `count` frames, after computing those not known yet."""
        known = self._csums[pfn : pfn + count].tobytes()
        csums = array("I")
        csums.frombytes(known)
        # Four zero bytes may also belong to two neighbours. Looking at each checksum first takes too long.
        if known.find(_UNKNOWN_BYTES) >= 0 and UNKNOWN_CSUM in csums:
            self._sum_unknown(pfn, count)
            csums = array("I", self._csums[pfn : pfn + count])
        return csums

    def set_csums(self, pfn: int, csums: "array[int]") -> None:
        """Record the checksums that a save holds for the frames from `pfn` on."""
        self._csums[pfn : pfn + len(csums)] = csums

    def sum_some(self) -> bool:
        """Compute the checksums of a few recently written frames; return False if there are none left."""
        if not self._unsummed:
            return False
        pfn, count = self._unsummed.pop()
        if count > _SUM_FRAMES:
            self._unsummed.append(Extent(pfn, count - _SUM_FRAMES))
            pfn, count = pfn + count - _SUM_FRAMES, _SUM_FRAMES
        if self.table.writable(pfn, count):
            # A page that cannot be read now is read again by the save, which reports the error.
            with contextlib.suppress(OSError, PramError):
                self.csums(pfn, count)
        return True

    def verify_on_first_read(self, extents: Iterable[Extent]) -> None:
        """Verify each of these frames when it is first read (`verify=lazy`)."""
        if self._unverified is None:
            self._unverified = bytearray(len(self.table))
        for pfn, count in extents:
            self._unverified[pfn : pfn + count] = b"\1" * count

    def verify(self, extents: Iterable[Extent]) -> None:
        """Verify those of these frames that may be damaged. Raises DamagedPage."""
        if self._unverified is not None:
            for extent in extents:
                if self._is_doubtful(*extent):
                    self.read(*extent)

    # --- saves -----------------------------------------------------------------------------------

    def leave_out_orphan(self, pfn: int, count: int) -> None:
        """Leave pages of an orphan inode out of saves: if one is lost, its reader fails and not the save."""
        if self._writeback_failed:
            self.csums(pfn, count)
            self.verify_on_first_read([Extent(pfn, count)])

    @abstractmethod
    def write_back(self, progress: Progress) -> None:
        """Copy all PENDING frames to the image, unless they are there. May run in another thread."""

    def commit_save(self) -> None:
        """Commit the save that was published: see FrameTable.commit_save."""
        self._punch_later(self.table.commit_save())
        self._punch_image()

    def abort_save(self) -> None:
        """Abort the save that failed: see FrameTable.abort_save."""
        dropped = list(self.table.extents(DROPPED))
        self.table.abort_save()
        for extent in dropped:
            self._discard(extent)

    @abstractmethod
    def mark_writeback_failed(self) -> None:
        """Note a write-back error: pages written since the last successful sync may be lost."""

    def close(self) -> None:
        self._punch_image()
        self._saved.release()
        self._map.close()  # a mapping keeps the image open, and with it the lock
        if self._holes is not None:
            self._holes.close()

    # --- another image ---------------------------------------------------------------------------

    def copy_to(self, image: Image, extents: Iterable[Extent], progress: Progress) -> None:
        """Copy frames that do not change to their places in another image. May run in another thread.

        Raises LostPages with all that cannot be read or fail a checksum that is known, and OSError.
        """
        lost: list[int] = []
        out = WriteOut(image, progress)
        for pfn, count in extents:
            for start in range(pfn, pfn + count, _COPY_FRAMES):
                frames = min(_COPY_FRAMES, pfn + count - start)
                lost += self._copy_frames(image, start, frames)
                out.add(start, frames)
        out.finish()
        if lost:
            raise LostPages(lost)

    def move_to(self, image: Image) -> None:
        """Go on in another image, to which the frames of its save have been copied.

        Raises LostPages, OSError or PramError, and has then changed nothing.
        """
        for state in self._FRESH_IN_IMAGE:
            self.copy_to(image, self.table.extents(state), lambda frames: None)
        mapping, for_holes = image.map(len(self.table)), image.map_for_holes(len(self.table))
        # Views of the old mapping may be on their way to the kernel: it goes with the last of them.
        self.image, self._map, self._saved = image, mapping, memoryview(mapping)
        self._holes = Holes(for_holes, image.page_bytes) if for_holes is not None else None
        self._unpunched, self._unpunched_frames = [], 0

    # --- helpers ---------------------------------------------------------------------------------

    def _copy_frames(self, image: Image, pfn: int, count: int) -> list[int]:
        """Copy frames to another image; return those that are lost."""
        try:
            data = b"".join(self._load(extent) for extent in self._uniform_extents(pfn, count))
        except (OSError, PramError):
            if count == 1:
                return [pfn]
            return [lost for one in range(count) for lost in self._copy_frames(image, pfn + one, 1)]
        image.write(pfn << PAGE_SHIFT, data)
        csums = self._csums[pfn : pfn + count]
        return [
            pfn + at
            for at, page in enumerate(_pages(data))
            if csums[at] not in (UNKNOWN_CSUM, crc32c(page))
        ]

    @abstractmethod
    def _store(self, start_bytes: int, data: bytes | bytearray | memoryview) -> None: ...

    @abstractmethod
    def _load(self, extent: Extent) -> bytes:
        """Return a copy of frames that are all in one store."""

    @abstractmethod
    def _mapping(self, pfn: int) -> memoryview:
        """Return the mapping of the store that holds `pfn`."""

    def _count_viewed(self, count: int) -> None:
        """Let go of what views have mapped, before it counts for much as memory of this process.

        The kernel maps the pages of the image that it reads for us, some around them too, and blames us for
        them when memory runs out, though they would still be there without us.
        """
        self._viewed_frames += max(count, _MAPPED_AROUND_FRAMES)
        if self._viewed_frames > _VIEWED_FRAMES_MAX:
            self._viewed_frames = 0
            for mapping in self._viewed_mappings():
                with contextlib.suppress(OSError):  # a sandbox may refuse it
                    mapping.madvise(mmap.MADV_DONTNEED)  # it is shared: no content is lost

    def _viewed_mappings(self) -> list[mmap.mmap]:
        return [self._map]

    @abstractmethod
    def _same_store(self, pfn: int, count: int) -> bool: ...

    @abstractmethod
    def _discard(self, extent: Extent) -> None:
        """Give back the memory of frames that were fresh and have become free."""

    def _punch_later(self, extents: list[Extent]) -> None:
        """Queue free frames of the image for hole punching: a system call for each would cost too much."""
        if self._holes is None:
            return
        self._unpunched += extents
        self._unpunched_frames += sum(extent.frames for extent in extents)
        if self._unpunched_frames >= _PUNCH_BACKLOG:
            self._punch_image()

    def _punch_image(self) -> None:
        if self._holes is None:
            return
        self._holes.give_back(self.table, self._NOT_IN_IMAGE, _merged(self._unpunched))
        self._unpunched = []
        self._unpunched_frames = 0

    def _uniform_extents(self, pfn: int, count: int) -> Iterator[Extent]:
        if self._same_store(pfn, count):
            yield Extent(pfn, count)
        else:
            for one in range(pfn, pfn + count):
                yield Extent(one, 1)

    def _remember_unsummed(self, pfn: int, count: int) -> None:
        if self._unsummed:
            last = self._unsummed[-1]
            if last.pfn <= pfn and pfn + count <= last.pfn + last.frames:
                return
            if last.pfn + last.frames == pfn:
                self._unsummed[-1] = Extent(last.pfn, last.frames + count)
                return
        self._unsummed.append(Extent(pfn, count))

    def _sum_unknown(self, pfn: int, count: int) -> None:
        """Compute the checksums not known yet.

        Reads no other page, so that an unreadable page whose checksum is known does not fail the save.
        """
        csums = self._csums
        for start in range(pfn, pfn + count, _COPY_FRAMES):
            unknown = [
                one
                for one in range(start, min(start + _COPY_FRAMES, pfn + count))
                # A page that was never verified may be damaged: it keeps the checksum of the last save.
                if csums[one] == UNKNOWN_CSUM and not self._is_unverified(one)
            ]
            for extent in extents_of(unknown):
                data = b"".join(self._load(part) for part in self._uniform_extents(*extent))
                for at, page in enumerate(_pages(data)):
                    csums[extent.pfn + at] = crc32c(page)

    def _is_unverified(self, pfn: int) -> bool:
        return self._unverified is not None and bool(self._unverified[pfn])

    def _is_doubtful(self, pfn: int, count: int) -> bool:
        """Return whether any of these frames must be verified before it is used."""
        assert self._unverified is not None
        return self._writeback_failed or self._unverified.find(1, pfn, pfn + count) >= 0

    def _verify(self, pfn: int, data: bytes, unverified: bytearray) -> None:
        for at, page in enumerate(_pages(data)):
            csum = self._csums[pfn + at]
            lost = self._writeback_failed and csum != UNKNOWN_CSUM
            if (unverified[pfn + at] or lost) and csum != crc32c(page):
                why = "the medium failed and lost it" if lost else "found on first read"
                raise DamagedPage(pfn + at, why)
            unverified[pfn + at] = 0


class ImageArena(Arena):
    """An arena whose fresh frames are written to their place in the image at once.

    After a write-back error the kernel marks the pages clean although they were not written: it may drop
    them, and the next sync succeeds. So from then on, until a save has succeeded, fresh frames are verified
    whenever they are read.
    """

    def __init__(self, image: Image, table: FrameTable) -> None:
        super().__init__(image, table)
        self._in_memory = image.in_memory()

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
        for pfn, count in self.table.extents(PENDING):
            for start in range(pfn, pfn + count, _COPY_FRAMES):
                out.add(start, min(_COPY_FRAMES, pfn + count - start))
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
        for start in range(extent.pfn, extent.pfn + extent.frames, _COPY_FRAMES):
            count = min(_COPY_FRAMES, extent.pfn + extent.frames - start)
            data = self.image.read(start, count)
            for at, page in enumerate(_pages(data)):
                csum = self._csums[start + at]
                known = csum != UNKNOWN_CSUM and not self._is_unverified(start + at)
                if known and csum != crc32c(page):
                    yield start + at
            self.image.write(start << PAGE_SHIFT, data)

    def _store(self, start_bytes: int, data: bytes | bytearray | memoryview) -> None:
        self.image.write(start_bytes, data)

    def _load(self, extent: Extent) -> bytes:
        return self.image.read(extent.pfn, extent.frames)

    def _mapping(self, pfn: int) -> memoryview:
        return self._saved

    def _same_store(self, pfn: int, count: int) -> bool:
        return True

    def _discard(self, extent: Extent) -> None:
        self._punch_later([extent])


class MemoryArena(Arena):
    """An arena whose fresh frames are in a memfd until a save copies them into the image."""

    _NOT_IN_IMAGE = (FREE, FRESH)
    _FRESH_IN_IMAGE = ()
    _IN_MEMORY = bytes((FRESH, PENDING, DROPPED))
    _NOT_IN_MEMORY = tuple(set(range(len(STATE_NAMES))) - set(_IN_MEMORY))

    def __init__(self, image: Image, table: FrameTable) -> None:
        super().__init__(image, table)
        self._fd = os.memfd_create("pramfs-arena", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, len(table) << PAGE_SHIFT)
        self._memory = mmap.mmap(self._fd, len(table) << PAGE_SHIFT)
        self._fresh = memoryview(self._memory)
        self._unused = Holes(self._memory, image.page_bytes)

    def write_back(self, progress: Progress) -> None:
        out = WriteOut(self.image, progress)
        for pfn, count in self.table.extents(PENDING, DROPPED):
            for start in range(pfn, pfn + count, _COPY_FRAMES):
                end = min(start + _COPY_FRAMES, pfn + count)
                # Released at once: a traceback could keep the view alive, and `close` would then fail.
                self._count_viewed(end - start)
                with self._fresh[start << PAGE_SHIFT : end << PAGE_SHIFT] as data:
                    self.image.write(start << PAGE_SHIFT, data)
                out.add(start, end - start)
        out.finish()

    def commit_save(self) -> None:
        copied = list(self.table.extents(PENDING, DROPPED))
        super().commit_save()
        for extent in copied:
            self._discard(extent)

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

    def _store(self, start_bytes: int, data: bytes | bytearray | memoryview) -> None:
        write_all(self._fd, start_bytes, data)

    def _load(self, extent: Extent) -> bytes:
        if self._waits_in_memory(extent.pfn):
            return os.pread(self._fd, extent.frames << PAGE_SHIFT, extent.pfn << PAGE_SHIFT)
        return self.image.read(extent.pfn, extent.frames)

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


def open_arena(kind: str, image: Image, table: FrameTable) -> Arena:
    """Return the arena for `arena=`: "image", "memory", or "auto" to choose by the kind of image."""
    if kind == "auto":
        kind = "image" if image.in_memory() else "memory"
    return ImageArena(image, table) if kind == "image" else MemoryArena(image, table)


def _pages(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), PAGE_SIZE):
        yield view[start : start + PAGE_SIZE]


def _merged(extents: list[Extent]) -> Iterator[Extent]:
    """Return the extents sorted, with neighbours joined."""
    start = end = -1
    for pfn, count in sorted(extents):
        if pfn <= end:
            end = max(end, pfn + count)
            continue
        if end > start:
            yield Extent(start, end - start)
        start, end = pfn, pfn + count
    if end > start:
        yield Extent(start, end - start)
