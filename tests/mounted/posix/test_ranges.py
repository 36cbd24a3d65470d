"""Ranges of files: fallocate(2), and lseek(2) for data and holes, whoever has the file open."""

import contextlib
import ctypes
import errno
import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import KIB, MIB, PAGE, Volume
from tests.mounted.posix.scene import table

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE = 1, 2, 8, 16, 32
PUNCH = PUNCH_HOLE | KEEP_SIZE

CONTENT = bytes(range(1, 251)) * 400  # 100,000 bytes without a zero


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def outcome(path: Path, mode: int, offset: int, length: int) -> tuple[str, bytes, int]:
    """The error of a call, then what is in the file, and its blocks in pages."""
    name = ""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fallocate(descriptor, mode, offset, length)
    except OSError as exc:
        name = errno.errorcode[exc.errno or 0]
    os.close(descriptor)
    return name, path.read_bytes(), path.stat().st_blocks // 8


def zeroed(start: int, end: int, size: int = len(CONTENT)) -> bytes:
    """The content with zeros from `start` to `end`."""
    return (CONTENT[:start] + bytes(min(end, size) - start) + CONTENT[end:])[:size].ljust(
        size, b"\0"
    )


CALLS = {
    "within": (0, 0, 8192, "", CONTENT, 25),
    "past the end": (0, 100_000, 100_000, "", CONTENT + bytes(100_000), 49),
    "past the end, keeping the size": (KEEP_SIZE, 0, 200_000, "", CONTENT, 49),
    "a hole of whole pages": (PUNCH, PAGE, 2 * PAGE, "", zeroed(PAGE, 3 * PAGE), 23),
    "a hole of parts of pages": (PUNCH, 100, 2 * PAGE, "", zeroed(100, 100 + 2 * PAGE), 24),
    "a hole within a page": (PUNCH, 10, 20, "", zeroed(10, 30), 25),
    "a hole over the end": (PUNCH, 10 * PAGE, MIB, "", zeroed(10 * PAGE, MIB), 10),
    "a hole that changes the size": (PUNCH_HOLE, 0, PAGE, "EOPNOTSUPP", CONTENT, 25),
    "nothing": (0, 0, 0, "EINVAL", CONTENT, 25),
    "before the beginning": (0, -1, 10, "EINVAL", CONTENT, 25),
    "past the largest size": (0, (1 << 63) - 10, 100, "EFBIG", CONTENT, 25),
    "collapse": (COLLAPSE_RANGE, 0, PAGE, "EOPNOTSUPP", CONTENT, 25),
    "insert": (INSERT_RANGE, 0, PAGE, "EOPNOTSUPP", CONTENT, 25),
}


@pytest.mark.parametrize(("mode", "offset", "length", "error", "content", "pages"), table(CALLS))
def test_fallocate(
    fs: Path, mode: int, offset: int, length: int, error: str, content: bytes, pages: int
) -> None:
    path = fs / "file"
    path.write_bytes(CONTENT)
    name, there, blocks = outcome(path, mode, offset, length)
    assert name in {error, {"EOPNOTSUPP": "ENOTSUP"}.get(error, error)}
    assert there == content
    assert blocks == pages


@pytest.mark.parametrize("keep_size", [0, KEEP_SIZE])
def test_a_range_is_made_zeros_where_tmpfs_cannot(
    pramfs_volume: Volume, tmp_path: Path, keep_size: int
) -> None:
    path = pramfs_volume.root / "zeros"
    path.write_bytes(CONTENT)
    name, there, blocks = outcome(path, ZERO_RANGE | keep_size, 100, 200_000)
    size = len(CONTENT) if keep_size else 200_100
    assert (name, there) == ("", zeroed(100, 200_100, size))
    assert blocks == 49
    path.unlink()


def fill(path: Path) -> None:
    """Write until there is no space."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, MIB) as data, contextlib.suppress(OSError):
        while True:
            os.write(descriptor, data)
    os.close(descriptor)


def test_reserved_room_is_there_when_all_else_is_full(pramfs_volume: Volume) -> None:
    root = pramfs_volume.root
    with (root / "reserved").open("w+b", buffering=0) as file:
        fallocate(file.fileno(), 0, 0, 32 * MIB)
        fill(root / "rest")
        descriptor = os.open(root / "reserved", os.O_WRONLY | os.O_DIRECT)
        with mmap.mmap(-1, MIB) as data:
            for number in range(32):
                assert os.pwrite(descriptor, data, number * MIB) == MIB
        os.close(descriptor)
    (root / "rest").unlink()
    (root / "reserved").unlink()


# --- lseek ---------------------------------------------------------------------------------------


def next_data(descriptor: int, offset: int) -> int | None:
    """Where data begin from `offset` on, None if there are none."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno != errno.ENXIO:
            raise
        return None


def segments(descriptor: int) -> list[tuple[int, int]]:
    """Where the data of a file begin and end."""
    found: list[tuple[int, int]] = []
    offset = 0
    while (start := next_data(descriptor, offset)) is not None:
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        found.append((start, offset))
    return found


def by_write(descriptor: int, offset: int) -> None:
    os.pwrite(descriptor, b"x", offset)


def by_mmap(descriptor: int, offset: int) -> None:
    memory = mmap.mmap(descriptor, 8 * MIB)
    memory[offset] = 1


@pytest.mark.parametrize("dirty", [by_write, by_mmap])
def test_data_are_found_that_were_not_handed_over_yet(
    fs: Path, dirty: Callable[[int, int], None]
) -> None:
    with (fs / "file").open("w+b", buffering=0) as writer:
        writer.truncate(8 * MIB)
        for offset in (5 * MIB, 100 * KIB, 7 * MIB + 5):
            dirty(writer.fileno(), offset)
        with (fs / "file").open("rb", buffering=0) as reader:
            expected = [(at & -PAGE, (at & -PAGE) + PAGE) for at in (100 * KIB, 5 * MIB, 7 * MIB)]
            assert segments(reader.fileno()) == expected
            assert segments(writer.fileno()) == expected


def test_a_file_that_is_all_in_the_cache_is_no_hole(fs: Path) -> None:
    with (fs / "file").open("w+b", buffering=0) as writer:
        writer.write(CONTENT)
        assert segments(writer.fileno()) == [(0, len(CONTENT))]
        assert os.lseek(writer.fileno(), 5, os.SEEK_HOLE) == len(CONTENT)


@pytest.mark.parametrize("dirty", [by_write, by_mmap])
def test_a_copy_beside_an_open_writer_is_equal(
    fs: Path, tmp_path: Path, dirty: Callable[[int, int], None]
) -> None:
    with (fs / "file").open("w+b", buffering=0) as writer:
        writer.truncate(8 * MIB)
        for offset in range(0, 8 * MIB, 700 * KIB):
            dirty(writer.fileno(), offset)
        subprocess.run(["cp", "--sparse=auto", fs / "file", tmp_path / "copy"], check=True)
        assert (tmp_path / "copy").read_bytes() == (fs / "file").read_bytes()
        subprocess.run(["tar", "-cSf", tmp_path / "tar", "-C", fs, "file"], check=True)
        subprocess.run(["tar", "-xSf", tmp_path / "tar", "-C", tmp_path], check=True)
        assert (tmp_path / "file").read_bytes() == (fs / "file").read_bytes()


def test_ten_pages_in_a_tebibyte_are_ten_steps(fs: Path) -> None:
    starts = [number * (1 << 36) for number in range(10)]
    with (fs / "file").open("w+b", buffering=0) as file:
        file.truncate(1 << 40)
        for start in starts:
            os.pwrite(file.fileno(), b"x", start)
    with (fs / "file").open("rb", buffering=0) as file:
        assert segments(file.fileno()) == [(start, start + PAGE) for start in starts]


def test_holes_stay_holes_in_a_copy(fs: Path) -> None:
    with (fs / "file").open("w+b") as file:
        file.truncate(64 * MIB)
        file.seek(32 * MIB)
        file.write(b"x")
    subprocess.run(["cp", fs / "file", fs / "copy"], check=True)
    assert (fs / "copy").stat().st_blocks < 1024
