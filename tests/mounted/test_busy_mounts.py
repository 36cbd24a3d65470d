"""Requests of several processes, in the middle of which a mount is saved, unmounted or told to end."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pramfs.errors import EXIT_UNKNOWN
from pramfs.system.descriptors import readable
from tests.mounted.failing_medium import SYNC, Medium
from tests.mounted.harness import DEADLINE_S, MIB, PAGE, Volume, pramfs, run, wait_until
from tests.mounted.sample_trees import noise
from tests.support.checkout import PRAMFS

PROCESSES = 4
ENDED_MOUNT = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENODEV, errno.EIO}

# Writes, reads, renames and removes files below the directory $1 until standard input ends or the mount does.
# Prints the number of rounds that were completed; those of the last 20 have left a file.
WORKER = """
import os, select, sys
root, name, at = os.open(sys.argv[1], os.O_RDONLY), sys.argv[2], 0
content = lambda at: (b"%d " % at) * (1 + at * 97 % 5000)
print("ready", flush=True)
error = 0
try:
    while not select.select([0], [], [], 0)[0]:
        with open(os.open(f"{name}.new", os.O_CREAT | os.O_WRONLY, dir_fd=root), "wb") as file:
            file.write(content(at))
        os.rename(f"{name}.new", f"{name}.{at}", src_dir_fd=root, dst_dir_fd=root)
        with open(os.open(f"{name}.{at // 20 * 20}", os.O_RDONLY, dir_fd=root), "rb") as file:
            assert file.read() == content(at // 20 * 20)
        if at >= 40:
            os.unlink(f"{name}.{at - 40}", dir_fd=root)
        at += 1
except OSError as exc:
    error = exc.errno
print(at, error, flush=True)
"""


def content(at: int) -> bytes:
    """What a worker writes in round `at`."""
    return (b"%d " % at) * (1 + at * 97 % 5000)


class Worker:
    """A process that is busy in a mount."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, root, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def has_begun(self, root: Path) -> bool:
        return len(list(root.glob(f"{self.name}.*"))) > 5

    def end(self) -> tuple[int, int]:
        """Wait for its end; return its rounds, and the error that ended it or 0."""
        told, _ = self._process.communicate(timeout=DEADLINE_S)
        assert self._process.returncode == 0
        rounds, error = told.split()
        return int(rounds), int(error)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def busy(root: Path) -> Iterator[list[Worker]]:
    """Processes that have each done some rounds."""
    workers = [Worker(root, f"worker {number}") for number in range(PROCESSES)]
    try:
        wait_until(lambda: all(one.has_begun(root) for one in workers), "some rounds")
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def assert_worked(root: Path, worker: Worker, rounds: int) -> None:
    """The files of the last rounds are there."""
    assert rounds > 3
    for at in range(max(0, rounds - 20), rounds):
        assert (root / f"{worker.name}.{at}").read_bytes() == content(at), (worker.name, at)


def test_saves_in_the_middle_of_a_burst(volume: Volume) -> None:
    root = volume.mount()
    with busy(root) as workers:
        for _ in range(4):
            volume.save()
        ends = [worker.end() for worker in workers]
    assert [error for _, error in ends] == [0] * PROCESSES
    for _ in range(2):
        for worker, (rounds, _) in zip(workers, ends, strict=True):
            assert_worked(root, worker, rounds)
        volume.remount()


# Writes the file $1 in blocks of 1 MiB, the first half of it once more, and a small file after each block.
LARGE_WRITER = """
import os, random, sys
path, rng = sys.argv[1], random.Random(sys.argv[2])
fd = os.open(path, os.O_CREAT | os.O_RDWR)
for at in [*range(24), *range(12)]:
    os.pwrite(fd, rng.randbytes(1 << 20), at << 20)
    with open(f"{path}.{at}", "w") as small:
        small.write(path)
    if at % 8 == 7:
        os.fsync(fd)
os.pwrite(fd, b"odd", (24 << 20) + 4097)
os.posix_fallocate(fd, 0, 40 << 20)
"""


def large_content(seed: str) -> bytes:
    """What such a writer leaves."""
    rng = random.Random(seed)
    blocks = [rng.randbytes(MIB) for _ in range(36)]
    body = b"".join(blocks[24:] + blocks[12:24]) + bytes(4097) + b"odd"
    return body + bytes(40 * MIB - len(body))


def test_large_writes_beside_others_and_saves(volume: Volume) -> None:
    volume.size = "192M"
    root = volume.mount()
    paths = [root / "one", root / "two"]
    writers = [
        subprocess.Popen([sys.executable, "-c", LARGE_WRITER, path, path.name]) for path in paths
    ]
    for _ in range(3):
        volume.save()
    assert [writer.wait(DEADLINE_S) for writer in writers] == [0, 0]
    for _ in range(2):
        for path in paths:
            assert path.read_bytes() == large_content(path.name)
            assert (root / f"{path.name}.23").read_text() == str(path)
        volume.remount()


def test_what_is_done_after_a_lazy_unmount_is_saved(volume: Volume) -> None:
    root = volume.mount()
    with busy(root) as workers:
        run("umount", "-i", "-l", root).succeeded()
        assert not volume.is_mounted
        ends = [worker.end() for worker in workers]
    volume.ended()
    assert [error for _, error in ends] == [0] * PROCESSES
    volume.mount()
    for worker, (rounds, _) in zip(workers, ends, strict=True):
        assert_worked(root, worker, rounds)


def test_a_busy_mount_is_not_unmounted(volume: Volume) -> None:
    root = volume.mount()
    with busy(root) as workers:
        pramfs("umount", root).refused(32, "busy")
        ends = [worker.end() for worker in workers]
    for worker, (rounds, error) in zip(workers, ends, strict=True):
        assert not error
        assert_worked(root, worker, rounds)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_is_told_to_end_leaves_nobody_waiting(
    volume: Volume, number: signal.Signals
) -> None:
    root = volume.mount()
    (root / "before").write_bytes(noise(MIB))
    with busy(root) as workers:
        os.kill(volume.pid, number)
        ends = [worker.end() for worker in workers]
    volume.ended()
    assert {error for _, error in ends} <= {0, *ENDED_MOUNT}
    volume.mount()
    assert (root / "before").read_bytes() == noise(MIB)
    for worker, (rounds, _) in zip(workers, ends, strict=True):
        # The last ones may have been on their way when the mount was gone.
        assert (root / f"{worker.name}.{max(rounds - 20, 0) // 20 * 20}").exists()


def test_a_daemon_that_is_told_to_end_does_so_however_many_requests_come(volume: Volume) -> None:
    """With a few programs there is always one request that has arrived: it served for ever."""
    root = volume.mount()
    script = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("ready", flush=True)
while True:
    os.ftruncate(file, 1)
    os.ftruncate(file, 2)
"""
    paths = [root / f"{number}" for number in range(4 * PROCESSES)]
    with running((script, path) for path in paths):
        os.kill(volume.pid, signal.SIGTERM)
        volume.ended()
    root = volume.mount()
    assert len(list(root.iterdir())) == 4 * PROCESSES


# Makes the kernel hand over pages of the file $1 again and again, before it is asked for data and holes.
SEEKER = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 1 << 20)
mapped = mmap.mmap(file, 1 << 20)
print("ready", flush=True)
while True:
    for page in range(0, 256, 3):
        mapped[page * 4096] = 1
    os.lseek(file, 0, os.SEEK_HOLE)
    os.posix_fallocate(file, 0, 1 << 20)
"""

# Has pages of the file $1 refused, which the kernel is then told to drop.
REFUSED_WRITER = """
import mmap, os, subprocess, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 1 << 18)
mapped = mmap.mmap(file, 1 << 18)
subprocess.run(["chattr", "+i", sys.argv[1]], check=True)
print("ready", flush=True)
while True:
    for page in range(64):
        mapped[page * 4096] = 1
    try:
        os.fsync(file)
    except OSError:
        pass
"""

# Writes the file $1 past the cache, or through it.
DIRECT_WRITER = """
import mmap, os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
block = mmap.mmap(-1, 1 << 16)
print("ready", flush=True)
while True:
    for at in range(16):
        os.pwrite(file, block, at << 16)
"""
CACHED_WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("ready", flush=True)
while True:
    for at in range(0, 1 << 20, 8192):
        os.pread(file, 1, at)
    os.pwrite(file, b"z", 4096)
"""


@pytest.mark.parametrize("attempt", range(4))
def test_a_daemon_that_is_told_to_end_waits_for_what_it_tells_the_kernel(
    volume: Volume, attempt: int
) -> None:
    """A thread that waits in a notice cannot be killed: nobody was left to answer what it waits for."""
    root = volume.mount()
    programs = [
        (SEEKER, root / "one"),
        (SEEKER, root / "two"),
        (REFUSED_WRITER, root / "refused"),
        (DIRECT_WRITER, root / "three"),
        (CACHED_WRITER, root / "three"),
    ]
    with running(programs):
        time.sleep(attempt / 10)
        os.kill(volume.pid, signal.SIGTERM)
        volume.ended()
    volume.mount()


@contextlib.contextmanager
def running(programs: Iterable[tuple[str, Path]]) -> Iterator[None]:
    """Scripts that are ready, each with its file; they may fail when the mount goes."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for script, path in programs
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


# --- what the kernel forgets, and large requests -------------------------------------------------


def test_names_that_the_kernel_forgets_all_at_once(volume: Volume) -> None:
    root = volume.mount()
    for number in range(3000):
        (root / f"file {number}").write_bytes(b"content %d" % number)
    held = [(root / f"file {number}").open("rb") for number in range(1000)]
    for number in range(2000):
        (root / f"file {number}").unlink()
    used = volume.status()["frames"]["used"]
    for _ in range(2):
        Path("/proc/sys/vm/drop_caches").write_text("2")
    for number, file in enumerate(held):
        assert file.read() == b"content %d" % number
        file.close()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    wait_until(lambda: volume.status()["frames"]["used"] <= used - 1000, "frames of files closed")
    for number in range(2000, 3000):
        assert (root / f"file {number}").read_bytes() == b"content %d" % number
    assert len(list(root.iterdir())) == 1000


@pytest.mark.parametrize("options", [[], ["direct_io"]], ids=["cached", "direct"])
@pytest.mark.parametrize("size", [MIB, MIB - PAGE, MIB + PAGE + 5, 3 * MIB])
def test_requests_of_the_largest_size(volume: Volume, options: list[str], size: int) -> None:
    root = volume.mount(*options)
    data = noise(size)
    with (root / "file").open("w+b", buffering=0) as file:
        assert file.write(data) == size
        file.seek(0)
        assert file.read(size) == data
        assert file.write(data) == size
    volume.remount(*options)
    assert (root / "file").read_bytes() == 2 * data


# --- who is killed while a request waits ---------------------------------------------------------


def test_a_writer_that_is_killed_while_it_waits_for_room_goes_at_once(
    medium: Medium, volume: Volume
) -> None:
    """An arena that is full of what only the last save needs: a writer waits for the next one."""
    volume.arena, volume.image, volume.size = "memory", medium.image, str(1024 * PAGE)
    root = volume.mount("direct_io")
    (root / "file").write_bytes(noise(600 * PAGE))
    volume.save()
    script = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY)
print("ready", flush=True)
while True:
    os.pwrite(file, os.urandom(600 * 4096), 0)
"""
    with medium.holding(SYNC):
        writer = subprocess.Popen(
            [sys.executable, "-c", script, root / "file"], stdout=subprocess.PIPE
        )
        medium.wait_until_held()
        (root / "beside").touch()  # others are served
        writer.kill()
        assert writer.wait(DEADLINE_S) == -signal.SIGKILL
        assert writer.stdout is not None
        writer.stdout.close()
    volume.save()
    assert (root / "file").stat().st_size == 600 * PAGE


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_what_is_written_again_while_the_first_version_waits_for_room_is_saved(
    medium: Medium, volume: Volume
) -> None:
    """The kernel leaves a page out of a flush that it is handing over already, as it was before."""
    volume.image, volume.size = medium.image, str(1024 * PAGE)
    root = volume.mount()
    again = (480 * PAGE, b"again")  # in the second of three requests, which finds too little room
    with (root / "file").open("w+b", buffering=0) as file:
        file.write(noise(600 * PAGE))
        volume.save()
        with medium.holding(SYNC):
            os.pwrite(file.fileno(), noise(600 * PAGE)[::-1], 0)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # hands it over
            medium.wait_until_held()
            os.pwrite(file.fileno(), again[1], again[0])
            os.kill(volume.pid, signal.SIGTERM)
            time.sleep(1)  # with less than a flush takes, this finds nothing wrong
        volume.ended()
    root = volume.mount()
    expected = bytearray(noise(600 * PAGE)[::-1])
    expected[again[0] : again[0] + len(again[1])] = again[1]
    assert (root / "file").read_bytes() == expected


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
@pytest.mark.parametrize("command", ["save {}", "snapshot {} first"])
def test_names_in_the_root_are_found_and_changed_while_it_is_saved(
    medium: Medium, volume: Volume, command: str
) -> None:
    """The kernel held the lock of the root until the save was made: for minutes, on a slow disk."""
    volume.image = medium.image
    root = volume.mount()
    (root / "file").write_bytes(noise(MIB))
    script = 'set -e; cd "$1"; test ! -e absent; mkdir new; mv file new; mv new/file .; rmdir new'
    with medium.holding(SYNC):
        saving = subprocess.Popen([PRAMFS, *command.format(root).split()])
        medium.wait_until_held()
        others = subprocess.Popen(["sh", "-c", script, "sh", root])
        wait_until(lambda: others.poll() is not None, "changes of names in the root")
        assert saving.poll() is None
    assert others.returncode == 0
    assert saving.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("command", "number", "code"),
    [
        ("save {}", signal.SIGSTOP, 0),
        ("save {}", signal.SIGTSTP, 0),
        ("snapshot {} first", signal.SIGTSTP, 0),
        ("snapshot {} first", signal.SIGSTOP, EXIT_UNKNOWN),  # asking again would find it there
    ],
)
def test_a_command_that_is_stopped_and_continued_waits_on(
    medium: Medium, volume: Volume, command: str, number: signal.Signals, code: int
) -> None:
    """Ctrl-Z and fg, or a freezer: it said that the save had failed, when the daemon was still at it."""
    volume.image = medium.image
    root = volume.mount()
    (root / "file").write_bytes(noise(MIB))
    with medium.holding(SYNC):
        saving = subprocess.Popen(
            [PRAMFS, *command.format(root).split()], process_group=0, stderr=subprocess.PIPE
        )
        medium.wait_until_held()
        for one in (number, signal.SIGCONT):
            os.killpg(saving.pid, one)
            time.sleep(0.2)  # with less than a signal takes, this finds nothing wrong
    told = saving.communicate(timeout=DEADLINE_S)[1].decode()
    assert saving.returncode == code, told
    assert ("unknown whether" in told) == bool(code)
    if "first" in command:
        wait_until(lambda: "first" in pramfs("snapshots", root).text, "the snapshot")


def test_who_is_killed_in_a_long_copy_goes_at_once(volume: Volume) -> None:
    volume.size = "256M"
    root = volume.mount()
    (root / "from").write_bytes(noise(MIB) * 100)
    script = """
import os, sys
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
print("ready", flush=True)
while True:
    os.copy_file_range(source, target, 100 << 20, 0, 1)
"""
    copier = subprocess.Popen(
        [sys.executable, "-c", script, root / "from", root / "to"], stdout=subprocess.PIPE
    )
    assert copier.stdout is not None
    assert readable([copier.stdout], DEADLINE_S)
    wait_until(lambda: (root / "to").stat().st_size > MIB, "a part of the copy")
    copier.kill()
    assert copier.wait(DEADLINE_S) == -signal.SIGKILL
    copier.stdout.close()
    assert (root / "from").read_bytes() == noise(MIB) * 100
