"""What is dumped in a mount, and whether it still waits to be restored. It is beside the dumps, as JSON."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pramfs.checkpoint import state_file
from pramfs.errors import PramError

PLACE = ".pramfs-checkpoint"  # in the root of the mount
PENDING = "pending"
CONSUMED = "consumed"  # restored, or tried: never again

_NAME = "manifest.json"


@dataclass(frozen=True, slots=True)
class Dumped:
    """A tree of processes that is dumped, or will be, in a directory of this name."""

    name: str
    pid: int
    unit: str  # that it is the service of, or ""
    cgroup: str  # that it is put into, or ""
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that is dumped, in the order of dumping."""

    state: str
    dumped: tuple[Dumped, ...]


def directory(mountpoint: Path) -> Path:
    """Return the directory of dumps and manifest in a mount."""
    return mountpoint / PLACE


@contextmanager
def locked(mountpoint: Path) -> Iterator[None]:
    """Let one process at a time in here. The directory of dumps is there."""
    place = os.open(directory(mountpoint), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def require_own(mountpoint: Path) -> None:
    """Raise PramError if others can put something into the directory, which criu would do as root."""
    place = directory(mountpoint)
    try:
        status = place.lstat()
    except FileNotFoundError:
        return
    by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or by_others:
        raise PramError(f"{place}: not a directory that only root may write; nothing there is used")


def read(mountpoint: Path) -> Manifest | None:
    """Return the manifest in a mount, None if there is none.

    Raises PramError if it cannot be read, or is not to be trusted.
    """
    require_own(mountpoint)
    return state_file.read(Manifest, directory(mountpoint) / _NAME)


def write(mountpoint: Path, manifest: Manifest) -> None:
    """Put the manifest in a mount in place of the last one. Raises OSError."""
    state_file.write(directory(mountpoint) / _NAME, manifest)
