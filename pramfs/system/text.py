"""How commands say things to people: names, numbers, times, and what is wrong."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from pramfs.errors import EXIT_FAILED, EXIT_SYSTEM


def with_standard_streams(command: Callable[[], int]) -> int:
    """Run a command; returns its exit code, or that of what went wrong with its input and output.

    What it could not say to the end is a failure.
    """
    _hold_standard_streams()
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # whoever read it has enough
        return EXIT_FAILED
    except OSError as exc:
        complain(f"{exc.filename or 'standard input or output'}: {exc.strerror}")
        _drop_output()
        return EXIT_SYSTEM


def say(message: str) -> None:
    """Say on standard output what the exit code tells, too: nothing fails when nobody hears it."""
    try:
        print(message, flush=True)
    except OSError:
        _drop_output()


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


def _hold_standard_streams() -> None:
    """Make sure that they are open: else an image gets the number of one, and what is said gets into it."""
    for descriptor, mode in enumerate("rww"):
        try:
            os.fstat(descriptor)
        except OSError:
            # The other way round, so that whoever uses it hears of that; standard error is just lost.
            wrong_way = os.O_RDONLY if descriptor == 1 else os.O_WRONLY
            os.set_inheritable(os.open(os.devnull, wrong_way), True)
            stream = open(descriptor, mode, closefd=False)  # noqa: SIM115
            setattr(sys, ("stdin", "stdout", "stderr")[descriptor], stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may be any bytes, and what is said of them must not fail over that.
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Say nothing more, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
