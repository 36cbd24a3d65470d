"""copy_file_range(2): every byte and every hole, also of what was written a moment ago."""

import mmap
import os
from pathlib import Path

import pytest

from tests.mounted.harness import KIB, MIB, PAGE, Volume
from tests.mounted.posix.scene import errno_of

CONTENT = bytes(range(1, 251)) * 400  # 100,000 bytes without a zero


def copy(source: int, target: int, count: int, at: int, to: int) -> int:
    """Copy a range as cp does: until nothing is left."""
    copied = 0
    while done := os.copy_file_range(source, target, count - copied, at + copied, to + copied):
        copied += done
        if copied == count:
            break
    return copied


@pytest.mark.parametrize("at", [0, 1, PAGE, 50_001])
@pytest.mark.parametrize("to", [0, 1, PAGE, 99_999, 200_000])
@pytest.mark.parametrize("count", [1, PAGE, 30_000, MIB])
def test_a_range_is_copied(fs: Path, at: int, to: int, count: int) -> None:
    (fs / "a").write_bytes(CONTENT)
    (fs / "b").write_bytes(b"b" * 100_000)
    piece = CONTENT[at : at + count]
    expected = bytearray(b"b" * 100_000)
    expected.extend(bytes(max(0, to - len(expected))))
    expected[to : to + len(piece)] = piece
    with (fs / "a").open("rb") as source, (fs / "b").open("r+b") as target:
        assert copy(source.fileno(), target.fileno(), count, at, to) == len(piece)
        assert os.pread(target.fileno(), MIB, 0) == expected
    assert (fs / "b").read_bytes() == expected
    assert (fs / "b").stat().st_size == len(expected)


@pytest.mark.parametrize("mapped", [False, True], ids=["written", "mapped"])
def test_what_was_just_written_is_copied(fs: Path, mapped: bool) -> None:
    """Source and target are dirty in the page cache."""
    with (
        (fs / "a").open("w+b", buffering=0) as source,
        (fs / "b").open("w+b", buffering=0) as target,
    ):
        for file in (source, target):
            os.ftruncate(file.fileno(), 10 * PAGE)
            letter = file.name[-1:].encode()
            if mapped:
                with mmap.mmap(file.fileno(), 10 * PAGE) as mapping:
                    mapping[:] = letter * 10 * PAGE
            else:
                os.pwrite(file.fileno(), letter * 10 * PAGE, 0)
        assert (
            copy(source.fileno(), target.fileno(), 3 * PAGE + 5, PAGE, 2 * PAGE + 7) == 3 * PAGE + 5
        )
        seen = os.pread(target.fileno(), MIB, 0)
    start = 2 * PAGE + 7
    expected = b"b" * start + b"a" * (3 * PAGE + 5)
    assert seen == expected.ljust(10 * PAGE, b"b")
    assert (fs / "b").read_bytes() == seen


def test_within_a_file(fs: Path) -> None:
    (fs / "a").write_bytes(CONTENT)
    with (fs / "a").open("r+b") as file:
        descriptor = file.fileno()
        assert copy(descriptor, descriptor, 50_000, 0, 50_000) == 50_000
        assert errno_of(lambda: os.copy_file_range(descriptor, descriptor, 100, 0, 99)) == "EINVAL"
    assert (fs / "a").read_bytes() == CONTENT[:50_000] * 2


def test_nothing_is_behind_the_end(fs: Path) -> None:
    (fs / "a").write_bytes(b"a")
    with (fs / "a").open("rb") as source, (fs / "b").open("wb") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 10, 1, 0) == 0
    assert (fs / "b").read_bytes() == b""


def test_a_copy_takes_away_set_id_bits_and_changes_the_times(fs: Path) -> None:
    (fs / "a").write_bytes(b"a")
    (fs / "b").write_bytes(b"b")
    os.utime(fs / "b", (1, 1))
    with (fs / "a").open("rb") as source, (fs / "b").open("r+b") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 1, 0, 0)
    assert (fs / "b").stat().st_mtime > 1


def test_holes_stay_holes_on_a_pramfs(pramfs_volume: Volume) -> None:
    """Tmpfs fills them, because there the kernel reads and writes."""
    directory = pramfs_volume.root / "holes"
    directory.mkdir()
    with (directory / "a").open("w+b") as source, (directory / "b").open("w+b") as target:
        os.truncate(source.fileno(), 1 << 35)
        os.pwrite(source.fileno(), b"island", 1 << 34)
        assert copy(source.fileno(), target.fileno(), 1 << 35, 0, 0) == 1 << 35
        assert os.pread(target.fileno(), 6, 1 << 34) == b"island"
    assert (directory / "b").stat().st_size == 1 << 35
    assert (directory / "b").stat().st_blocks == PAGE // 512


def test_a_large_file_is_copied_while_others_are_served(pramfs_volume: Volume) -> None:
    """At another place in the page: else nothing is copied."""
    directory = pramfs_volume.root / "large"
    directory.mkdir()
    (directory / "a").write_bytes(os.urandom(KIB) * 32 * KIB)
    with (directory / "a").open("rb") as source, (directory / "b").open("w+b") as target:
        first = os.copy_file_range(source.fileno(), target.fileno(), 32 * MIB, 0, 1)
        assert 0 < first < 32 * MIB, "the loop is held for all of it"
        assert copy(source.fileno(), target.fileno(), 32 * MIB - first, first, first + 1)
    assert b"\0" + (directory / "a").read_bytes() == (directory / "b").read_bytes()
