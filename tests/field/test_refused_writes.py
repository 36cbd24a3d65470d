"""Programs were told that their writes were taken, and they were not: every verdict says so.

cockroachdb/cockroach #64385: ENOSPC may come after write(2), while the kernel writes back, to a program that
may be gone by then. s3fs-fuse/s3fs-fuse #2877: a write that had failed was logged, and then taken as done.
"""

import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, MOUNT_FAILED, Volume, detach, pramfs, umount_helper

INCOMPLETE = "save is incomplete"

_WRITE_AND_DIE = """
import os, signal, sys
for path in sys.argv[1:]:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    for _ in range(24):
        os.write(fd, b"x" * (1 << 20))
os.kill(os.getpid(), signal.SIGKILL)
"""

_MAP_AND_DIE = """
import mmap, os, signal, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR | FLAGS)
os.ftruncate(fd, 24 << 20)
memory = mmap.mmap(fd, 24 << 20)
for at in range(0, 24 << 20, 4096):
    memory[at] = 120
os.kill(os.getpid(), signal.SIGKILL)
"""


_MAP_DIRECT_AND_DIE = _MAP_AND_DIE.replace("FLAGS", "os.O_DIRECT")
_MAP_AND_DIE = _MAP_AND_DIE.replace("FLAGS", "0")


def write_and_die(program: str, *paths: Path) -> None:
    """Write more than fits, as the kernel has it, and end without a close that could tell."""
    ended = subprocess.run([sys.executable, "-c", program, *paths], check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.fixture
def small(volume: Volume) -> Volume:
    """A volume that what is written here does not fit into."""
    volume.size = "16M"
    volume.announce("no space", INCOMPLETE, "ERROR: the save")
    return volume


def refused_umount(volume: Volume, *words: str) -> None:
    """Unmount: both the command and the daemon say that the save is incomplete, and it is one."""
    generation = volume.generation
    pramfs("umount", volume.root).refused(MOUNT_FAILED, "unmounted and saved", INCOMPLETE, *words)
    volume.ended(MOUNT_FAILED)
    assert volume.info()["generation"] > generation


@pytest.mark.parametrize(
    ("program", "options"),
    [
        pytest.param(_WRITE_AND_DIE, [], id="write"),
        pytest.param(_MAP_AND_DIE, [], id="mmap"),
        pytest.param(_MAP_DIRECT_AND_DIE, [], id="mmap of an O_DIRECT descriptor"),
        pytest.param(_MAP_AND_DIE, ["direct_io"], id="mmap under direct_io"),
    ],
)
def test_umount_tells_of_a_writer_who_has_died(
    small: Volume, program: str, options: Sequence[str]
) -> None:
    root = small.mount(*options)
    write_and_die(program, root / "lost")
    refused_umount(small, "/lost", "No space left")


def test_sigterm_ends_with_another_exit_code(small: Volume) -> None:
    root = small.mount()
    write_and_die(_WRITE_AND_DIE, root / "lost")
    os.kill(small.pid, signal.SIGTERM)
    small.ended(MOUNT_FAILED)
    assert "/lost was taken" in small.log


def test_several_writers_are_all_named(small: Volume) -> None:
    root = small.mount()
    (root / "kept").write_bytes(b"kept")
    write_and_die(_WRITE_AND_DIE, root / "one", root / "two")
    names = ", ".join(f"/{path.name}" for path in sorted(root.glob("[ot]*")))
    refused_umount(small, names)
    assert pramfs("cat", small.image, "kept").succeeded().out == b"kept"


def test_save_and_status_say_it_as_long_as_it_is_so(small: Volume) -> None:
    root = small.mount()
    write_and_die(_WRITE_AND_DIE, root / "lost")
    for _ in range(2):
        pramfs("save", root).refused(MOUNT_FAILED, INCOMPLETE, "/lost")
    assert "/lost" in small.status()["error"]
    assert "/lost" in pramfs("status", root).succeeded().text
    (root / "lost").unlink()
    small.save()
    assert not small.status()["error"]
    small.umount()


def test_the_next_mount_and_info_tell_of_it(small: Volume) -> None:
    root = small.mount()
    write_and_die(_WRITE_AND_DIE, root / "lost")
    refused_umount(small)
    assert "/lost" in small.info()["last_run"]
    assert small.info()["incomplete"]
    small.mount()
    assert INCOMPLETE in small.log
    (root / "lost").unlink()
    small.umount()
    assert not small.info()["incomplete"]


def test_a_snapshot_of_files_that_lack_data_says_so_wherever_it_is_used(small: Volume) -> None:
    small.announce("is incomplete")
    root = small.mount()
    write_and_die(_WRITE_AND_DIE, root / "lost")
    pramfs("snapshot", root, "short").refused(MOUNT_FAILED, INCOMPLETE, "/lost")
    (root / "lost").unlink()
    pramfs("snapshot", root, "whole").succeeded()
    short, whole = pramfs("snapshots", root).succeeded().text.splitlines()
    assert short.startswith("pramfs@short")
    assert short.endswith("  incomplete")
    assert whole.startswith("pramfs@whole")
    assert whole.endswith("shared")
    listed = json.loads(pramfs("snapshots", "--json", root).succeeded().out)["snapshots"]
    assert [(one["incomplete"], one["cut_off"]) for one in listed] == [
        (True, False),
        (False, False),
    ]
    small.umount()
    info = small.info()
    assert (info["incomplete"], info["incomplete_trees"]) == (False, ["pramfs@short"])
    assert "incomplete:  pramfs@short\n" in pramfs("info", small.image).succeeded().text
    words = "'pramfs@short' is incomplete: not all that programs had written was taken"
    assert words in pramfs("check", small.image).succeeded().text
    small.mount("ro,snapshot=short")
    assert words in small.log
    small.umount()
    told = pramfs("rollback", small.image, "short").succeeded()
    assert "pramfs@short is incomplete" in told.err
    assert small.info()["incomplete_trees"] == ["pramfs@short", "pramfs"]
    small.mount()
    assert "the tree 'pramfs' is incomplete" in small.log
    (root / "lost").unlink()
    small.umount()
    assert small.info()["incomplete_trees"] == ["pramfs@short"]


@pytest.mark.parametrize("program", [_WRITE_AND_DIE, _MAP_AND_DIE], ids=["write", "mmap"])
@pytest.mark.parametrize("flag", ["-l", "-f"])
def test_an_unmount_that_does_not_wait_tells_of_it(small: Volume, flag: str, program: str) -> None:
    """The mount is in use; with -l it is saved later, and the next mount knows what became of it."""
    root = small.mount()
    (root / "kept").write_bytes(b"kept")
    descriptor = os.open(root / "kept", os.O_RDONLY)
    write_and_die(program, root / "lost")
    outcome = umount_helper(root, flag).refused(MOUNT_FAILED, "/lost", "No space left")
    assert "everything" not in outcome.err
    os.close(descriptor)
    if flag == "-f":
        detach(root)
    small.ended(MOUNT_FAILED)
    assert "/lost was taken" in small.log
    assert "/lost" in small.info()["last_run"]
    assert small.info()["incomplete"]
    small.mount()
    assert INCOMPLETE in small.log
    assert "/lost" in small.log
    assert (root / "kept").read_bytes() == b"kept"
    (root / "lost").unlink()
    small.umount()


@pytest.mark.parametrize("flag", ["-l", "-f"])
def test_a_mount_that_nobody_uses_is_not_unmounted_in_silence(small: Volume, flag: str) -> None:
    root = small.mount()
    write_and_die(_WRITE_AND_DIE, root / "lost")
    umount_helper(root, flag).refused(MOUNT_FAILED, "/lost", "No space left")
    small.ended(MOUNT_FAILED)
    assert "/lost" in small.info()["last_run"]


def try_to_fill(path: Path, flags: int = 0) -> int:
    """Write more than fits; returns a descriptor of the file, after it has said that it did not."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | flags)
    with mmap.mmap(-1, MIB) as page, pytest.raises(OSError, match="No space left"):  # noqa: PT012
        for _ in range(24):
            os.write(descriptor, page)
        os.fsync(descriptor)
    return descriptor


def remove(path: Path, descriptor: int) -> None:
    path.unlink()


def replace(path: Path, descriptor: int) -> None:
    path.with_suffix(".new").write_bytes(b"new")
    path.with_suffix(".new").replace(path)


def cut_off(path: Path, descriptor: int) -> None:
    os.ftruncate(descriptor, MIB)


def empty(path: Path, descriptor: int) -> None:
    path.write_bytes(b"anew")


def write_again(path: Path, descriptor: int) -> None:
    """When there is room."""
    (path.parent / "ballast").unlink()
    os.lseek(descriptor, 0, os.SEEK_SET)
    for _ in range(24):
        os.write(descriptor, bytes(MIB))
    os.fsync(descriptor)


@pytest.mark.parametrize("mend", [remove, replace, cut_off, empty, write_again])
def test_who_heard_of_it_and_mended_it_leaves_no_verdict(
    volume: Volume, mend: Callable[[Path, int], None]
) -> None:
    volume.size = "32M"
    volume.announce("no space")
    root = volume.mount()
    (root / "ballast").write_bytes(bytes(16 * MIB))
    volume.save()
    descriptor = try_to_fill(root / "file")
    mend(root / "file", descriptor)
    os.close(descriptor)
    pramfs("save", root).succeeded()
    volume.umount()


@pytest.mark.parametrize("how", [["direct_io"], []], ids=["direct_io", "O_DIRECT"])
def test_a_write_that_failed_itself_is_nothing_to_tell(volume: Volume, how: Sequence[str]) -> None:
    volume.size = "16M"
    volume.announce("no space")
    root = volume.mount(*how)
    os.close(try_to_fill(root / "file", 0 if how else os.O_DIRECT))
    volume.umount()
