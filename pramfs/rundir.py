"""Where a daemon leaves what others may want to know of it: its log, and the state of its run.

The directory is /run/pramfs for root and $XDG_RUNTIME_DIR/pramfs for others (without one, a directory of
their own in /tmp). Files are named by the uuid of the image. The state outlives the daemon: there the
umount helper, the next mount and `pramfs info` find how the last save went.
"""

import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pramfs.errors import SystemFault

SERVING = "serving"  # mounted; or, when the process is gone, ended without a final save
SAVING = "saving"  # the final save is under way; or was, when the process is gone
SAVED = "saved"
FAILED = "failed"

_STATE_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class State:
    """How a run stands, or how it ended."""

    run: str  # hex id of the run
    pid: int
    phase: str
    generation: int  # of the save that is in force
    error: str = ""  # why the last save is not durable, "" if it is
    pages_done: int = 0  # of the save that is being written
    pages_total: int = 0  # 0 = no save is being written

    @property
    def is_running(self) -> bool:
        """Whether the daemon is there. A pid is used again some day: compare `run` where that counts."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] not in {
            "Z",
            "X",
        }  # those are gone but for the name

    @property
    def ended_badly(self) -> str:
        """What to say of a run that is over and has not saved; "" for one that has."""
        if self.phase == FAILED:
            return f"the last run's {self.error}"
        if self.phase == SAVING:
            return f"the last daemon (process {self.pid}) ended while it saved; {self._lost()}"
        if self.phase == SERVING:
            return (
                f"the last daemon (process {self.pid}) ended without a final save; {self._lost()}"
            )
        return ""

    def _lost(self) -> str:
        return f"any change since generation {self.generation} is lost"


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
    """The log of the daemons that serve image `uuid`."""
    return run_directory() / f"{uuid.hex()}.log"


def state_path(uuid: bytes) -> Path:
    """The state of the last run of image `uuid`."""
    return run_directory() / f"{uuid.hex()}.state"


def write_state(path: Path, state: State) -> None:
    """Leave the state at `path`, whole or not at all. Raises OSError."""
    temporary = path.with_suffix(f".{state.pid}")
    temporary.write_text(json.dumps(asdict(state)))
    temporary.replace(path)


def read_state(path: Path) -> State | None:
    """The state at `path`, None when there is none that can be read."""
    # The path may be another user's word: no link, no pipe, no endless file is followed from here.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            return State(**json.loads(file.read(_STATE_BYTES_MAX)))
    except (OSError, ValueError, TypeError):
        return None
