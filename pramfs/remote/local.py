"""A directory of this machine as a place: no library needed, and what is written is durable."""

import contextlib
import os
import shutil
from pathlib import Path

from pramfs.remote.store import Entry

_PART_SUFFIX = ".part"


class LocalStore:
    """Files below a directory, which is made when something is written to it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def entries(self, folder: str = "") -> list[Entry]:
        found = []
        try:
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):
                        found.append(Entry(entry.name, entry.is_dir(), entry.stat().st_mtime))
        except FileNotFoundError:
            return []
        return found

    def get(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + _PART_SUFFIX)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync(path.parent)
        _sync(self._root)

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / folder)

    def renew(self) -> None:
        pass

    def close(self) -> None:
        pass


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
