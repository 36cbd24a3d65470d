"""The loop that serves a session, with adaptive polling.

A single task reads all requests and has the front answer them. After a request it takes the next one at
once, if there is one; then it polls without sleeping, about as long as a program takes between small
requests; then it sleeps in poll(2) for up to a millisecond; and only then does it wait in trio. Polling
ends by itself when it finds too few requests. docs/performance.md has the measurements.

pyfuse3 looks up `_wait_fuse_readable` in its module for each request that it reads, so that it can be
replaced there by this loop, which returns when a request has been carried to pyfuse3. None of its
handlers waits; what has to is answered by tasks of the front.
"""

import logging
import math
import mmap
import os
import select
import time
from collections.abc import Callable
from typing import Any

import pyfuse3
import trio

from pramfs.fuse.device_mount import fuse_descriptors
from pramfs.fuse.front import ANSWERED, CARRIED, NOTHING, UNMOUNTED, Front, Outcome
from pramfs.fuse.handshake import Handshake
from pramfs.fuse.notices import Notices
from pramfs.fuse.seam import Seam
from pramfs.storage.piped import Pipe

log = logging.getLogger("pramfs")

_SPIN_NS = 100_000
_POLL_MS = 1
_LET_OTHERS_RUN_NS = 5_000_000
_LOOK_AGAIN_S = 0.01  # at the end
_LAST_NS = 500_000_000
_LAST_NOTICES_NS = 5_000_000_000
# Between requests: what is summed then is read again, and takes time from those who make them.
_GAPS_PER_WORK = 64
_SPIN_CREDIT_AT_FIRST = 4
_SPIN_CREDIT_MAX = 8


class Session:
    """Runs pyfuse3's main loop. To be made before pyfuse3 is initialised.

    `idle_work` does a little work that can be left out, and returns whether there is more;
    `on_internal_error` is called when it raises what nobody expects. `on_ready` is called after the kernel
    has initialised the session.
    """

    def __init__(
        self,
        idle_work: Callable[[], bool],
        on_ready: Callable[[], None],
        on_internal_error: Callable[[], None],
    ) -> None:
        self._idle_work = idle_work
        self._on_ready = on_ready
        self._on_internal_error = on_internal_error
        self._handshake: Handshake | None = None
        self._greeted = False
        self._poll = select.poll()
        self._foreign = fuse_descriptors()  # inherited
        self._closing = False
        self._end_ns = math.inf  # when what comes is not served any more
        self.is_idle = False  # no request has come for a while
        self._spin_credit = _SPIN_CREDIT_AT_FIRST if len(os.sched_getaffinity(0)) > 1 else -1
        self._others_ran_ns = 0
        self._gaps = 0
        self._active = trio.Event()

    async def run(
        self, front: Front, notices: Notices, *, answers_open: bool, cached_writes: bool
    ) -> None:
        """Serve requests until the file system is unmounted or `finish` is called.

        `answers_open`: OPEN is not answered ENOSYS. `cached_writes`: most writes come from the page cache.
        """
        (session_fd,) = fuse_descriptors() - self._foreign  # pyfuse3 does not expose it
        self._seam = seam = Seam(session_fd)
        self._front = front
        self._notices = notices
        self._fd = seam.kernel
        self._poll.register(self._fd, select.POLLIN)
        pipe = _pipe() if cached_writes else None
        write_max_bytes = pipe.size_bytes - mmap.PAGESIZE if pipe is not None else None
        module: Any = pyfuse3
        original = module._wait_fuse_readable
        module._wait_fuse_readable = self._serve_until_carried
        try:
            async with trio.open_nursery() as nursery, trio.open_nursery() as for_notices:
                notices.open(seam, for_notices.start_soon)
                front.open(seam, nursery.start_soon, pipe)
                self._handshake = Handshake(
                    seam, answers_open=answers_open, write_max_bytes=write_max_bytes
                )
                await pyfuse3.main(0, 0)  # no tasks except the first
                for_notices.cancel_scope.cancel()  # they may wait for requests, which nobody serves now
        finally:
            module._wait_fuse_readable = original
            notices.close()
            seam.close()
            if pipe is not None:
                pipe.close()

    async def activity(self) -> None:
        """Wait for the next sign that requests come; returns within milliseconds while they do."""
        await self._active.wait()

    def finish(self) -> None:
        """End `run` after the requests that have arrived are served, and those that somebody waits for.

        Later ones fail. Programs that make one after the other get half a second: with a few of them
        there is always one that has arrived.
        """
        self._closing = True
        self._end_ns = time.monotonic_ns() + _LAST_NS
        trio.lowlevel.notify_closing(self._fd)

    async def _serve_until_carried(self) -> bool:
        """Serve until a request has been carried to pyfuse3; return False to end the calling task."""
        if self._handshake is not None and not self._greeted:
            self._greeted = True
            return True  # the first request has arrived already
        if self._handshake is not None:
            self._handshake.finish()  # FUSE_INIT has been answered
            self._handshake = None
            self._on_ready()
        self._seam.carry_back()
        return await self._serve()

    async def _serve(self) -> bool:
        while True:
            await self._let_others_run()
            if self._others_ran_ns > self._end_ns and self._may_end():
                return False
            outcome = self._serve_burst()
            self._front.catch_up()
            if outcome is CARRIED:
                return True
            if outcome is UNMOUNTED:
                return False
            if outcome is NOTHING and not await self._next_request():
                return False

    def _serve_burst(self) -> Outcome:
        """Serve requests one after the other until others must run, or none comes soon.

        Without a trip through coroutines in between, and without polling while there are more.
        """
        front, serve_next, now = self._front, self._front.serve_next, time.monotonic_ns
        until = self._others_ran_ns + _LET_OTHERS_RUN_NS
        while True:
            outcome = serve_next()
            if outcome is NOTHING:
                outcome = self._pass_time()
            if outcome is not ANSWERED:
                return outcome
            if front.awaited or now() > until:
                return ANSWERED

    def _work_while_idle(self) -> bool:
        """Do a little idle work; return whether there is more. No error in it ends the mount."""
        try:
            return self._idle_work()
        except MemoryError:
            return False
        except Exception:
            log.exception("internal error in idle work: none is done from now on")
            self._on_internal_error()
            self._idle_work = lambda: False
            return False

    def _pass_time(self) -> Outcome:
        """Poll without sleeping, or do idle work; return NOTHING if there is neither a request nor work.

        Polling comes first, because the next request of a burst would have to wait for the work. But some is
        done in between: else a save after a burst of small files would have to compute all checksums.
        """
        self._gaps += 1
        if self._gaps % _GAPS_PER_WORK == 0 and self._work_while_idle():
            return ANSWERED
        outcome = NOTHING if self._front.awaited else self._spin()
        if outcome is NOTHING and self._work_while_idle():
            return ANSWERED
        return outcome

    async def _next_request(self) -> bool:
        """Wait for a request; return False if there is to be none."""
        if not self._front.awaited and self._poll_briefly():
            return True
        if self._closing:  # `finish` may have been called while other tasks ran
            return await self._last_requests()
        self.is_idle = True
        try:
            await trio.lowlevel.wait_readable(self._fd)
        except trio.ClosedResourceError:  # woken by `finish`
            return await self._last_requests()
        finally:
            self.is_idle = False
        self._others_ran_ns = time.monotonic_ns()
        self._note_activity()
        return True

    async def _last_requests(self) -> bool:
        """Wait for a request as long as somebody needs some to be served; return False if there is none."""
        while not self._is_readable():
            if self._may_end():
                return False
            with trio.move_on_after(_LOOK_AGAIN_S):
                await trio.lowlevel.wait_readable(self._fd)
        return True

    def _may_end(self) -> bool:
        """Return whether nobody needs requests to be served, the kernel because of notices among them."""
        now, front, notices = time.monotonic_ns(), self._front, self._notices
        if now > self._end_ns or not front.is_needed:
            notices.begin_no_more()
        if front.is_needed:
            return False
        return not notices.are_under_way or now > self._end_ns + _LAST_NOTICES_NS

    async def _let_others_run(self) -> None:
        """Let other trio tasks run, unless they ran recently: it costs a trip through the scheduler."""
        now = time.monotonic_ns()
        if now - self._others_ran_ns > _LET_OTHERS_RUN_NS or self._front.awaited:
            self._note_activity()
            await trio.lowlevel.checkpoint()
            self._others_ran_ns = now

    def _note_activity(self) -> None:
        self._active.set()
        self._active = trio.Event()

    def _is_readable(self) -> bool:
        return bool(self._poll.poll(0))

    def _spin(self) -> Outcome:
        """Poll without sleeping while there is credit; each request that comes adds to it.

        By reading: a request that poll(2) has found would have to be read, too.
        """
        if self._spin_credit <= 0:
            return NOTHING
        serve_next, now = self._front.serve_next, time.monotonic_ns
        deadline = now() + _SPIN_NS
        while now() < deadline:
            outcome = serve_next()
            if outcome is not NOTHING:
                self._spin_credit = min(self._spin_credit + 1, _SPIN_CREDIT_MAX)
                return outcome
        self._spin_credit -= 1
        return NOTHING

    def _poll_briefly(self) -> bool:
        """Sleep in poll(2) for a moment. A request that arrives soon earns credit to spin again."""
        start = time.monotonic_ns()
        found = bool(self._poll.poll(_POLL_MS))
        if found and self._spin_credit == 0 and time.monotonic_ns() - start < _SPIN_NS:
            self._spin_credit = 1
        return found


def _pipe() -> Pipe | None:
    """Return a pipe for large requests, None if we may have none that is so wide."""
    try:
        return Pipe()
    except OSError:
        return None
