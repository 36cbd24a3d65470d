"""Where a daemon leaves what others may want to know of it: its log, and the state of its run.

The directory is /run/pramfs for root and $XDG_RUNTIME_DIR/pramfs for others (without one, a directory of
their own in /tmp). Files are named by the uuid of the image, and by device and inode: copies of an image
have their own. The state outlives the daemon: there the umount helper, the next mount and `pramfs info` find
how the last save went. What is left of images that are gone goes too, some time later: see `prune`.
"""

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pramfs.errors import SystemFault
from pramfs.storage.image import Image, identity_of

SERVING = "serving"  # mounted; or, when the process is gone, ended without a final save
SAVING = "saving"  # the final save is under way; or was, when the process is gone
SAVED = "saved"
FAILED = "failed"

_SUFFIXES = (".state", ".log", ".new")
GONE_KEPT = 20  # images that are gone, of which logs and states are kept

_STATE_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class State:
    """How a run stands, or how it ended."""

    run: str  # hex id of the run
    image: str
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
        return status.rpartition(")")[2].split()[0] not in {"Z", "X"}  # gone but for the name

    @property
    def ended_badly(self) -> str:
        """What to say of a run that has not saved, "" of one that has: a run that is over.

        It is over when somebody else can lock the image. A pid tells nothing in another pid namespace.
        """
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
    """The log of the daemons that serve this image."""
    return run_directory() / _file_name(image, uuid, ".log")


def state_path(image: Image, uuid: bytes) -> Path:
    """The state of the last run of this image."""
    return run_directory() / _file_name(image, uuid, ".state")


def write_state(path: Path, state: State) -> None:
    """Leave the state at `path`, whole or not at all. Raises OSError."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(asdict(state)))
    temporary.replace(path)


def read_state(path: Path) -> State | None:
    """The state at `path`, None when there is none that can be read."""
    # The path may be another user's word: no link, no pipe, no endless file is followed from here.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            state = State(**json.loads(file.read(_STATE_BYTES_MAX)))
    except (OSError, ValueError, TypeError):
        return None
    right = all(type(getattr(state, field.name)) is field.type for field in fields(State))
    return state if right else None


def last_state(image: Image, uuid: bytes) -> State | None:
    """What the last run of this image left, None when that is not to be seen.

    Root sees what the image's owner left, too, if that user has the usual run directory.
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
    """Remove the logs and states of images that are gone, but for the GONE_KEPT latest.

    What is in use stays, and what belongs to an image that is still there: it is short, and somebody may
    want to know how the last save went.
    """
    times: dict[Path, int] = {}
    for file in run_directory().iterdir():
        if file.suffix not in _SUFFIXES:
            continue
        with contextlib.suppress(FileNotFoundError):  # another mount prunes too
            base = file.with_suffix("")
            times[base] = max(times.get(base, 0), file.stat().st_mtime_ns)
    gone = [base for base in times if not _is_wanted(base)]
    for base in sorted(gone, key=lambda base: times[base], reverse=True)[GONE_KEPT:]:
        for suffix in _SUFFIXES:
            base.with_suffix(suffix).unlink(missing_ok=True)


def _directories(uid: int) -> tuple[Path, Path]:
    """Where daemons of a user leave things: those of a session, and others."""
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
    """Whether the image is there, or its daemon runs. Of one that was only read nothing is known."""
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
        return True  # who knows


def _is_locked(log: Path) -> bool:
    """Whether a daemon holds its log."""
    try:
        with log.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
