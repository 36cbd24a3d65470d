"""Wait for descriptors of any number: select(2) takes none above 1,023, and many may be inherited.

Also pipes that carry much.
"""

import contextlib
import fcntl
import select
from collections.abc import Iterable
from typing import Protocol, TypeVar


class HasDescriptor(Protocol):
    """What has a descriptor, as a file or a child's pipe."""

    def fileno(self) -> int: ...


_PIPE_BYTES = 1 << 20  # what every user may have by default

T = TypeVar("T", bound=int | HasDescriptor)


def readable(sources: Iterable[T], timeout_s: float | None = None) -> list[T]:
    """Return those of `sources` that can be read from, or have ended; none if that takes too long."""
    by_number = {
        source if isinstance(source, int) else source.fileno(): source for source in sources
    }
    poll = select.poll()
    for number in by_number:
        poll.register(number, select.POLLIN)
    ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
    return [by_number[number] for number, _ in ready]


def widen_pipe(descriptor: int) -> None:
    """Have a pipe hold more at a time, so that its ends wait for each other less; do nothing for others."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
