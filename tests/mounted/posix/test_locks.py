"""Advisory locks between processes: flock, fcntl (POSIX) and open file description locks."""

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.posix.scene import ROOT, errno_of, run_as

_FLOCK = struct.Struct("hhqqi4x")


@pytest.mark.parametrize(
    ("held", "wanted", "error"),
    [
        (fcntl.LOCK_EX, fcntl.LOCK_EX, "EAGAIN"),
        (fcntl.LOCK_EX, fcntl.LOCK_SH, "EAGAIN"),
        (fcntl.LOCK_SH, fcntl.LOCK_EX, "EAGAIN"),
        (fcntl.LOCK_SH, fcntl.LOCK_SH, ""),
    ],
    ids=["EX-EX", "EX-SH", "SH-EX", "SH-SH"],
)
@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf], ids=["flock", "fcntl"])
def test_a_lock_of_one_process_is_seen_by_another(
    fs: Path, lock: Callable[..., None], held: int, wanted: int, error: str
) -> None:
    (fs / "file").write_bytes(b"x")
    with (fs / "file").open("r+b") as file:
        lock(file, held | fcntl.LOCK_NB)
        assert run_as(ROOT, lambda: _try(fs / "file", lock, wanted)) == error
        lock(file, fcntl.LOCK_UN)
        assert run_as(ROOT, lambda: _try(fs / "file", lock, wanted)) == ""


def test_fcntl_locks_ranges(fs: Path) -> None:
    (fs / "file").write_bytes(bytes(100))
    with (fs / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 10)

        def try_range(start: int, length: int) -> str:
            with (fs / "file").open("r+b") as other:
                flags = fcntl.LOCK_EX | fcntl.LOCK_NB
                return errno_of(lambda: fcntl.lockf(other, flags, length, start))

        ranges = [(0, 10), (0, 11), (15, 1), (20, 0)]
        found = [run_as(ROOT, lambda r=r: try_range(*r)) for r in ranges]  # type: ignore[misc]
        assert found == ["", "EAGAIN", "EAGAIN", ""]


def test_closing_any_descriptor_drops_fcntl_locks(fs: Path) -> None:
    (fs / "file").write_bytes(b"x")
    with (fs / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.close(os.open(fs / "file", os.O_RDONLY))
        assert run_as(ROOT, lambda: _try(fs / "file", fcntl.lockf, fcntl.LOCK_EX)) == ""


def test_open_file_description_locks_stay_until_the_last_close(fs: Path) -> None:
    (fs / "file").write_bytes(b"x")
    with (fs / "file").open("r+b") as file, (fs / "file").open("r+b") as other:
        _ofd(file.fileno())
        os.close(os.open(fs / "file", os.O_RDONLY))
        assert errno_of(lambda: _ofd(other.fileno())) == "EAGAIN"
        os.close(os.dup(file.fileno()))
        assert errno_of(lambda: _ofd(other.fileno())) == "EAGAIN"
    with (fs / "file").open("r+b") as other:
        assert errno_of(lambda: _ofd(other.fileno())) == ""


def test_a_lock_that_is_waited_for_does_not_stop_the_file_system(fs: Path) -> None:
    (fs / "file").write_bytes(b"x")
    with (fs / "file").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pid = os.fork()
        if not pid:
            with (fs / "file").open("r+b") as other:
                fcntl.flock(other, fcntl.LOCK_EX)
                (fs / "locked").touch()
            os._exit(0)
        (fs / "meanwhile").write_bytes(b"y")
        assert sorted(os.listdir(fs)) == ["file", "meanwhile"]
        fcntl.flock(file, fcntl.LOCK_UN)
        os.waitpid(pid, 0)
    assert (fs / "locked").exists()


def _try(path: Path, lock: Callable[..., None], wanted: int) -> str:
    with path.open("r+b") as file:
        return errno_of(lambda: lock(file, wanted | fcntl.LOCK_NB))


def _ofd(fd: int) -> None:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
