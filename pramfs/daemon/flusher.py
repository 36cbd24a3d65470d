"""A thread that flushes the mount of its own process, when no program can be started that would do it.

A process that waits for its own mount cannot be killed: the kernel ends what waits for a daemon once
/dev/fuse is closed, and that is not before all threads have ended that have it open. So this thread has a
table of descriptors of its own, which is empty. It is started when all is well: where no process can be
started, no thread can be, either.
"""

import contextlib
import queue
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import trio

from pramfs.system import mount_tools
from pramfs.system.mount_tools import Flushed

_LOOK_AGAIN_S = 0.005


class Flusher:
    """Flushes one at a time; `start` it before it is needed.

    `place` returns a mountpoint, as for `mount_tools.flush`; if it cannot, `mountpoint` is taken for one.
    """

    def __init__(self, place: Callable[[], Path | None], mountpoint: Path) -> None:
        self._place = place
        self._mountpoint = mountpoint
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._is_ready = False

    def start(self) -> None:
        """Start the thread, if that is possible."""
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._run, name="pramfs-flusher", daemon=True).start()

    async def flush(self, device: str) -> Flushed | None:
        """Flush the file system `device` without a program; None if there is no thread that may.

        Raises what the thread raises: OSError if the mount cannot be opened.
        """
        if not self._is_ready:
            return None
        outcome: list[Flushed | Exception] = []

        def call() -> None:
            try:
                outcome.append(mount_tools.flush_in_thread(self._likely_place(), device))
            except Exception as exc:  # noqa: BLE001 - who waits for it would wait for ever
                outcome.append(exc)

        self._calls.put(call)
        # The thread has no descriptor with which it could wake trio.
        while not outcome:  # noqa: ASYNC110
            await trio.sleep(_LOOK_AGAIN_S)
        (flushed,) = outcome
        if isinstance(flushed, Exception):
            raise flushed
        return flushed

    def _likely_place(self) -> Path | None:
        try:
            return self._place()
        except OSError:  # /proc has been unmounted
            return self._mountpoint

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._is_ready = mount_tools.let_go_of_descriptors()
        while self._is_ready:
            self._calls.get()()
