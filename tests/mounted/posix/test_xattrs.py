"""Extended attributes: namespaces, flags, and how much fits."""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import KIB
from tests.mounted.posix.scene import ALICE, errno_of, run_as, table

LONGEST = "user." + "n" * 250


def _fill_list(path: Path) -> None:
    for number in range(300):
        os.setxattr(path, f"user.{number:0>240}", b"")
    os.listxattr(path)


def _fifo(beside: Path) -> Path:
    os.mkfifo(beside.with_name("fifo"))
    return beside.with_name("fifo")


def _symlink(beside: Path) -> Path:
    beside.with_name("symlink").symlink_to(beside)
    return beside.with_name("symlink")


ERRORS = {
    "get what is missing": (lambda f: os.getxattr(f, "user.none"), "ENODATA"),
    "remove what is missing": (lambda f: os.removexattr(f, "user.none"), "ENODATA"),
    "XATTR_CREATE of what is there": (
        lambda f: os.setxattr(f, "user.there", b"2", os.XATTR_CREATE), "EEXIST",
    ),
    "XATTR_CREATE": (lambda f: os.setxattr(f, "user.new", b"2", os.XATTR_CREATE), ""),
    "XATTR_REPLACE of what is missing": (
        lambda f: os.setxattr(f, "user.none", b"2", os.XATTR_REPLACE), "ENODATA",
    ),
    "XATTR_REPLACE": (lambda f: os.setxattr(f, "user.there", b"2", os.XATTR_REPLACE), ""),
    "a name of 255 bytes": (lambda f: os.setxattr(f, LONGEST, b"v"), ""),
    "a name of 256 bytes": (lambda f: os.setxattr(f, LONGEST + "n", b"v"), "ERANGE"),
    "a value of 64 KiB": (lambda f: os.setxattr(f, "user.big", bytes(64 * KIB)), ""),
    "a value of more than 64 KiB": (
        lambda f: os.setxattr(f, "user.big", bytes(64 * KIB + 1)), "E2BIG",
    ),
    "an empty value": (lambda f: os.setxattr(f, "user.empty", b""), ""),
    "trusted": (lambda f: os.setxattr(f, "trusted.x", b"v"), ""),
    "security": (lambda f: os.setxattr(f, "security.x", b"v"), ""),
    "a namespace that there is not": (lambda f: os.setxattr(f, "nonsense.x", b"v"), "ENOTSUP"),
    "a name without a namespace": (lambda f: os.setxattr(f, "x", b"v"), "ENOTSUP"),
    "a namespace without a name": (lambda f: os.setxattr(f, "user.", b"v"), "EINVAL"),
    "no name at all": (lambda f: os.setxattr(f, "", b"v"), "ERANGE"),
    "a flag that there is not": (lambda f: os.setxattr(f, "user.x", b"v", 4), "EINVAL"),
    "get from a namespace that there is not": (lambda f: os.getxattr(f, "nonsense.x"), "ENOTSUP"),
    "get from a namespace without a name": (lambda f: os.getxattr(f, "trusted."), "EINVAL"),
    "remove from a namespace that there is not": (
        lambda f: os.removexattr(f, "nonsense.x"), "ENOTSUP",
    ),
    "remove from a namespace without a name": (lambda f: os.removexattr(f, "user."), "EINVAL"),
    "user on a fifo": (lambda f: os.setxattr(_fifo(f), "user.x", b"v"), "EPERM"),
    "trusted on a fifo": (lambda f: os.setxattr(_fifo(f), "trusted.x", b"v"), ""),
    "user of a symbolic link": (
        lambda f: os.setxattr(_symlink(f), "user.x", b"v", follow_symlinks=False), "EPERM",
    ),
    "trusted of a symbolic link": (
        lambda f: os.setxattr(_symlink(f), "trusted.x", b"v", follow_symlinks=False), "",
    ),
    "a list of more than 64 KiB": (_fill_list, "E2BIG"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error"), table(ERRORS))
def test_the_error_of_a_call(fs: Path, call: Callable[[Path], object], error: str) -> None:
    (fs / "file").touch()
    os.setxattr(fs / "file", "user.there", b"1")
    assert errno_of(lambda: call(fs / "file")) == error


def test_what_is_set_is_listed_and_read(fs: Path) -> None:
    values = {f"user.{number}": bytes([number]) * number for number in range(100)}
    for make in (Path.touch, Path.mkdir):
        path = fs / make.__name__
        make(path)
        for name, value in values.items():
            os.setxattr(path, name, value)
        os.removexattr(path, "user.7")
        expected = {name: value for name, value in values.items() if name != "user.7"}
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == expected


def test_a_buffer_of_no_size_is_told_the_size_and_one_too_small_is_refused(fs: Path) -> None:
    (fs / "file").touch()
    os.setxattr(fs / "file", "user.x", b"12345")
    libc = ctypes.CDLL(None, use_errno=True)
    calls: list[tuple[Callable[[ctypes.Array[ctypes.c_char], int], int], int]] = [
        (lambda buffer, size: libc.getxattr(bytes(fs / "file"), b"user.x", buffer, size), 5),
        (lambda buffer, size: libc.listxattr(bytes(fs / "file"), buffer, size), len(b"user.x\0")),
    ]
    for call, needed in calls:
        sizes = (0, needed - 1, needed, needed + 100)
        told = [call(ctypes.create_string_buffer(size or 1), size) for size in sizes]
        assert told == [needed, -1, needed, needed]
        call(ctypes.create_string_buffer(1), 1)
        assert ctypes.get_errno() == errno.ERANGE


def test_an_unlinked_open_file_keeps_and_takes_attributes(fs: Path) -> None:
    with (fs / "file").open("w+b") as file:
        os.setxattr(file.fileno(), "user.old", b"1")
        (fs / "file").unlink()
        os.setxattr(file.fileno(), "user.new", b"2")
        assert os.getxattr(file.fileno(), "user.old") == b"1"
        assert os.getxattr(file.fileno(), "user.new") == b"2"
        os.removexattr(file.fileno(), "user.old")
        assert os.listxattr(file.fileno()) == ["user.new"]


def test_trusted_attributes_are_roots_alone(kind: str, fs: Path) -> None:
    (fs / "file").touch()
    fs.chmod(0o755)
    os.setxattr(fs / "file", "trusted.x", b"v")
    os.setxattr(fs / "file", "user.x", b"v")
    assert (
        run_as(ALICE, lambda: errno_of(lambda: os.getxattr(fs / "file", "trusted.x"))) == "ENODATA"
    )
    seen = run_as(ALICE, lambda: os.listxattr(fs / "file"))
    assert "user.x" in seen
    assert ("trusted.x" in seen) == (kind == "pramfs"), "the kernel filters a list for tmpfs only"


def test_hard_links_share_attributes(fs: Path) -> None:
    (fs / "file").touch()
    os.link(fs / "file", fs / "twin")
    os.setxattr(fs / "file", "user.x", b"v")
    assert os.getxattr(fs / "twin", "user.x") == b"v"
