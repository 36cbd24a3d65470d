"""Files that are made without a name, with O_TMPFILE, and get one later or never."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounted.harness import KIB
from tests.mounted.posix.scene import errno_of


@contextmanager
def unnamed(directory: Path, flags: int = 0, mode: int = 0o640) -> Iterator[int]:
    """A descriptor of a new file without a name."""
    descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def link(descriptor: int, path: Path) -> None:
    """Give an open file a name."""
    # Only with a directory's descriptor does Python follow the link.
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)


def test_it_is_a_file_like_any_other(fs: Path) -> None:
    with unnamed(fs) as descriptor:
        os.write(descriptor, b"hello" * KIB)
        assert os.pread(descriptor, 10, 5) == b"hellohello"
        there = os.fstat(descriptor)
        assert (there.st_nlink, there.st_size, there.st_mode & 0o777) == (0, 5 * KIB, 0o640)
        assert list(fs.iterdir()) == []
        assert fs.stat().st_nlink == 2


def test_it_gets_a_name(fs: Path) -> None:
    with unnamed(fs) as descriptor:
        os.write(descriptor, b"hello")
        link(descriptor, fs / "named")
        assert os.fstat(descriptor).st_nlink == 1
        link(descriptor, fs / "again")
    assert (fs / "named").read_bytes() == b"hello"
    assert (fs / "again").stat().st_nlink == 2
    (fs / "named").unlink()
    assert (fs / "again").read_bytes() == b"hello"


def test_it_gets_no_name_that_is_taken(fs: Path) -> None:
    (fs / "taken").write_bytes(b"kept")
    with unnamed(fs) as descriptor:
        assert errno_of(lambda: link(descriptor, fs / "taken")) == "EEXIST"
    assert (fs / "taken").read_bytes() == b"kept"


def test_it_gets_no_name_if_that_was_ruled_out(fs: Path) -> None:
    with unnamed(fs, os.O_EXCL) as descriptor:
        assert errno_of(lambda: link(descriptor, fs / "named")) == "ENOENT"


def test_a_file_that_has_lost_its_name_gets_no_new_one(fs: Path) -> None:
    with unnamed(fs) as descriptor:
        link(descriptor, fs / "named")
        (fs / "named").unlink()
        assert errno_of(lambda: link(descriptor, fs / "again")) == "ENOENT"


@pytest.mark.parametrize("directory_mode", [0o755, 0o2775])
def test_it_has_the_owner_and_mode_that_a_named_file_gets(fs: Path, directory_mode: int) -> None:
    os.chown(fs, 0, 77)
    fs.chmod(directory_mode)
    os.umask(0o027)
    with unnamed(fs, mode=0o666) as descriptor:
        there = os.fstat(descriptor)
        assert there.st_mode & 0o7777 == 0o640
        assert there.st_gid == (77 if directory_mode & 0o2000 else 0)


def test_many_come_and_go(fs: Path) -> None:
    free = os.statvfs(fs).f_ffree
    for _ in range(100):
        with unnamed(fs) as descriptor:
            os.write(descriptor, b"x")
    assert os.statvfs(fs).f_ffree == free
