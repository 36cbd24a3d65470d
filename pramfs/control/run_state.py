"""The run directory, in which a daemon keeps its log and the state of its run for other processes.

The directory is /run/pramfs for root and $XDG_RUNTIME_DIR/pramfs for others; without that, or where it cannot
be used, a directory of their own in /tmp or /dev/shm. Files are named by the uuid of the image, and by device
and inode, so that copies of an image have their own. The state outlives the daemon: it tells the umount
helper, the next mount and `pramfs info` how the last save ended. Files of images that are gone are removed
some time later, see `RunDirectory.prune`.
"""

import contextlib
import fcntl
import json
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from pramfs.errors import SystemFault
from pramfs.storage.image import Image, identity_of
from pramfs.system.json_values import from_json

SERVING = "serving"  # mounted; if the process is gone, it ended without a final save
SAVING = "saving"  # the final save is under way; if the process is gone, it ended during the save
SAVED = "saved"
FAILED = "failed"
MOVED = "moved"  # the run goes on in another image

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
    moved_to: str = ""  # the path of the other image

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
        if self.phase == MOVED:
            return (
                f"process {self.pid} went on in {self.moved_to}: "
                f"any change since generation {self.generation} is there, not here"
            )
        if self.phase == SAVING:
            return f"the last daemon (process {self.pid}) ended while it saved; {self._lost()}"
        if self.phase == SERVING:
            return (
                f"the last daemon (process {self.pid}) ended without a final save; {self._lost()}"
            )
        return ""

    def _lost(self) -> str:
        return f"any change since generation {self.generation} is lost"


class RunDirectory:
    """A run directory, opened by the daemon that writes to it.

    No path is followed: the mount may cover the directory, and its daemon must not wait for itself, nor take
    the user's files for its own.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(
            path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        )

    def open_log(self, name: str) -> int:
        """Open the log `name` to append to it and to read it. Raises OSError."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        return self._open(name, flags)

    def write_state(self, name: str, state: State) -> None:
        """Write the state to the file `name` atomically. Raises OSError."""
        temporary = str(Path(name).with_suffix(".new"))
        with os.fdopen(self._open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as file:
            json.dump(asdict(state), file)
        directory = self._descriptor
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)

    def prune(self) -> None:
        """Remove the logs and states of images that are gone, except the GONE_KEPT latest. Raises OSError.

        Files in use stay, and so do those of images that still exist: they are short, and users may want to
        know how the last save ended. Looks for images of others, which may lie on a mount that hangs.
        """
        times: dict[str, int] = {}
        for name in os.listdir(self._descriptor):
            base, suffix = Path(name).stem, Path(name).suffix
            if suffix not in _SUFFIXES:
                continue
            with contextlib.suppress(FileNotFoundError):  # another mount prunes at the same time
                time_ns = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mtime_ns
                times[base] = max(times.get(base, 0), time_ns)
        gone = [base for base in times if not self._is_wanted(base)]
        for base in sorted(gone, key=lambda base: times[base], reverse=True)[GONE_KEPT:]:
            for suffix in _SUFFIXES:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(base + suffix, dir_fd=self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._descriptor)

    def _is_wanted(self, base: str) -> bool:
        """Return whether the image exists or its daemon runs; a read-only mount leaves only its log."""
        state = read_state(Path(f"{base}.state"), directory=self._descriptor)
        if state is not None and (state.is_running or _is_there(Path(state.image), base)):
            return True
        return self._is_locked(f"{base}.log")

    def _is_locked(self, log: str) -> bool:
        """Return whether a daemon has its log open."""
        try:
            descriptor = self._open(log, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def open_run_directory() -> RunDirectory:
    """Open the first directory that this user may use, made if needed. Raises SystemFault if there is none.

    The directory of a session may be somebody else's (`su`), or gone: then another does.
    """
    uid = os.geteuid()
    refusals = []
    for path in _directories_to_make(uid):
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            if _is_directory_of(path, uid) and os.access(path, os.W_OK | os.X_OK):
                return RunDirectory(path)
            refusals.append(f"{path}: is not a directory of yours")
        except OSError as exc:
            refusals.append(f"{path}: cannot make the run directory: {exc.strerror}")
    raise SystemFault("; ".join(refusals))


def log_name(image: Image, uuid: bytes) -> str:
    """Return the name of the log of the daemons that serve this image."""
    return _file_name(image, uuid, ".log")


def state_name(image: Image, uuid: bytes) -> str:
    """Return the name of the state of the last run of this image."""
    return _file_name(image, uuid, ".state")


def read_state(path: Path, *, directory: int | None = None) -> State | None:
    """Return the state at `path`, seen from the descriptor `directory`; None if none can be read."""
    # Another user may have put anything at this path: follow no link, and read no fifo or endless file.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(path, flags, dir_fd=directory), "rb") as file:
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


def _directories(uid: int) -> list[Path]:
    """Return the directories in which a daemon of that user may have left its state, the best first.

    Processes that look for it may have another environment, so only that of a session depends on it.
    """
    given = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    session = [given] if uid == os.geteuid() and given.is_absolute() else []
    first = [Path("/run"), *session] if uid == 0 else session or [Path(f"/run/user/{uid}")]
    return [*(place / "pramfs" for place in first), *_without_session(uid)]


def _directories_to_make(uid: int) -> list[Path]:
    """Return the directories to try for a new daemon, the best first.

    A session's goes when its user logs out: who is in none gets one that stays.
    """
    if uid and not os.environ.get("XDG_RUNTIME_DIR"):
        return _without_session(uid)
    return _directories(uid)


def _without_session(uid: int) -> list[Path]:
    return [Path("/tmp", f"pramfs-{uid}"), Path("/dev/shm", f"pramfs-{uid}")]


def _is_directory_of(path: Path, uid: int) -> bool:
    status = path.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid


def _file_name(image: Image, uuid: bytes, suffix: str) -> str:
    return f"{uuid.hex()}-{image.identity}{suffix}"


def _is_there(image: Path, base: str) -> bool:
    try:
        return base.endswith(f"-{identity_of(image.stat())}")
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # unknown: keep it
