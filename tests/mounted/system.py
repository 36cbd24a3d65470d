"""What the system has and Python has not: system calls, loop devices, control groups."""

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.harness import run, wait_until

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

_CGROUPS = Path("/sys/fs/cgroup")
_AT_FDCWD = -100
_HANDLE_BYTES_MAX = 128
_libc = ctypes.CDLL(None, use_errno=True)


class FileHandle(ctypes.Structure):
    """struct file_handle of open_by_handle_at(2)."""

    _fields_ = (
        ("bytes", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("handle", ctypes.c_ubyte * _HANDLE_BYTES_MAX),
    )


def renameat2(source: Path, target: Path, flags: int) -> None:
    """rename(2) with flags; raises OSError."""
    _check(_libc.renameat2(_AT_FDCWD, bytes(source), _AT_FDCWD, bytes(target), flags))


def syncfs(path: Path) -> None:
    """Let the kernel hand over what it has cached of the file system of `path`; raises OSError.

    Not sync(2): that waits for every disk of the machine, one that another test has frozen among them.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        _check(_libc.syncfs(fd))
    finally:
        os.close(fd)


def umount2(path: Path) -> None:
    """umount(2) and nothing else; raises OSError."""
    _check(_libc.umount2(bytes(path), 0))


def handle_of(path: Path) -> FileHandle:
    """The handle of a file, good for as long as the file exists; raises OSError."""
    handle = FileHandle(bytes=_HANDLE_BYTES_MAX)
    mount_id = ctypes.c_int()
    _check(
        _libc.name_to_handle_at(
            _AT_FDCWD, bytes(path), ctypes.byref(handle), ctypes.byref(mount_id), 0
        )
    )
    return handle


def open_by_handle(root: Path, handle: FileHandle, flags: int = os.O_RDONLY) -> int:
    """A descriptor for the file with this handle in the file system of `root`; raises OSError."""
    mount = os.open(root, os.O_RDONLY)
    try:
        return _check(_libc.open_by_handle_at(mount, ctypes.byref(handle), flags))
    finally:
        os.close(mount)


@contextlib.contextmanager
def loop_device(file: Path, size_bytes: int, *, offset_bytes: int = 0) -> Iterator[Path]:
    """A loop device of that size, from `offset_bytes` on in a sparse file; detached at the end."""
    file.touch()
    os.truncate(file, offset_bytes + size_bytes)
    # Between finding a free device and taking it, another test may be faster.
    device = ""

    def attach() -> bool:
        nonlocal device
        outcome = run("losetup", "--find", "--show", "--offset", str(offset_bytes), file)
        device = outcome.text.strip()
        return outcome.code == 0

    wait_until(attach, "a free loop device")
    try:
        yield Path(device)
    finally:
        run("losetup", "--detach", device).succeeded()


@contextlib.contextmanager
def kept_in_memory(device: Path, size_bytes: int) -> Iterator[None]:
    """Let the kernel drop nothing of what it has cached of a device, however short memory is."""
    with device.open("r+b") as file, mmap.mmap(file.fileno(), size_bytes) as mapping:
        start = ctypes.c_char.from_buffer(mapping)
        _check(_libc.mlock(ctypes.byref(start), ctypes.c_size_t(size_bytes)))
        try:
            yield
        finally:
            del start


def drop_cache(device: Path) -> None:
    """Let the kernel drop all that it has cached of a device and takes for written."""
    run("blockdev", "--flushbufs", device).succeeded()


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@contextlib.contextmanager
def control_group(
    pid: int, controller: str, *, version_1: dict[str, int], version_2: dict[str, int]
) -> Iterator[Path]:
    """Put a process under these limits of a control group, until it has ended in the block.

    Others may be put into that directory's cgroup.procs; they must end there, too.

    Version 1 has a hierarchy for each controller, and other names for some limits.
    """
    old = _CGROUPS / controller
    group = (old if old.is_dir() else _CGROUPS) / f"pramfs-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        for name, value in (version_1 if old.is_dir() else version_2).items():
            (group / name).write_text(f"{value}")
        (group / "cgroup.procs").write_text(f"{pid}")
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
        group.rmdir()


def memory_limit(pid: int, size_bytes: int) -> contextlib.AbstractContextManager[Path]:
    """Let a process take that much memory from now on, and no swap, and be killed when it wants more."""
    return control_group(
        pid,
        "memory",
        version_1={"memory.limit_in_bytes": size_bytes, "memory.swappiness": 0},
        version_2={"memory.max": size_bytes, "memory.swap.max": 0},
    )
