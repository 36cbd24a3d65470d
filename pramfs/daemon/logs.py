"""Where a daemon's words go: standard error in the foreground; syslog and a small file in the background.

Bad news and what a mount did are logged, requests are not; the file keeps its end when it grows.
"""

import contextlib
import fcntl
import logging
import os
import socket
import sys
import syslog
from pathlib import Path
from typing import NamedTuple

from pramfs.system.text import printable

log = logging.getLogger("pramfs")

LOG_BYTES_MAX = 256 << 10

_SYSLOG = "/dev/log"
_SYSLOG_TIMEOUT_S = 0.1


def to_stderr(level: int) -> None:
    """Say on standard error what is at least that important."""
    handler = logging.StreamHandler()
    handler.setLevel(level)
    handler.setFormatter(_Printable("pramfs: %(levelname)s: %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)


class Destination(NamedTuple):
    """Where the words go: a descriptor, for what is not logged line by line, and its file."""

    descriptor: int
    path: Path | None  # None for standard error


def to_background(path: Path) -> Destination:
    """Log to the file at `path`, and to syslog or the journal where there is one."""
    file = BoundedFile(path, encoding="utf-8", errors="backslashreplace")  # paths hold any bytes
    file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    log.addHandler(Syslog())
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # it is in use: see `run_state.prune`
    return Destination(descriptor, path)


def to_foreground() -> Destination:
    """Log where `to_stderr` does, and in no file."""
    return Destination(sys.stderr.fileno(), None)


class _Printable(logging.Formatter):
    """Each message is one line that can be shown: names of files, which images hold, are of any bytes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name for it
        record.message = printable(record.message)
        return super().formatMessage(record)


class BoundedFile(logging.FileHandler):
    """Appends to a file; one that has grown over LOG_BYTES_MAX first loses its older half.

    It is shortened in place: who has it open, as SIGUSR1's dump has, goes on appending to it.
    """

    def emit(self, record: logging.LogRecord) -> None:
        path = Path(self.baseFilename)
        with contextlib.suppress(OSError):
            if path.stat().st_size > LOG_BYTES_MAX:
                kept = path.read_bytes()[-LOG_BYTES_MAX // 2 :].partition(b"\n")[2]
                os.truncate(path, 0)
                with path.open("ab") as file:
                    file.write(kept)
        super().emit(record)


class Syslog(logging.Handler):
    """Sends to syslog or the journal, if it is there and listens: a save never waits for it.

    Each line finds the socket anew: syslog may start later than a mount, and again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Printable(f"pramfs[{os.getpid()}]: %(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; it is lost if nobody takes it."""
        priority = syslog.LOG_DAEMON | _PRIORITIES.get(record.levelno, syslog.LOG_WARNING)
        text = self.format(record).encode(errors="backslashreplace")
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.settimeout(_SYSLOG_TIMEOUT_S)
            sender.sendto(b"<%d>%s" % (priority, text), _SYSLOG)


_PRIORITIES = {
    logging.INFO: syslog.LOG_INFO,
    logging.WARNING: syslog.LOG_WARNING,
    logging.ERROR: syslog.LOG_ERR,
}
