"""The log of a daemon: standard error in the foreground, syslog and a small file in the background.

Errors and the life of a mount are logged, single requests are not. A file that grows loses its oldest lines.
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
    """Log messages of at least that level to standard error."""
    handler = logging.StreamHandler()
    handler.setLevel(level)
    handler.setFormatter(_Printable("pramfs: %(levelname)s: %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)


class Destination(NamedTuple):
    """The place of the log: a descriptor, for output that is not logged line by line, and its path."""

    descriptor: int
    path: Path | None  # None for standard error


def to_background(path: Path) -> Destination:
    """Log to the file at `path`, and to syslog or the journal if there is one."""
    file = BoundedFile(path, encoding="utf-8", errors="backslashreplace")  # paths hold any bytes
    file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    log.addHandler(Syslog())
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # marks it as in use, see `run_state.prune`
    return Destination(descriptor, path)


def to_foreground() -> Destination:
    """Log to standard error only, see `to_stderr`."""
    return Destination(sys.stderr.fileno(), None)


class _Printable(logging.Formatter):
    """Makes each message one printable line: names of files in images may hold any bytes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name for it
        record.message = printable(record.message)
        return super().formatMessage(record)


class BoundedFile(logging.FileHandler):
    """Appends to a file; if that exceeds LOG_BYTES_MAX, its older half is dropped first.

    It is shortened in place, because the stack dump of SIGUSR1 has it open, too.
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
    """Sends to syslog or the journal if possible; never blocks, so that a save does not wait for it.

    The socket is connected for each line, because syslog may start after the mount, or restart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Printable(f"pramfs[{os.getpid()}]: %(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; it is lost if nobody receives it."""
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
