"""Which times a call changes, on which of the objects involved.

A line is: what is done in the scene of scene.py, and what changes, object by object; `.` is the scene's
directory itself. `a` is atime, `m` mtime, `c` ctime. Objects that are not named stay as they are, and what
a call makes is not looked at. All times are old enough at the start for relatime to update them.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import run, wait_until
from tests.mounted.posix.scene import bind, open_close, table, write, write_direct
from tests.mounted.system import RENAME_EXCHANGE, RENAME_WHITEOUT, renameat2, syncfs

Times = tuple[int, int, int]  # atime, mtime, ctime

S = 1_000_000_000
OLD_NS = 1_000_000_000 * S

CHANGES = {
    # names
    "create": (lambda d: open_close(d / "new", os.O_CREAT), {".": "mc"}),
    "create what is there": (lambda d: open_close(d / "file", os.O_CREAT), {}),
    "mkdir": (lambda d: (d / "new").mkdir(), {".": "mc"}),
    "mkfifo": (lambda d: os.mkfifo(d / "new"), {".": "mc"}),
    "mknod": (lambda d: os.mknod(d / "new"), {".": "mc"}),
    "symlink": (lambda d: (d / "new").symlink_to("x"), {".": "mc"}),
    "bind": (lambda d: bind(d / "new"), {".": "mc"}),
    "link": (lambda d: os.link(d / "file", d / "new"), {".": "mc", "file": "c"}),
    "link a symbolic link": (
        lambda d: os.link(d / "link", d / "new", follow_symlinks=False), {".": "mc", "link": "c"},
    ),
    "link into another directory": (
        lambda d: os.link(d / "file", d / "dir" / "new"), {"dir": "mc", "file": "c"},
    ),
    "unlink": (lambda d: (d / "file").unlink(), {".": "mc"}),
    "unlink one of two names": (
        lambda d: (d / "full" / "twin").unlink(), {"full": "mc", "twin": "c"},
    ),
    "rmdir": (lambda d: (d / "dir").rmdir(), {".": "mc"}),
    "rename": (lambda d: (d / "file").rename(d / "file2"), {".": "mc", "file": "c"}),
    "rename into another directory": (
        lambda d: (d / "file").rename(d / "dir" / "file"), {".": "mc", "dir": "mc", "file": "c"},
    ),
    "rename over another file": (lambda d: (d / "file").rename(d / "other"), {".": "mc", "file": "c"}),
    "rename over a file with two names": (
        lambda d: (d / "file").rename(d / "full" / "twin"),
        {".": "mc", "full": "mc", "twin": "c", "file": "c"},
    ),
    "rename a directory": (lambda d: (d / "dir").rename(d / "dir2"), {".": "mc", "dir": "c"}),
    "rename a directory into another": (
        lambda d: (d / "dir").rename(d / "full" / "dir"), {".": "mc", "full": "mc", "dir": "c"},
    ),
    "rename a directory over an empty one": (
        lambda d: (d / "full").rename(d / "dir"), {".": "mc", "full": "c"},
    ),
    "rename to itself": (lambda d: (d / "file").rename(d / "file"), {}),
    "rename to another name of itself": (lambda d: (d / "twin").rename(d / "full" / "twin"), {}),
    "exchange": (
        lambda d: renameat2(d / "file", d / "full" / "inner", RENAME_EXCHANGE),
        {".": "mc", "full": "mc", "file": "c", "inner": "c"},
    ),
    "exchange in one directory": (
        lambda d: renameat2(d / "file", d / "link", RENAME_EXCHANGE),
        {".": "mc", "file": "c", "link": "c"},
    ),
    "leave a whiteout": (
        lambda d: renameat2(d / "file", d / "dir" / "file", RENAME_WHITEOUT),
        {".": "mc", "dir": "mc", "file": "c"},
    ),
    "look up": (lambda d: (d / "full" / "inner").stat(), {}),
    "look up what is missing": (lambda d: (d / "full" / "missing").exists(), {}),
    # attributes
    "chmod": (lambda d: (d / "file").chmod(0o600), {"file": "c"}),
    "chmod to the same": (lambda d: (d / "file").chmod(0o644), {"file": "c"}),
    "chown": (lambda d: os.chown(d / "file", 1, 1), {"file": "c"}),
    "chown to nobody new": (lambda d: os.chown(d / "file", -1, -1), {"file": "c"}),
    "lchown": (lambda d: os.lchown(d / "link", 1, 1), {"link": "c"}),
    "utimensat": (lambda d: os.utime(d / "file", ns=(1, 1)), {"file": "amc"}),
    "utimensat to now": (lambda d: os.utime(d / "file"), {"file": "amc"}),
    "setxattr": (lambda d: os.setxattr(d / "file", "user.name", b"value"), {"file": "c"}),
    "removexattr": (lambda d: os.removexattr(d / "full", "user.name"), {"full": "c"}),
    "setfacl": (lambda d: run("setfacl", "-m", "u:1002:r", d / "file").succeeded(), {"file": "c"}),
    "getxattr": (lambda d: os.getxattr(d / "full", "user.name"), {}),
    "listxattr": (lambda d: os.listxattr(d / "full"), {}),
    "stat": (lambda d: (d / "file").stat(), {}),
    "access": (lambda d: os.access(d / "file", os.R_OK), {}),
    # content
    "read": (lambda d: _read(d / "cold"), {"cold": "a"}),
    "read with O_NOATIME": (lambda d: _read(d / "cold", os.O_NOATIME), {}),
    "write": (lambda d: write(d / "file"), {"file": "mc"}),
    "write with O_DIRECT": (lambda d: write_direct(d / "file"), {"file": "mc"}),
    "copy_file_range": (lambda d: _copy_range(d / "cold", d / "file"), {"cold": "a", "file": "mc"}),
    "write nothing": (lambda d: write(d / "file", data=b""), {}),
    "append": (lambda d: write(d / "file", flags=os.O_APPEND), {"file": "mc"}),
    "open": (lambda d: open_close(d / "file"), {}),
    "open for writing": (lambda d: open_close(d / "file", os.O_WRONLY), {}),
    "open with O_TRUNC": (
        lambda d: open_close(d / "file", os.O_WRONLY | os.O_TRUNC), {"file": "mc"},
    ),
    "open an empty file with O_TRUNC": (
        lambda d: open_close(d / "full" / "empty", os.O_WRONLY | os.O_TRUNC), {"empty": "mc"},
    ),
    "truncate shorter": (lambda d: os.truncate(d / "file", 1), {"file": "mc"}),
    "truncate longer": (lambda d: os.truncate(d / "file", 100), {"file": "mc"}),
    "ftruncate": (lambda d: _ftruncate(d / "file", 1), {"file": "mc"}),
    "ftruncate to the same": (lambda d: _ftruncate(d / "file", 7), {"file": "mc"}),
    "listdir": (lambda d: os.listdir(d / "full"), {"full": "a"}),
    "opendir": (lambda d: open_close(d / "full"), {}),
    "readlink": (lambda d: (d / "link").readlink(), {"link": "a"}),
    "follow a link": (lambda d: (d / "link").stat(), {"link": "a"}),
}  # fmt: skip


@pytest.mark.parametrize(("call", "changes"), table(CHANGES))
def test_the_times_that_a_call_changes(
    scene: Path, call: Callable[[Path], object], changes: dict[str, str]
) -> None:
    before = _age(scene)
    names = _names(scene)
    call(scene)
    after = _times(scene)
    found = {}
    for ino in before.keys() & after.keys():
        changed = zip("amc", before[ino], after[ino], strict=True)
        found[names[ino]] = "".join(letter for letter, old, new in changed if new != old)
    assert {name: letters for name, letters in found.items() if letters} == changes


SETTABLE_NS = {
    "the epoch": 0,
    "1 ns after the epoch": 1,
    "1 ns before the epoch": -1,
    "1901, where 32 bits begin": -(2**31) * S,
    "2038, where 32 bits end": 2**31 * S,
    "2038, to the nanosecond": 2**31 * S + 123_456_789,
    "2106, where unsigned 32 bits end": 2**32 * S + 999_999_999,
    "2446, where ext4 ends": 15_032_385_535 * S,
    "the year 2500": 16_725_225_600 * S + 1,
    "the year 1000": -30_610_224_000 * S + 1,
}


@pytest.mark.parametrize("kind_of_object", ["file", "dir", "fifo", "device", "link"])
@pytest.mark.parametrize("time_ns", [pytest.param(ns, id=when) for when, ns in SETTABLE_NS.items()])
def test_a_time_is_kept_to_the_nanosecond(scene: Path, kind_of_object: str, time_ns: int) -> None:
    path = scene / kind_of_object
    os.utime(path, ns=(time_ns, time_ns + 1), follow_symlinks=False)
    seen = path.lstat()
    assert (seen.st_atime_ns, seen.st_mtime_ns) == (time_ns, time_ns + 1)


def test_truncate_by_path_to_the_same_size_leaves_the_times_of_a_pramfs(
    kind: str, scene: Path
) -> None:
    """The kernel keeps the times of a file with cached writes, and does not count this as a change."""
    before = _age(scene)
    os.truncate(scene / "file", 7)
    ino = (scene / "file").stat().st_ino
    assert (_times(scene)[ino] == before[ino]) == (kind == "pramfs")


def test_utime_omit_and_now_leave_and_set_one_time_each(scene: Path) -> None:
    file = scene / "file"
    os.utime(file, ns=(5, 6))
    _touch(file, "-a")
    assert file.stat().st_mtime_ns == 6
    assert file.stat().st_atime_ns > 6
    os.utime(file, ns=(5, 6))
    _touch(file, "-m")
    assert file.stat().st_atime_ns == 5


def test_a_new_object_has_one_time(scene: Path) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "file": lambda path: open_close(path, os.O_CREAT),
        "directory": os.mkdir,
        "fifo": os.mkfifo,
        "link": lambda path: path.symlink_to("x"),
    }
    for name, make in makers.items():
        before_ns = _clock(scene)
        make(scene / f"new {name}")
        after_ns = _clock(scene)
        seen = (scene / f"new {name}").lstat()
        assert seen.st_atime_ns == seen.st_mtime_ns == seen.st_ctime_ns, name
        assert before_ns <= seen.st_mtime_ns <= after_ns, name


@pytest.mark.parametrize("call", ["unlink", "rename"])
def test_a_file_that_loses_its_last_name_changes_its_ctime(scene: Path, call: str) -> None:
    path = scene / "file"
    before_ns = path.stat().st_ctime_ns
    wait_until(lambda: _clock(scene) > before_ns, "the clock")
    with path.open("rb") as file:
        path.unlink() if call == "unlink" else (scene / "other").rename(path)
        seen = os.fstat(file.fileno())
    assert seen.st_nlink == 0
    assert seen.st_ctime_ns > before_ns


def test_what_goes_through_a_fifo_leaves_the_times_of_a_pramfs(kind: str, scene: Path) -> None:
    """The kernel keeps what is in a fifo to itself, and the times with it."""
    before = _age(scene)
    reader = os.open(scene / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    write(scene / "fifo")
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    ino = (scene / "fifo").stat().st_ino
    assert (_times(scene)[ino] == before[ino]) == (kind == "pramfs")


def test_a_listing_with_o_noatime_leaves_a_trace_on_a_pramfs(kind: str, scene: Path) -> None:
    """The kernel says so when a directory is opened, pyfuse3 does not pass it on."""
    before = _age(scene)
    fd = os.open(scene / "full", os.O_RDONLY | os.O_NOATIME)
    os.listdir(fd)
    os.close(fd)
    ino = (scene / "full").stat().st_ino
    assert (_times(scene)[ino] == before[ino]) == (kind == "tmpfs")


def test_a_file_is_never_changed_before_it_was_made(scene: Path) -> None:
    for number in range(200):
        path = scene / f"n{number}"
        path.touch()
        created_ns = path.stat().st_ctime_ns
        path.write_bytes(b"x")
        written_ns = path.stat().st_mtime_ns
        path.chmod(0o600)
        assert created_ns <= written_ns <= path.stat().st_ctime_ns


def test_a_set_mtime_outlives_the_writes_before_it(scene: Path) -> None:
    with (scene / "file").open("wb", buffering=0) as file:
        file.write(b"x" * 100_000)
        os.utime(file.fileno(), ns=(OLD_NS, OLD_NS + 1))
    syncfs(scene)
    assert (scene / "file").stat().st_mtime_ns == OLD_NS + 1


def test_relatime_leaves_a_recent_atime(scene: Path) -> None:
    path = scene / "full"
    wait_until(lambda: _clock(scene) > path.stat().st_ctime_ns, "the clock")
    os.listdir(path)
    before = path.stat().st_atime_ns
    wait_until(lambda: _clock(scene) > before, "the clock")
    os.listdir(path)
    assert path.stat().st_atime_ns == before


def _age(scene: Path) -> dict[int, Times]:
    """Give everything an old atime and mtime, wait until ctimes are past; all times as they are then."""
    (scene / "full" / "empty").touch()
    (scene / "twin").write_bytes(b"twin")
    os.link(scene / "twin", scene / "full" / "twin")
    os.setxattr(scene / "full", "user.name", b"value")
    (scene / "cold").touch()
    os.truncate(scene / "cold", 100)
    for name in _NAMES:
        if os.path.lexists(scene / name):
            os.utime(scene / name, ns=(OLD_NS, OLD_NS), follow_symlinks=False)
    before = _times(scene)
    latest_ns = max(ctime for _, _, ctime in before.values())
    wait_until(lambda: _clock(scene.parent) > latest_ns, "the clock to pass the ctimes")
    return before


def _clock(directory: Path) -> int:
    """The time that a new file gets now."""
    path = directory / f"clock{os.getpid()}"
    path.touch()
    now_ns = path.stat().st_mtime_ns
    path.unlink()
    return now_ns


def _names(scene: Path) -> dict[int, str]:
    paths = [scene / name for name in _NAMES if os.path.lexists(scene / name)]
    return {path.lstat().st_ino: "." if path == scene else path.name for path in paths}


def _times(scene: Path) -> dict[int, Times]:
    """The times of all objects, by inode number. Names are not listed: that would change atimes."""
    found = {}
    for name in _NAMES:
        path = scene / name
        if os.path.lexists(path):
            seen = path.lstat()
            found[seen.st_ino] = (seen.st_atime_ns, seen.st_mtime_ns, seen.st_ctime_ns)
    return found


def _read(path: Path, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDONLY | flags)
    os.read(fd, 1)
    os.close(fd)


def _copy_range(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("r+b") as written:
        os.copy_file_range(read.fileno(), written.fileno(), 5)


def _ftruncate(path: Path, size: int) -> None:
    with path.open("r+b", buffering=0) as file:
        os.ftruncate(file.fileno(), size)


def _touch(path: Path, flag: str) -> None:
    run("touch", flag, path).succeeded()


# Where objects are, before and after a call.
_NAMES = (
    "", "file", "file2", "other", "dir", "dir2", "dir/file", "full", "full/inner", "full/empty",
    "full/twin", "full/dir", "twin", "cold", "link", "dirlink", "loop", "fifo", "socket", "device",
)  # fmt: skip
