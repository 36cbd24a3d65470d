"""Check data pages against the checksums of their entries, on all processors.

Pages are read with system calls, so that a failing medium is an error and not a SIGBUS. Large checks are
shared among forked processes; Python threads would only take turns, as a page has no more than 4 KiB.
"""

import contextlib
import json
import mmap
import os
from array import array
from collections.abc import Iterator
from itertools import accumulate, groupby
from typing import NamedTuple

from crc32c import crc32c

from pramfs.errors import SystemFault
from pramfs.pram.links import Chain
from pramfs.storage.arena import Progress
from pramfs.storage.image import Image
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.system import oom_score
from pramfs.system.forked_call import interrupt_held

_PIECE_FRAMES = 64  # small enough to stay in a processor's cache
_SHARE_FRAMES = 16384  # fewer are not worth a process of their own
_BATCH_FRAMES = 1024
_BATCHES_MAX = 1024  # so that their numbers, 4 bytes each, fit into any pipe

# States of frames in FramesRead.
_UNREAD = 0
_READ = 1
_DAMAGED = 2


class _Piece(NamedTuple):
    at: int  # position of the first page in the entries
    pfn: int
    frames: int


class FramesRead:
    """The frames that several verifications, one after the other, have read: none of them is read twice.

    For images with shared frames, which several entries name. An entry that has the checksum of the first one
    for its frame has the same verdict; one that has another checksum is compared with the page itself.
    """

    def __init__(self, frames: int) -> None:
        # Both take memory only for frames that are named.
        self._states = mmap.mmap(-1, max(frames, 1))
        self._csums = memoryview(mmap.mmap(-1, max(frames, 1) * 4)).cast("I")

    def divide(self, chain: Chain) -> tuple[list[_Piece], list[_Piece]]:
        """Return the pages of the chain that are to be read, and those that are, or will be before these."""
        unread: list[_Piece] = []
        repeated: list[_Piece] = []
        for piece in _all_of(chain):
            for part in self._uniform_parts(chain, piece):
                if self._is_read(chain, part):
                    repeated.append(part)
                else:
                    self._note(chain, part)
                    unread.append(part)
        return unread, repeated

    def all_damaged(self, chain: Chain, damaged: list[int], repeated: list[_Piece]) -> list[int]:
        """Return the `damaged` positions of those that were read, and all that are so for the same reason."""
        pfns, csums = chain.entries.pfns, chain.entries.csums
        for at in damaged:
            if csums[at] == self._csums[pfns[at]]:
                self._states[pfns[at]] = _DAMAGED
        for at, pfn, frames in repeated:
            states = self._states[pfn : pfn + frames]
            if _DAMAGED in states:
                damaged += [at + n for n, state in enumerate(states) if state == _DAMAGED]
        return damaged

    def forget(self, pieces: list[_Piece]) -> None:
        """Note that these pages were not read after all."""
        for _, pfn, frames in pieces:
            self._states[pfn : pfn + frames] = bytes(frames)

    def _uniform_parts(self, chain: Chain, piece: _Piece) -> Iterator[_Piece]:
        """Yield parts of which all pages were read, or none; nearly always the whole piece."""
        at, pfn, frames = piece
        states = self._states[pfn : pfn + frames]
        if states.count(_UNREAD) == frames or self._is_read(chain, piece):
            yield piece
            return
        for _, group in groupby(
            range(frames), lambda n: self._is_read(chain, _Piece(at + n, pfn + n, 1))
        ):
            numbers = list(group)
            yield _Piece(at + numbers[0], pfn + numbers[0], len(numbers))

    def _is_read(self, chain: Chain, piece: _Piece) -> bool:
        """Return whether all these pages were read, and compared with the same checksums."""
        at, pfn, frames = piece
        if _UNREAD in self._states[pfn : pfn + frames]:
            return False
        csums = chain.entries.csums[at : at + frames]
        return self._csums[pfn : pfn + frames].tobytes() == csums.tobytes()

    def _note(self, chain: Chain, piece: _Piece) -> None:
        at, pfn, frames = piece
        states = self._states[pfn : pfn + frames]
        csums = chain.entries.csums[at : at + frames]
        if states.count(_UNREAD) == frames:
            self._csums[pfn : pfn + frames] = csums
            self._states[pfn : pfn + frames] = bytes((_READ,)) * frames
            return
        for one, (state, csum) in enumerate(zip(states, csums, strict=True), pfn):
            if state == _UNREAD:  # else it has two checksums, of which one is wrong
                self._csums[one] = csum
                self._states[one] = _READ


def damaged_entries(
    image: Image, chain: Chain, progress: Progress, read: FramesRead | None = None
) -> list[int]:
    """Return the positions, in the entries of `chain`, of pages that are damaged or cannot be read.

    `progress` is called with the number of pages checked since its last call. What is in `read` is not read
    again. May fork: see `Verification`.
    """
    with Verification(image, chain, progress, read) as verification:
        return verification.damaged()


class Verification:
    """A check of all data pages of a chain, which other processors begin as soon as it is entered.

    The caller may do something else before it calls `damaged`. Forks when there is much to check, so it
    must not be entered while other threads run.
    """

    def __init__(
        self, image: Image, chain: Chain, progress: Progress, read: FramesRead | None = None
    ) -> None:
        self._image = image
        self._chain = chain
        self._progress = progress
        self._read = read
        self._unread: list[_Piece] = []
        self._repeated: list[_Piece] = []

    def __enter__(self) -> "Verification":
        image, chain = self._image, self._chain
        if self._read is None:
            self._unread = _all_of(chain)
        else:
            self._unread, self._repeated = self._read.divide(chain)
        pages = sum(piece.frames for piece in self._unread)
        processors = len(os.sched_getaffinity(0))
        helpers = min(processors - 1, pages // _SHARE_FRAMES)
        self._queue = _Queue(_batches(self._unread, pages))
        self._tally = _Tally(helpers, self._progress)
        self._others = [
            _Helper(image, chain, self._queue, self._tally.counter(n)) for n in range(helpers)
        ]
        return self

    def damaged(self) -> list[int]:
        """Check the rest, and return the sorted positions of damaged pages. Raises SystemFault."""
        damaged = _check(self._image, self._chain, self._queue, self._tally)
        while self._others:
            damaged += self._others.pop().result()
        if self._read is not None:
            damaged = self._read.all_damaged(self._chain, damaged, self._repeated)
            self._unread = []
            self._tally(sum(piece.frames for piece in self._repeated))
        self._tally.tell()
        return sorted(damaged)

    def __exit__(self, *exc: object) -> None:
        if self._read is not None:
            self._read.forget(self._unread)
        self._queue.close()
        for helper in self._others:
            with contextlib.suppress(
                SystemFault
            ):  # ^C ends them, too, and is what is to be heard of
                helper.result()
        self._tally.close()


def _all_of(chain: Chain) -> list[_Piece]:
    """Return all pages of the chain, a piece for each extent."""
    starts = accumulate((frames for _, frames in chain.extents), initial=0)
    return [_Piece(at, *extent) for at, extent in zip(starts, chain.extents, strict=False)]


def _batches(pieces: list[_Piece], pages: int) -> list[list[_Piece]]:
    """Return the pieces, which have so many pages, in batches of the same size."""
    most = max(_BATCH_FRAMES, -(-pages // _BATCHES_MAX))
    batches: list[list[_Piece]] = [[]]
    room = most
    for at, pfn, frames in pieces:
        done = 0
        while done < frames:
            if not room:
                batches.append([])
                room = most
            part = min(frames - done, room)
            batches[-1].append(_Piece(at + done, pfn + done, part))
            done += part
            room -= part
    return batches


def _check(image: Image, chain: Chain, queue: "_Queue", progress: Progress) -> list[int]:
    damaged: list[int] = []
    for at, pfn, frames in queue.pieces():
        expected = chain.entries.csums[at : at + frames].tolist()
        damaged.extend(at + bad for bad in _damaged_pages(image, pfn, expected))
        progress(frames)
    return damaged


def _damaged_pages(image: Image, pfn: int, expected: list[int]) -> list[int]:
    """Return which of the pages from frame `pfn` on do not have the `expected` checksums."""
    try:
        data = memoryview(image.read(pfn, len(expected)))
    except SystemFault:
        if len(expected) == 1:
            return [0]
        return [at for at, csum in enumerate(expected) if _damaged_pages(image, pfn + at, [csum])]
    found = [crc32c(data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE)]
    if found == expected:
        return []
    return [at for at in range(len(data) >> PAGE_SHIFT) if found[at] != expected[at]]


class _Queue:
    """Batches of pages for several processes: each takes the next one's number from a shared pipe."""

    def __init__(self, batches: list[list[_Piece]]) -> None:
        self._batches = batches
        self._numbers, write_end = os.pipe()
        os.write(write_end, array("I", range(len(batches))).tobytes())
        os.close(write_end)

    def pieces(self) -> Iterator[_Piece]:
        """Yield the pieces of batches that no other process has taken, until there are no more."""
        while number := os.read(self._numbers, 4):
            for at, pfn, frames in self._batches[int.from_bytes(number, "little")]:
                for start in range(0, frames, _PIECE_FRAMES):
                    count = min(_PIECE_FRAMES, frames - start)
                    yield _Piece(at + start, pfn + start, count)

    def close(self) -> None:
        """Empty the queue, so that the other processes stop too, after an error or an interrupt."""
        while os.read(self._numbers, 4 * _BATCHES_MAX):
            pass
        os.close(self._numbers)


class _Tally:
    """Reports the progress of this process and its helpers together."""

    def __init__(self, helpers: int, progress: Progress) -> None:
        self._memory = mmap.mmap(-1, max(1, helpers) * 8)  # shared with the processes to come
        self._counters = memoryview(self._memory).cast("Q")
        self._progress = progress
        self._pid = os.getpid()
        self._own = 0
        self._told = 0

    def counter(self, helper: int) -> Progress:
        """Return the progress function of a helper; it ends the helper when the parent is gone."""

        def count(frames: int) -> None:
            self._counters[helper] += frames
            # A helper holds the lock of the image: the next mount must not have to wait for a useless check.
            if os.getppid() != self._pid:
                raise SystemExit

        return count

    def __call__(self, frames: int) -> None:
        self._own += frames
        self.tell()

    def tell(self) -> None:
        """Report the pages checked since the last report."""
        done = self._own + sum(self._counters)
        self._progress(done - self._told)
        self._told = done

    def close(self) -> None:
        """Unmap the shared memory."""
        self._counters.release()
        self._memory.close()


class _Helper:
    """A forked process that checks its share of the pages, and reports damaged ones through a pipe."""

    def __init__(self, image: Image, chain: Chain, queue: _Queue, progress: Progress) -> None:
        self._read_end, write_end = os.pipe()
        with interrupt_held():
            self._pid = os.fork()
        if self._pid:
            os.close(write_end)
            return
        try:
            oom_score.be_like_others()
            with os.fdopen(write_end, "w") as pipe:
                json.dump(_check(image, chain, queue, progress), pipe)
            os._exit(0)
        finally:
            os._exit(1)

    def result(self) -> list[int]:
        """Wait for the process, and return what it found. Raises SystemFault if it died."""
        with os.fdopen(self._read_end) as pipe:
            text = pipe.read()
        _, status = os.waitpid(self._pid, 0)
        if status:
            raise SystemFault(f"a process that verified pages died (wait status {status})")
        return [int(at) for at in json.loads(text)]
