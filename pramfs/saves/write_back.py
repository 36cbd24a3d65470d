"""When to write pages back to the image before a save asks for them, and how many at a time.

As dirty pages of other file systems are: when there are more than the medium writes in a given time, or when
memory runs short. Below that the medium is left alone, because much of what is written is written again, or
deleted, before the next save.
"""

import time

from pramfs.errors import PramError
from pramfs.saves.pace import Pace
from pramfs.storage.arena import Arena
from pramfs.storage.frames import FRESH
from pramfs.storage.memory_arena import MemoryArena, WriteBack

_BATCH_S = 1  # a save has to wait for a batch that is under way
_BATCH_MIN_PAGES = 1024  # 4 MiB: enough to measure the pace by
_BATCH_MAX_PAGES = 16384
_LIMIT_AT_FIRST_PAGES = 16384  # 64 MiB, as long as the pace is not known
_PAUSE_S = 30  # after an error


class WriteBacks:
    """The write-backs of one arena, one at a time.

    `seconds`: what the medium can write in that time may stay unwritten; 0: everything may, as long as there
    is memory. Only the thread that changes the tree may call it.
    """

    def __init__(self, arena: Arena, pace: Pace, seconds: int) -> None:
        self._arena = arena
        self._pace = pace
        self._seconds = seconds
        self._paused_until_s = 0.0
        self._under_way: WriteBack | None = None

    @property
    def memory_is_short(self) -> bool:
        """Whether a write-back should make memory free before more is written."""
        return self._outlet is not None and self._outlet.memory_is_short

    @property
    def memory_is_ample(self) -> bool:
        """Whether writers who have waited for memory may go on."""
        return self._outlet is None or self._outlet.memory_is_ample

    @property
    def may_be_needed(self) -> bool:
        """Whether there is enough to write back, should others need the memory."""
        return self._outlet is not None and self._outlet.table.count(FRESH) >= _BATCH_MIN_PAGES

    def pages_wanted(self, *, for_memory: bool) -> int:
        """Return how many pages should be written back now, 0 if none.

        `for_memory`: writers wait until memory is ample.
        """
        if self._outlet is None or time.monotonic() < self._paused_until_s:
            return 0
        fresh = self._outlet.table.count(FRESH)
        too_many = fresh - self._limit() if self._seconds else 0
        needs_memory = not self.memory_is_ample if for_memory else self.memory_is_short
        if too_many < _BATCH_MIN_PAGES and not needs_memory:
            return 0
        batch = self._pace.pages_in(_BATCH_S)
        return min(fresh, max(_BATCH_MIN_PAGES, min(batch, _BATCH_MAX_PAGES)))

    def begin(self, pages: int) -> WriteBack:
        """Begin to write up to that many pages back; `settle` ends it."""
        assert self._outlet is not None
        self._under_way = self._outlet.begin_write_back(pages)
        return self._under_way

    def write(self, back: WriteBack) -> None:
        """Write them, and make them durable. Thread-safe."""
        start = time.monotonic()
        if back.write() is None:
            self._pace.note(back.frames, time.monotonic() - start)

    def settle(self) -> OSError | PramError | None:
        """Wait for the end of a write-back under way, and record it; return its error.

        One that `write` was not called for has failed. After an error nothing is written back for a while.
        """
        back, self._under_way = self._under_way, None
        if back is None:
            return None
        error = back.finish()
        if error is not None:
            self._paused_until_s = time.monotonic() + _PAUSE_S
        return error

    @property
    def _outlet(self) -> MemoryArena | None:
        """The arena, if pages can go out of it now: a save to another image may change that."""
        arena = self._arena
        return arena if isinstance(arena, MemoryArena) and arena.can_write_back else None

    def _limit(self) -> int:
        pages = self._pace.pages_in(self._seconds)
        return pages if pages >= 0 else _LIMIT_AT_FIRST_PAGES
