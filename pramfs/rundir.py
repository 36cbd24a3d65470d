"""Where a daemon leaves what others may want to know of it: its log, and the verdict on its last save.

The directory is /run/pramfs for root and $XDG_RUNTIME_DIR/pramfs for others (without one, a directory of
their own in /tmp). Files are named by the uuid of the image.
"""

import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pramfs.errors import SystemFault


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the last save of a run went."""

    run: str  # hex id of the run
    pid: int
    durable: bool
    generation: int  # of the save that is in force
    error: str  # why it is not durable, "" if it is


def run_directory() -> Path:
    """The directory, made if needed. Raises SystemFault when it cannot be trusted or made."""
    uid = os.geteuid()
    base = os.environ.get("XDG_RUNTIME_DIR")
    if uid == 0:
        path = Path("/run/pramfs")
    elif base:
        path = Path(base) / "pramfs"
    else:
        path = Path(tempfile.gettempdir()) / f"pramfs-{uid}"
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as exc:
        raise SystemFault(f"{path}: cannot make the run directory: {exc.strerror}") from exc
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
        raise SystemFault(f"{path}: is not a directory of yours")
    return path


def log_path(uuid: bytes) -> Path:
    """The log of the daemon that serves image `uuid`."""
    return run_directory() / f"{uuid.hex()}.log"


def verdict_path(uuid: bytes) -> Path:
    """The verdict of the last daemon that served image `uuid`."""
    return run_directory() / f"{uuid.hex()}.verdict"


def write_verdict(path: Path, verdict: Verdict) -> None:
    """Leave the verdict at `path`, whole or not at all."""
    temporary = path.with_suffix(f".{verdict.pid}")
    temporary.write_text(json.dumps(asdict(verdict)))
    temporary.replace(path)


def read_verdict(path: Path) -> Verdict | None:
    """The verdict at `path`, None when there is none that can be read."""
    try:
        return Verdict(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
