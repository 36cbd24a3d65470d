"""Clones share frames: a copy of whole pages takes none, and a change of one is no change of the other."""

import errno
import os
import random

import pytest

from pramfs.errors import DamagedTree
from pramfs.storage.frames import FREE
from pramfs.storage.layout import PAGE_SIZE, SHARED
from pramfs.storage.regions import Region, Regions
from pramfs.tree.inodes import File
from tests.golden.decoder import decode
from tests.support.refusals import refused
from tests.support.tree_volume import Volume

PAGES = 1200  # in more than two chunks


def pattern(pages: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(pages * PAGE_SIZE)


@pytest.fixture(params=["image", "memory"])
def volume(request: pytest.FixtureRequest) -> Volume:
    return Volume(6144, arena=str(request.param))


def clone(volume: Volume, source: str, target: str) -> File:
    """Copy a whole file, as cp does, to a new one."""
    file, copy = volume.file(source), volume.create(target)
    done = 0
    while done < file.length:
        done += volume.tree.copy_range(file, done, copy, done, 1 << 40)
    return copy


def frames_of(volume: Volume, name: str) -> list[int]:
    pages = volume.file(name).pages
    assert pages is not None
    return [pfn for _, pfns in pages.chunks() for pfn in pfns if pfn]


def used(volume: Volume) -> int:
    return volume.pram.arena.table.summary().used


@pytest.mark.parametrize(
    "size", [PAGES * PAGE_SIZE, PAGES * PAGE_SIZE - 100, 5, PAGE_SIZE, PAGE_SIZE + 1]
)
@pytest.mark.parametrize("saved", [False, True])
def test_a_clone_takes_no_frame(volume: Volume, size: int, saved: bool) -> None:
    content = pattern(PAGES)[:size]
    volume.create("a", content)
    if saved:
        volume.save(final=False)
    before = used(volume)
    clone(volume, "a", "b")
    assert used(volume) == before
    assert volume.read("b") == content
    assert volume.pram.arena.table.summary().spared == -(-size // PAGE_SIZE)
    volume.save()
    volume.check()
    assert volume.read("b") == volume.read("a") == content


@pytest.mark.parametrize("changed", ["a", "b"])
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 1), (PAGE_SIZE, PAGE_SIZE), (5, 700 * PAGE_SIZE), (0, PAGES * PAGE_SIZE)],
)
def test_a_change_of_one_is_no_change_of_the_other(
    volume: Volume, changed: str, saved: bool, offset: int, size: int
) -> None:
    content = pattern(PAGES)
    volume.create("a", content)
    clone(volume, "a", "b")
    if saved:
        volume.save(final=False)
    data = pattern(PAGES, seed=2)[:size]
    volume.tree.write(volume.file(changed), offset, data)
    expected = content[:offset] + data + content[offset + size :]
    for _ in range(2):
        assert volume.read(changed) == expected
        assert volume.read("ab".replace(changed, "")) == content
        volume.check()
        volume.save()
        volume.reopen()


def test_what_only_one_holds_is_written_in_place_again(volume: Volume) -> None:
    content = pattern(3)
    volume.create("a", content)
    clone(volume, "a", "b")
    volume.truncate("b", PAGE_SIZE)
    before = used(volume)
    volume.tree.write(volume.file("a"), PAGE_SIZE, b"x" * 2 * PAGE_SIZE)
    assert used(volume) == before
    assert volume.read("b") == content[:PAGE_SIZE]


def test_frames_come_free_when_the_last_holder_goes(volume: Volume) -> None:
    volume.create("a", pattern(PAGES))
    clone(volume, "a", "b")
    clone(volume, "b", "c")
    free = volume.pram.arena.table.count(FREE)
    for name in "ab":
        volume.unlink(name)
        assert volume.pram.arena.table.count(FREE) == free
    assert volume.read("c") == pattern(PAGES)
    volume.unlink("c")
    assert volume.pram.arena.table.count(FREE) == free + PAGES
    volume.check()


def test_hundreds_of_clones(volume: Volume) -> None:
    content = pattern(2)
    volume.create("0", content)
    for number in range(1, 600):
        clone(volume, "0", str(number))
    volume.save()
    volume.check()
    volume.reopen()
    volume.check()
    assert volume.pram.arena.table.repeats == 2 * 599
    for number in range(599):
        volume.unlink(str(number))
    volume.check()
    assert volume.read("599") == content
    assert not volume.pram.arena.table.repeats


def test_the_image_tells_that_frames_are_shared_only_while_they_are(volume: Volume) -> None:
    volume.create("a", pattern(5))
    clone(volume, "a", "b")
    volume.save()
    assert volume.pram.current.incompatible == SHARED
    decoded = decode(volume.image.content())
    assert len({page.pfn for page in decoded.nodes[b"pramfs-data"].pages}) == 5
    volume.unlink("b")
    volume.save()
    assert not volume.pram.current.incompatible
    decode(volume.image.content())


def test_an_open_file_without_a_name_is_no_holder_in_a_save(volume: Volume) -> None:
    content = pattern(5)
    volume.create("a", content)
    orphans = [clone(volume, "a", name) for name in "bc"]
    for name, orphan in zip("bc", orphans, strict=True):
        orphan.refs += 1
        volume.unlink(name)
    volume.save(final=False)
    assert not volume.pram.current.incompatible
    decode(volume.image.content())
    volume.unlink("a")
    volume.save(final=False)
    decode(volume.image.content())
    for orphan in orphans:
        assert bytes(volume.tree.data.read(orphan, 0, 1 << 20)) == content


def test_clones_stay_clones_when_their_frames_are_banned(volume: Volume) -> None:
    content = pattern(PAGES)
    volume.create("a", content)
    clone(volume, "a", "b")
    volume.save()
    frames = frames_of(volume, "a")
    volume.reopen(banned=Regions([Region(frames[10], frames[500])]))
    volume.save()
    volume.check()
    assert volume.pram.arena.table.repeats == PAGES
    assert volume.read("a") == volume.read("b") == content


def test_a_full_arena_refuses_the_one_who_writes_to_what_is_shared(volume: Volume) -> None:
    content = pattern(PAGES)
    volume.create("a", content)
    clone(volume, "a", "b")
    filler = volume.create("filler")
    for size in (512 * PAGE_SIZE, PAGE_SIZE):
        with refused(errno.ENOSPC):
            while True:
                volume.tree.write(filler, filler.length, b"f" * size)
    with refused(errno.ENOSPC):
        volume.tree.write(volume.file("b"), 0, b"x" * len(content))
    assert volume.read("a") == content
    volume.truncate("filler", filler.length - 2 * PAGES * PAGE_SIZE)
    volume.tree.write(volume.file("b"), 0, b"x" * len(content))
    assert volume.read("a") == content
    volume.save()
    volume.check()


def test_what_was_reserved_is_not_where_it_is_shared(volume: Volume) -> None:
    file = volume.create("a", pattern(10))
    volume.tree.fallocate(file, 0, 0, 20 * PAGE_SIZE)
    clone(volume, "a", "b")
    assert file.reserved is not None
    assert list(file.reserved) == [(10, 20)]
    assert volume.tree.space.promised == 10
    volume.check()


def test_holes_and_the_end_of_a_clone(volume: Volume) -> None:
    file = volume.create("a")
    for page in (1, 2, 600, 1100):
        volume.tree.write(file, page * PAGE_SIZE, pattern(1, page))
    volume.tree.write(file, 1101 * PAGE_SIZE, b"end")
    copy = volume.create("b", b"b" * 3)
    done = 0
    while done < file.length:
        done += volume.tree.copy_range(file, done, copy, done, 1 << 40)
    assert volume.read("b") == volume.read("a")
    assert copy.blocks == file.blocks
    assert volume.tree.seek(copy, 3 * PAGE_SIZE, os.SEEK_DATA) == 600 * PAGE_SIZE
    volume.truncate("b", copy.length + 10)
    assert volume.read("b") == volume.read("a") + bytes(10)
    volume.save()
    volume.check()


def test_the_last_page_is_not_shared_where_more_would_follow(volume: Volume) -> None:
    volume.create("a", b"a" * 5000)
    copy = volume.create("b", b"b" * 9000)
    source = volume.file("a")
    done = 0
    while done < 5000:
        done += volume.tree.copy_range(source, done, copy, done, 5000 - done)
    assert volume.read("b") == b"a" * 5000 + b"b" * 4000


def test_pages_of_a_file_are_shared_within_it(volume: Volume) -> None:
    content = pattern(4)
    file = volume.create("a", content)
    assert volume.tree.copy_range(file, 0, file, 4 * PAGE_SIZE, 4 * PAGE_SIZE)
    assert volume.pram.arena.table.repeats == 4
    volume.tree.write(file, 0, b"x")
    assert volume.read("a") == b"x" + content[1:] + content
    volume.save()
    volume.reopen()
    assert volume.read("a") == b"x" + content[1:] + content


def test_a_damaged_page_damages_all_who_share_it(volume: Volume) -> None:
    volume.create("a", pattern(5))
    volume.create("c", pattern(5, seed=3))
    clone(volume, "a", "b")
    volume.save()
    volume.image.guarded = False
    volume.image.write(frames_of(volume, "a")[2] * PAGE_SIZE, b"damage")
    with pytest.raises(DamagedTree, match=r"2 damaged: /?a, /?b"):
        volume.reopen()
