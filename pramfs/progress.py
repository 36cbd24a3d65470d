"""Progress of long work: a bar with rate and remaining time on a terminal, nothing elsewhere."""

import sys
import time

_WIDTH = 30
_PERIOD_S = 0.1
_QUIET_S = 0.5  # work that is done sooner needs no bar
_PAGE_BYTES = 4096


class Bar:
    """Counts pages done out of `total`. A context manager; call it with the pages done since last."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = max(1, total)
        self._done = 0
        self._terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._next = self._start + _QUIET_S
        self._drawn = False

    def __call__(self, pages: int) -> None:
        self._done += pages
        if self._terminal and time.monotonic() >= self._next:
            self._next = time.monotonic() + _PERIOD_S
            self._draw()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        self._drawn = True
        elapsed = time.monotonic() - self._start
        part = min(1.0, self._done / self._total)
        rate = self._done * _PAGE_BYTES / elapsed / (1 << 20)
        remaining = elapsed / part - elapsed if part else 0.0
        bar = "#" * int(part * _WIDTH)
        line = (
            f"{self._label} [{bar:<{_WIDTH}}] {part:4.0%} {rate:,.0f} MiB/s, {remaining:.0f} s left"
        )
        print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
