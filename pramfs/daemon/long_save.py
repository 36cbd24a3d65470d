"""What is logged of saves that take long, for those who wait for a shutdown, or will."""

import logging
import time
from pathlib import Path

import trio

from pramfs.control.status import SHUTDOWN_MAX_S
from pramfs.saves.save import Saver, SaveState
from pramfs.system.text import duration

log = logging.getLogger("pramfs")

_PAGES_PER_MIB = 256
_PERIOD_S = 60


async def warn_of_long_saves(saver: Saver) -> None:
    """Log whenever what is not saved begins to need longer than a shutdown may take."""
    warned = False
    while True:
        await trio.sleep(_PERIOD_S)
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
        self._start_s = 0.0
        self._left_at_start = 0

    def log_progress(self) -> None:
        """Log what is left to write. The first call measures only; nothing is logged of a short save."""
        status, now_s = self._saver.status, time.monotonic()
        if status.state is not SaveState.WRITING:
            return
        left = status.pages_total - status.pages_done
        if not left:  # the kernel has taken everything, and its cache goes to the disk
            log.info("saving %s: waiting for the disk", self._image)
        elif not self._start_s:
            self._start_s, self._left_at_start = now_s, left
        else:
            done = self._left_at_start - left
            rest = f", about {duration((now_s - self._start_s) * left / done)}" if done else ""
            log.info("saving %s: %d MiB left%s", self._image, left // _PAGES_PER_MIB, rest)
