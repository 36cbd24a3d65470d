"""Small files that say how far a checkpoint or a restore is: JSON, written anew, all of it or nothing."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pramfs.errors import PramError
from pramfs.system.json_values import from_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


def read(kind: type[T], path: Path) -> T | None:
    """Return what the file holds, a dataclass of that kind; None if there is none.

    Raises PramError if it cannot be read.
    """
    try:
        return from_json(kind, path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise PramError(f"{path}: cannot be read: {exc}") from exc


def write(path: Path, state: "DataclassInstance") -> None:
    """Put a dataclass into the file, and have it on its medium. Raises OSError."""
    aside = path.with_suffix(".new")
    with aside.open("w", encoding="utf-8") as file:
        aside.chmod(0o600)
        json.dump(asdict(state), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
