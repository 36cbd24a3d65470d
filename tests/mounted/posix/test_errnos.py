"""Which error a call ends with, and which of two it prefers.

The first table crosses every call that takes a path with every path that leads nowhere. The second is
one line for each error of one call: what is called, in the scene of scene.py, and the error ("" = none).
"""

import mmap
import os
import resource
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, PAGE
from tests.mounted.posix.scene import ROOT, bind, errno_of, open_close, run_as, table
from tests.mounted.system import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    RENAME_WHITEOUT,
    renameat2,
)

EiB = 1 << 60
LONGEST = "n" * 255

CALLS: dict[str, Callable[[str], object]] = {
    "open": open_close,
    "creat": lambda path: open_close(path, os.O_CREAT | os.O_WRONLY),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
    "symlink": lambda path: os.symlink("target", path),
    "link to": lambda path: os.link("/proc/self/exe", path),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "stat": os.stat,
    "lstat": os.lstat,
    "access": lambda path: os.access(path, os.F_OK) or os.stat(path),
    "readlink": os.readlink,
    "chmod": lambda path: os.chmod(path, 0o644),
    "chown": lambda path: os.chown(path, 0, 0),
    "lchown": lambda path: os.lchown(path, 0, 0),
    "utimensat": lambda path: os.utime(path, (0, 0)),
    "truncate": lambda path: os.truncate(path, 0),
    "listdir": os.listdir,
    "statvfs": os.statvfs,
    "getxattr": lambda path: os.getxattr(path, "user.name"),
    "setxattr": lambda path: os.setxattr(path, "user.name", b"value"),
    "rename from": lambda path: os.rename(path, path + "2"),
}

NOWHERE = {
    "below what is missing": ("missing/x", "ENOENT"),
    "below a dangling link": ("dangling/x", "ENOENT"),
    "below a file": ("file/x", "ENOTDIR"),
    "below a fifo": ("fifo/x", "ENOTDIR"),
    "below a loop": ("loop/x", "ELOOP"),
    "a name of 256 bytes": ("n" * 256, "ENAMETOOLONG"),
    "below a name of 256 bytes": ("n" * 256 + "/x", "ENAMETOOLONG"),
    "a path of 4,096 bytes": ("./" * 2048 + "x", "ENAMETOOLONG"),
    "a long name below a file": ("file/" + "n" * 256, "ENOTDIR"),
    "a long name below what is missing": ("missing/" + "n" * 256, "ENOENT"),
}


@pytest.mark.parametrize(("path", "error"), table(NOWHERE))
@pytest.mark.parametrize("call", CALLS)
def test_a_path_that_leads_nowhere(scene: Path, call: str, path: str, error: str) -> None:
    assert errno_of(lambda: CALLS[call](f"{scene}/{path}")) == error


ERRORS = {
    # open
    "open what is missing": (lambda d: open_close(d / "missing"), "ENOENT"),
    "open a dangling link": (lambda d: open_close(d / "dangling"), "ENOENT"),
    "create through a dangling link": (lambda d: open_close(d / "dangling", os.O_CREAT), ""),
    "O_EXCL on a dangling link": (
        lambda d: open_close(d / "dangling", os.O_CREAT | os.O_EXCL), "EEXIST",
    ),
    "O_EXCL on a directory": (lambda d: open_close(d / "dir", os.O_CREAT | os.O_EXCL), "EEXIST"),
    "O_CREAT on a directory": (lambda d: open_close(d / "dir", os.O_CREAT), "EISDIR"),
    "write to a directory": (lambda d: open_close(d / "dir", os.O_WRONLY), "EISDIR"),
    "truncate a directory with open": (
        lambda d: open_close(d / "dir", os.O_RDONLY | os.O_TRUNC), "EISDIR",
    ),
    "O_DIRECTORY on a file": (lambda d: open_close(d / "file", os.O_DIRECTORY), "ENOTDIR"),
    "O_NOFOLLOW on a link": (lambda d: open_close(d / "link", os.O_NOFOLLOW), "ELOOP"),
    "open a loop": (lambda d: open_close(d / "loop"), "ELOOP"),
    "open a socket": (lambda d: open_close(d / "socket"), "ENXIO"),
    "open a device under nodev": (lambda d: open_close(d / "device"), "EACCES"),
    "open a fifo that nobody reads": (
        lambda d: open_close(d / "fifo", os.O_WRONLY | os.O_NONBLOCK), "ENXIO",
    ),
    "open with a slash after a file": (lambda d: open_close(f"{d}/file/"), "ENOTDIR"),
    "create with a slash at the end": (lambda d: open_close(f"{d}/new/", os.O_CREAT), "EISDIR"),
    "O_CREAT and O_DIRECTORY": (
        lambda d: open_close(d / "new", os.O_CREAT | os.O_DIRECTORY), "EINVAL",
    ),
    "O_PATH of a loop": (lambda d: open_close(d / "loop", os.O_PATH | os.O_NOFOLLOW), ""),
    "create a name of 255 bytes": (lambda d: open_close(d / LONGEST, os.O_CREAT), ""),
    # mkdir, mknod, symlink, bind
    "mkdir over a file": (lambda d: (d / "file").mkdir(), "EEXIST"),
    "mkdir over a dangling link": (lambda d: (d / "dangling").mkdir(), "EEXIST"),
    "mkdir with a slash at the end": (lambda d: os.mkdir(f"{d}/new/"), ""),
    "mkdir .": (lambda d: os.mkdir(f"{d}/."), "EEXIST"),
    "mkdir ..": (lambda d: os.mkdir(f"{d}/dir/.."), "EEXIST"),
    "mkfifo over a directory": (lambda d: os.mkfifo(d / "dir"), "EEXIST"),
    "mkfifo with a slash at the end": (lambda d: os.mkfifo(f"{d}/new/"), "ENOENT"),
    "mknod over a file": (lambda d: os.mknod(d / "file"), "EEXIST"),
    "mknod of a regular file": (lambda d: os.mknod(d / "new", stat.S_IFREG | 0o600), ""),
    "mknod of a block device": (
        lambda d: os.mknod(d / "new", stat.S_IFBLK | 0o600, os.makedev(7, 300)), "",
    ),
    "mknod of a directory": (lambda d: os.mknod(d / "new", stat.S_IFDIR | 0o700), "EPERM"),
    "mknod of a link": (lambda d: os.mknod(d / "new", stat.S_IFLNK | 0o700), "EINVAL"),
    "symlink over a link": (lambda d: (d / "link").symlink_to("x"), "EEXIST"),
    "symlink to nothing": (lambda d: (d / "new").symlink_to(""), "ENOENT"),
    "symlink to 4,095 bytes": (lambda d: os.symlink("x" * 4095, d / "new"), ""),
    "symlink to 4,096 bytes": (lambda d: os.symlink("x" * 4096, d / "new"), "ENAMETOOLONG"),
    "bind over a file": (lambda d: bind(d / "file"), "EADDRINUSE"),
    # link
    "link a directory": (lambda d: os.link(d / "dir", d / "new"), "EPERM"),
    "link over a file": (lambda d: os.link(d / "file", d / "other"), "EEXIST"),
    "link over itself": (lambda d: os.link(d / "file", d / "file"), "EEXIST"),
    "link what is missing": (lambda d: os.link(d / "missing", d / "new"), "ENOENT"),
    "link what is missing over a file": (lambda d: os.link(d / "missing", d / "file"), "ENOENT"),
    "link a symbolic link": (lambda d: os.link(d / "link", d / "new", follow_symlinks=False), ""),
    "link a fifo": (lambda d: os.link(d / "fifo", d / "new"), ""),
    "link to a long name": (lambda d: os.link(d / "file", d / ("n" * 256)), "ENAMETOOLONG"),
    "link from another file system": (lambda d: os.link("/proc/self/exe", d / "new"), "EXDEV"),
    # unlink, rmdir
    "unlink what is missing": (lambda d: (d / "missing").unlink(), "ENOENT"),
    "unlink a directory": (lambda d: (d / "dir").unlink(), "EISDIR"),
    "unlink a full directory": (lambda d: (d / "full").unlink(), "EISDIR"),
    "unlink .": (lambda d: os.unlink(f"{d}/dir/."), "EISDIR"),
    "unlink a file with a slash": (lambda d: os.unlink(f"{d}/file/"), "ENOTDIR"),
    "unlink a loop": (lambda d: (d / "loop").unlink(), ""),
    "unlink a socket": (lambda d: (d / "socket").unlink(), ""),
    "rmdir what is missing": (lambda d: (d / "missing").rmdir(), "ENOENT"),
    "rmdir a file": (lambda d: (d / "file").rmdir(), "ENOTDIR"),
    "rmdir a link to a directory": (lambda d: (d / "dirlink").rmdir(), "ENOTDIR"),
    "rmdir a full directory": (lambda d: (d / "full").rmdir(), "ENOTEMPTY"),
    "rmdir .": (lambda d: os.rmdir(f"{d}/dir/."), "EINVAL"),
    "rmdir ..": (lambda d: os.rmdir(f"{d}/dir/.."), "ENOTEMPTY"),
    "rmdir a mountpoint": (lambda d: d.parent.rmdir(), "EBUSY"),
    "unlink a mountpoint": (lambda d: d.parent.unlink(), "EISDIR"),
    # rename
    "rename a mountpoint": (lambda d: d.parent.rename(f"{d.parent}2"), "EBUSY"),
    "rename what is missing": (lambda d: (d / "missing").rename(d / "new"), "ENOENT"),
    "rename what is missing over a directory": (
        lambda d: (d / "missing").rename(d / "dir"), "ENOENT",
    ),
    "rename a file over a directory": (lambda d: (d / "file").rename(d / "dir"), "EISDIR"),
    "rename a file over a full directory": (lambda d: (d / "file").rename(d / "full"), "EISDIR"),
    "rename a directory over a file": (lambda d: (d / "dir").rename(d / "file"), "ENOTDIR"),
    "rename a directory over an empty one": (lambda d: (d / "full").rename(d / "dir"), ""),
    "rename a directory over a full one": (lambda d: (d / "dir").rename(d / "full"), "ENOTEMPTY"),
    "rename a directory into itself": (lambda d: (d / "dir").rename(d / "dir" / "x"), "EINVAL"),
    "rename a directory over its own file": (
        lambda d: (d / "full").rename(d / "full" / "inner"), "EINVAL",
    ),
    "rename a directory below itself": (
        lambda d: d.rename(d / "dir" / "x"), "EINVAL",
    ),
    "rename a file over its directory": (
        lambda d: (d / "full" / "inner").rename(d / "full"), "ENOTEMPTY",
    ),
    "rename a file to itself": (lambda d: (d / "file").rename(d / "file"), ""),
    "rename a file over another": (lambda d: (d / "file").rename(d / "other"), ""),
    "rename a file over a fifo": (lambda d: (d / "file").rename(d / "fifo"), ""),
    "rename a link over a link": (lambda d: (d / "link").rename(d / "dirlink"), ""),
    "rename a link over a directory": (lambda d: (d / "link").rename(d / "dir"), "EISDIR"),
    "rename a directory over a link to one": (
        lambda d: (d / "dir").rename(d / "dirlink"), "ENOTDIR",
    ),
    "rename .": (lambda d: os.rename(f"{d}/dir/.", d / "new"), "EBUSY"),
    "rename to .": (lambda d: os.rename(d / "full", f"{d}/dir/."), "EBUSY"),
    "rename a file with a slash": (lambda d: os.rename(f"{d}/file/", d / "new"), "ENOTDIR"),
    "rename a file to a name with a slash": (lambda d: os.rename(d / "file", f"{d}/new/"), "ENOTDIR"),
    "rename a directory to a name with a slash": (lambda d: os.rename(d / "dir", f"{d}/new/"), ""),
    "rename to a long name": (lambda d: (d / "file").rename(d / ("n" * 256)), "ENAMETOOLONG"),
    "rename what is missing to a long name": (
        lambda d: (d / "missing").rename(d / ("n" * 256)), "ENOENT",
    ),
    "rename to another file system": (lambda d: (d / "file").rename("/dev/shm/x"), "EXDEV"),
    "RENAME_NOREPLACE over a file": (
        lambda d: renameat2(d / "file", d / "other", RENAME_NOREPLACE), "EEXIST",
    ),
    "RENAME_NOREPLACE to itself": (
        lambda d: renameat2(d / "file", d / "file", RENAME_NOREPLACE), "EEXIST",
    ),
    "RENAME_NOREPLACE to a new name": (
        lambda d: renameat2(d / "file", d / "new", RENAME_NOREPLACE), "",
    ),
    "RENAME_EXCHANGE with nothing": (
        lambda d: renameat2(d / "file", d / "new", RENAME_EXCHANGE), "ENOENT",
    ),
    "RENAME_EXCHANGE of a file and a directory": (
        lambda d: renameat2(d / "file", d / "full", RENAME_EXCHANGE), "",
    ),
    "RENAME_EXCHANGE of a directory and what is in it": (
        lambda d: renameat2(d / "full", d / "full" / "inner", RENAME_EXCHANGE), "EINVAL",
    ),
    "RENAME_EXCHANGE with its own directory": (
        lambda d: renameat2(d / "full" / "inner", d / "full", RENAME_EXCHANGE), "EINVAL",
    ),
    "RENAME_WHITEOUT of what is missing": (
        lambda d: renameat2(d / "missing", d / "new", RENAME_WHITEOUT), "ENOENT",
    ),
    "RENAME_WHITEOUT over a file": (
        lambda d: renameat2(d / "file", d / "other", RENAME_WHITEOUT), "",
    ),
    "RENAME_WHITEOUT over a full directory": (
        lambda d: renameat2(d / "dir", d / "full", RENAME_WHITEOUT), "ENOTEMPTY",
    ),
    "RENAME_WHITEOUT and RENAME_NOREPLACE over a file": (
        lambda d: renameat2(d / "file", d / "other", RENAME_WHITEOUT | RENAME_NOREPLACE), "EEXIST",
    ),
    "RENAME_WHITEOUT and RENAME_NOREPLACE to a new name": (
        lambda d: renameat2(d / "file", d / "new", RENAME_WHITEOUT | RENAME_NOREPLACE), "",
    ),
    "RENAME_WHITEOUT and RENAME_EXCHANGE": (
        lambda d: renameat2(d / "file", d / "other", RENAME_WHITEOUT | RENAME_EXCHANGE), "EINVAL",
    ),
    "renameat2 with two flags that exclude each other": (
        lambda d: renameat2(d / "file", d / "new", RENAME_NOREPLACE | RENAME_EXCHANGE), "EINVAL",
    ),
    "renameat2 with an unknown flag": (lambda d: renameat2(d / "file", d / "new", 1 << 20), "EINVAL"),
    # truncate, sizes
    "truncate a directory": (lambda d: os.truncate(d / "dir", 0), "EISDIR"),
    "truncate a fifo": (lambda d: os.truncate(d / "fifo", 0), "EINVAL"),
    "truncate to less than nothing": (lambda d: os.truncate(d / "file", -1), "EINVAL"),
    "truncate to 8 EiB - 1": (lambda d: os.truncate(d / "file", 8 * EiB - 1), ""),
    "write past 8 EiB - 1": (lambda d: _write_at(d / "file", 8 * EiB - 1), "EINVAL"),
    "seek before the start": (lambda d: _seek(d / "file", -1), "EINVAL"),
    "ftruncate of a descriptor for reading": (lambda d: _ftruncate_read_only(d / "file"), "EINVAL"),
    # other
    "readlink of a file": (lambda d: (d / "file").readlink(), "EINVAL"),
    "listdir of a file": (lambda d: os.listdir(d / "file"), "ENOTDIR"),
    "read a directory": (lambda d: _read(d / "dir"), "EISDIR"),
    "write to a descriptor for reading": (lambda d: _write_read_only(d / "file"), "EBADF"),
    "open a running program for writing": (
        lambda d: _while_running(d / "program", lambda path: open_close(path, os.O_WRONLY)), "ETXTBSY",
    ),
    "truncate a running program": (
        lambda d: _while_running(d / "program", lambda path: os.truncate(path, 0)), "ETXTBSY",
    ),
    "replace a running program": (
        lambda d: _while_running(d / "program", (d / "file").rename), "",
    ),
    "unlink a running program": (lambda d: _while_running(d / "program", os.unlink), ""),
    "execute what is open for writing": (lambda d: _run_while_written(d / "program"), "ETXTBSY"),
    "execute what is not executable": (lambda d: os.execv(d / "file", ["file"]), "EACCES"),
    "make a file in a removed directory": (
        lambda d: _in_removed(d / "dir", lambda fd: os.close(os.open("x", os.O_CREAT, dir_fd=fd))),
        "ENOENT",
    ),
    "make a directory in a removed one": (
        lambda d: _in_removed(d / "dir", lambda fd: os.mkdir("x", dir_fd=fd)), "ENOENT",
    ),
    "make a symbolic link in a removed directory": (
        lambda d: _in_removed(d / "dir", lambda fd: os.symlink("x", "x", dir_fd=fd)), "ENOENT",
    ),
    "link into a removed directory": (
        lambda d: _in_removed(d / "dir", lambda fd: os.link(d / "file", "x", dst_dir_fd=fd)), "ENOENT",
    ),
    "rename into a removed directory": (
        lambda d: _in_removed(d / "dir", lambda fd: os.rename(d / "file", "x", dst_dir_fd=fd)), "ENOENT",
    ),
    "link an unlinked open file": (lambda d: _link_unlinked(d / "file", d / "new"), "ENOENT"),
    "a path of 40 links": (lambda d: _follow_links(d, 40), ""),
    "a path of 41 links": (lambda d: _follow_links(d, 41), "ELOOP"),
    "a name with every byte but / and NUL": (
        lambda d: open_close(d / os.fsdecode(bytes(set(range(1, 256)) - {47})), os.O_CREAT), "",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error"), table(ERRORS))
def test_the_error_of_a_call(scene: Path, call: Callable[[Path], object], error: str) -> None:
    assert errno_of(lambda: call(scene)) == error


@pytest.mark.parametrize(
    ("call", "error"), table({title: row for title, row in ERRORS.items() if row[1]})
)
def test_what_fails_changes_nothing(
    scene: Path, call: Callable[[Path], object], error: str
) -> None:
    if call in _PREPARED:
        return
    before = _listing(scene)
    assert errno_of(lambda: call(scene)) == error
    assert _listing(scene) == before


def test_a_file_of_8_eib_takes_what_is_written_at_its_end(fs: Path) -> None:
    with (fs / "file").open("wb", buffering=0) as file:
        assert os.pwrite(file.fileno(), b"xy", 8 * EiB - 3) == 2
        assert os.pwrite(file.fileno(), b"abc", 4 * EiB + 5) == 3
    with (fs / "file").open("rb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == 8 * EiB - 1
        assert os.pread(file.fileno(), 3, 8 * EiB - 4) == b"\0xy"
        assert os.pread(file.fileno(), 10, 4 * EiB) == bytes(5) + b"abc" + bytes(2)
        assert os.fstat(file.fileno()).st_blocks == 16


def test_a_write_across_the_size_limit_of_a_process_is_cut(fs: Path) -> None:
    def write_twice() -> tuple[int, str]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        fd = os.open(fs / "file", os.O_CREAT | os.O_WRONLY)
        return os.pwrite(fd, bytes(100), MIB - 10), errno_of(lambda: os.pwrite(fd, b"x", MIB))

    assert run_as(ROOT, write_twice) == (10, "EFBIG")


def test_a_file_is_not_extended_past_the_size_limit_of_a_process(fs: Path) -> None:
    def extend() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
        os.truncate(fs / "file", MIB)
        os.truncate(fs / "file", MIB + 1)

    (fs / "file").touch()
    assert errno_of(lambda: run_as(ROOT, extend)) == "EFBIG"
    assert (fs / "file").stat().st_size == MIB


def test_a_file_of_8_eib_has_no_byte_past_its_end(fs: Path) -> None:
    with (fs / "file").open("w+b", buffering=0) as file:
        assert os.pwrite(file.fileno(), b"z", 8 * EiB - 2) == 1
        assert errno_of(lambda: os.pwrite(file.fileno(), b"zz", 8 * EiB - 2)) == "EINVAL"
        assert os.pread(file.fileno(), 2, 8 * EiB - 3) == b"\0z"
        assert errno_of(lambda: os.pread(file.fileno(), 3, 8 * EiB - 3)) == "EINVAL"
        # The last page cannot be mapped.
        with mmap.mmap(file.fileno(), PAGE, offset=8 * EiB - 2 * PAGE) as view:
            view[-3:] = b"abc"
        assert os.pread(file.fileno(), 5, 8 * EiB - PAGE - 4) == b"\0abc\0"


def test_a_path_of_4095_bytes_leads_somewhere(fs: Path) -> None:
    (fs / "file").touch()
    longest = f"{fs}{'/' * (4095 - len(bytes(fs)) - len('file'))}file"
    assert len(os.fsencode(longest)) == 4095
    os.stat(longest)
    assert errno_of(lambda: os.stat(longest.replace("/file", "//file"))) == "ENAMETOOLONG"


def test_a_path_gets_as_deep_as_one_likes(fs: Path) -> None:
    here = os.open(fs, os.O_PATH)
    for _ in range(1000):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_PATH, dir_fd=here)
        os.close(here)
        here = deeper
    assert os.stat(".", dir_fd=here).st_nlink == 2
    os.close(here)


def _write_at(path: Path, offset: int) -> None:
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x", offset)


def _seek(path: Path, offset: int) -> None:
    with path.open("rb", buffering=0) as file:
        os.lseek(file.fileno(), offset, os.SEEK_SET)


def _ftruncate_read_only(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        os.ftruncate(file.fileno(), 0)


def _read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)


def _write_read_only(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        os.write(file.fileno(), b"x")


def _while_running(path: Path, call: Callable[[Path], object]) -> None:
    shutil.copy("/bin/sleep", path)
    with subprocess.Popen([path, "60"]) as running:
        try:
            call(path)
        finally:
            running.kill()


def _run_while_written(path: Path) -> None:
    shutil.copy("/bin/true", path)
    with path.open("r+b"):
        subprocess.run([path], check=True)


def _in_removed(path: Path, call: Callable[[int], object]) -> None:
    """Call with a descriptor of a directory that is gone."""
    directory = os.open(path, os.O_RDONLY)
    path.rmdir()
    try:
        call(directory)
    finally:
        os.close(directory)


def _link_unlinked(path: Path, new: Path) -> None:
    with path.open("rb") as file:
        path.unlink()
        os.link(f"/proc/self/fd/{file.fileno()}", new, src_dir_fd=file.fileno())


def _follow_links(directory: Path, count: int) -> None:
    (directory / "0").touch()
    for number in range(count):
        (directory / f"{number + 1}").symlink_to(f"{number}")
    (directory / f"{count}").stat()


def _listing(directory: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in [directory, *directory.iterdir()]:
        seen = path.lstat()
        fields = (seen.st_mode, seen.st_nlink, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        found[path.name] = (seen.st_ino, *fields)
    return found


# These calls need something that they first make themselves.
_PREPARED = [
    ERRORS[title][0]
    for title in (
        "open a running program for writing",
        "truncate a running program",
        "execute what is open for writing",
        "make a file in a removed directory",
        "make a directory in a removed one",
        "make a symbolic link in a removed directory",
        "link into a removed directory",
        "rename into a removed directory",
        "link an unlinked open file",
        "a path of 41 links",
    )
]
