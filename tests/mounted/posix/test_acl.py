"""POSIX access control lists: setfacl(1), getfacl(1), default ACLs, and what they do to modes."""

import os
import stat
from pathlib import Path

import pytest

from tests.mounted.harness import run
from tests.mounted.posix.scene import ALICE, BOB, errno_of, open_close, run_as, table

# What setfacl(1) is told about a file of root's with mode 0640, what Bob may do then, and the mode.
ACCESS = {
    "nothing": ([], "", "0640"),
    "a named user": (["-m", "u:1002:rw"], "rw", "0660"),
    "a named user, read-only": (["-m", "u:1002:r"], "r", "0640"),
    "a named group": (["-m", "g:2002:rw"], "rw", "0660"),
    "a named user under a mask": (["-m", "u:1002:rw,m::r"], "r", "0640"),
    "a named user before a group": (["-m", "u:1002:-,g:2002:rw"], "", "0660"),
    "another user": (["-m", "u:1001:rw"], "", "0660"),
    "others": (["-m", "o::r"], "r", "0644"),
    "removed again": (["-m", "u:1002:rw", "-b"], "", "0640"),
}


@pytest.mark.parametrize(("arguments", "allowed", "mode"), table(ACCESS))
def test_an_access_acl_grants(fs: Path, arguments: list[str], allowed: str, mode: str) -> None:
    file = fs / "file"
    file.write_bytes(b"x")
    file.chmod(0o640)
    for at in range(0, len(arguments), 2):
        run("setfacl", *arguments[at : at + 2], file).succeeded()
    assert run_as(BOB, lambda: _allowed(file)) == allowed
    assert f"0{stat.S_IMODE(file.stat().st_mode):o}" == mode


def test_chmod_changes_the_mask(fs: Path) -> None:
    file = fs / "file"
    file.touch()
    run("setfacl", "-m", "u:1002:rwx", file).succeeded()
    file.chmod(0o600)
    assert "mask::---" in _acl(file)
    assert "user:1002:rwx\t#effective:---" in _acl(file)
    file.chmod(0o777)
    assert "user:1002:rwx\n" in _acl(file)
    assert "group::r--" in _acl(file)


def test_an_acl_that_only_says_the_mode_is_the_mode(fs: Path) -> None:
    file = fs / "file"
    file.touch()
    run("setfacl", "-m", "u::rwx,g::r,o::-", file).succeeded()
    assert stat.S_IMODE(file.stat().st_mode) == 0o740
    assert "system.posix_acl_access" not in os.listxattr(file)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_default_acl_is_inherited_and_replaces_the_umask(fs: Path, umask: int) -> None:
    directory = fs / "dir"
    directory.mkdir()
    directory.chmod(0o777)
    run("setfacl", "-d", "-m", "u::rwx,g::rx,o::-,u:1002:rwx,m::rwx", directory).succeeded()

    def make() -> None:
        open_close(directory / "file", os.O_CREAT, 0o666)
        (directory / "sub").mkdir(0o777)
        os.mkfifo(directory / "fifo", 0o640)

    run_as(ALICE, make, umask=umask)
    assert _acl(directory / "file") == (
        "user::rw-\nuser:1002:rwx\t#effective:rw-\ngroup::r-x\t#effective:r--\nmask::rw-\nother::---\n"
    )
    assert "default:user:1002:rwx" in _acl(directory / "sub")
    assert stat.S_IMODE((directory / "sub").stat().st_mode) == 0o770
    assert stat.S_IMODE((directory / "fifo").stat().st_mode) == 0o640
    assert run_as(BOB, lambda: _allowed(directory / "file")) == "rw"


def test_without_a_named_entry_a_default_acl_is_a_umask(fs: Path) -> None:
    directory = fs / "dir"
    directory.mkdir()
    run("setfacl", "-d", "-m", "u::rwx,g::-,o::-", directory).succeeded()
    open_close(directory / "file", os.O_CREAT, 0o666)
    assert stat.S_IMODE((directory / "file").stat().st_mode) == 0o600
    assert os.listxattr(directory / "file") == []


def test_symbolic_links_inherit_nothing(fs: Path) -> None:
    run("setfacl", "-d", "-m", "u:1002:rwx", fs).succeeded()
    (fs / "link").symlink_to("x")
    assert stat.S_IMODE((fs / "link").lstat().st_mode) == 0o777


def test_a_default_acl_needs_a_directory(fs: Path) -> None:
    (fs / "file").touch()
    (fs / "dir").mkdir()
    value = _default_of(fs / "dir")
    file = fs / "file"
    assert errno_of(lambda: os.setxattr(file, "system.posix_acl_default", value)) == "EACCES"


ALL, OTHERS = b"\x04\0\x07\0" + b"\xff" * 4, b"\x20\0\x07\0" + b"\xff" * 4
INVALID = {
    "nothing": (b"", ""),  # removes it
    "another version": (b"\x03\0\0\0", "ENOTSUP"),
    "half an entry": (b"\x02\0\0\0\x01\0", "EINVAL"),
    "no owner": (b"\x02\0\0\0" + ALL + OTHERS, "EINVAL"),
    "an unknown tag": (b"\x02\0\0\0" + b"\x40\0\x07\0" + b"\xff" * 4, "EINVAL"),
}


@pytest.mark.parametrize(("value", "error"), table(INVALID))
def test_what_is_no_acl_is_refused(fs: Path, value: bytes, error: str) -> None:
    (fs / "file").touch()
    call = lambda: os.setxattr(fs / "file", "system.posix_acl_access", value)  # noqa: E731
    assert errno_of(call) == error
    assert os.listxattr(fs / "file") == []


def test_only_the_owner_sets_an_acl(fs: Path) -> None:
    (fs / "file").touch()
    (fs / "file").chmod(0o666)
    assert run_as(BOB, lambda: run("setfacl", "-m", "u:1002:rwx", fs / "file").code) != 0


def test_chgrp_and_acl_by_one_outside_the_group_drop_set_gid(fs: Path) -> None:
    file = fs / "file"
    file.touch()
    os.chown(file, ALICE.uid, 3000)
    file.chmod(0o2750)
    run_as(ALICE, lambda: run("setfacl", "-m", "u:1002:rwx", file).succeeded())
    assert stat.S_IMODE(file.stat().st_mode) == 0o770


def _acl(path: Path) -> str:
    return run("getfacl", "-cn", path).succeeded().text.rstrip("\n") + "\n"


def _default_of(directory: Path) -> bytes:
    run("setfacl", "-d", "-m", "u:1002:rwx", directory).succeeded()
    return os.getxattr(directory, "system.posix_acl_default")


def _allowed(path: Path) -> str:
    """What the calling process may do to a file."""
    found = ""
    for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY)):
        found += "" if errno_of(lambda flags=flags: open_close(path, flags)) else letter  # type: ignore[misc]
    return found
