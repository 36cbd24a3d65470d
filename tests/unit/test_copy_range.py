"""copy_file_range: every byte and every hole, in pieces, and never more than there is room for."""

import errno
import os
import stat

import pytest

from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.file_calls import COPY_BYTES
from pramfs.tree.file_flags import APPEND, IMMUTABLE
from pramfs.tree.inodes import FILE_MAX_BYTES, File
from tests.support.refusals import refused
from tests.support.tree_volume import Volume

OLD = bytes(range(1, 251)) * 400


@pytest.fixture(params=["image", "memory"])
def volume(request: pytest.FixtureRequest) -> Volume:
    return Volume(3072, arena=str(request.param))


def sparse(volume: Volume, name: str, *pages: int) -> File:
    """A file with data in these pages, its last byte in the last one."""
    file = volume.create(name)
    for page in pages:
        volume.tree.write(file, page * PAGE_SIZE, bytes([page % 255 + 1]) * PAGE_SIZE)
    return file


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 50_000])
@pytest.mark.parametrize("to", [0, 1, 4096, 99_999, 150_000])
@pytest.mark.parametrize("length", [1, 4096, 10_000, 1 << 40])
def test_bytes_are_copied_and_no_others_change(
    volume: Volume, offset: int, to: int, length: int
) -> None:
    source, target = volume.create("a", OLD), volume.create("b", b"b" * 100_000)
    volume.save(final=False)
    expected = bytearray(b"b" * 100_000)
    piece = OLD[offset : offset + length]
    expected.extend(bytes(max(0, to - len(expected))))
    expected[to : to + len(piece)] = piece
    assert volume.tree.copy_range(source, offset, target, to, length) == len(piece)
    assert volume.read("b") == expected
    assert volume.read("a") == OLD
    volume.save()
    volume.check()


def test_holes_stay_holes(volume: Volume) -> None:
    source = sparse(volume, "a", 1, 2, 7)
    target = volume.create("b", b"b" * 10 * PAGE_SIZE)
    assert volume.tree.copy_range(source, 0, target, 0, source.length) == source.length
    assert volume.read("b") == volume.read("a") + b"b" * 2 * PAGE_SIZE
    assert target.blocks == 5 * PAGE_SIZE // 512
    assert volume.tree.seek(target, 0, os.SEEK_DATA) == PAGE_SIZE


def test_a_hole_at_the_end_makes_the_target_longer(volume: Volume) -> None:
    source, target = sparse(volume, "a", 1), volume.create("b")
    volume.truncate("a", 1 << 40)
    assert volume.tree.copy_range(source, 0, target, 0, 1 << 41) == 1 << 40
    assert target.length == 1 << 40
    assert target.blocks == PAGE_SIZE // 512


def test_a_hole_leaves_room_reserved_where_it_was(volume: Volume) -> None:
    source, target = sparse(volume, "a", 5), volume.create("b", b"b" * 10 * PAGE_SIZE)
    volume.tree.fallocate(target, 0, 0, 10 * PAGE_SIZE)
    volume.tree.copy_range(source, 0, target, 0, 5 * PAGE_SIZE)
    assert target.blocks == 10 * PAGE_SIZE // 512
    volume.check()


def test_within_a_file(volume: Volume) -> None:
    file = volume.create("a", OLD)
    assert volume.tree.copy_range(file, 0, file, 50_000, 50_000) == 50_000
    assert volume.read("a") == OLD[:50_000] * 2
    assert volume.tree.copy_range(file, 0, file, 100_000, 1 << 40) == 100_000
    assert volume.read("a") == OLD[:50_000] * 4


@pytest.mark.parametrize(("offset", "to"), [(0, 9999), (9999, 0), (5, 5), (0, 1)])
def test_overlapping_ranges_are_refused(volume: Volume, offset: int, to: int) -> None:
    file = volume.create("a", OLD)
    with refused(errno.EINVAL):
        volume.tree.copy_range(file, offset, file, to, 10_000)
    assert volume.read("a") == OLD


def test_a_call_copies_a_piece(volume: Volume) -> None:
    source, target = volume.create("a", bytes(COPY_BYTES)), volume.create("b")
    volume.tree.write(source, COPY_BYTES, OLD)
    assert volume.tree.copy_range(source, 0, target, 1, 1 << 40) == COPY_BYTES
    rest = volume.tree.copy_range(source, COPY_BYTES, target, COPY_BYTES + 1, 1 << 40)
    assert rest == len(OLD)
    assert volume.read("b") == b"\0" + volume.read("a")


@pytest.mark.parametrize("offset", [100_000, 1 << 50])
def test_there_is_nothing_to_copy_behind_the_end(volume: Volume, offset: int) -> None:
    source, target = volume.create("a", OLD), volume.create("b", b"b")
    assert volume.tree.copy_range(source, offset, target, 5, 10) == 0
    assert volume.read("b") == b"b"


def test_what_finds_no_room_is_not_copied(volume: Volume) -> None:
    source, target = sparse(volume, "a", *range(0, 40, 2)), volume.create("b")
    filler = volume.create("filler")
    for size in (512 * PAGE_SIZE, PAGE_SIZE):
        with refused(errno.ENOSPC):
            while True:
                volume.tree.write(filler, filler.length, b"f" * size)
    volume.truncate("filler", filler.length - 3 * PAGE_SIZE)
    for _ in range(2):
        volume.save(final=False)
    copied = 0
    with refused(errno.ENOSPC):
        while copied < source.length:
            rest = source.length - copied
            copied += volume.tree.copy_range(source, copied, target, copied + 1, rest)
    assert 0 < copied < source.length
    assert volume.read("b")[1 : copied + 1] == volume.read("a")[:copied]
    volume.save()
    volume.check()


def test_the_target_was_changed_now(volume: Volume) -> None:
    source, target = volume.create("a", OLD), volume.create("b")
    for file in (source, target):
        file.atime = file.mtime = file.ctime = 0
    volume.tree.changed = False
    volume.tree.copy_range(source, 0, target, 0, 1, set_times=False)
    assert (target.mtime, target.ctime) == (0, 0)
    volume.tree.copy_range(source, 0, target, 0, 1)
    assert target.mtime == target.ctime > 0
    assert source.mtime == 0
    assert source.atime > 0
    assert volume.tree.changed


def test_only_files_that_may_change_are_written(volume: Volume) -> None:
    source, target = volume.create("a", OLD), volume.create("b")
    for flags in (IMMUTABLE, APPEND):
        volume.tree.set_flags(target, flags, 0)
        with refused(errno.EPERM):
            volume.tree.copy_range(source, 0, target, 0, 1)
        volume.tree.copy_range(target, 0, source, 0, 1)


def test_only_regular_files_are_copied(volume: Volume) -> None:
    file, other = volume.create("a", OLD), volume.mknod("p", stat.S_IFIFO | 0o600)
    for inode, number in ((volume.mkdir("d"), errno.EISDIR), (other, errno.EINVAL)):
        with refused(number):
            volume.tree.copy_range(inode, 0, file, 0, 1)
        with refused(number):
            volume.tree.copy_range(file, 0, inode, 0, 1)
    with refused(errno.EINVAL):
        volume.tree.copy_range(file, -1, volume.create("b"), 0, 1)
    with refused(errno.EFBIG):
        volume.tree.copy_range(file, 0, volume.file("b"), FILE_MAX_BYTES - 5, 6)
