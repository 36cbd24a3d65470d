"""What is known of images on their way from one kernel to the next, ahead of which no mount must go.

A keeper, the process that has such images, leaves its state in /run, readable by all. Before there is one in
the new kernel, its command line names the images.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pramfs.errors import HandedOver, KeptElsewhere, NotClaimed
from pramfs.system.json_values import from_json

DIRECTORY = Path("/run/pramfs-kept")
WORD = "pramfs.claim="  # on the new kernel's command line, before the path of an image

_COMMAND_LINE = Path("/proc/cmdline")
_STATE_BYTES_MAX = 1 << 20
# How often a keeper asks for the lock, and the pause: who looks whether there is one has it for a moment.
_LOCK_TRIES = 20
_LOCK_PAUSE_S = 0.02


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An image that a keeper has."""

    path: str  # where it was
    size_bytes: int
    reason: str = ""  # why it could not be put there


@dataclass(frozen=True, slots=True)
class State:
    """What a keeper has, or had."""

    pid: int
    outgoing: bool  # they go to the next kernel, and have not come from the last one
    images: tuple[KeptImage, ...]


def refuse_if_kept(path: Path) -> None:
    """Raise HandedOver, NotClaimed or KeptElsewhere if the image of that path is on its way."""
    state, wanted = read_state(), os.path.realpath(path)
    if state is None:
        if wanted in unclaimed():
            raise NotClaimed(path)
        return
    kept = next((image for image in state.images if image.path == wanted), None)
    if kept is None or not is_kept():
        return
    if state.outgoing:
        raise HandedOver(path)
    raise KeptElsewhere(path, state.pid, kept.reason or "it is being put back")


def refuse_next_kernel() -> None:
    """Raise HandedOver, NotClaimed or KeptElsewhere if a kexec of other images would lose any."""
    for path in unclaimed():
        raise NotClaimed(path)
    state = read_state()
    if state is None or not is_kept():
        return
    for image in state.images:
        if state.outgoing:
            raise HandedOver(image.path)
        raise KeptElsewhere(image.path, state.pid, image.reason or "it is being put back")


def unclaimed() -> list[str]:
    """Return the paths of images that the last kernel has handed over and that nobody has asked for yet.

    They are in the order of their tokens.
    """
    if (DIRECTORY / "state").exists():
        return []
    words = _COMMAND_LINE.read_bytes().split()
    prefix = WORD.encode()
    return [
        os.fsdecode(unquote_to_bytes(word.removeprefix(prefix)))
        for word in words
        if word.startswith(prefix)
    ]


def words_for(paths: Iterable[Path]) -> list[str]:
    """Return the words for the new kernel's command line that name these images."""
    return [WORD + quote_from_bytes(os.fsencode(path)) for path in paths]


def read_state() -> State | None:
    """Return what the last keeper of this boot has left, None if there was none."""
    try:
        with (DIRECTORY / "state").open("rb") as file:
            return from_json(State, file.read(_STATE_BYTES_MAX))
    except (OSError, ValueError):
        return None


def write_state(state: State) -> None:
    """Leave the state for others, atomically. Raises OSError."""
    new = DIRECTORY / "state.new"
    new.write_text(json.dumps(asdict(state)))
    new.chmod(0o644)
    new.rename(DIRECTORY / "state")


def restore_state(before: State | None) -> None:
    """Leave the state that there was before, or none. Raises OSError."""
    if before is None:
        (DIRECTORY / "state").unlink(missing_ok=True)
    else:
        write_state(before)


def try_to_lock() -> int | None:
    """Make the directory and a lock in it, and take that for this process, the keeper.

    Returns the descriptor, to be closed when it is no longer one; None if another process is.
    """
    DIRECTORY.mkdir(exist_ok=True)
    DIRECTORY.chmod(0o755)  # the umask lets nobody else read it
    # Not the directory itself: anybody could lock that.
    descriptor = os.open(DIRECTORY / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        else:
            return descriptor
    os.close(descriptor)
    return None


def is_kept() -> bool:
    """Return whether a keeper lives."""
    try:
        descriptor = os.open(DIRECTORY / "lock", os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:  # of root, and who asks is not
        state = read_state()
        return state is not None and Path(f"/proc/{state.pid}").exists()
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
