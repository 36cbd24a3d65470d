"""A directory of this machine as a place: no library needed, and what is written is durable."""

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path

from pramfs.remote.store import PART_SUFFIX, Entry

_BYTES_MAX = 1 << 27  # to read; no piece and no manifest is so long


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
        # Whoever writes to the directory may have put there what has no end, such as a fifo.
        with open(self._root / name, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            return file.read(_BYTES_MAX)

    def put(self, name: str, data: bytes | memoryview) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + PART_SUFFIX)
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        # The folder itself is durable when its manifest is, which lies beside it.
        _sync(path.parent)

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._root / folder)

    def renew(self) -> None:
        pass

    def close(self) -> None:
        pass


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
