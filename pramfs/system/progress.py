"""Progress of long work: a bar with rate and remaining time on a terminal, nothing elsewhere.

Also a heartbeat, for work that another process follows.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable

_WIDTH = 30
_COLUMNS = 80  # of a terminal that does not tell its width
_PERIOD_S = 0.1
_QUIET_S = 0.5  # shorter work shows no bar
_PAGE_BYTES = 4096


class Bar:
    """Shows the units done out of `total` (0: unknown). Call it with the units done since the last call.

    A context manager, which clears the bar at its end.
    """

    def __init__(self, label: str, total: int, unit_bytes: int = _PAGE_BYTES) -> None:
        self.done = 0
        self.total = total
        self._label = label
        self._unit_bytes = unit_bytes
        self.visible = sys.stderr.isatty()
        self._start = time.monotonic()
        self._next = self._start + _QUIET_S
        self._drawn = False

    def __call__(self, units: int) -> None:
        self.show(self.done + units, self.total)

    def show(self, done: int, total: int) -> None:
        """Set both counts, for a caller that only learns totals."""
        self.done, self.total = done, total
        if self.visible and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PERIOD_S
            self._draw()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        self._drawn = True
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
        text = self._text(columns)[: columns - 1]  # one line, so that the next bar overwrites it
        # Names may hold any bytes.
        text = "".join(char if char.isprintable() else "?" for char in text)
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

    def _text(self, columns: int) -> str:
        elapsed = time.monotonic() - self._start
        done_bytes = self.done * self._unit_bytes
        rate = f"{done_bytes / elapsed / (1 << 20):,.0f} MiB/s"
        if not self.total:
            return f"{self._label} {done_bytes / (1 << 20):,.0f} MiB, {rate}"
        part = min(1.0, self.done / self.total)
        left = f"{elapsed / part - elapsed:.0f} s left" if part else "just begun"
        end = f"{part:4.0%} {rate}, {left if part < 1 else 'waiting for the disk'}"
        width = min(_WIDTH, columns - len(f"{self._label} [] {end} "))
        bar = f"[{'#' * int(part * width):<{width}}] " if width > 0 else ""
        return f"{self._label} {bar}{end}"


class Heartbeat:
    """Calls `beat` at once and then every `period_s` seconds from a thread, until the context ends.

    If no thread can be started, it does nothing: the work itself must not fail because of that.
    """

    def __init__(self, period_s: float, beat: Callable[[], None]) -> None:
        self._period_s = period_s
        self._beat = beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pramfs-heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        with contextlib.suppress(RuntimeError):
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._beat()
            if self._over.wait(self._period_s):
                return
