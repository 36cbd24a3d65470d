"""Advisory locks between processes: flock, fcntl (POSIX) and open file description locks."""

import fcntl
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import wait_until
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


def test_locks_of_an_open_file_description_and_of_a_process_exclude_each_other(fs: Path) -> None:
    (fs / "file").write_bytes(b"x")
    with (fs / "file").open("r+b") as file, (fs / "file").open("r+b") as other:
        _ofd(file.fileno())
        assert errno_of(lambda: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB)) == "EAGAIN"


def test_flock_and_fcntl_locks_do_not_see_each_other(fs: Path) -> None:
    (fs / "file").write_bytes(b"x")
    with (fs / "file").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert run_as(ROOT, lambda: _try(fs / "file", fcntl.lockf, fcntl.LOCK_EX)) == ""


def test_a_flock_is_of_all_who_share_the_descriptor(fs: Path) -> None:
    (fs / "file").write_bytes(b"x")
    with (fs / "file").open("r+b") as file:
        copy = os.dup(file.fileno())
        fcntl.flock(file, fcntl.LOCK_EX)
    assert run_as(ROOT, lambda: _try(fs / "file", fcntl.flock, fcntl.LOCK_EX)) == "EAGAIN"
    os.close(copy)
    assert run_as(ROOT, lambda: _try(fs / "file", fcntl.flock, fcntl.LOCK_EX)) == ""


@pytest.mark.parametrize("lock", [fcntl.flock, fcntl.lockf], ids=["flock", "fcntl"])
def test_locks_end_with_their_process(fs: Path, lock: Callable[..., None]) -> None:
    (fs / "file").write_bytes(b"x")
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with (fs / "file").open("r+b") as file:
            lock(file, fcntl.LOCK_EX)
            os.write(writer, b"1")
            signal.pause()
    os.read(reader, 1)
    assert _try(fs / "file", lock, fcntl.LOCK_EX) == "EAGAIN"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert _try(fs / "file", lock, fcntl.LOCK_EX) == ""
    os.close(reader)
    os.close(writer)


def test_who_holds_a_lock_is_told(fs: Path) -> None:
    (fs / "file").write_bytes(bytes(100))
    with (fs / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 20)

        def ask() -> tuple[int, ...]:
            request = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
            with (fs / "file").open("r+b") as other:
                return _FLOCK.unpack(fcntl.fcntl(other, fcntl.F_GETLK, request))

        assert run_as(ROOT, ask) == (fcntl.F_WRLCK, os.SEEK_SET, 20, 10, os.getpid())


def test_two_who_wait_for_each_other_are_a_deadlock(fs: Path) -> None:
    (fs / "file").write_bytes(bytes(2))
    reader, writer = os.pipe()
    with (fs / "file").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
        pid = os.fork()
        if not pid:
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
            os.write(writer, b"1")
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
            os._exit(0)
        os.read(reader, 1)
        wait_until(lambda: _waits(pid), "the other to wait for a lock")
        # EDEADLK: one number, two names.
        assert errno_of(lambda: fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)) == "EDEADLOCK"
        fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
        assert os.waitpid(pid, 0)[1] == 0
    os.close(reader)
    os.close(writer)


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


def _waits(pid: int) -> bool:
    """Whether a process waits for a lock: such a line has an arrow, and the process after it."""
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line.split() and str(pid) in line.split() for line in lines)


def _ofd(fd: int) -> None:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
