"""Output of commands for people: messages, names, numbers and times; and safe standard streams."""

import os
import re
import sys
import time
from collections.abc import Callable

from pramfs.errors import EXIT_FAILED, EXIT_SYSTEM
from pramfs.system.surroundings import hold_standard_streams, put_null

_SURROGATE = 0xDC00  # what os.fsdecode adds to a byte that is not UTF-8
_UNDECODED = re.compile("[\udc80-\udcff]")


def with_standard_streams(command: Callable[[], int]) -> int:
    """Run a command and return its exit code, or the one for an error of its input or output.

    A command whose output could not be written completely has failed.
    """
    hold_standard_streams()
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()  # the reader has closed the pipe
        return EXIT_FAILED
    except OSError as exc:
        complain(f"{exc.filename or 'standard input or output'}: {exc.strerror}")
        _drop_output()
        return EXIT_SYSTEM


def say(message: str) -> None:
    """Print a message on standard output; errors are ignored, as the exit code says the same."""
    try:
        print(printable(message), flush=True)
    except OSError:
        _drop_output()


def complain(message: str) -> None:
    """Print an error message on standard error."""
    print(f"pramfs: {printable(message)}", file=sys.stderr)


def printable(text: str) -> str:
    """Return the text with control characters, and bytes that are not UTF-8, escaped."""
    text = _UNDECODED.sub(lambda byte: f"\\x{ord(byte[0]) - _SURROGATE:02x}", text)
    text = text.encode(errors="backslashreplace").decode()
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def counted(number: int, what: str) -> str:
    """Return so many of a thing, whose plural ends in s."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def duration(seconds: float) -> str:
    """Return a time span in its largest unit."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return counted(round(seconds / length), unit)
    return counted(round(seconds), "second")


def when(nanoseconds: int) -> str:
    """Return a time in nanoseconds since the epoch as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(nanoseconds / 10**9))


def _drop_output() -> None:
    """Discard all further output, even that at exit."""
    put_null(sys.stdout.fileno(), os.O_WRONLY)
