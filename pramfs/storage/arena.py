"""Frames as memory: allocate, write, read and checksum them, whatever they hold.

There are two places for fresh frames (`arena=`): ImageArena writes them directly to their place in the
image, MemoryArena keeps them in memory. Both read frames of the last save from the image in place.

Python accesses pages with pread and pwrite only, so that a failing medium, or an image that was truncated
meanwhile, is an error of one call and not a SIGBUS. The views are for the kernel to copy from.
"""

import contextlib
import errno
import mmap
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import NoReturn

from crc32c import crc32c

from pramfs.errors import DamagedPage, FramesHeld, LostPages, NoRoom, PramError, posix_error
from pramfs.storage.extents import Numbers, extents_of, is_counting_up, pieces_of
from pramfs.storage.frames import (
    DROPPED,
    FREE,
    FREE_IN_TIME,
    FRESH,
    GOING,
    HELD,
    KEPT,
    OLD,
    WRITTEN,
    WRITTEN_DROPPED,
    Extent,
    FrameTable,
)
from pramfs.storage.holes import Holes
from pramfs.storage.image import Image
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.storage.piped import Data, Piped
from pramfs.storage.write_out import WriteOut

UNKNOWN_CSUM = 0  # a page whose checksum really is 0 is merely summed again
_UNKNOWN_BYTES = bytes(4)

COPY_FRAMES = 1024
_SUM_FRAMES = 16  # at a time while idle: few, because a request that arrives has to wait for them
_VIEWED_FRAMES_MAX = 6144  # that may be mapped at a time: 24 MiB
_MAPPED_AROUND_FRAMES = 16  # that a fault maps, as fault_around_bytes has it
_GATHERED = 512  # checksums that are fetched at a time
_PROVIDE_FRAMES = 4096  # at a time: after each it is looked how much memory is left
_PUNCH_BACKLOG = 1024  # freed frames that may wait to be given back to the system
_UNSUMMED_MAX = 4096  # extents that wait for idle time; older ones are left to the save
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)

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
        self._to_keep = 0  # see `keep`
        # Whether something can be given up for frames, as automatic snapshots can; the frames then wanted.
        self.may_give_up: Callable[[], bool] = lambda: False
        self.wanted = 0
        self._csums = memoryview(mmap.mmap(-1, max(4, len(table) * 4))).cast("I")
        self._unverified: bytearray | None = None
        self._viewed_frames = 0  # since the mappings were emptied
        self._writeback_failed = False  # pages written since the last sync may be lost: ImageArena
        # Extents as lists, first frame and first behind, because most grow.
        self._unsummed: deque[list[int]] = deque(maxlen=_UNSUMMED_MAX)

    # --- what a tree does with frames ------------------------------------------------------------

    def allocate(self, count: int, keep_free: int = 0) -> list[Extent]:
        """Allocate `count` frames, leaving `keep_free` free for the next save.

        Raises FramesHeld, or OSError(ENOSPC), as `require_free` does, and when memory is short.
        """
        self.require_free(count + keep_free)
        self._require_memory(count)
        return self.table.allocate(count)

    def allocate_one(self, keep_free: int) -> int:
        """Do the same for a single frame, faster: most files have one page."""
        self.require_free(1 + keep_free)
        self._require_memory(1)
        return self.table.allocate_one()

    def allocate_promised(self, count: int, keep_free: int, from_kept: int) -> list[Extent]:
        """Do the same for pages that were promised room; up to `from_kept` frames may be kept ones.

        Raises FramesHeld when memory is short: a save gives back what the pages have at present.
        """
        self.require_free(count + keep_free)
        kept = min(count, from_kept, self.table.count(KEPT))
        try:
            self._require_memory(count - kept if self._kept_is_memory else count)
        except OSError as exc:
            raise FramesHeld from exc
        rest = count - kept
        return self.table.take_kept(kept) + (self.table.allocate(rest) if rest else [])

    def require_free(self, count: int) -> None:
        """Raise FramesHeld unless `count` frames are free; NoRoom if no save would free enough."""
        table = self.table
        if table.unused >= count:
            return
        if table.count_all(FREE_IN_TIME) < count:
            if not self.may_give_up():
                raise NoRoom()
            self.wanted = max(self.wanted, count)
        raise FramesHeld()

    def keep(self, frames: int) -> None:
        """Keep so many unused frames, with memory or disk space behind them, for promises.

        Raises OSError(ENOSPC), or FramesHeld if a save may give back enough, and keeps what it kept before.
        """
        missing = frames - self.table.count(KEPT)
        if missing > 0:
            self._punch_image()
            self._provide(missing)
        self._to_keep = frames

    def keep_at_best(self, frames: int) -> None:
        """Keep so many, or as many as there is memory for; a save tries once more."""
        is_more = frames > self._to_keep
        self._to_keep = frames
        surplus = self.table.count(KEPT) - frames
        if surplus > 0:
            self._give_up(self.table.give_up_kept(surplus))
        elif surplus and is_more:
            self._keep_again()

    def relocate(self, pfn: int, moved: dict[int, int] | None = None) -> int:
        """Move the page in frame `pfn`, which has become banned, and return the new frame.

        `moved` is where the frames went that have several holders: each of these moves its page, and they
        share the new frame again. Nothing may be written in between.

        As in patch 9 of the 2013 series. A page that was not verified yet is not verified here either: if
        it is damaged it stays so, and does not prevent all others from being saved.
        """
        if moved is not None and pfn in moved:
            self.table.share(moved[pfn], 1)
            self.release(pfn, 1)
            return moved[pfn]
        new = self.table.allocate(1)[0].pfn
        try:
            self.write(new, self._load(pfn, 1))
        except BaseException:
            self.release(new, 1)
            raise
        self._csums[new] = self._csums[pfn]
        if self._unverified is not None:
            self._unverified[new] = self._unverified[pfn]
        if moved is not None and self.table.is_shared(pfn):
            moved[pfn] = new
        self.release(pfn, 1)
        return new

    def write(self, pfn: int, data: Data, offset: int = 0) -> None:
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
        if count > _SUM_FRAMES or len(data) != count << PAGE_SHIFT or isinstance(data, Piped):
            self._remember_unsummed(first, count)
            self._store(start, data)
            return
        self._store(start, data)
        # A few whole pages are summed at once, because reading them again for that takes more time.
        if count == 1:
            self._csums[first] = crc32c(data)
        else:
            csums, view = self._csums, memoryview(data)
            for at in range(count):
                csums[first + at] = crc32c(view[at << PAGE_SHIFT : (at + 1) << PAGE_SHIFT])

    def read(self, pfn: int, count: int = 1) -> bytes:
        """Return a copy of `count` frames. Raises DamagedPage if one fails its first verification."""
        if count == 1:
            data = self._load(pfn, 1)
        else:
            data = b"".join(self._load(*extent) for extent in self._uniform_extents(pfn, count))
        if self._unverified is not None and self._is_doubtful(pfn, count):
            self._verify(pfn, data, self._unverified)
        return data

    def view(self, pfn: int, count: int) -> memoryview | bytes:
        """Return `count` frames for the kernel to copy from: no copy of many that are all in one mapping.

        A copy of a single one takes less time than a page fault. Raises DamagedPage as `read` does.
        """
        if self._unverified is not None and self._is_doubtful(pfn, count):
            return self.read(pfn, count)
        if count == 1:
            return self._load(pfn, 1)
        if self._same_store(pfn, count):
            self._count_viewed(count)
            return self._mapping(pfn)[pfn << PAGE_SHIFT : (pfn + count) << PAGE_SHIFT]
        return b"".join(self._load(*extent) for extent in self._uniform_extents(pfn, count))

    def write_extents(self, extents: Iterable[Extent], pages: memoryview) -> None:
        """Write `pages`, one after the other, into these FRESH frames."""
        for pfn, count in extents:
            self.write(pfn, pages[: count << PAGE_SHIFT])
            pages = pages[count << PAGE_SHIFT :]

    def release(self, pfn: int, count: int) -> None:
        """Release frames; the system gets their memory back once no save needs them."""
        table = self.table
        if count == 1:
            self._release_one(pfn)
            return
        fresh = list(table.extents(FRESH, GOING, first=pfn, count=count))
        written = []
        if table.count(WRITTEN):
            written = list(table.extents(WRITTEN, first=pfn, count=count))
        freed = table.release(pfn, count)
        if freed is not None:  # some may be shared
            fresh, written = _common(fresh, freed), _common(written, freed)
        for extent in fresh:
            self._discard(extent)
        if written:
            self._punch_later(written)

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

    def csums_of(self, pfns: Numbers) -> "array[int]":
        """Return the data checksums (u32) of these frames, in their order, as `csums` does.

        A file whose pages were changed here and there is in short extents. Fetching the checksums one by one
        is faster than finding these, and takes no longer the more there are.
        """
        csums = array("I")
        for start in range(0, len(pfns), _GATHERED):
            some = pfns[start : start + _GATHERED]
            if is_counting_up(some):
                csums += self.csums(some[0], len(some))
                continue
            gather = itemgetter(*some)
            if UNKNOWN_CSUM in (found := gather(self._csums)):
                unknown = [
                    pfn for pfn, csum in zip(some, found, strict=True) if csum == UNKNOWN_CSUM
                ]
                for extent in extents_of(unknown):
                    self._sum_unknown(*extent)
                found = gather(self._csums)
            csums += array("I", found)
        return csums

    def known_csum(self, pfn: int) -> int:
        """Return the checksum of a frame, UNKNOWN_CSUM if nobody has computed it yet."""
        return self._csums[pfn]

    def set_csums(self, pfn: int, csums: "array[int]") -> None:
        """Record the checksums that a save holds for the frames from `pfn` on."""
        self._csums[pfn : pfn + len(csums)] = csums

    def sum_some(self) -> bool:
        """Compute the checksums of a few recently written frames; return False if there are none left."""
        left = _SUM_FRAMES
        while self._unsummed and left:
            last = self._unsummed[-1]
            first, behind = last
            count = min(behind - first, left)
            pfn = last[1] = behind - count
            if pfn == first:
                self._unsummed.pop()
            left -= count
            if self.table.writable(pfn, count):
                # A page that cannot be read now is read again by the save, which reports the error.
                with contextlib.suppress(OSError, PramError):
                    self.csums(pfn, count)
        return left < _SUM_FRAMES

    def verify_on_first_read(self, extents: Iterable[Extent]) -> None:
        """Verify each of these frames when it is first read (`verify=lazy`)."""
        if self._unverified is None:
            self._unverified = bytearray(len(self.table))
        for pfn, count in extents:
            self._unverified[pfn : pfn + count] = b"\1" * count

    def expect(self, pfn: int, csums: "array[int]") -> None:
        """Verify frames of a save when they are first read, if nobody knows their checksums yet.

        May run in another thread, after `verify_on_first_read`; the frames must not change. Raises
        DamagedPage for one whose checksum is known and another.
        """
        assert self._unverified is not None
        behind = pfn + len(csums)
        known = self._csums[pfn:behind].tobytes()
        if known == csums.tobytes():
            return
        if not known.strip(b"\0"):
            self._csums[pfn:behind] = csums
            self._unverified[pfn:behind] = b"\1" * len(csums)
            return
        for one, csum in enumerate(csums, pfn):
            if self._csums[one] == UNKNOWN_CSUM:
                self._csums[one] = csum
                self._unverified[one] = 1
            elif self._csums[one] != csum:
                raise DamagedPage(one, "two saves have different checksums of it")

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
        if self.table.count(KEPT) < self._to_keep:
            self._keep_again()
        self._punch_image()

    def abort_save(self) -> None:
        """Abort the save that failed: see FrameTable.abort_save."""
        dropped = list(self.table.extents(DROPPED))
        written = list(self.table.extents(WRITTEN_DROPPED))
        self.table.abort_save()
        for extent in dropped:
            self._discard(extent)
        self._punch_later(written)

    @abstractmethod
    def mark_writeback_failed(self) -> None:
        """Note a write-back error: pages written since the last successful sync may be lost."""

    def close(self) -> None:
        self._punch_image()
        self._saved.release()
        self._map.close()  # a mapping keeps the image open, and with it the lock
        if self._holes is not None:
            self._holes.close()

    def give_back_abandoned(self) -> None:
        """Give back what a run that was killed has left in free frames, such as pages written back."""
        if self._holes is not None:
            self._holes.give_back(self.table, (FREE,), list(self.table.extents(FREE)))

    # --- another image ---------------------------------------------------------------------------

    def copy_to(self, image: Image, extents: Iterable[Extent], progress: Progress) -> None:
        """Copy frames that do not change to their places in another image. May run in another thread.

        Raises LostPages with all that cannot be read or fail a checksum that is known, and OSError.
        """
        lost: list[int] = []
        out = WriteOut(image, progress)
        for pfn, count in pieces_of(extents, COPY_FRAMES):
            lost += self._copy_frames(image, pfn, count)
            out.add(pfn, count)
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
        with contextlib.suppress(OSError):
            for extent in self.table.extents(KEPT):
                self._provide_extent(extent)

    def leave_image_alone(self) -> None:
        """Give nothing of the image back to the system any more: what is there is another program's now."""
        if self._holes is not None:
            self._holes.close()
        self._holes = None
        self._unpunched, self._unpunched_frames = [], 0

    # --- frames kept for promises ----------------------------------------------------------------

    @property
    def _kept_is_memory(self) -> bool:
        """Whether pages that go to kept frames take no memory besides."""
        return True

    @abstractmethod
    def _provide_extent(self, extent: Extent) -> None:
        """Have memory or disk space set aside for frames. Raises OSError(ENOSPC)."""

    def _provide(self, frames: int) -> None:
        extents = self.table.keep(frames)
        try:
            for extent in pieces_of(extents, _PROVIDE_FRAMES):
                self._provide_extent(extent)
        except OSError as exc:
            self._give_up(extents)
            self._punch_image()
            if exc.errno in _NO_SPACE:
                if self.table.count_all((HELD, OLD)) >= frames:
                    raise FramesHeld from exc
                raise posix_error(errno.ENOSPC) from exc
            raise

    def _keep_again(self) -> None:
        """Keep as many frames as there should be; first those that have memory still, not punched yet."""
        missing = self._to_keep - self.table.count(KEPT)
        for extent in self._unpunched:
            for kept in self.table.keep(missing, within=extent):
                missing -= kept.frames
                with contextlib.suppress(OSError):
                    self._provide_extent(kept)
        if missing:
            with contextlib.suppress(OSError):
                self._provide(missing)

    def _give_up(self, extents: list[Extent]) -> None:
        """Give back the memory of frames that were kept."""
        for extent in extents:
            if self.table.state(extent.pfn) == KEPT:
                self.table.give_up(extent)
            self._discard(extent)
        self._punch_later(extents)

    # --- helpers ---------------------------------------------------------------------------------

    def _copy_frames(self, image: Image, pfn: int, count: int) -> list[int]:
        """Copy frames to another image; return those that are lost."""
        try:
            data = b"".join(self._load(*extent) for extent in self._uniform_extents(pfn, count))
        except (OSError, PramError):
            if count == 1:
                return [pfn]
            return [lost for one in range(count) for lost in self._copy_frames(image, pfn + one, 1)]
        image.write(pfn << PAGE_SHIFT, data)
        csums = self._csums[pfn : pfn + count]
        return [
            pfn + at
            for at, page in enumerate(pages_of(data))
            if csums[at] not in (UNKNOWN_CSUM, crc32c(page))
        ]

    @abstractmethod
    def _require_memory(self, count: int) -> None:
        """Raise FramesHeld or NoRoom unless there is memory for that many more frames."""

    def _raise_no_memory(self, count: int) -> NoReturn:
        """Raise FramesHeld if a save gives back the memory of as many frames, else NoRoom."""
        raise FramesHeld if self.table.count_all((HELD, OLD)) >= count else NoRoom

    @abstractmethod
    def _store(self, start_bytes: int, data: Data) -> None: ...

    @abstractmethod
    def _load(self, pfn: int, count: int) -> bytes:
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
        for _, count in extents:
            self._unpunched_frames += count
        if self._unpunched_frames >= _PUNCH_BACKLOG:
            self._punch_image()

    def _punch_image(self) -> None:
        if self._holes is None:
            return
        self._holes.give_back(self.table, self._NOT_IN_IMAGE, _merged(self._unpunched))
        self._unpunched = []
        self._unpunched_frames = 0

    def _release_one(self, pfn: int) -> None:
        """Do the same as `release` for a single frame, faster."""
        state = self.table.release_one(pfn)
        if state in (FRESH, GOING):
            self._discard(Extent(pfn, 1))
        elif state == WRITTEN:
            self._punch_later([Extent(pfn, 1)])

    def _uniform_extents(self, pfn: int, count: int) -> Iterator[Extent]:
        if self._same_store(pfn, count):
            yield Extent(pfn, count)
        else:
            for one in range(pfn, pfn + count):
                yield Extent(one, 1)

    def _remember_unsummed(self, pfn: int, count: int) -> None:
        behind = pfn + count
        if self._unsummed:
            first, end = last = self._unsummed[-1]
            if first <= pfn <= end:
                if end < behind:
                    last[1] = behind
                return
        self._unsummed.append([pfn, behind])

    def _sum_unknown(self, pfn: int, count: int) -> None:
        """Compute the checksums not known yet.

        Reads no other page, so that an unreadable page whose checksum is known does not fail the save.
        """
        csums = self._csums
        for start in range(pfn, pfn + count, COPY_FRAMES):
            unknown = [
                one
                for one in range(start, min(start + COPY_FRAMES, pfn + count))
                # A page that was never verified may be damaged: it keeps the checksum of the last save.
                if csums[one] == UNKNOWN_CSUM and not self._is_unverified(one)
            ]
            for extent in extents_of(unknown):
                data = b"".join(self._load(*part) for part in self._uniform_extents(*extent))
                for at, page in enumerate(pages_of(data)):
                    csums[extent.pfn + at] = crc32c(page)

    def _is_unverified(self, pfn: int) -> bool:
        return self._unverified is not None and bool(self._unverified[pfn])

    def _is_doubtful(self, pfn: int, count: int) -> bool:
        """Return whether any of these frames must be verified before it is used."""
        assert self._unverified is not None
        return self._writeback_failed or self._unverified.find(1, pfn, pfn + count) >= 0

    def _verify(self, pfn: int, data: bytes, unverified: bytearray) -> None:
        for at, page in enumerate(pages_of(data)):
            csum = self._csums[pfn + at]
            lost = self._writeback_failed and csum != UNKNOWN_CSUM
            if (unverified[pfn + at] or lost) and csum != crc32c(page):
                why = "the medium failed and lost it" if lost else "found on first read"
                raise DamagedPage(pfn + at, why)
            unverified[pfn + at] = 0


def pages_of(data: bytes | bytearray | memoryview) -> Iterator[memoryview]:
    """Yield the pages of `data`, one by one."""
    view = memoryview(data)
    for start in range(0, len(view), PAGE_SIZE):
        yield view[start : start + PAGE_SIZE]


def _common(extents: list[Extent], others: list[Extent]) -> list[Extent]:
    """Return what two lists of extents, both in order, have in common."""
    common = []
    left, right = deque(extents), deque(others)
    while left and right:
        start, end = max(left[0].pfn, right[0].pfn), min(sum(left[0]), sum(right[0]))
        if start < end:
            common.append(Extent(start, end - start))
        (left if sum(left[0]) == end else right).popleft()
    return common


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
