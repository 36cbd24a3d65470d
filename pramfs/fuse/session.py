"""Replace pyfuse3's request loop: adaptive polling, and concurrency while a handler waits.

pyfuse3 makes a trip through trio's scheduler before every request, and starts tasks as requests come. Here
one task reads all requests. After a request it polls for the next one without sleeping for a moment, for
that is how long a program takes that makes small requests one after the other; then it sleeps in poll(2) for
up to a millisecond; only then does it park in trio. Polling stops by itself when it finds too little.
docs/performance.md has the measurements.

A handler that takes long calls `serve_on`, and another task reads requests until that handler is done.

pyfuse3 3.5 looks `_wait_fuse_readable` up in its own module for each request; that is what is replaced. A
pyfuse3 without these names is run as it is.
"""

import errno
import logging
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from pramfs.fuse.handshake import Handshake

_SPIN_NS = 100_000
_POLL_MS = 1
_LET_OTHERS_RUN_NS = 5_000_000
_SPIN_CREDIT_AT_FIRST = 4
_SPIN_CREDIT_MAX = 8


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a word of pyfuse3's is of use: an unmount takes open files from it before it has closed them.

    The kernel then wants no answer to RELEASE, and says ENOENT to it; all has been done by then.
    """
    late = (os.strerror(errno.ENOENT),)
    return not (record.msg == "fuse_release(): fuse_reply_* failed with %s" and record.args == late)


logging.getLogger("pyfuse3").addFilter(_is_news)


class Session:
    """Runs pyfuse3's main loop.

    `idle_work` does a little work and returns whether there is more; `on_ready` is called once the kernel
    has made contact.
    """

    def __init__(self, idle_work: Callable[[], bool], on_ready: Callable[[], None]) -> None:
        self._idle_work = idle_work
        self._on_ready = on_ready
        self._handshake: Handshake | None = None
        self._greeted = False
        self._poll = select.poll()
        self._fd = -1
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
        self._fd = _fuse_fd()
        self._handshake = Handshake(self._fd)
        self._poll.register(self._fd, select.POLLIN)
        module: Any = pyfuse3
        original = module._wait_fuse_readable
        module._wait_fuse_readable = self._wait_readable
        try:
            await pyfuse3.main(0, 0)  # no task but the first, and those that serve_on starts
        finally:
            module._wait_fuse_readable = original

    def serve_on(self) -> None:
        """Let another task read requests: the calling handler is about to wait for something."""
        if self._is_replaceable and not self._reading:
            nursery = trio.lowlevel.current_task().parent_nursery
            assert nursery is not None
            module: Any = pyfuse3
            nursery.start_soon(module._session_loop, nursery, 0, 0)

    def finish(self) -> None:
        """End `run` as soon as the requests that are there have been served; later ones fail."""
        self._closing = True
        if self._is_replaceable:
            trio.lowlevel.notify_closing(self._fd)
        else:
            pyfuse3.terminate()

    async def _wait_readable(self) -> bool:
        """Wait for a request. False ends the task that asks."""
        if self._reading:
            return False  # another task took over while this one's handler was waiting
        if self._handshake is not None and not self._greeted:
            self._greeted = True
            return True  # the first request is there already
        if self._handshake is not None:
            self._handshake.finish()  # it has been answered
            self._handshake = None
            self._on_ready()
        self._reading = True
        try:
            return await self._next_request()
        except trio.ClosedResourceError:
            return self._is_readable()  # `finish` has woken us
        finally:
            self._reading = False

    async def _next_request(self) -> bool:
        await self._let_others_run()
        while not self._is_readable():
            # Before it looks: a save that follows a burst of small files would have all checksums to do.
            if not self._idle_work():
                break
            await self._let_others_run()
        else:
            return True
        if self._spin() or self._poll_briefly():
            return True
        if self._closing:
            return False  # `finish` may have come while others ran: nobody would wake us
        await trio.lowlevel.wait_readable(self._fd)
        self._others_ran_ns = time.monotonic_ns()
        return True

    async def _let_others_run(self) -> None:
        """Give trio's other tasks a turn, if they have not had one lately: each costs a trip."""
        now = time.monotonic_ns()
        if now - self._others_ran_ns > _LET_OTHERS_RUN_NS:
            await trio.lowlevel.checkpoint()
            self._others_ran_ns = now

    def _is_readable(self) -> bool:
        return bool(self._poll.poll(0))

    def _spin(self) -> bool:
        """Poll without sleeping, as long as there is credit: a request that is found adds to it."""
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
        """Sleep in poll(2) for a moment. A request that comes soon earns credit to spin again."""
        start = time.monotonic_ns()
        found = bool(self._poll.poll(_POLL_MS))
        if found and self._spin_credit == 0 and time.monotonic_ns() - start < _SPIN_NS:
            self._spin_credit = 1
        return found


def _fuse_fd() -> int:
    """The descriptor of the FUSE session, which pyfuse3 keeps to itself."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":
                return int(name)
        except FileNotFoundError:
            continue  # the descriptor that listed the directory
    raise RuntimeError(f"no FUSE session among {Path('/proc/self/fd')}")
