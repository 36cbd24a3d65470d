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

from pramfs.control.run_state import RunDirectory
from pramfs.system.mountinfo import leads_into_pramfs
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
    """A descriptor for output that is not logged line by line, and the path of its file."""

    descriptor: int
    path: Path | None  # None if it is not a file


def to_background(directory: RunDirectory | None, name: str) -> Destination:
    """Log to the file `name` in the run directory, and to syslog or the journal where there is one.

    Where that file cannot be written there is syslog alone.
    """
    log.addHandler(Syslog())
    if directory is None:
        return to_foreground()
    path = directory.path / name
    try:
        descriptor = directory.open_log(name)
    except OSError as exc:
        log.warning("%s: cannot write the log: %s", path, exc.strerror)
        return to_foreground()
    file = BoundedFile(descriptor)
    file.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # marks it as in use, see `RunDirectory.prune`
    return Destination(descriptor, path)


def to_foreground() -> Destination:
    """Log to standard error only, see `to_stderr`."""
    return Destination(sys.stderr.fileno(), None)


class _Printable(logging.Formatter):
    """Makes each message one printable line: names of files in images may hold any bytes."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name for it
        record.message = printable(record.message)
        return super().formatMessage(record)


class BoundedFile(logging.Handler):
    """Appends to an open file; when it exceeds LOG_BYTES_MAX, its older half is removed first.

    The file is shortened in place, so that processes with the file open can still append. No path is
    followed, and a log that cannot be written is no reason to fail.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line, or a message and its traceback."""
        text = f"{self.format(record)}\n".encode(errors="backslashreplace")  # paths hold any bytes
        with contextlib.suppress(OSError):
            size_bytes = os.fstat(self._descriptor).st_size
            if size_bytes > LOG_BYTES_MAX:
                half = LOG_BYTES_MAX // 2
                kept = os.pread(self._descriptor, half, size_bytes - half).partition(b"\n")[2]
                os.truncate(self._descriptor, 0)
                text = kept + text
            os.write(self._descriptor, text)


class Syslog(logging.Handler):
    """Sends to syslog or the journal, if it is listening: a save never waits for it.

    Syslog may start after the mount, and restart: when a line cannot be sent, the socket is looked for again,
    but never through a mount of pramfs, which may be the daemon's own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Printable(f"pramfs[{os.getpid()}]: %(levelname)s: %(message)s"))
        self._path = Path(os.path.realpath(_SYSLOG))
        self._socket = self._connected()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; it is lost if nothing receives it, and nobody is told of that."""
        priority = syslog.LOG_DAEMON | _PRIORITIES.get(record.levelno, syslog.LOG_WARNING)
        text = self.format(record).encode(errors="backslashreplace")
        line = b"<%d>%s" % (priority, text)
        with contextlib.suppress(OSError):  # also where /proc is gone, or no descriptor is left
            if not self._sent(line) and not leads_into_pramfs(self._path):
                self._socket.close()
                self._socket = self._connected()
                self._sent(line)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _connected(self) -> socket.socket:
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.settimeout(_SYSLOG_TIMEOUT_S)
        with contextlib.suppress(OSError):
            sender.connect(os.fspath(self._path))
        return sender

    def _sent(self, line: bytes) -> bool:
        try:
            self._socket.send(line)
        except OSError:
            return False
        return True


_PRIORITIES = {
    logging.INFO: syslog.LOG_INFO,
    logging.WARNING: syslog.LOG_WARNING,
    logging.ERROR: syslog.LOG_ERR,
}
