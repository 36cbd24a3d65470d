"""The run directory, in which a daemon keeps its log and the state of its run for other processes.

The directory is /run/pramfs for root and $XDG_RUNTIME_DIR/pramfs for others (without that, a directory of
their own in /tmp). Files are named by the uuid of the image, and by device and inode, so that copies of an
image have their own. The state outlives the daemon: it tells the umount helper, the next mount and
`pramfs info` how the last save ended. Files of images that are gone are removed some time later, see `prune`.
"""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pramfs.errors import SystemFault
from pramfs.storage.image import Image, identity_of
from pramfs.system.json_values import from_json

SERVING = "serving"  # mounted; if the process is gone, it ended without a final save
SAVING = "saving"  # the final save is under way; if the process is gone, it ended during the save
SAVED = "saved"
FAILED = "failed"

_SUFFIXES = (".state", ".log", ".new")
GONE_KEPT = 20  # images that are gone whose logs and states are kept

_STATE_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class State:
    """The state of a run, or how it ended."""

    run: str  # hex id of the run
    image: str
    pid: int
    phase: str
    generation: int  # of the save that is in force
    error: str = ""  # why the last save is not durable, "" if it is
    pages_done: int = 0  # of the save that is being written
    pages_total: int = 0  # 0 = no save is being written
    incomplete: str = ""  # what the save lacks that is in force, "" if nothing
    misplaced: str = ""  # why it is not in the image under its name, "" if it is

    @property
    def is_running(self) -> bool:
        """Return whether the daemon exists. Pids are reused: compare `run` where that matters."""
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] not in {"Z", "X"}  # a zombie, or dead

    @property
    def ended_badly(self) -> str:
        """Return the message about a run that ended without saving, "" about one that saved.

        Only for a run that is over, which is certain once another process can lock the image; a pid proves
        nothing in another pid namespace.
        """
        if self.phase == FAILED:
            return f"the last run's {self.error}"
        if self.phase == SAVED and self.incomplete:
            return f"the last run's {self.incomplete}"
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
    """Return the directory, created if needed. Raises SystemFault if it is unsafe or cannot be created."""
    uid = os.geteuid()
    in_session, otherwise = _directories(uid)
    path = in_session if os.environ.get("XDG_RUNTIME_DIR") else otherwise
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        trusted = _is_directory_of(path, uid)
    except OSError as exc:
        raise SystemFault(f"{path}: cannot make the run directory: {exc.strerror}") from exc
    if not trusted:
        raise SystemFault(f"{path}: is not a directory of yours")
    return path


def log_path(image: Image, uuid: bytes) -> Path:
    """Return the path of the log of the daemons that serve this image."""
    return run_directory() / _file_name(image, uuid, ".log")


def state_path(image: Image, uuid: bytes) -> Path:
    """Return the path of the state of the last run of this image."""
    return run_directory() / _file_name(image, uuid, ".state")


def write_state(path: Path, state: State) -> None:
    """Write the state to `path` atomically. Raises OSError."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(state)))
    temporary.replace(path)


def read_state(path: Path) -> State | None:
    """Return the state at `path`, None if there is none that can be read."""
    # Another user may have put anything at this path: follow no link, and read no fifo or endless file.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            return from_json(State, file.read(_STATE_BYTES_MAX))
    except (OSError, ValueError):
        return None


def last_state(image: Image, uuid: bytes) -> State | None:
    """Return the state of the last run of this image, None if it is not visible.

    Root also sees the state in the run directory of the image's owner, if that is the usual one.
    """
    name = _file_name(image, uuid, ".state")
    found: list[tuple[int, State]] = []
    for uid in {os.geteuid(), image.owner} if os.geteuid() == 0 else {os.geteuid()}:
        for directory in _directories(uid):
            with contextlib.suppress(OSError):
                state = read_state(directory / name) if _is_directory_of(directory, uid) else None
                if state is not None:
                    found.append(((directory / name).lstat().st_mtime_ns, state))
    return max(found, key=lambda entry: entry[0])[1] if found else None


def prune() -> None:
    """Remove the logs and states of images that are gone, except the GONE_KEPT latest.

    Files in use stay, and so do those of images that still exist: they are short, and users may want to know
    how the last save ended.
    """
    times: dict[Path, int] = {}
    for file in run_directory().iterdir():
        if file.suffix not in _SUFFIXES:
            continue
        with contextlib.suppress(FileNotFoundError):  # another mount prunes at the same time
            base = file.with_suffix("")
            times[base] = max(times.get(base, 0), file.stat().st_mtime_ns)
    gone = [base for base in times if not _is_wanted(base)]
    for base in sorted(gone, key=lambda base: times[base], reverse=True)[GONE_KEPT:]:
        for suffix in _SUFFIXES:
            base.with_suffix(suffix).unlink(missing_ok=True)


def _directories(uid: int) -> tuple[Path, Path]:
    """Return the two run directories of a user: of daemons in a session, and of others."""
    if uid == 0:
        return Path("/run/pramfs"), Path("/run/pramfs")
    own = os.environ.get("XDG_RUNTIME_DIR") if uid == os.geteuid() else None
    in_session = Path(own or f"/run/user/{uid}") / "pramfs"
    return in_session, Path(tempfile.gettempdir()) / f"pramfs-{uid}"


def _is_directory_of(path: Path, uid: int) -> bool:
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid


def _file_name(image: Image, uuid: bytes, suffix: str) -> str:
    return f"{uuid.hex()}-{image.identity}{suffix}"


def _is_wanted(base: Path) -> bool:
    """Return whether the image exists, or its daemon runs. A read-only mount leaves a log, but no state."""
    state = read_state(base.with_suffix(".state"))
    if state is not None and (state.is_running or _is_there(Path(state.image), base)):
        return True
    return _is_locked(base.with_suffix(".log"))


def _is_there(image: Path, base: Path) -> bool:
    try:
        return base.name.endswith(f"-{identity_of(image.stat())}")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # unknown: keep it


def _is_locked(log: Path) -> bool:
    """Return whether a daemon has the log locked."""
    try:
        with log.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
