"""The option fsync=publish: what fsync(2) has returned for survives, and failures reach its caller."""

import contextlib
import errno
import mmap
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.failing_medium import SYNC, WRITE, Medium
from tests.mounted.harness import DEADLINE_S, PAGE, Volume
from tests.mounted.posix.scene import ALICE, run_as
from tests.mounted.system import syncfs

PUBLISH = "fsync=publish"
DATA = b"written " * 1000


def by_fsync(path: Path) -> None:
    with path.open("wb") as file:
        file.write(DATA)
        file.flush()
        os.fsync(file.fileno())


def by_fdatasync(path: Path) -> None:
    with path.open("wb") as file:
        file.write(DATA)
        file.flush()
        os.fdatasync(file.fileno())


def by_o_sync(path: Path) -> None:
    write_with(path, os.O_SYNC)


def by_o_dsync(path: Path) -> None:
    write_with(path, os.O_DSYNC)


def write_with(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | flags)
    assert os.write(descriptor, DATA) == len(DATA)
    os.close(descriptor)


def by_msync(path: Path) -> None:
    path.write_bytes(bytes(len(DATA)))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = DATA
        mapped.flush()


def by_fsync_of_the_directory(path: Path) -> None:
    part = path.with_suffix(".part")
    by_fsync(part)
    part.rename(path)
    fsync(path.parent)


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


WAYS = [by_fsync, by_fdatasync, by_o_sync, by_o_dsync, by_msync, by_fsync_of_the_directory]


@pytest.fixture
def on_medium(medium: Medium, volume: Volume) -> Volume:
    """A volume whose image is on the medium. New pages are in memory: requests go on while it waits."""
    volume.arena = "memory"
    volume.image = medium.image
    volume.size = str(1024 * PAGE)
    volume.announce("save failed", "input/output error", "no space left", "save is not in")
    return volume


# --- what survives -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[PUBLISH], [PUBLISH, "direct_io"]], ids="-".join)
@pytest.mark.parametrize("way", WAYS)
def test_it_survives_the_daemon(
    volume: Volume, way: Callable[[Path], None], options: list[str]
) -> None:
    root = volume.mount(*options)
    (root / "dir").mkdir()
    for name in ("first", "second"):
        way(root / "dir" / name)
    volume.kill()
    volume.mount()
    for name in ("first", "second"):
        assert (root / "dir" / name).read_bytes() == DATA


def test_by_default_it_publishes_nothing(volume: Volume) -> None:
    root = volume.mount()
    generation = volume.generation
    for way in WAYS[:-1]:
        way(root / way.__name__)
    assert volume.generation == generation


def test_what_is_durable_is_not_saved_again(volume: Volume) -> None:
    root = volume.mount(PUBLISH)
    by_fsync(root / "file")
    generation = volume.generation
    for _ in range(3):
        fsync(root / "file")
    assert volume.generation == generation


@pytest.mark.parametrize("arena", ["image"])  # its home can be opened to others
def test_a_database_of_an_ordinary_user(home: Path, volume: Volume) -> None:
    home.chmod(0o755)
    root = volume.mount(PUBLISH, "allow_other", "mode=777")

    def insert() -> None:
        base = sqlite3.connect(root / "base")
        base.execute("pragma synchronous = extra")  # also of the directory of the journal
        base.execute("create table t (x)")
        for number in range(20):
            with base:
                base.execute("insert into t values (?)", (number,))
        base.close()

    run_as(ALICE, insert)
    volume.kill()
    volume.mount()
    with contextlib.closing(sqlite3.connect(root / "base")) as base:
        assert base.execute("select count(*) from t").fetchone() == (20,)


# --- those that wait -----------------------------------------------------------------------------


class Waiting:
    """A process that is in the middle of an fsync."""

    def __init__(self, path: Path) -> None:
        script = (
            "import os, sys\n"
            "file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
            "os.write(file, b'x')\n"
            "print(flush=True)\n"
            "os.fsync(file)\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def ended(self) -> int:
        self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode


def test_many_share_a_save_and_others_are_served(on_medium: Volume, medium: Medium) -> None:
    root = on_medium.mount(PUBLISH)
    by_fsync(root / "before")  # the first change is recorded in the image
    generation = on_medium.generation
    with medium.holding(SYNC):
        first = Waiting(root / "first")
        medium.wait_until_held()
        others = [Waiting(root / f"other {number}") for number in range(8)]
        (root / "beside").write_bytes(DATA)
        assert (root / "beside").read_bytes() == DATA
        assert all(waiting.process.poll() is None for waiting in (first, *others))
    assert [waiting.ended() for waiting in (first, *others)] == [0] * 9
    assert on_medium.generation - generation in (2, 3)  # one may not have called fsync in time


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_is_killed_in_an_fsync_goes_at_once(
    on_medium: Volume, medium: Medium, number: signal.Signals
) -> None:
    root = on_medium.mount(PUBLISH)
    by_fsync(root / "before")
    with medium.holding(SYNC):
        waiting = [Waiting(root / f"file {number}") for number in range(3)]
        medium.wait_until_held()
        for one in waiting:
            one.process.send_signal(number)
        assert [one.ended() for one in waiting] == [-number] * 3
    by_fsync(root / "after")
    on_medium.kill()
    on_medium.mount()
    assert (root / "after").read_bytes() == DATA


def test_who_is_killed_in_a_save_goes_at_once(on_medium: Volume, medium: Medium) -> None:
    root = on_medium.mount()
    (root / "file").write_bytes(DATA)
    script = "import os, sys; os.setxattr(sys.argv[1], 'user.pramfs.save', b'')"
    with medium.holding(SYNC):
        command = subprocess.Popen([sys.executable, "-c", script, root])
        medium.wait_until_held()
        command.kill()
        assert command.wait(DEADLINE_S) == -signal.SIGKILL
        (root / "beside").write_bytes(DATA)
    on_medium.save()


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error", "told"),
    [
        (WRITE, errno.EIO, errno.EIO),
        (WRITE, errno.ENOSPC, errno.ENOSPC),
        (SYNC, errno.EIO, errno.EIO),
    ],
)
def test_a_failure_reaches_the_caller(
    on_medium: Volume, medium: Medium, kind: str, error: int, told: int
) -> None:
    root = on_medium.mount(PUBLISH)
    (root / "file").write_bytes(DATA)
    syncfs(root)
    with medium.failing(kind, 0, error):
        for _ in range(2):
            with pytest.raises(OSError, match=os.strerror(told)):
                fsync(root / "file")
    fsync(root / "file")
    on_medium.kill()
    on_medium.mount()
    assert (root / "file").read_bytes() == DATA


def test_all_that_share_a_save_see_its_failure(on_medium: Volume, medium: Medium) -> None:
    root = on_medium.mount(PUBLISH)
    for number in range(4):
        (root / f"{number}").write_bytes(DATA)
    syncfs(root)
    seen: list[int | None] = []

    def call(number: int) -> None:
        try:
            fsync(root / f"{number}")
        except OSError as exc:
            seen.append(exc.errno)

    with medium.failing(SYNC):
        threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_S)
    assert seen == [errno.EIO] * 4
    fsync(root / "0")


def test_an_image_that_is_gone_is_no_success(volume: Volume) -> None:
    volume.announce("save is not in")
    root = volume.mount(PUBLISH)
    by_fsync(root / "file")
    kept = volume.image.with_name("kept")
    volume.image.rename(kept)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        by_fsync(root / "file")
    kept.rename(volume.image)
    by_fsync(root / "file")
