"""fallocate: what it promises is kept in a full file system, and what it frees is free at once."""

import errno
import stat

import pytest

from pramfs.errors import FramesHeld
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.file_calls import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from pramfs.tree.inodes import FILE_MAX_BYTES, File
from pramfs.tree.space import SPARE_MAX
from pramfs.tree.tree import Tree
from tests.support.refusals import refused
from tests.support.tree_volume import Volume

PUNCH = PUNCH_HOLE | KEEP_SIZE
SECTORS = PAGE_SIZE // 512


@pytest.fixture(params=["image", "memory"])
def volume(request: pytest.FixtureRequest) -> Volume:
    return Volume(2048, arena=str(request.param))


def fill(volume: Volume) -> File:
    """Fill the file system: not one more page can be written to another file."""
    file = volume.create("filler")
    at = 0
    for size in (64 * PAGE_SIZE, PAGE_SIZE):
        with refused(errno.ENOSPC):
            while True:
                volume.tree.write(file, at, b"f" * size)
                at = file.length
    return file


def free_frames(volume: Volume) -> int:
    return volume.pram.arena.table.unused


# --- room that is reserved -----------------------------------------------------------------------


def test_reserved_pages_count_as_blocks_and_read_as_zeros(volume: Volume) -> None:
    file = volume.create("f", b"hello")
    free = free_frames(volume)
    volume.tree.fallocate(file, 0, 2 * PAGE_SIZE + 1, 5 * PAGE_SIZE)
    assert file.length == 7 * PAGE_SIZE + 1
    assert file.blocks == (1 + 6) * SECTORS
    assert volume.read("f") == b"hello".ljust(file.length, b"\0")
    assert free_frames(volume) == free


def test_keep_size_leaves_the_size(volume: Volume) -> None:
    file = volume.create("f", b"hello")
    volume.tree.fallocate(file, KEEP_SIZE, 0, 4 * PAGE_SIZE)
    assert (file.length, file.blocks) == (5, 4 * SECTORS)


def test_a_page_is_reserved_once(volume: Volume) -> None:
    file = volume.create("f")
    for start in (0, 2, 1, 0):
        volume.tree.fallocate(file, KEEP_SIZE, start * PAGE_SIZE, 3 * PAGE_SIZE)
    assert file.blocks == 5 * SECTORS
    volume.tree.write(file, PAGE_SIZE, b"x" * 2 * PAGE_SIZE)
    assert file.blocks == 5 * SECTORS


@pytest.mark.parametrize("size", [1, PAGE_SIZE, 300 * PAGE_SIZE])
def test_a_write_where_room_is_reserved_never_meets_a_full_file_system(
    volume: Volume, size: int
) -> None:
    file = volume.create("f", b"hello")
    volume.tree.fallocate(file, 0, 0, 300 * PAGE_SIZE)
    fill(volume)
    for letter in (b"a", b"b", b"c", b"d"):
        for start in range(0, 300 * PAGE_SIZE, max(size, 50 * PAGE_SIZE)):
            volume.tree.write(file, start, letter * size)
        volume.save(final=False)
        volume.check()
        if size == 300 * PAGE_SIZE:
            assert volume.read("f") == letter * size


def test_room_is_reserved_for_pages_that_are_there_already(volume: Volume) -> None:
    file = volume.create("f", b"a" * 20 * PAGE_SIZE)
    volume.save(final=False)
    volume.tree.fallocate(file, 0, 0, 20 * PAGE_SIZE)
    assert file.blocks == 20 * SECTORS
    fill(volume)
    volume.tree.write(file, 0, b"b" * 20 * PAGE_SIZE)
    volume.save(final=False)
    volume.tree.write(file, 0, b"c" * 20 * PAGE_SIZE)


def test_the_rest_of_a_write_beyond_the_reserved_room_fails(volume: Volume) -> None:
    file = volume.create("f")
    volume.tree.fallocate(file, 0, 0, 10 * PAGE_SIZE)
    fill(volume)
    with refused(errno.ENOSPC):
        volume.tree.write(file, 0, b"x" * 20 * PAGE_SIZE)
    assert volume.read("f").startswith(b"x" * 10 * PAGE_SIZE)


def test_too_much_is_refused_and_nothing_is_reserved(volume: Volume) -> None:
    file = volume.create("f")
    with refused(errno.ENOSPC):
        volume.tree.fallocate(file, 0, 0, 2048 * PAGE_SIZE)
    assert (file.length, file.blocks) == (0, 0)
    assert volume.tree.space.claimed == 0
    volume.tree.fallocate(file, 0, 0, 1500 * PAGE_SIZE)


def test_frames_that_only_the_last_save_holds_come_back_by_a_checkpoint(volume: Volume) -> None:
    volume.create("big", b"x" * 1500 * PAGE_SIZE)
    volume.save(final=False)
    volume.unlink("big")
    file = volume.create("f")
    with pytest.raises(FramesHeld):
        Tree.fallocate(volume.tree, file, 0, 0, 1000 * PAGE_SIZE)
    volume.save(final=False)
    Tree.fallocate(volume.tree, file, 0, 0, 1000 * PAGE_SIZE)
    assert file.blocks == 1000 * SECTORS


@pytest.mark.parametrize("give_up", ["unlink", "truncate", "punch"])
def test_room_comes_back_when_it_is_given_up(volume: Volume, give_up: str) -> None:
    file = volume.create("f")
    keep_free = volume.tree.space.frames_to_keep_free()
    volume.tree.fallocate(file, KEEP_SIZE, 0, 1000 * PAGE_SIZE)
    assert volume.tree.space.frames_to_keep_free() >= keep_free + 1000 + SPARE_MAX
    if give_up == "unlink":
        volume.unlink("f")
    elif give_up == "truncate":
        volume.truncate("f", 0)
    else:
        volume.tree.fallocate(file, PUNCH, 0, 2000 * PAGE_SIZE)
    assert volume.tree.space.frames_to_keep_free() <= keep_free
    assert file.blocks == 0


def test_a_file_that_grows_keeps_what_is_reserved_behind_its_end(volume: Volume) -> None:
    file = volume.create("f")
    volume.tree.fallocate(file, KEEP_SIZE, 0, 10 * PAGE_SIZE)
    volume.truncate("f", 5 * PAGE_SIZE)
    assert file.blocks == 10 * SECTORS
    volume.truncate("f", 5 * PAGE_SIZE)
    assert file.blocks == 5 * SECTORS


# --- holes and zeros -----------------------------------------------------------------------------


def test_a_hole_frees_its_frames_at_once(volume: Volume) -> None:
    file = volume.create("f", b"x" * 100 * PAGE_SIZE)
    free = free_frames(volume)
    volume.tree.fallocate(file, PUNCH, 10 * PAGE_SIZE, 50 * PAGE_SIZE)
    assert free_frames(volume) == free + 50
    assert file.blocks == 50 * SECTORS
    assert volume.read("f") == b"x" * 10 * PAGE_SIZE + bytes(50 * PAGE_SIZE) + b"x" * 40 * PAGE_SIZE
    volume.save()
    volume.check()


def test_frames_of_the_last_save_are_held_for_it(volume: Volume) -> None:
    file = volume.create("f", b"x" * 100 * PAGE_SIZE)
    volume.save(final=False)
    free = free_frames(volume)
    volume.tree.fallocate(file, PUNCH, 0, 100 * PAGE_SIZE)
    assert free_frames(volume) == free
    volume.save(final=False)
    assert free_frames(volume) >= free + 100


@pytest.mark.parametrize("mode", [PUNCH, ZERO_RANGE])
@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (5, 9), (4000, 4096), (4000, 9000), (100, 12_288), (0, 20_000), (19_999, 30_000)],
)
def test_parts_of_pages_are_zeroed(volume: Volume, start: int, end: int, mode: int) -> None:
    content = bytes(range(1, 201)) * 100
    file = volume.create("f", content)
    volume.save(final=False)
    volume.tree.fallocate(file, mode | KEEP_SIZE, start, end - start)
    assert volume.read("f") == (content[:start] + bytes(end - start) + content[end:])[:20_000]
    volume.save()
    volume.check()


def test_a_file_of_holes_costs_nothing(volume: Volume) -> None:
    file = volume.create("f")
    volume.truncate("f", 1 << 50)
    volume.tree.fallocate(file, PUNCH, 0, 1 << 50)
    assert (file.blocks, file.pages) == (0, None)


def test_zero_range_reserves_what_it_zeroes(volume: Volume) -> None:
    file = volume.create("f", b"x" * 10 * PAGE_SIZE)
    volume.tree.fallocate(file, ZERO_RANGE, 5 * PAGE_SIZE, 10 * PAGE_SIZE)
    assert (file.length, file.blocks) == (15 * PAGE_SIZE, 15 * SECTORS)
    fill(volume)
    volume.tree.write(file, 5 * PAGE_SIZE, b"y" * 10 * PAGE_SIZE)
    assert volume.read("f") == b"x" * 5 * PAGE_SIZE + b"y" * 10 * PAGE_SIZE


def test_zero_range_needs_room_for_holes_only(volume: Volume) -> None:
    file = volume.create("f", b"x" * 100 * PAGE_SIZE)
    volume.tree.fallocate(file, 0, 0, 100 * PAGE_SIZE)
    fill(volume)
    volume.tree.fallocate(file, ZERO_RANGE, 0, 100 * PAGE_SIZE)
    assert file.blocks == 100 * SECTORS
    with refused(errno.ENOSPC):
        volume.tree.fallocate(file, ZERO_RANGE, 0, 101 * PAGE_SIZE)
    assert file.length == 100 * PAGE_SIZE


def test_a_hole_in_reserved_room_takes_the_room_back(volume: Volume) -> None:
    file = volume.create("f")
    volume.tree.fallocate(file, 0, 0, 10 * PAGE_SIZE)
    volume.tree.fallocate(file, PUNCH, 2 * PAGE_SIZE + 1, 5 * PAGE_SIZE)
    assert file.blocks == 6 * SECTORS
    fill(volume)
    volume.tree.write(file, 2 * PAGE_SIZE, b"x")
    with refused(errno.ENOSPC):
        volume.tree.write(file, 3 * PAGE_SIZE, b"x")


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, PUNCH, ZERO_RANGE])
def test_the_file_was_changed_now(volume: Volume, mode: int) -> None:
    file = volume.create("f", b"x" * PAGE_SIZE)
    file.mtime = file.ctime = 0
    volume.tree.changed = False
    volume.tree.fallocate(file, mode, 0, PAGE_SIZE, set_times=False)
    assert (file.mtime, file.ctime) == (0, 0)
    volume.tree.fallocate(file, mode, 0, PAGE_SIZE)
    assert file.mtime == file.ctime > 0
    assert volume.tree.changed


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [PUNCH_HOLE, 4, 8, 32, 64, PUNCH | ZERO_RANGE, 1 << 30])
def test_other_modes_are_not_supported(volume: Volume, mode: int) -> None:
    with refused(errno.EOPNOTSUPP):
        volume.tree.fallocate(volume.create("f"), mode, 0, 1)


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, 0), (5, -1)])
def test_a_range_must_have_a_length(volume: Volume, offset: int, length: int) -> None:
    with refused(errno.EINVAL):
        volume.tree.fallocate(volume.create("f"), 0, offset, length)


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, PUNCH, ZERO_RANGE])
def test_a_range_must_end_where_files_end(volume: Volume, mode: int) -> None:
    file = volume.create("f")
    with refused(errno.EFBIG):
        volume.tree.fallocate(file, mode, FILE_MAX_BYTES - 5, 6)
    volume.tree.fallocate(file, PUNCH, FILE_MAX_BYTES - 5, 5)
    volume.tree.fallocate(file, 0, FILE_MAX_BYTES - 5, 5)
    volume.save()
    assert file.length == FILE_MAX_BYTES


def test_only_regular_files_have_room(volume: Volume) -> None:
    with refused(errno.EISDIR):
        volume.tree.fallocate(volume.mkdir("d"), 0, 0, 1)
    with refused(errno.ENODEV):
        volume.tree.fallocate(volume.mknod("p", stat.S_IFIFO | 0o600), 0, 0, 1)
