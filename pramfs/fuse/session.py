"""Replace pyfuse3's request loop: adaptive polling, and concurrency while a handler waits.

pyfuse3 goes through trio's scheduler before every request, and starts tasks as requests come. Here a single
task reads all requests. After a request it first polls for the next one without sleeping, about as long as
a program takes between small requests; then it sleeps in poll(2) for up to a millisecond; and only then does
it wait in trio. Polling ends by itself when it finds too few requests. docs/performance.md has the
measurements.

A handler that has to wait calls `serve_on`, and another task reads requests until that handler is done.

pyfuse3 3.5 looks up `_wait_fuse_readable` in its module for each request, so that it can be replaced there.
A pyfuse3 without that name is run unchanged.
"""

import contextlib
import errno
import logging
import os
import select
import stat
import time
from collections.abc import Callable
from typing import Any

import pyfuse3
import trio

from pramfs.fuse.handshake import Handshake

_FUSE_DEVICE = os.makedev(10, 229)
_SPIN_NS = 100_000
_POLL_MS = 1
_LET_OTHERS_RUN_NS = 5_000_000
_SPIN_CREDIT_AT_FIRST = 4
_SPIN_CREDIT_MAX = 8


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record of pyfuse3 matters: not an ENOENT for the reply to RELEASE.

    When a mount with open files is unmounted, the kernel drops the request before it is answered.
    """
    late = (os.strerror(errno.ENOENT),)
    return not (record.msg == "fuse_release(): fuse_reply_* failed with %s" and record.args == late)


logging.getLogger("pyfuse3").addFilter(_is_news)


class Session:
    """Runs pyfuse3's main loop. To be made before pyfuse3 is initialised.

    `idle_work` does a little work and returns whether there is more. `on_ready` is called after the kernel
    has initialised the session.
    """

    def __init__(self, idle_work: Callable[[], bool], on_ready: Callable[[], None]) -> None:
        self._idle_work = idle_work
        self._on_ready = on_ready
        self._handshake: Handshake | None = None
        self._greeted = False
        self._poll = select.poll()
        self._fd = -1
        self._foreign = _fuse_descriptors()  # inherited
        self._closing = False
        self._reading = False  # a task is waiting for the next request
        self._spin_credit = _SPIN_CREDIT_AT_FIRST if len(os.sched_getaffinity(0)) > 1 else -1
        self._others_ran_ns = 0
        self._is_replaceable = hasattr(pyfuse3, "_wait_fuse_readable") and hasattr(
            pyfuse3, "_session_loop"
        )

    async def run(self) -> None:
        """Serve requests until the file system is unmounted or `finish` is called."""
        if not self._is_replaceable:
            self._on_ready()
            await pyfuse3.main()
            return
        (self._fd,) = _fuse_descriptors() - self._foreign  # pyfuse3 does not expose it
        self._handshake = Handshake(self._fd)
        self._poll.register(self._fd, select.POLLIN)
        module: Any = pyfuse3
        original = module._wait_fuse_readable
        module._wait_fuse_readable = self._wait_readable
        try:
            await pyfuse3.main(0, 0)  # no tasks except the first and those that serve_on starts
        finally:
            module._wait_fuse_readable = original

    def serve_on(self) -> None:
        """Let another task read requests, because the calling handler is about to wait."""
        if self._is_replaceable and not self._reading:
            nursery = trio.lowlevel.current_task().parent_nursery
            assert nursery is not None
            module: Any = pyfuse3
            nursery.start_soon(module._session_loop, nursery, 0, 0)

    def finish(self) -> None:
        """End `run` after the requests that have arrived are served; later ones fail."""
        self._closing = True
        if self._is_replaceable:
            trio.lowlevel.notify_closing(self._fd)
        else:
            pyfuse3.terminate()

    async def _wait_readable(self) -> bool:
        """Wait for a request; return False to end the calling task."""
        if self._reading:
            return False  # another task took over while the handler of this one was waiting
        if self._handshake is not None and not self._greeted:
            self._greeted = True
            return True  # the first request has arrived already
        if self._handshake is not None:
            self._handshake.finish()  # FUSE_INIT has been answered
            self._handshake = None
            self._on_ready()
        self._reading = True
        try:
            return await self._next_request()
        except trio.ClosedResourceError:
            return self._is_readable()  # woken by `finish`
        finally:
            self._reading = False

    async def _next_request(self) -> bool:
        await self._let_others_run()
        while not self._is_readable():
            # Before polling: else a save after a burst of small files has to compute all checksums itself.
            if not self._idle_work():
                break
            await self._let_others_run()
        else:
            return True
        if self._spin() or self._poll_briefly():
            return True
        if self._closing:
            return False  # `finish` may have been called while other tasks ran, and would not wake this one
        await trio.lowlevel.wait_readable(self._fd)
        self._others_ran_ns = time.monotonic_ns()
        return True

    async def _let_others_run(self) -> None:
        """Let other trio tasks run, unless they ran recently: it costs a trip through the scheduler."""
        now = time.monotonic_ns()
        if now - self._others_ran_ns > _LET_OTHERS_RUN_NS:
            await trio.lowlevel.checkpoint()
            self._others_ran_ns = now

    def _is_readable(self) -> bool:
        return bool(self._poll.poll(0))

    def _spin(self) -> bool:
        """Poll without sleeping while there is credit; each request that is found adds to it."""
        if self._spin_credit <= 0:
            return False
        deadline = time.monotonic_ns() + _SPIN_NS
        poll = self._poll.poll
        while time.monotonic_ns() < deadline:
            if poll(0):
                self._spin_credit = min(self._spin_credit + 1, _SPIN_CREDIT_MAX)
                return True
        self._spin_credit -= 1
        return False

    def _poll_briefly(self) -> bool:
        """Sleep in poll(2) for a moment. A request that arrives soon earns credit to spin again."""
        start = time.monotonic_ns()
        found = bool(self._poll.poll(_POLL_MS))
        if found and self._spin_credit == 0 and time.monotonic_ns() - start < _SPIN_NS:
            self._spin_credit = 1
        return found


def _fuse_descriptors() -> set[int]:
    """Return the descriptors of FUSE sessions in this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor that was used to list the directory
            status = os.fstat(int(name))
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == _FUSE_DEVICE:
                found.add(int(name))
    return found
