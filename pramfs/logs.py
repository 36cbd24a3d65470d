"""Where a daemon's words go: standard error in the foreground; syslog and a small file in the background.

Bad news and what a mount did are logged, requests are not; the file keeps its end when it grows.
"""

import contextlib
import fcntl
import logging
import logging.handlers
import os
import sys
from pathlib import Path

log = logging.getLogger("pramfs")

LOG_BYTES_MAX = 256 << 10

_SYSLOG = Path("/dev/log")


def to_stderr(level: int) -> None:
    """Say on standard error what is at least that important."""
    handler = logging.StreamHandler()
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("pramfs: %(levelname)s: %(message)s"))
    log.setLevel(logging.INFO)
    log.addHandler(handler)


def to_background(path: Path) -> int:
    """Log to the file at `path`, and to syslog or the journal where there is one.

    Returns a descriptor of the file, for what must be written without Python's help.
    """
    file = BoundedFile(path, encoding="utf-8", errors="backslashreplace")  # paths hold any bytes
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(file)
    if _SYSLOG.exists():
        with contextlib.suppress(OSError):
            syslog = logging.handlers.SysLogHandler(
                str(_SYSLOG), facility=logging.handlers.SysLogHandler.LOG_DAEMON
            )
            syslog.setFormatter(
                logging.Formatter(f"pramfs[{os.getpid()}]: %(levelname)s: %(message)s")
            )
            log.addHandler(syslog)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # it is in use: see `rundir.prune`
    return descriptor


def foreground_descriptor() -> int:
    """The descriptor that `to_stderr` writes to."""
    return sys.stderr.fileno()


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
