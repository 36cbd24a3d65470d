"""What is logged of saves that take long, for those who wait for a shutdown, or will."""

import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from pramfs.control.status import SHUTDOWN_MAX_S
from pramfs.saves.save import Saver, SaveState
from pramfs.system.text import duration

log = logging.getLogger("pramfs")

_PAGES_PER_MIB = 256
_WARN_PERIOD_S = 60
_LOG_PERIOD_S = 10


async def warn_of_long_saves(saver: Saver, activity: Callable[[], Awaitable[None]]) -> None:
    """Log whenever what is not saved begins to need longer than a shutdown may take.

    `activity` waits for requests: without any there is nothing new to warn of.
    """
    warned = False
    while True:
        await activity()
        await trio.sleep(_WARN_PERIOD_S)
        seconds = saver.seconds_to_save()
        if seconds > SHUTDOWN_MAX_S and not warned:
            log.warning(
                "saving would take about %s now: systemd ends a shutdown by force after %s",
                duration(seconds),
                duration(SHUTDOWN_MAX_S),
            )
        warned = seconds > SHUTDOWN_MAX_S


class LongSave:
    """A save under way: what is left of it, by its pace so far."""

    def __init__(self, image: Path, saver: Saver) -> None:
        self._image = image
        self._saver = saver
        self._logged_s = time.monotonic()
        self._start_s: float | None = None  # of writing
        self._left_at_start = 0

    def log_progress(self) -> None:
        """Log what is left to write, every ten seconds; nothing of a short save. Call it every second."""
        status, now_s = self._saver.status, time.monotonic()
        if status.state is not SaveState.WRITING:
            return
        # The pages of the nodes were not counted before, so there may be more done than was expected.
        left = max(0, status.pages_total - status.pages_done)
        if self._start_s is None:
            self._start_s, self._left_at_start = now_s, left
        elif now_s - self._logged_s >= _LOG_PERIOD_S:
            self._logged_s = now_s
            done = self._left_at_start - left
            rest = f", about {duration((now_s - self._start_s) * left / done)}" if done else ""
            what = (
                f"{-(-left // _PAGES_PER_MIB)} MiB left{rest}" if left else "waiting for the disk"
            )
            log.info("saving %s: %s", self._image, what)
