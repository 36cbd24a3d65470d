"""Deduplication of a running mount: once, when it is asked for, or for ever with `-o dedup`.

The work is done in slices of a millisecond, and requests are served in between.
"""

import errno
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, replace

import trio

from pramfs.control.dedup_report import DedupReport
from pramfs.daemon.loader import Volume
from pramfs.errors import ReadOnlyImage, posix_error, words_of
from pramfs.saves.tree_nodes import DATA_SUFFIX
from pramfs.tree.dedup import Dedup
from pramfs.tree.inodes import File

log = logging.getLogger("pramfs")

_SLICE_NS = 1_000_000
_TURN_S = 0.005  # for requests, where there are always some
_BUSY_S = 0.05  # until it is looked whether there are still requests
_SETTLE_S = 1  # from a write until it is looked at: more may follow
_PAUSE_S = 60  # after an error


class Deduplication:
    """Deduplicates the tree of one volume, in one task at a time.

    `is_idle` says whether no request is being served or expected; `flush` has the kernel hand over its dirty
    pages; `on_holes` is called for a file that has got holes.
    """

    def __init__(
        self,
        volume: Volume,
        is_idle: Callable[[], bool],
        flush: Callable[[], Awaitable[object]],
        on_holes: Callable[[File], None],
    ) -> None:
        self._volume = volume
        self._is_idle = is_idle
        self._flush = flush
        self._on_holes = on_holes
        self._running = trio.Lock()
        self._lasting: Dedup | None = None  # with -o dedup
        self._news = trio.Event()
        self._outcome = DedupReport()
        self._done = self._total = 0  # pages of the run under way that was asked for

    def report(self) -> DedupReport:
        """Return the outcome of the last run that was asked for, and how far one under way is."""
        return replace(self._outcome, done=self._done, total=self._total)

    async def run(self, is_wanted: Callable[[], bool]) -> None:
        """Deduplicate everything, as long as it is wanted. Raises ReadOnlyImage; EINTR if it was given up."""
        if self._volume.read_only:
            raise ReadOnlyImage
        await self._flush()
        async with self._running:
            dedup = self._lasting or self._new_dedup()
            self._done, self._total = 0, max(1, self._volume.tree.space.pages)
            try:
                for looked in _sliced(dedup.look_at_all()):
                    self._done += looked
                    if not is_wanted():
                        raise posix_error(errno.EINTR)
                    await self._let_requests_come()
            finally:
                self._done = self._total = 0
            self._outcome = DedupReport(**asdict(dedup.counts))

    async def go_on(self) -> None:
        """Deduplicate everything, and then what is written, whenever there are no requests."""
        dedup = self._lasting = self._new_dedup()
        dedup.watch(self._note_news)
        while True:
            try:
                await self._look_at_news(dedup)
            except (OSError, MemoryError) as exc:
                log.warning("cannot deduplicate: %s", words_of(exc))
                dedup.look_at_all_again()
                await trio.sleep(_PAUSE_S)

    async def _look_at_news(self, dedup: Dedup) -> None:
        await self._news.wait()
        self._news = trio.Event()
        await trio.sleep(_SETTLE_S)
        async with self._running:
            for _ in _sliced(dedup.look_at_news()):
                await trio.lowlevel.checkpoint()
                # No event: setting one would cost each request.
                while not (self._is_idle() or self._is_awaited()):  # noqa: ASYNC110
                    await trio.sleep(_BUSY_S)
                if self._is_awaited():
                    dedup.look_at_all_again()  # as who waits will do
                    return

    def _new_dedup(self) -> Dedup:
        volume = self._volume
        own = volume.saver.name + DATA_SUFFIX
        return Dedup(volume.tree, self._on_holes, volume.pram.nodes, own)

    def _is_awaited(self) -> bool:
        """Return whether a run that was asked for waits for its turn."""
        return bool(self._running.statistics().tasks_waiting)

    def _note_news(self) -> None:
        self._news.set()

    async def _let_requests_come(self) -> None:
        if self._is_idle():
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(_TURN_S)


def _sliced(pieces: Iterator[int]) -> Iterator[int]:
    """Do the work in slices; yield after each how many pages it had."""
    pages, end_ns = 0, time.monotonic_ns() + _SLICE_NS
    for piece in pieces:
        pages += piece
        if time.monotonic_ns() >= end_ns:
            yield pages
            pages, end_ns = 0, time.monotonic_ns() + _SLICE_NS
