"""One file under random reads, writes, truncations, mappings, holes and copies, after the model of fsx.

Every byte that is read is compared with a model in memory; now and then the file is reopened, the file system
is saved, remounted, or its daemon killed after a save.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import KIB, Volume

SIZE_MAX = 256 * KIB
CHUNK_MAX = 64 * KIB
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

# FUSE_DIRECT_IO_ALLOW_MMAP is there since Linux 6.6.
MAPS_UNDER_DIRECT_IO = [int(part) for part in os.uname().release.split(".")[:2]] >= [6, 6]


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Exerciser:
    """Calls on one file, and what it must hold."""

    def __init__(self, volume: Volume, seed: int, options: tuple[str, ...]) -> None:
        self._volume = volume
        self._options = options
        self._rng = random.Random(seed)
        self._model = bytearray()
        self._path = volume.root / "file"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT)
        self._noise = self._rng.randbytes(2 * CHUNK_MAX)
        self._log: list[str] = []

    def run(self, operations: int) -> None:
        calls: list[tuple[Callable[[], None], float]] = [
            (self.read, 30),
            (self.write, 30),
            (self.append, 5),
            (self.truncate, 8),
            (self.reserve, 3),
            (self.punch, 6),
            (self.zero, 4),
            (self.copy, 6),
            (self.look_for_data, 5),
            (self.reopen, 3),
            (self.sync, 2),
            (self.compare, 2),
            (self.save, 0.05),
            (self.remount, 0.02),
            (self.kill, 0.02),
        ]
        if "direct_io" not in self._options or MAPS_UNDER_DIRECT_IO:
            calls += [(self.read_mapped, 10), (self.write_mapped, 10)]
        functions, weights = zip(*calls, strict=True)
        for call in self._rng.choices(functions, weights, k=operations):
            try:
                call()
            except BaseException as exc:
                exc.add_note("the last calls: " + ", ".join(self._log[-30:]))
                raise
        self.compare()

    def read(self) -> None:
        offset, size = self._range()
        self._note("read", offset, size)
        found = os.pread(self._fd, size, offset)
        assert found == self._model[offset : offset + size]

    def write(self) -> None:
        offset, size = self._range()
        self._note("write", offset, size)
        data = self._data(size)
        assert os.pwrite(self._fd, data, offset) == size
        self._put(offset, data)

    def append(self) -> None:
        data = self._data(self._rng.randrange(100))
        if len(self._model) + len(data) > SIZE_MAX:
            return
        self._note("append", len(self._model), len(data))
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        self._put(len(self._model), data)

    def truncate(self) -> None:
        size = self._rng.randrange(SIZE_MAX)
        self._note("truncate", size, 0)
        os.ftruncate(self._fd, size)
        del self._model[size:]
        self._grow(size)

    def reserve(self) -> None:
        offset, size = self._range()
        keeps_size = self._rng.random() < 0.5
        self._note("reserve keeping the size" if keeps_size else "reserve", offset, size)
        fallocate(self._fd, KEEP_SIZE if keeps_size else 0, offset, size)
        if not keeps_size:
            self._grow(offset + size)

    def punch(self) -> None:
        offset, size = self._range()
        self._note("punch", offset, size)
        fallocate(self._fd, PUNCH_HOLE | KEEP_SIZE, offset, size)
        self._clear(offset, size)

    def zero(self) -> None:
        offset, size = self._range()
        keeps_size = self._rng.random() < 0.5
        self._note("zero keeping the size" if keeps_size else "zero", offset, size)
        fallocate(self._fd, ZERO_RANGE | (KEEP_SIZE if keeps_size else 0), offset, size)
        if not keeps_size:
            self._grow(offset + size)
        self._clear(offset, size)

    def copy(self) -> None:
        source, size = self._range()
        target = self._rng.randrange(SIZE_MAX - size + 1)
        size = min(size, len(self._model) - source)
        if size <= 0 or abs(source - target) < size:
            return
        self._note(f"copy from {source:#x} to", target, size)
        copied = os.copy_file_range(self._fd, self._fd, size, source, target)
        self._put(target, self._model[source : source + copied])
        assert copied

    def look_for_data(self) -> None:
        """A hole has nothing but zeros."""
        offset, _ = self._range()
        self._note("look for data", offset, 0)
        try:
            data = os.lseek(self._fd, offset, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            data = len(self._model)
        assert not any(self._model[offset:data])
        if offset < len(self._model):
            hole = os.lseek(self._fd, offset, os.SEEK_HOLE)
            assert offset <= hole <= len(self._model)

    def read_mapped(self) -> None:
        if not self._model:
            return
        offset, size = self._range()
        self._note("read mapped", offset, size)
        with mmap.mmap(self._fd, len(self._model), prot=mmap.PROT_READ) as view:
            assert view[offset : offset + size] == self._model[offset : offset + size]

    def write_mapped(self) -> None:
        if not self._model:
            return
        offset = self._rng.randrange(len(self._model))
        data = self._data(min(self._rng.randrange(CHUNK_MAX), len(self._model) - offset))
        self._note("write mapped", offset, len(data))
        with mmap.mmap(self._fd, len(self._model)) as view:
            view[offset : offset + len(data)] = data
            if self._rng.random() < 0.2:
                view.flush()
        self._put(offset, data)

    def reopen(self) -> None:
        self._note("reopen", 0, 0)
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR)

    def sync(self) -> None:
        self._note("sync", 0, 0)
        os.fsync(self._fd)

    def compare(self) -> None:
        self._note("compare", 0, 0)
        assert os.fstat(self._fd).st_size == len(self._model)
        assert os.pread(self._fd, 2 * SIZE_MAX, 0) == self._model

    def save(self) -> None:
        self._note("save", 0, 0)
        os.setxattr(self._volume.root, "user.pramfs.save", b"1")

    def remount(self) -> None:
        self._note("remount", 0, 0)
        os.close(self._fd)
        self._volume.remount(*self._options)
        self._fd = os.open(self._path, os.O_RDWR)
        self.compare()

    def kill(self) -> None:
        self._note("kill", 0, 0)
        self.save()
        kept = bytes(self._model)
        self.write()
        os.kill(self._volume.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.close(self._fd)
        self._volume.kill()
        self._volume.mount(*self._options)
        self._model[:] = kept
        self._fd = os.open(self._path, os.O_RDWR)
        self.compare()

    def close(self) -> None:
        os.close(self._fd)

    def _range(self) -> tuple[int, int]:
        offset = self._rng.randrange(SIZE_MAX)
        size = self._rng.randrange(1, CHUNK_MAX)
        if self._rng.random() < 0.5:
            offset, size = offset & ~4095, size & ~4095 or 4096
        return offset, min(size, SIZE_MAX - offset)

    def _data(self, size: int) -> bytes:
        start = self._rng.randrange(CHUNK_MAX)
        return self._noise[start : start + size]

    def _grow(self, size: int) -> None:
        self._model.extend(bytes(max(0, size - len(self._model))))

    def _clear(self, offset: int, size: int) -> None:
        end = min(offset + size, len(self._model))
        self._model[offset:end] = bytes(max(0, end - offset))

    def _put(self, offset: int, data: bytes | bytearray) -> None:
        if data:
            self._grow(offset)
        self._model[offset : offset + len(data)] = data

    def _note(self, call: str, offset: int, size: int) -> None:
        self._log.append(f"{call} {offset:#x}+{size:#x}")
        del self._log[:-30]


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("options", [(), ("direct_io",)], ids=["cached", "direct_io"])
def test_a_file_holds_what_random_calls_left(
    volume: Volume, options: tuple[str, ...], long: bool, tmp_path: Path
) -> None:
    volume.mount(*options)
    exerciser = Exerciser(volume, random.randrange(1 << 32) if long else 7, options)
    try:
        exerciser.run(1_000_000 if long else 4_000)
    finally:
        exerciser.close()
