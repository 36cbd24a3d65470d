"""What is dumped in a mount, and whether it still waits to be restored. It is beside the dumps, as JSON."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from pramfs.errors import PramError
from pramfs.system.json_values import from_json

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


def read(mountpoint: Path) -> Manifest | None:
    """Return the manifest in a mount, None if there is none. Raises PramError if it cannot be read."""
    path = directory(mountpoint) / _NAME
    try:
        return from_json(Manifest, path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise PramError(f"{path}: cannot be read: {exc}") from exc


def write(mountpoint: Path, manifest: Manifest) -> None:
    """Put the manifest in a mount in place of the last one. Raises OSError."""
    put(directory(mountpoint) / _NAME, json.dumps(asdict(manifest), indent=2))


def put(path: Path, text: str) -> None:
    """Write a small file anew, all of it or nothing, and have it on its medium. Raises OSError."""
    aside = path.with_suffix(".new")
    with aside.open("w", encoding="utf-8") as file:
        aside.chmod(0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
