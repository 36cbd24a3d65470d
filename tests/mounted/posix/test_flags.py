"""The flags of chattr(1): what they forbid, that they outlive a mount, and when files were born."""

import errno
import fcntl
import mmap
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import Volume, wait_until
from tests.mounted.posix.scene import ALICE, ROOT, User, errno_of, open_close, run_as, table, write

GETFLAGS, SETFLAGS = 0x80086601, 0x40086602
FSGETXATTR = 0x801C581F
IMMUTABLE, APPEND, NODUMP, NOATIME = 0x10, 0x20, 0x40, 0x80


def flags_of(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, GETFLAGS, bytes(8)))
    finally:
        os.close(descriptor)
    return int(flags) & 0xFF


def set_flags(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, SETFLAGS, struct.pack("l", flags))
    finally:
        os.close(descriptor)


FORBIDDEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "open to write": (lambda d: open_close(d / "file", os.O_WRONLY), "EPERM", "EPERM"),
    "append": (lambda d: write(d / "file", os.O_APPEND), "EPERM", ""),
    "empty": (lambda d: open_close(d / "file", os.O_WRONLY | os.O_TRUNC), "EPERM", "EPERM"),
    "truncate": (lambda d: os.truncate(d / "file", 1), "EPERM", "EPERM"),
    "unlink": (lambda d: (d / "file").unlink(), "EPERM", "EPERM"),
    "rename": (lambda d: (d / "file").rename(d / "new"), "EPERM", "EPERM"),
    "rename over it": (lambda d: (d / "other").rename(d / "file"), "EPERM", "EPERM"),
    "link": (lambda d: (d / "link").hardlink_to(d / "file"), "EPERM", "EPERM"),
    "chmod": (lambda d: (d / "file").chmod(0o600), "EPERM", "EPERM"),
    "chown": (lambda d: os.chown(d / "file", 1, 1), "EPERM", "EPERM"),
    "setxattr": (lambda d: os.setxattr(d / "file", "user.x", b""), "EPERM", "EPERM"),
    "set times": (lambda d: os.utime(d / "file", (1, 1)), "EPERM", "EPERM"),
    "read": (lambda d: (d / "file").read_bytes(), "", ""),
}

# The kernel does not ask about an open, but before a write.
LATE_ON_PRAMFS = {
    (FORBIDDEN["open to write"][0], IMMUTABLE): "",
    (FORBIDDEN["open to write"][0], APPEND): "",
}


@pytest.mark.parametrize("flags", [IMMUTABLE, APPEND], ids=["i", "a"])
@pytest.mark.parametrize(("call", "immutable", "append"), table(FORBIDDEN))
def test_what_may_not_be_done(
    fs: Path, kind: str, call: Callable[[Path], object], immutable: str, append: str, flags: int
) -> None:
    expected = immutable if flags == IMMUTABLE else append
    if kind == "pramfs":
        expected = LATE_ON_PRAMFS.get((call, flags), expected)
    (fs / "file").write_bytes(b"content")
    (fs / "other").write_bytes(b"other")
    set_flags(fs / "file", flags)
    try:
        assert errno_of(lambda: call(fs)) == expected
    finally:
        set_flags(fs / "file", 0)
    appended = b"x" if flags == APPEND and call is FORBIDDEN["append"][0] else b""
    assert (fs / "file").read_bytes() == b"content" + appended


def test_a_write_is_refused_at_once_whenever_the_file_was_opened(volume: Volume) -> None:
    """Although the kernel caches writes: it keeps neither the data nor the size."""
    root = volume.mount()
    path = root / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"content")
    for _ in range(2):
        set_flags(path, IMMUTABLE)
        for _ in range(2):
            assert errno_of(lambda: os.pwrite(descriptor, b"x" * 5000, 3)) == "EPERM"
            assert errno_of(lambda: write(path, os.O_APPEND)) == "EPERM"
        assert (path.stat().st_size, path.read_bytes()) == (7, b"content")
        assert "security.capability" not in os.listxattr(path)
        assert errno_of(lambda: os.getxattr(path, "security.capability")) == "ENODATA"
        set_flags(path, 0)
        os.pwrite(descriptor, b"C", 0)
        os.pwrite(descriptor, b"c", 0)
    os.fsync(descriptor)
    os.close(descriptor)
    volume.save()
    assert not volume.status()["error"]


def test_memory_that_is_mapped_is_not_in_the_file(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"content")
    set_flags(root / "file", IMMUTABLE)
    descriptor = os.open(root / "file", os.O_RDWR)
    with mmap.mmap(descriptor, 7) as mapped:
        mapped[0] = 0
        assert errno_of(mapped.flush) == "EPERM"
    os.close(descriptor)
    wait_until(lambda: (root / "file").read_bytes() == b"content", "the kernel to forget it")


def test_what_is_refused_late_is_not_in_the_file(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"content")
    set_flags(root / "file", IMMUTABLE)
    for flags, offset in ((IMMUTABLE, 0), (APPEND, 3)):
        set_flags(root / "file", flags)
        assert errno_of(lambda at=offset: overwrite(root / "file", at)) == "EPERM"  # type: ignore[misc]
        wait_until(lambda: (root / "file").read_bytes() == b"content", "the kernel to forget it")
    volume.save()
    assert not volume.status()["error"]
    set_flags(root / "file", IMMUTABLE)
    volume.remount()
    assert (root / "file").read_bytes() == b"content"


def overwrite(path: Path, offset: int) -> None:
    """Write into a file, and hand it over."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, b"x", offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_only_appends_reach_a_file_that_allows_no_more(volume: Volume) -> None:
    root = volume.mount()
    lines = b"".join(b"line %d\n" % number for number in range(3000))
    (root / "log").touch()
    set_flags(root / "log", APPEND)
    for start in range(0, len(lines), 777):
        write(root / "log", os.O_APPEND, lines[start : start + 777])
    volume.remount()
    assert (root / "log").read_bytes() == lines


@pytest.mark.parametrize("option", ["check_open", "direct_io"])
def test_such_a_file_cannot_be_opened_for_writing(volume: Volume, option: str) -> None:
    root = volume.mount(option)
    (root / "file").write_bytes(b"content")
    for flags in (IMMUTABLE, APPEND):
        set_flags(root / "file", flags)
        assert errno_of(lambda: open_close(root / "file", os.O_WRONLY)) == "EPERM"


@pytest.mark.parametrize(
    ("user", "flags", "error"),
    [(ROOT, IMMUTABLE, ""), (ALICE, IMMUTABLE, "EPERM"), (ALICE, NODUMP, "")],
)
def test_who_may_set_them(fs: Path, user: User, flags: int, error: str) -> None:
    (fs / "file").touch()
    os.chown(fs / "file", ALICE.uid, ALICE.gid)
    assert run_as(user, lambda: errno_of(lambda: set_flags(fs / "file", flags))) == error
    assert flags_of(fs / "file") == (0 if error else flags)
    set_flags(fs / "file", 0)


def test_the_other_call_gives_the_same_flags(fs: Path) -> None:
    (fs / "file").touch()
    set_flags(fs / "file", NODUMP | NOATIME)
    descriptor = os.open(fs / "file", os.O_RDONLY)
    told = fcntl.ioctl(descriptor, FSGETXATTR, bytes(28))
    os.close(descriptor)
    assert struct.unpack_from("I", told)[0] == 0x80 | 0x40


def test_an_ioctl_that_is_none_of_these_is_enotty(fs: Path) -> None:
    (fs / "file").touch()
    descriptor = os.open(fs / "file", os.O_RDONLY)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTTY)):
        fcntl.ioctl(descriptor, 0x1234)
    os.close(descriptor)


def test_flags_and_births_outlive_the_mount(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"content")
    (root / "dir").mkdir()
    os.utime(root / "file", (0, 0))
    set_flags(root / "file", IMMUTABLE | NODUMP)
    set_flags(root / "dir", APPEND)
    before = births(root)
    volume.remount()
    assert births(root) == before
    assert (flags_of(root / "file"), flags_of(root / "dir")) == (IMMUTABLE | NODUMP, APPEND)
    assert errno_of((root / "file").unlink) == "EPERM"


def births(root: Path) -> list[str]:
    """When each file was born; the kernel asks for it where it can, since Linux 6.6."""
    told = subprocess.run(
        ["stat", "-c", "%w", root / "file", root / "dir"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not told.stdout.startswith("1970")
    return told.stdout.split("\n")
