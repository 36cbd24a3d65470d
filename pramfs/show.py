"""How commands say things to people: names, numbers, times, and what is wrong."""

import sys
import time
from collections.abc import Iterator
from typing import Any


def complain(message: str) -> None:
    """Say on standard error what is wrong."""
    print(f"pramfs: {printable(message)}", file=sys.stderr)


def printable(text: str) -> str:
    """Text as it may be printed: bytes of names that are no UTF-8, and control characters, escaped."""
    text = text.encode(errors="backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def frame_counts(frames: dict[str, int]) -> str:
    """A summary of a frame table."""
    return ", ".join(f"{frames[key]} {key}" for key in ("used", "free", "banned", "reserved"))


def duration(seconds: float) -> str:
    """A time span in its largest unit."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def when(nanoseconds: int) -> str:
    """A time of the clock, in ns since the epoch, as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(nanoseconds / 10**9))


def node_lines(nodes: list[dict[str, Any]]) -> Iterator[str]:
    """A table of nodes, with its heading; nothing when there are none."""
    if nodes:
        yield f"{'node':<24} {'type':<12} {'bytes':>16} {'pages':>10} {'links':>8}  saved"
    for node in nodes:
        yield (
            f"{printable(node['name']):<24} {node['type']:<12} {node['size']:>16,} {node['pages']:>10} "
            f"{node['links']:>8}  {when(node['saved_ns'])}"
        )
