"""One of everything that a directory can hold, under fixed names, and the means to act on it as anybody."""

import errno
import mmap
import os
import pickle
import socket
import stat
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

_R = TypeVar("_R")

# What a call in a table does, and to which directory.
Call = Callable[[Path], object]


class User(NamedTuple):
    """Whom a call is made by."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT = User(0, 0)
ALICE = User(1001, 1001, (2001, 2002))
BOB = User(1002, 1002, (2002,))
CAROL = User(1003, 1003, (1001,))


def build_scene(directory: Path) -> None:
    """Make file, dir/, full/inner, link, dirlink, dangling, loop, fifo, socket, device in `directory`."""
    (directory / "file").write_bytes(b"content")
    (directory / "other").write_bytes(b"other")
    (directory / "dir").mkdir()
    (directory / "full").mkdir()
    (directory / "full" / "inner").write_bytes(b"inner")
    (directory / "link").symlink_to("file")
    (directory / "dirlink").symlink_to("full")
    (directory / "dangling").symlink_to("missing")
    (directory / "loop").symlink_to("loop")
    os.mkfifo(directory / "fifo")
    bind(directory / "socket")
    os.mknod(directory / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def bind(path: Path) -> None:
    """Make a socket in the file system."""
    directory = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            # A socket address has 108 bytes: too few for most paths.
            unix.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def open_close(path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o666) -> None:
    """open(2), and nothing with it."""
    os.close(os.open(path, flags, mode))


def write(path: Path, flags: int = 0, data: bytes = b"x") -> None:
    """Write once, at the start of a file."""
    fd = os.open(path, os.O_WRONLY | flags)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def write_direct(path: Path) -> None:
    """Write a page with O_DIRECT."""
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as aligned:
        os.write(fd, aligned)
    os.close(fd)


def run_as(user: User, call: Callable[[], _R], *, umask: int = 0o022) -> _R:
    """The result of `call` in a process of that user; an OSError of it is raised here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reader)
        _answer(writer, user, call, umask)
    os.close(writer)
    with open(reader, "rb") as answer:
        number, result = pickle.load(answer)
    os.waitpid(pid, 0)
    assert number is not None, result
    if number:
        raise OSError(number, os.strerror(number))
    value: _R = result
    return value


def errno_of(call: Callable[[], object]) -> str:
    """The name of the error that a call ends with, "" for none."""
    try:
        call()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return ""


def table(rows: Mapping[str, tuple[object, ...]]) -> list[object]:
    """The rows of a table as parameters of a test, each under its title."""
    return [pytest.param(*row, id=title) for title, row in rows.items()]


def _answer(writer: int, user: User, call: Callable[[], object], umask: int) -> None:
    """In the child: become the user, make the call, send what came of it."""
    outcome: tuple[int | None, object]
    try:
        os.umask(umask)
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        outcome = 0, call()
    except OSError as exc:
        outcome = exc.errno, None
    except BaseException:  # noqa: BLE001 - whatever it is, the parent reports it
        outcome = None, traceback.format_exc()
    os.write(writer, pickle.dumps(outcome))
    os._exit(0)
