"""The flags of chattr: what they forbid, who may set them, and that they are kept."""

import errno
import os
import stat
import time
from collections.abc import Callable

import pytest

from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree import file_flags
from pramfs.tree.attributes import Changes
from pramfs.tree.file_calls import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from pramfs.tree.file_flags import APPEND, IMMUTABLE, NOATIME, NODUMP
from pramfs.tree.tree import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from tests.golden.decoder import decode
from tests.support.refusals import refused
from tests.support.tree_volume import NAME, USER, Volume

Call = Callable[[Volume], object]

OLD = b"what is there" * 500


@pytest.fixture
def volume() -> Volume:
    volume = Volume()
    volume.create("f", OLD)
    volume.create("other")
    volume.mkdir("d")
    volume.create("d/f")
    volume.mkdir("e")
    volume.tree.setxattr(volume.inode("f"), b"user.a", b"1")
    return volume


def flag(volume: Volume, path: str, flags: int) -> None:
    volume.tree.set_flags(volume.inode(path), flags, 0)


# --- a file that may not be changed, or only be appended to --------------------------------------


REFUSED_OF_BOTH: dict[str, Call] = {
    "truncate": lambda v: v.truncate("f", 5),
    "extend": lambda v: v.truncate("f", 50_000),
    "chmod": lambda v: v.tree.setattr(v.inode("f"), Changes(mode=0o600)),
    "chown": lambda v: v.tree.setattr(v.inode("f"), Changes(uid=5)),
    "chgrp": lambda v: v.tree.setattr(v.inode("f"), Changes(gid=5)),
    "utimes": lambda v: v.tree.setattr(v.inode("f"), Changes(atime=5, mtime=5, ctime=6)),
    "atime": lambda v: v.tree.setattr(v.inode("f"), Changes(atime=5)),
    "mtime": lambda v: v.tree.setattr(v.inode("f"), Changes(mtime=5)),
    "setxattr": lambda v: v.tree.setxattr(v.inode("f"), b"user.b", b"2"),
    "removexattr": lambda v: v.tree.removexattr(v.inode("f"), b"user.a"),
    "link": lambda v: v.link("f", "g"),
    "unlink": lambda v: v.unlink("f"),
    "rename": lambda v: v.rename("f", "g"),
    "replace": lambda v: v.rename("other", "f"),
    "exchange": lambda v: v.rename("other", "f", RENAME_EXCHANGE),
    "exchanged": lambda v: v.rename("f", "other", RENAME_EXCHANGE),
    "whiteout": lambda v: v.rename("f", "g", RENAME_WHITEOUT),
    "overwrite": lambda v: v.tree.write(v.file("f"), 3, b"new"),
    "write behind": lambda v: v.tree.write(v.file("f"), len(OLD) + 1, b"new"),
    "punch": lambda v: v.tree.fallocate(v.file("f"), PUNCH_HOLE | KEEP_SIZE, 0, PAGE_SIZE),
    "zero": lambda v: v.tree.fallocate(v.file("f"), ZERO_RANGE, 0, PAGE_SIZE),
}
REFUSED_OF_IMMUTABLE: dict[str, Call] = {
    "touch": lambda v: v.tree.setattr(v.inode("f"), Changes(atime=5, mtime=5, touch=True)),
    "append": lambda v: v.tree.write(v.file("f"), len(OLD), b"new"),
    "reserve": lambda v: v.tree.fallocate(v.file("f"), 0, 0, 50_000),
    "reserve behind": lambda v: v.tree.fallocate(v.file("f"), KEEP_SIZE, 0, 50_000),
}


@pytest.mark.parametrize("what", REFUSED_OF_BOTH | REFUSED_OF_IMMUTABLE)
def test_nothing_of_an_immutable_file_changes(volume: Volume, what: str) -> None:
    flag(volume, "f", IMMUTABLE)
    before = volume.facts()
    with refused(errno.EPERM):
        (REFUSED_OF_BOTH | REFUSED_OF_IMMUTABLE)[what](volume)
    assert volume.facts() == before
    flag(volume, "f", 0)
    (REFUSED_OF_BOTH | REFUSED_OF_IMMUTABLE)[what](volume)


@pytest.mark.parametrize("what", REFUSED_OF_BOTH)
def test_what_is_in_a_file_for_appends_does_not_change(volume: Volume, what: str) -> None:
    flag(volume, "f", APPEND)
    before = volume.facts()
    with refused(errno.EPERM):
        REFUSED_OF_BOTH[what](volume)
    assert volume.facts() == before


def test_the_kernel_may_tell_later_of_a_write_before_it_was_forbidden(volume: Volume) -> None:
    file = volume.inode("f")
    flag(volume, "f", IMMUTABLE)
    forbidden_since = file.ctime
    volume.tree.set_cached_times(file, forbidden_since - 5, forbidden_since - 5)
    assert (file.mtime, file.ctime) == (forbidden_since - 5, forbidden_since)
    with refused(errno.EPERM):
        volume.tree.set_cached_times(file, forbidden_since + 1, forbidden_since + 1)


def test_a_write_just_before_it_was_forbidden_is_not_taken_for_a_later_one(volume: Volume) -> None:
    """Since Linux 6.13 the kernel stamps it with a time that can be ahead of the coarse clock."""
    file = volume.inode("f")
    written = time.time_ns()
    flag(volume, "f", IMMUTABLE)
    volume.tree.set_cached_times(file, written, written)
    assert file.mtime == written


@pytest.mark.parametrize("what", REFUSED_OF_IMMUTABLE)
def test_a_file_for_appends_grows(volume: Volume, what: str) -> None:
    flag(volume, "f", APPEND)
    REFUSED_OF_IMMUTABLE[what](volume)


def test_an_append_may_repeat_what_is_there_as_the_kernel_does(volume: Volume) -> None:
    flag(volume, "f", APPEND)
    file = volume.file("f")
    start = len(OLD) // PAGE_SIZE * PAGE_SIZE
    volume.tree.write(file, start, OLD[start:] + b"more", set_times=False)
    volume.tree.setattr(file, Changes(mtime=5, ctime=6))
    assert volume.read("f") == OLD + b"more"
    assert (file.mtime, file.ctime) == (5, 6)
    with refused(errno.EPERM):
        volume.tree.write(file, start, b"!" + OLD[start + 1 :] + b"more!")
    assert volume.read("f") == OLD + b"more"


# --- directories ---------------------------------------------------------------------------------


IN_THE_DIRECTORY: dict[str, Call] = {
    "unlink": lambda v: v.unlink("d/f"),
    "rename away": lambda v: v.rename("d/f", "g"),
    "rename within": lambda v: v.rename("d/f", "d/g"),
    "replace": lambda v: v.rename("other", "d/f"),
    "exchange": lambda v: v.rename("other", "d/f", RENAME_EXCHANGE),
    "rmdir": lambda v: v.rmdir("d"),
    "rename it": lambda v: v.rename("d", "g"),
    "chmod": lambda v: v.tree.setattr(v.inode("d"), Changes(mode=0o700)),
}
INTO_THE_DIRECTORY: dict[str, Call] = {
    "create": lambda v: v.create("d/new"),
    "mkdir": lambda v: v.mkdir("d/new"),
    "symlink": lambda v: v.symlink("d/new", b"x"),
    "link": lambda v: v.link("other", "d/new"),
    "rename": lambda v: v.rename("other", "d/new", RENAME_NOREPLACE),
}


@pytest.mark.parametrize("what", IN_THE_DIRECTORY | INTO_THE_DIRECTORY)
def test_no_name_changes_in_an_immutable_directory(volume: Volume, what: str) -> None:
    flag(volume, "d", IMMUTABLE)
    before = volume.facts()
    with refused(errno.EPERM):
        (IN_THE_DIRECTORY | INTO_THE_DIRECTORY)[what](volume)
    assert volume.facts() == before
    volume.tree.write(volume.file("d/f"), 0, b"its files do")


@pytest.mark.parametrize("what", IN_THE_DIRECTORY)
def test_no_name_goes_from_a_directory_for_appends(volume: Volume, what: str) -> None:
    flag(volume, "d", APPEND)
    with refused(errno.EPERM):
        IN_THE_DIRECTORY[what](volume)


@pytest.mark.parametrize("what", INTO_THE_DIRECTORY)
def test_names_come_into_a_directory_for_appends(volume: Volume, what: str) -> None:
    flag(volume, "d", APPEND)
    INTO_THE_DIRECTORY[what](volume)
    assert b"new" in volume.directory("d").entries


def test_there_is_no_such_name_comes_first(volume: Volume) -> None:
    flag(volume, "d", IMMUTABLE)
    with refused(errno.ENOENT):
        volume.unlink("d/absent")
    with refused(errno.EEXIST):
        volume.create("d/f")


def test_new_files_inherit_nodump_and_noatime(volume: Volume) -> None:
    flag(volume, "d", APPEND | NODUMP | NOATIME)
    assert volume.create("d/new").flags == NODUMP | NOATIME
    assert volume.symlink("d/link", b"x").flags == NODUMP | NOATIME


# --- atime ---------------------------------------------------------------------------------------


def test_reading_leaves_atime_alone_where_that_is_asked_for(volume: Volume) -> None:
    file = volume.file("f")
    file.atime = 5
    flag(volume, "f", NOATIME)
    volume.tree.touch_atime(file)
    assert file.atime == 5
    flag(volume, "f", 0)
    volume.tree.touch_atime(file)
    assert file.atime > 5


# --- setting -------------------------------------------------------------------------------------


def test_the_owner_may_set_what_forbids_no_changes(volume: Volume) -> None:
    file = volume.file("f")
    volume.tree.set_flags(file, NODUMP, USER.uid)
    for flags in (NODUMP | IMMUTABLE, NODUMP | APPEND):
        with refused(errno.EPERM):
            volume.tree.set_flags(file, flags, USER.uid)
    flag(volume, "f", IMMUTABLE)
    volume.tree.set_flags(file, IMMUTABLE | NODUMP, USER.uid)
    with refused(errno.EPERM):
        volume.tree.set_flags(file, NODUMP, USER.uid)
    assert file.flags == IMMUTABLE | NODUMP


def test_others_may_set_nothing(volume: Volume) -> None:
    with refused(errno.EPERM):
        volume.tree.set_flags(volume.file("f"), NODUMP, USER.uid + 1)


def test_other_flags_are_not_supported(volume: Volume) -> None:
    for flags in (1, 4, 8, 0x800000):
        with refused(errno.EOPNOTSUPP):
            flag(volume, "f", flags)


def test_only_files_and_directories_have_flags_to_set(volume: Volume) -> None:
    volume.mknod("p", stat.S_IFIFO | 0o600)
    volume.symlink("l", b"x")
    for path in "pl":
        with refused(errno.ENOTTY):
            flag(volume, path, NODUMP)


def test_setting_flags_is_a_change(volume: Volume) -> None:
    file = volume.file("f")
    file.ctime, volume.tree.changed = 0, False
    flag(volume, "f", NODUMP)
    assert file.ctime > 0
    assert volume.tree.changed


@pytest.mark.parametrize(
    ("flags", "xflags"),
    [(0, 0), (IMMUTABLE, 0x8), (APPEND, 0x10), (NOATIME, 0x40), (NODUMP, 0x80), (0xF0, 0xD8)],
)
def test_the_two_ioctls_mean_the_same(flags: int, xflags: int) -> None:
    assert file_flags.to_xflags(flags) == xflags
    assert file_flags.from_xflags(xflags) == flags


@pytest.mark.parametrize("xflags", [1, 2, 0x20, 0x100, 0x80000000])
def test_other_flags_of_fsxattr_are_not_supported(xflags: int) -> None:
    with refused(errno.EOPNOTSUPP):
        file_flags.from_xflags(0x8 | xflags)


# --- saves ---------------------------------------------------------------------------------------


def test_flags_are_kept_and_version_0_1_reads_the_files(volume: Volume) -> None:
    flag(volume, "f", file_flags.ALL)
    flag(volume, "d", IMMUTABLE)
    volume.save()
    save = decode(volume.image.content())
    assert save.super_block.incompatible == 0
    assert len(save.trees[NAME.encode()].inodes) == len(volume.tree.inodes)
    volume.reopen()
    assert volume.inode("f").flags == file_flags.ALL
    assert volume.inode("d").flags == IMMUTABLE
    assert volume.inode("other").flags == 0
    with refused(errno.EPERM):
        volume.truncate("f", 0)
    assert volume.tree.seek(volume.file("f"), 0, os.SEEK_DATA) == 0
