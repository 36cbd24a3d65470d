"""What other users than root may do, and what becomes of owners, groups and set-id bits.

Alice is in the groups 2001 and 2002, Bob in 2002, Carol in Alice's own. Each line says who does what, how the
objects are set up, and the error ("" = none).
"""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import run
from tests.mounted.posix.scene import (
    ALICE,
    BOB,
    CAROL,
    ROOT,
    User,
    errno_of,
    open_close,
    run_as,
    table,
    write,
    write_direct,
)
from tests.mounted.system import RENAME_EXCHANGE, RENAME_WHITEOUT, renameat2, syncfs

# Who owns `file` and `dir` (with `dir/inner`), their modes, who calls what, and with what error.
ALICES, BOBS, ROOTS = (1001, 1001), (1002, 1002), (0, 0)
FOR_2002 = (0, 2002)

PERMISSIONS = {
    # reading, writing and executing files
    "read one's own": (ALICES, 0o400, 0o755, ALICE, lambda d: open_close(d / "file"), ""),
    "read another's": (ALICES, 0o600, 0o755, BOB, lambda d: open_close(d / "file"), "EACCES"),
    "read as others": (ALICES, 0o604, 0o755, BOB, lambda d: open_close(d / "file"), ""),
    "one's own class counts, not a better one": (
        ALICES, 0o077, 0o755, ALICE, lambda d: open_close(d / "file"), "EACCES",
    ),
    "read by a supplementary group": (FOR_2002, 0o640, 0o755, BOB, lambda d: open_close(d / "file"), ""),
    "write by a supplementary group": (
        FOR_2002, 0o640, 0o755, BOB, lambda d: open_close(d / "file", os.O_WRONLY), "EACCES",
    ),
    "root reads everything": (ALICES, 0o000, 0o000, ROOT, lambda d: open_close(d / "file"), ""),
    "truncate what one may not write": (
        ALICES, 0o444, 0o755, BOB, lambda d: os.truncate(d / "file", 0), "EACCES",
    ),
    "open with O_TRUNC what one may not write": (
        ALICES, 0o444, 0o755, BOB, lambda d: open_close(d / "file", os.O_RDONLY | os.O_TRUNC), "EACCES",
    ),
    "not even root executes what nobody may": (
        ROOTS, 0o644, 0o755, ROOT, lambda d: os.execv(d / "file", ["file"]), "EACCES",
    ),
    # directories
    "list without r": (ALICES, 0o644, 0o711, BOB, lambda d: os.listdir(d / "dir"), "EACCES"),
    "look up without x": (ALICES, 0o644, 0o744, BOB, lambda d: (d / "dir" / "inner").stat(), "EACCES"),
    "look up with x alone": (ALICES, 0o644, 0o711, BOB, lambda d: (d / "dir" / "inner").stat(), ""),
    "create without w": (
        ALICES, 0o644, 0o755, BOB, lambda d: open_close(d / "dir" / "new", os.O_CREAT), "EACCES",
    ),
    "create by a supplementary group": (
        FOR_2002, 0o644, 0o770, BOB, lambda d: open_close(d / "dir" / "new", os.O_CREAT), "",
    ),
    "create by no group that may": (
        (0, 3000), 0o644, 0o770, BOB, lambda d: open_close(d / "dir" / "new", os.O_CREAT), "EACCES",
    ),
    "link into a directory without w": (
        ALICES, 0o644, 0o755, BOB, lambda d: os.link(d / "open" / "bobs", d / "dir" / "x"), "EACCES",
    ),
    "create with w": (
        ALICES, 0o644, 0o757, BOB, lambda d: open_close(d / "dir" / "new", os.O_CREAT), "",
    ),
    "mkdir without w": (ALICES, 0o644, 0o755, BOB, lambda d: (d / "dir" / "new").mkdir(), "EACCES"),
    "symlink without w": (
        ALICES, 0o644, 0o755, BOB, lambda d: (d / "dir" / "new").symlink_to("x"), "EACCES",
    ),
    "mkfifo as a user": (ALICES, 0o644, 0o757, BOB, lambda d: os.mkfifo(d / "dir" / "new"), ""),
    "mknod of a device as a user": (
        ALICES, 0o644, 0o757, BOB,
        lambda d: os.mknod(d / "dir" / "new", stat.S_IFCHR, os.makedev(1, 3)), "EPERM",
    ),
    "unlink without w": (ALICES, 0o644, 0o755, BOB, lambda d: (d / "dir" / "inner").unlink(), "EACCES"),
    "unlink another's with w": (ALICES, 0o600, 0o757, BOB, lambda d: (d / "dir" / "inner").unlink(), ""),
    "EEXIST before EACCES": (
        ALICES, 0o644, 0o755, BOB, lambda d: (d / "dir" / "inner").mkdir(), "EEXIST",
    ),
    "ENOENT before EACCES": (
        ALICES, 0o644, 0o755, BOB, lambda d: (d / "dir" / "missing").unlink(), "ENOENT",
    ),
    "rename out of a directory without w": (
        ALICES, 0o644, 0o755, BOB, lambda d: (d / "dir" / "inner").rename(d / "open" / "x"), "EACCES",
    ),
    "rename into a directory without w": (
        ALICES, 0o644, 0o755, BOB, lambda d: (d / "open" / "bobs").rename(d / "dir" / "x"), "EACCES",
    ),
    # moving a directory changes its ..
    "rename a directory that one may not write to another": (
        ALICES, 0o644, 0o755, BOB, lambda d: (d / "open" / "sub").rename(d / "open2" / "sub"), "EACCES",
    ),
    "rename a directory that one may not write in its place": (
        ALICES, 0o644, 0o755, BOB, lambda d: (d / "open" / "sub").rename(d / "open" / "sub2"), "",
    ),
    # sticky directories
    "unlink another's in a sticky directory": (
        ROOTS, 0o644, 0o755, BOB, lambda d: (d / "sticky" / "alices").unlink(), "EPERM",
    ),
    "unlink one's own in a sticky directory": (
        ROOTS, 0o644, 0o755, ALICE, lambda d: (d / "sticky" / "alices").unlink(), "",
    ),
    "rename another's in a sticky directory": (
        ROOTS, 0o644, 0o755, BOB, lambda d: (d / "sticky" / "alices").rename(d / "sticky" / "x"), "EPERM",
    ),
    "rename over another's in a sticky directory": (
        ROOTS, 0o644, 0o755, BOB, lambda d: (d / "open" / "bobs").rename(d / "sticky" / "alices"), "EPERM",
    ),
    "rename over one's own in a sticky directory": (
        ROOTS, 0o644, 0o755, ALICE, lambda d: (d / "open" / "bobs").rename(d / "sticky" / "alices"), "",
    ),
    "rmdir another's in a sticky directory": (
        ROOTS, 0o644, 0o755, BOB, lambda d: (d / "sticky" / "alicesdir").rmdir(), "EPERM",
    ),
    "move another's directory out of a sticky directory": (
        ROOTS, 0o644, 0o755, BOB,
        lambda d: (d / "sticky" / "alicesdir").rename(d / "open" / "x"), "EPERM",
    ),
    "move one's own directory out of a sticky directory": (
        ROOTS, 0o644, 0o755, ALICE, lambda d: (d / "sticky" / "alicesdir").rename(d / "open" / "x"), "",
    ),
    "root removes all in a sticky directory": (
        ROOTS, 0o644, 0o755, ROOT, lambda d: (d / "sticky" / "alices").unlink(), "",
    ),
    "the owner of a sticky directory removes all": (
        ALICES, 0o644, 0o1777, ALICE, lambda d: (d / "dir" / "bobs").unlink(), "",
    ),
    "the owner of a sticky directory renames all": (
        ALICES, 0o644, 0o1777, ALICE, lambda d: (d / "dir" / "bobs").rename(d / "dir" / "x"), "",
    ),
    "exchange with another's in a sticky directory": (
        ROOTS, 0o644, 0o755, BOB,
        lambda d: renameat2(d / "open" / "bobs", d / "sticky" / "alices", RENAME_EXCHANGE), "EPERM",
    ),
    "exchange another's in a sticky directory with one's own": (
        ROOTS, 0o644, 0o755, BOB,
        lambda d: renameat2(d / "sticky" / "alices", d / "open" / "bobs", RENAME_EXCHANGE), "EPERM",
    ),
    "leave a whiteout, which needs no right to make devices": (
        ROOTS, 0o644, 0o755, BOB,
        lambda d: renameat2(d / "open" / "bobs", d / "open" / "x", RENAME_WHITEOUT), "",
    ),
    "leave a whiteout for another's in a sticky directory": (
        ROOTS, 0o644, 0o755, BOB,
        lambda d: renameat2(d / "sticky" / "alices", d / "open" / "x", RENAME_WHITEOUT), "EPERM",
    ),
    # chmod, chown, utimensat
    "chmod one's own": (ALICES, 0o644, 0o755, ALICE, lambda d: (d / "file").chmod(0o600), ""),
    "chmod another's": (ALICES, 0o666, 0o755, BOB, lambda d: (d / "file").chmod(0o600), "EPERM"),
    "give a file away": (ALICES, 0o644, 0o755, ALICE, lambda d: os.chown(d / "file", 1002, -1), "EPERM"),
    "chown to oneself": (ALICES, 0o644, 0o755, ALICE, lambda d: os.chown(d / "file", 1001, -1), ""),
    "chgrp to one of one's groups": (
        ALICES, 0o644, 0o755, ALICE, lambda d: os.chown(d / "file", -1, 2001), "",
    ),
    "chgrp to one's own group": (
        ALICES, 0o644, 0o755, ALICE, lambda d: os.chown(d / "file", 1001, 1001), "",
    ),
    "chgrp to another group": (
        ALICES, 0o644, 0o755, ALICE, lambda d: os.chown(d / "file", -1, 3000), "EPERM",
    ),
    "chgrp another's": (ALICES, 0o666, 0o755, BOB, lambda d: os.chown(d / "file", -1, 2002), "EPERM"),
    "chmod what one may write by a supplementary group": (
        FOR_2002, 0o660, 0o755, BOB, lambda d: (d / "file").chmod(0o600), "EPERM",
    ),
    "chown of a link to oneself": (
        ALICES, 0o644, 0o755, ALICE, lambda d: os.lchown(d / "symlink", 1001, -1), "EPERM",
    ),
    "set times of one's own": (ALICES, 0o000, 0o755, ALICE, lambda d: os.utime(d / "file", (1, 1)), ""),
    "set times of what one may write": (
        ALICES, 0o666, 0o755, BOB, lambda d: os.utime(d / "file", (1, 1)), "EPERM",
    ),
    "set times to now of what one may write": (
        ALICES, 0o666, 0o755, BOB, lambda d: os.utime(d / "file"), "",
    ),
    "set times to now of what one may not write": (
        ALICES, 0o644, 0o755, BOB, lambda d: os.utime(d / "file"), "EACCES",
    ),
    # extended attributes
    "user xattr of what one may write": (
        ALICES, 0o666, 0o755, BOB, lambda d: os.setxattr(d / "file", "user.x", b""), "",
    ),
    "user xattr of what one may not write": (
        ALICES, 0o644, 0o755, BOB, lambda d: os.setxattr(d / "file", "user.x", b""), "EACCES",
    ),
    "trusted xattr as a user": (
        ALICES, 0o666, 0o755, ALICE, lambda d: os.setxattr(d / "file", "trusted.x", b""), "EPERM",
    ),
    "user xattr of a link": (
        ALICES, 0o666, 0o755, ROOT,
        lambda d: os.setxattr(d / "symlink", "user.x", b"", follow_symlinks=False), "EPERM",
    ),
    "user xattr of another's sticky directory": (
        ROOTS, 0o644, 0o755, BOB, lambda d: os.setxattr(d / "sticky", "user.x", b""), "EPERM",
    ),
    "open another's with O_NOATIME": (
        ALICES, 0o666, 0o755, BOB, lambda d: open_close(d / "file", os.O_NOATIME), "EPERM",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "file_mode", "dir_mode", "user", "call", "error"), table(PERMISSIONS)
)
def test_what_a_user_may_do(
    fs: Path,
    owner: tuple[int, int],
    file_mode: int,
    dir_mode: int,
    user: User,
    call: Callable[[Path], object],
    error: str,
) -> None:
    _build(fs, owner, file_mode, dir_mode)
    assert run_as(user, lambda: errno_of(lambda: call(fs))) == error


# The mode before, who does what to the file, and the mode after.
SETID = {
    "a user writes": (0o6777, BOB, write, 0o777),
    "a user writes, no group execute": (0o6766, BOB, write, 0o766),
    "a member writes, no group execute": (0o6766, ALICE, write, 0o2766),
    "a member by a supplementary group writes, no group execute": (
        0o6766, CAROL, write, 0o2766,
    ),
    "a member by a supplementary group truncates, no group execute": (
        0o6766, CAROL, lambda f: os.truncate(f, 3), 0o2766,
    ),
    "a member by a supplementary group opens with O_TRUNC, no group execute": (
        0o6766, CAROL, lambda f: open_close(f, os.O_WRONLY | os.O_TRUNC), 0o2766,
    ),
    "a user opens with O_TRUNC, no group execute": (
        0o6766, BOB, lambda f: open_close(f, os.O_WRONLY | os.O_TRUNC), 0o766,
    ),
    "a user truncates, no group execute": (0o6766, BOB, lambda f: os.truncate(f, 3), 0o766),
    "a user appends": (0o6777, BOB, lambda f: write(f, os.O_APPEND), 0o777),
    "a user writes nothing": (0o6777, BOB, lambda f: write(f, data=b""), 0o6777),
    "a user writes with O_DIRECT": (0o6777, BOB, write_direct, 0o777),
    "a user truncates": (0o6777, BOB, lambda f: os.truncate(f, 3), 0o777),
    "a user truncates to the same": (0o6777, BOB, lambda f: os.truncate(f, 7), 0o777),
    "a user opens with O_TRUNC": (0o6777, BOB, lambda f: open_close(f, os.O_WRONLY | os.O_TRUNC), 0o777),
    "a user opens for writing": (0o6777, BOB, lambda f: open_close(f, os.O_WRONLY), 0o6777),
    "the owner writes": (0o6777, ALICE, write, 0o777),
    "a user reads": (0o6777, BOB, lambda f: f.read_bytes(), 0o6777),
    "root writes": (0o6777, ROOT, write, 0o6777),
    "root truncates": (0o6777, ROOT, lambda f: os.truncate(f, 3), 0o6777),
    "root opens with O_TRUNC": (0o6777, ROOT, lambda f: open_close(f, os.O_WRONLY | os.O_TRUNC), 0o6777),
    "the owner changes the group": (0o6777, ALICE, lambda f: os.chown(f, -1, 2001), 0o777),
    "the owner changes nothing": (0o6777, ALICE, lambda f: os.chown(f, -1, -1), 0o777),
    "root changes the owner": (0o6777, ROOT, lambda f: os.chown(f, 1002, -1), 0o777),
    "root changes the owner, no group execute": (0o6766, ROOT, lambda f: os.chown(f, 1002, -1), 0o2766),
    "the owner sets the times": (0o6777, ALICE, lambda f: os.utime(f, (1, 1)), 0o6777),
    "the owner chmods with a group of his": (0o755, ALICE, lambda f: f.chmod(0o6755), 0o6755),
    "a user sets an xattr": (0o6777, BOB, lambda f: os.setxattr(f, "user.x", b""), 0o6777),
    "the owner renames": (0o6777, ALICE, lambda f: f.rename(f.parent / "new").rename(f), 0o6777),
}  # fmt: skip


@pytest.mark.parametrize(("before", "user", "call", "after"), table(SETID))
def test_set_id_bits(
    fs: Path, before: int, user: User, call: Callable[[Path], object], after: int
) -> None:
    file = _setid_file(fs, before)
    run_as(user, lambda: call(file) and None)
    assert oct(stat.S_IMODE(file.stat().st_mode)) == oct(after)


def test_set_id_bits_outlive_data_that_is_still_cached(fs: Path) -> None:
    """As cp -p and install(1) write: data first, then the mode, then close."""
    with (fs / "file").open("wb", buffering=0) as file:
        file.write(b"x" * 100_000)
        os.fchmod(file.fileno(), 0o6755)
    syncfs(fs)
    assert stat.S_IMODE((fs / "file").stat().st_mode) == 0o6755


@pytest.mark.parametrize(("gid", "mode"), [(1001, 0o2755), (2001, 0o2755), (3000, 0o755)])
def test_only_a_member_of_the_group_makes_a_file_set_gid(fs: Path, gid: int, mode: int) -> None:
    file = _setid_file(fs, 0o755)
    os.chown(file, ALICE.uid, gid)
    run_as(ALICE, lambda: file.chmod(0o2755))
    assert stat.S_IMODE(file.stat().st_mode) == mode


def test_a_directory_keeps_its_set_id_bits_under_another_owner(fs: Path) -> None:
    (fs / "dir").mkdir()
    os.chown(fs / "dir", *ALICES)
    (fs / "dir").chmod(0o6777)
    run_as(ALICE, lambda: os.chown(fs / "dir", -1, 2001))
    os.chown(fs / "dir", 1002, -1)
    assert stat.S_IMODE((fs / "dir").stat().st_mode) == 0o6777


def test_a_failed_change_of_attributes_leaves_ctime(fs: Path) -> None:
    _build(fs, ALICES, 0o600, 0o755)
    file = fs / "file"
    before = file.stat()
    calls: list[Callable[[], object]] = [
        lambda: file.chmod(0o666),
        lambda: os.chown(file, 1002, 1002),
        lambda: os.utime(file),
        lambda: os.setxattr(file, "user.x", b"v"),
        lambda: os.truncate(file, 0),
    ]
    for call in calls:
        assert run_as(BOB, lambda call=call: errno_of(call)) in {"EPERM", "EACCES"}  # type: ignore[misc]
    assert file.stat() == before


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_umask_masks_every_new_object(fs: Path, umask: int) -> None:
    fs.chmod(0o777)

    def make() -> None:
        open_close(fs / "file", os.O_CREAT, 0o6777)
        (fs / "dir").mkdir(0o1777)
        os.mkfifo(fs / "fifo", 0o666)

    run_as(ALICE, make, umask=umask)
    modes = [stat.S_IMODE((fs / name).stat().st_mode) for name in ("file", "dir", "fifo")]
    assert modes == [0o6777 & ~umask, 0o1777 & ~umask, 0o666 & ~umask]


def test_a_new_object_belongs_to_who_made_it(fs: Path) -> None:
    fs.chmod(0o777)

    def make() -> None:
        (fs / "dir").mkdir()
        open_close(fs / "file", os.O_CREAT)

    run_as(ALICE, make)
    for name in ("dir", "file"):
        seen = (fs / name).stat()
        assert (seen.st_uid, seen.st_gid) == (ALICE.uid, ALICE.gid)


def test_a_set_gid_directory_passes_its_group_on(fs: Path) -> None:
    (fs / "dir").mkdir()
    os.chown(fs / "dir", 0, 3000)
    (fs / "dir").chmod(0o2777)

    def make() -> None:
        (fs / "dir" / "sub").mkdir()
        open_close(fs / "dir" / "file", os.O_CREAT)
        open_close(fs / "dir" / "setgid", os.O_CREAT, 0o2777)

    run_as(ALICE, make)
    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in (fs / "dir").iterdir()}
    assert {path.stat().st_gid for path in (fs / "dir").iterdir()} == {3000}
    assert modes == {"sub": "0o2755", "file": "0o644", "setgid": "0o755"}


def test_set_uid_programs_and_devices_are_inert(fs: Path) -> None:
    shutil.copy("/usr/bin/id", fs / "id")
    (fs / "id").chmod(0o4755)
    told = run_as(ALICE, lambda: run(fs / "id", "-u"))
    assert told.text.strip() == str(ALICE.uid)
    os.mknod(fs / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert errno_of(lambda: open_close(fs / "null")) == "EACCES"


def _build(directory: Path, owner: tuple[int, int], file_mode: int, dir_mode: int) -> None:
    directory.chmod(0o755)
    for name, mode, owned_by in (
        ("dir", 0o755, owner), ("open", 0o777, ROOTS), ("open2", 0o777, ROOTS), ("sticky", 0o1777, ROOTS),
        ("open/sub", 0o755, ALICES), ("sticky/alicesdir", 0o755, ALICES),
    ):  # fmt: skip
        (directory / name).mkdir()
        os.chown(directory / name, *owned_by)
        (directory / name).chmod(mode)
    for name, mode, owned_by in (
        ("file", file_mode, owner), ("dir/inner", file_mode, owner),
        ("dir/bobs", 0o644, BOBS), ("open/bobs", 0o644, BOBS), ("sticky/alices", 0o644, ALICES),
    ):  # fmt: skip
        (directory / name).write_bytes(b"content")
        os.chown(directory / name, *owned_by)
        (directory / name).chmod(mode)
    (directory / "symlink").symlink_to("file")
    (directory / "dir").chmod(dir_mode)


def _setid_file(directory: Path, mode: int) -> Path:
    directory.chmod(0o777)
    file = directory / "file"
    file.write_bytes(b"content")
    os.chown(file, *ALICES)
    file.chmod(mode)
    return file
