"""Frames as memory: written, read, summed and given back, in both ways to hold fresh ones."""

import errno
import os
from array import array
from collections.abc import Iterable, Iterator

import pytest
from crc32c import crc32c

from pramfs.errors import DamagedPage, FramesHeld, SystemFault
from pramfs.storage.arena import UNKNOWN_CSUM, Arena
from pramfs.storage.arenas import open_arena
from pramfs.storage.frames import BANNED, FREE, FRESH, HELD, OLD, SAVED, SUPER, Extent, FrameTable
from pramfs.storage.image_arena import ImageArena
from pramfs.storage.layout import PAGE_SIZE
from pramfs.storage.memory_arena import MemoryArena
from tests.support.image_audit import check_table
from tests.support.watched_image import (
    Punch,
    Sync,
    WatchedImage,
    Write,
    frames_between,
    image_of,
    kernel_with_pages,
)

FRAMES = 128
FIRST = 66  # all below are banned in these tests: many frames there are for super blocks
ROOM = FRAMES - FIRST


def low_banned() -> FrameTable:
    table = FrameTable(FRAMES)
    table.ban(frames_between(0, FIRST - 1))
    return table


def page(number: int) -> bytes:
    return bytes((number % 256,)) * PAGE_SIZE


@pytest.fixture(params=[4, 16, 64], ids="{}k".format)
def kernel(request: pytest.FixtureRequest) -> Iterator[int]:
    """A kernel with pages of 4, 16 or 64 KiB; how many frames a page has."""
    page_kib = int(request.param)
    with kernel_with_pages(page_kib << 10):
        yield page_kib // 4


@pytest.fixture(params=["image", "memory"])
def arena(request: pytest.FixtureRequest, kernel: int) -> Iterator[Arena]:
    """An arena in which frame N of the image holds page(N); its free frames are 66 to 127."""
    image = image_of(b"".join(page(pfn) for pfn in range(FRAMES)))
    image.guarded = False  # there is no save in it
    arena = open_arena(str(request.param), image, low_banned())
    yield arena
    arena.close()


def watched(arena: Arena) -> WatchedImage:
    assert isinstance(arena.image, WatchedImage)
    return arena.image


def published(arena: Arena) -> None:
    """Let everything in use be the save in force."""
    arena.table.begin_save()
    arena.write_back(lambda frames: None)
    arena.commit_save()


def fresh(arena: Arena, *numbers: int) -> int:
    """Consecutive fresh frames with those pages, not summed yet; returns the pfn of the first."""
    (extent,) = arena.allocate(len(numbers))
    data = b"".join(map(page, numbers))
    arena.write(extent.pfn, data)
    arena.write(extent.pfn, data[1:], 1)
    return extent.pfn


def writes(arena: Arena) -> list[Write]:
    return [step for step in watched(arena).journal if isinstance(step, Write)]


def punched(arena: Arena) -> set[int]:
    return {
        pfn
        for step in watched(arena).journal
        if isinstance(step, Punch)
        for pfn in range(step.pfn, step.pfn + step.frames)
    }


# --- reading and writing -------------------------------------------------------------------------


def test_fresh_frames_hold_what_was_written(arena: Arena) -> None:
    pfn = fresh(arena, 201, 202, 203)
    assert arena.read(pfn, 3) == page(201) + page(202) + page(203)
    assert bytes(arena.view(pfn, 3)) == page(201) + page(202) + page(203)


def test_a_part_of_a_fresh_frame_can_be_written(arena: Arena) -> None:
    pfn = fresh(arena, 200, 200)
    arena.write(pfn, b"hello", 4094)
    assert arena.read(pfn, 2)[4090:4103] == bytes((200,)) * 4 + b"hello" + bytes((200,)) * 4


def test_frames_of_the_last_save_are_read_from_the_image_in_place(arena: Arena) -> None:
    arena.table.reserve(70, 3, "data page")
    assert arena.read(70, 3) == page(70) + page(71) + page(72)
    assert bytes(arena.view(70, 3)) == page(70) + page(71) + page(72)


def test_a_run_of_saved_and_fresh_frames_reads_as_one(arena: Arena) -> None:
    arena.table.reserve(68, 2, "data page")
    assert fresh(arena, 201, 202) == 66
    assert arena.read(66, 4) == page(201) + page(202) + page(68) + page(69)
    assert bytes(arena.view(66, 4)) == arena.read(66, 4)


def test_fresh_frames_can_be_read_while_and_after_they_are_saved(arena: Arena) -> None:
    pfn = fresh(arena, 201, 202)
    arena.table.begin_save()
    assert arena.read(pfn, 2) == page(201) + page(202)
    arena.write_back(lambda frames: None)
    assert arena.read(pfn, 2) == page(201) + page(202)
    arena.commit_save()
    assert arena.read(pfn, 2) == page(201) + page(202)
    assert arena.image.read(pfn, 2) == page(201) + page(202)


def test_an_image_that_is_cut_short_behind_our_back_is_an_error_of_one_call(arena: Arena) -> None:
    arena.table.reserve(100, 1, "data page")
    os.truncate(watched(arena)._fd, 90 * PAGE_SIZE)
    with pytest.raises(SystemFault):
        arena.read(100)


# --- arena=image and arena=memory ----------------------------------------------------------------


def test_an_image_arena_writes_fresh_frames_to_their_place_at_once() -> None:
    image = image_of(bytes(FRAMES * PAGE_SIZE))
    arena = open_arena("image", image, low_banned())
    pfn = fresh(arena, 201)
    assert image.read(pfn) == page(201)
    written = len(writes(arena))
    published(arena)
    assert len(writes(arena)) == written


def test_a_memory_arena_does_not_touch_the_image_until_a_save() -> None:
    image = image_of(bytes(FRAMES * PAGE_SIZE))
    arena = open_arena("memory", image, low_banned())
    first, second = fresh(arena, 201), fresh(arena, 202)
    arena.release(second, 1)
    arena.write(first, b"more")
    assert image.journal == []
    told: list[int] = []
    arena.table.begin_save()
    arena.write_back(told.append)
    assert sum(told) == 1
    assert image.read(first) == b"more" + page(201)[4:]


def test_a_page_given_up_while_it_is_saved_reaches_the_image_as_it_was(arena: Arena) -> None:
    pfn = fresh(arena, 201)
    arena.table.begin_save()
    arena.release(pfn, 1)
    fresh(arena, 202, 203)
    arena.write_back(lambda frames: None)
    arena.commit_save()
    assert arena.image.read(pfn) == page(201)
    assert arena.table.state(pfn) == HELD


def test_a_save_can_be_tried_again_after_it_failed(arena: Arena) -> None:
    pfn = fresh(arena, 201)
    arena.table.begin_save()
    with watched(arena).failing(0):
        try:
            arena.write_back(lambda frames: None)
        except OSError:
            assert isinstance(arena, MemoryArena)
    arena.abort_save()
    assert arena.read(pfn) == page(201)
    published(arena)
    assert arena.image.read(pfn) == page(201)


def test_auto_takes_the_image_where_that_is_memory_already() -> None:
    image = image_of(bytes(PAGE_SIZE * 8))
    kind = ImageArena if image.in_memory() else MemoryArena
    assert isinstance(open_arena("auto", image, FrameTable(8)), kind)


# --- giving up and getting back ------------------------------------------------------------------


def in_memory(arena: Arena) -> set[int]:
    """The frames that take memory of their own in the arena: what is fresh, or still lies there."""
    if isinstance(arena, MemoryArena):
        return {pfn for pfn in range(FRAMES) if os.pread(arena._fd, 1, pfn * PAGE_SIZE) > b"\0"}
    arena._punch_image()
    return {pfn for pfn in range(FRAMES) if arena.image.read(pfn) == page(100 + pfn)}


def marked(arena: Arena, count: int) -> Extent:
    """Consecutive fresh frames, each with a content that says which one it is."""
    (extent,) = arena.allocate(count)
    for pfn in range(extent.pfn, extent.pfn + count):
        arena.write(pfn, page(100 + pfn))
    return extent


def stuck(kernel: int, pfns: Iterable[int], idle: Iterable[int], arena: Arena) -> set[int]:
    """Which of the frames `pfns` share a page of the kernel with one that is in no `idle` state."""
    pages = {pfn: arena.table.states(pfn - pfn % kernel, kernel) for pfn in pfns}
    return {pfn for pfn, states in pages.items() if set(states) - set(idle)}


def stuck_in_memory(arena: Arena, kernel: int, pfns: Iterable[int]) -> set[int]:
    """Which of these frames, given up, may be `in_memory` still."""
    if isinstance(arena, ImageArena):
        return stuck(kernel, pfns, {FREE}, arena)
    return stuck(kernel, pfns, {FREE, SAVED, HELD, OLD, BANNED, SUPER}, arena)


def test_memory_of_fresh_frames_that_are_given_up_goes_back(arena: Arena, kernel: int) -> None:
    marked(arena, 40)
    assert in_memory(arena) == set(range(FIRST, FIRST + 40))
    arena.release(FIRST, 32)
    kept = stuck_in_memory(arena, kernel, range(FIRST, FIRST + 32))
    assert in_memory(arena) == set(range(FIRST + 32, FIRST + 40)) | kept
    assert not kept & set(range(80, 96))  # whole pages of any kernel


def test_memory_goes_back_when_the_last_frame_of_a_page_of_the_kernel_comes_free(
    arena: Arena, kernel: int
) -> None:
    """Whichever that is: here one by one, from both ends."""
    marked(arena, 40)
    given_up: list[int] = []
    for pfn in (*range(FIRST, FIRST + 40, 2), *range(FIRST + 39, FIRST, -2)):
        assert arena.read(pfn) == page(100 + pfn)
        arena.release(pfn, 1)
        given_up.append(pfn)
        kept = stuck_in_memory(arena, kernel, given_up)
        assert in_memory(arena) == set(range(FIRST, FIRST + 40)) - set(given_up) | kept


def test_memory_goes_back_too_when_saved_and_fresh_frames_are_given_up_together(
    arena: Arena, kernel: int
) -> None:
    marked(arena, 20)
    published(arena)
    marked(arena, 20)
    arena.release(FIRST + 10, 20)
    given_up = set(range(FIRST + 20, FIRST + 30))
    assert given_up & in_memory(arena) == stuck_in_memory(arena, kernel, given_up)


def test_memory_of_frames_that_a_failed_save_would_have_held_goes_back(
    arena: Arena, kernel: int
) -> None:
    extent = marked(arena, 40)
    arena.table.begin_save()
    arena.release(extent.pfn, 33)
    arena.abort_save()
    kept = stuck_in_memory(arena, kernel, range(FIRST, FIRST + 33))
    assert in_memory(arena) == set(range(FIRST + 33, FIRST + 40)) | kept
    check_table(arena.table)


def test_the_image_gets_the_space_back_of_what_only_an_older_save_held(
    arena: Arena, kernel: int
) -> None:
    extent = marked(arena, 40)
    published(arena)
    arena.release(extent.pfn, 33)
    published(arena)
    arena._punch_image()
    kept = stuck(kernel, range(FIRST, FIRST + 33), arena._NOT_IN_IMAGE, arena)
    given_back = set(range(FIRST, FIRST + 33)) - kept
    assert given_back >= set(range(80, 96))
    assert punched(arena) >= given_back
    for pfn in range(FIRST, FIRST + 40):
        assert arena.image.read(pfn) == (bytes(PAGE_SIZE) if pfn in given_back else page(100 + pfn))


def test_a_page_of_the_image_goes_back_though_frames_beside_have_come_free_since(
    arena: Arena, kernel: int
) -> None:
    """Those of arena=memory were never in the image: they keep nothing there, fresh or free."""
    marked(arena, 40)
    for pfn in range(FIRST, FIRST + 32, 2):
        arena.release(pfn, 1)
    published(arena)
    for pfn in range(FIRST + 1, FIRST + 32, 2):
        arena.release(pfn, 1)
    arena.table.begin_save()
    beside = [fresh(arena, 250) for _ in range(FIRST, FIRST + 32, 2)]
    arena.write_back(lambda frames: None)
    arena.commit_save()
    for pfn in beside:
        arena.release(pfn, 1)
    arena._punch_image()
    assert set(beside) == set(range(FIRST, FIRST + 32, 2))
    saved = set(range(FIRST + 1, FIRST + 32, 2))
    kept = stuck(kernel, saved, arena._NOT_IN_IMAGE, arena)
    assert not kept & set(range(80, 96))
    for pfn in saved - kept:
        assert arena.image.read(pfn) == bytes(PAGE_SIZE)


def test_a_memory_arena_keeps_no_copy_of_what_is_in_the_image(arena: Arena) -> None:
    if isinstance(arena, ImageArena):
        return
    extent = marked(arena, 8)
    arena.table.begin_save()
    arena.write_back(lambda frames: None)
    arena.release(extent.pfn, 1)
    arena.commit_save()
    assert in_memory(arena) == set()
    assert arena.read(FIRST + 1) == page(100 + FIRST + 1)


def test_a_frame_that_was_freed_and_taken_again_is_not_punched(arena: Arena) -> None:
    extent = marked(arena, 8)
    arena.release(extent.pfn, 8)
    assert [fresh(arena, 250) for _ in range(4)] == list(range(FIRST, FIRST + 4))
    arena._punch_image()
    assert not punched(arena) & set(range(FIRST, FIRST + 4))
    assert arena.read(FIRST, 4) == page(250) * 4


# --- room ----------------------------------------------------------------------------------------


def test_a_full_arena_is_enospc_and_takes_nothing(arena: Arena) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        arena.allocate(ROOM + 1)
    assert caught.value.errno == errno.ENOSPC
    assert arena.table.count(FREE) == ROOM


def test_frames_to_be_kept_free_are_not_given_out(arena: Arena) -> None:
    arena.allocate(ROOM - 10, 10)
    with pytest.raises(OSError, match="No space left"):
        arena.allocate(1, 10)
    assert arena.allocate(1, 9)


def test_when_the_last_save_holds_frames_back_the_caller_is_told_to_save(arena: Arena) -> None:
    (extent,) = arena.allocate(60)
    published(arena)
    arena.release(*extent)
    with pytest.raises(FramesHeld) as caught:
        arena.allocate(50)
    assert caught.value.errno == errno.ENOSPC
    published(arena)
    assert arena.allocate(50)


def test_a_checkpoint_under_way_may_free_too_little_where_another_frees_enough(
    arena: Arena,
) -> None:
    """Rule 2: only when no checkpoint can free more is the arena full."""
    (extent,) = arena.allocate(60)
    published(arena)
    arena.table.begin_save()
    arena.release(*extent)
    with pytest.raises(FramesHeld):
        arena.allocate(50)
    arena.commit_save()
    with pytest.raises(FramesHeld):
        arena.allocate(50)
    published(arena)
    assert arena.allocate(50)


def test_no_save_is_asked_for_that_could_not_make_enough_room(arena: Arena) -> None:
    arena.allocate(50)
    published(arena)
    arena.release(FIRST, 5)
    with pytest.raises(OSError, match="No space left") as caught:
        arena.allocate(20)
    assert not isinstance(caught.value, FramesHeld)


# --- relocation (patch 9 of the 2013 series) ------------------------------------------------------


def test_a_relocated_page_is_copied_out_of_its_banned_frame(arena: Arena) -> None:
    arena.table.reserve(70, 1, "data page")
    arena.table.ban(frames_between(0, 75))
    new = arena.relocate(70)
    assert new == 76
    assert arena.read(new) == page(70)
    assert arena.table.state(70) == HELD


def test_a_damaged_page_is_damaged_still_after_it_was_relocated(arena: Arena) -> None:
    """It is copied without a look, so that one bad page does not keep all others from being saved."""
    arena.table.reserve(70, 1, "data page")
    arena.set_csums(70, array("I", [4711]))
    arena.verify_on_first_read([Extent(70, 1)])
    arena.table.ban(frames_between(0, 75))
    new = arena.relocate(70)
    assert arena.csums(new, 1)[0] == 4711
    with pytest.raises(DamagedPage):
        arena.read(new)


def test_a_part_of_a_damaged_page_is_not_written_after_it_was_relocated(arena: Arena) -> None:
    """The rest of the page would get a true checksum."""
    arena.table.reserve(70, 1, "data page")
    arena.set_csums(70, array("I", [4711]))
    arena.verify_on_first_read([Extent(70, 1)])
    new = arena.relocate(70)
    with pytest.raises(DamagedPage):
        arena.write(new, b"a part", 100)
    arena.write(new, page(201))
    arena.write(new, b"a part", 100)
    assert arena.read(new)[100:106] == b"a part"


def test_a_relocation_that_fails_takes_no_frame(arena: Arena) -> None:
    arena.table.reserve(70, 1, "data page")
    arena.table.ban(frames_between(0, 75))
    os.truncate(watched(arena)._fd, 0)
    with pytest.raises(SystemFault):
        arena.relocate(70)
    assert arena.table.count(FRESH) == 0
    assert arena.table.state(70) == SAVED


# --- checksums -----------------------------------------------------------------------------------


def test_checksums_are_those_of_the_pages(arena: Arena) -> None:
    pfn = fresh(arena, 201, 202, 203)
    assert list(arena.csums(pfn, 3)) == [crc32c(page(number)) for number in (201, 202, 203)]


def test_a_checksum_follows_every_write(arena: Arena) -> None:
    pfn = fresh(arena, 201, 202)
    arena.csums(pfn, 2)
    arena.write(pfn, b"x", PAGE_SIZE - 1)
    arena.write(pfn + 1, b"y", 7)
    expected = [page(201)[:-1] + b"x", page(202)[:7] + b"y" + page(202)[8:]]
    assert list(arena.csums(pfn, 2)) == list(map(crc32c, expected))


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_whole_pages_are_summed_when_they_are_written(
    arena: Arena, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    ((pfn, _),) = arena.allocate(count)
    for first in (200, 210):
        pages = [page(number) for number in range(first, first + count)]
        arena.write(pfn, memoryview(b"".join(pages)))
        assert [arena.known_csum(pfn + at) for at in range(count)] == list(map(crc32c, pages))
    assert not arena.sum_some()
    monkeypatch.setattr(arena, "_store", lambda *args: os.write(-1, b""))
    with pytest.raises(OSError, match="Bad file descriptor"):
        arena.write(pfn, bytes(count * PAGE_SIZE))  # some bytes may have changed
    assert {arena.known_csum(pfn + at) for at in range(count)} == {UNKNOWN_CSUM}


def test_a_page_whose_checksum_is_the_word_for_unknown_is_summed_all_the_same(arena: Arena) -> None:
    zero = _page_with_checksum_zero()
    assert crc32c(zero) == 0
    (extent,) = arena.allocate(1)
    arena.write(extent.pfn, zero)
    assert list(arena.csums(extent.pfn, 1)) == [0]


def _page_with_checksum_zero() -> bytearray:
    """CRC-32C is affine: the four bytes that make it 0 are found bit by bit."""
    page = bytearray(PAGE_SIZE)
    base = crc32c(page)
    rows = []
    for bit in range(32):
        page[-4 + bit // 8] ^= 1 << bit % 8
        rows.append((crc32c(page) ^ base, 1 << bit))
        page[-4 + bit // 8] ^= 1 << bit % 8
    wanted, chosen = base, 0
    for column in reversed(range(32)):
        pivot = next((row for row in rows if row[0] >> column & 1), None)
        if pivot is None:
            continue
        rows = [
            (row[0] ^ pivot[0], row[1] ^ pivot[1]) if row[0] >> column & 1 and row != pivot else row
            for row in rows
            if row != pivot
        ]
        if wanted >> column & 1:
            wanted, chosen = wanted ^ pivot[0], chosen ^ pivot[1]
    page[-4:] = chosen.to_bytes(4, "little")
    return page


def test_idle_time_sums_what_was_written_until_there_is_nothing_left(arena: Arena) -> None:
    fresh(arena, *range(100, 150))
    steps = 0
    while arena.sum_some():
        steps += 1
    assert 0 < steps < 10
    sums = list(arena.csums(FIRST, 50))
    assert sums == [crc32c(page(number)) for number in range(100, 150)]


def test_idle_time_leaves_alone_what_was_given_up_meanwhile(arena: Arena) -> None:
    arena.release(fresh(arena, 201, 202), 2)
    assert arena.sum_some()
    assert not arena.sum_some()


def test_what_idle_time_has_to_do_does_not_pile_up_without_limit(arena: Arena) -> None:
    (extent,) = arena.allocate(8)
    for number in range(20_000):
        arena.write(extent.pfn + number * 3 % 8, page(number))
    assert len(arena._unsummed) < 10_000


# --- verify=lazy ---------------------------------------------------------------------------------


def lazily_loaded(arena: Arena, csum: int | None = None) -> int:
    """A saved frame whose page has not been verified yet."""
    arena.table.reserve(70, 1, "data page")
    arena.set_csums(70, array("I", [crc32c(page(70)) if csum is None else csum]))
    arena.verify_on_first_read([Extent(70, 1)])
    return 70


def test_a_sound_page_passes_its_first_read(arena: Arena) -> None:
    pfn = lazily_loaded(arena)
    for _ in range(2):
        assert arena.read(pfn) == page(70)
        assert bytes(arena.view(pfn, 1)) == page(70)


def test_a_damaged_page_fails_every_read(arena: Arena) -> None:
    pfn = lazily_loaded(arena, csum=4711)
    for _ in range(2):
        with pytest.raises(DamagedPage):
            arena.read(pfn)
        with pytest.raises(DamagedPage):
            arena.view(pfn, 1)


def test_a_damaged_page_is_not_summed_even_if_its_checksum_is_the_word_for_unknown(
    arena: Arena,
) -> None:
    """Else it would be sound from the next save on."""
    pfn = fresh(arena, 1)
    published(arena)
    arena.set_csums(pfn, array("I", (UNKNOWN_CSUM,)))
    arena.verify_on_first_read([Extent(pfn, 1)])
    assert arena.csums(pfn, 1) == array("I", (UNKNOWN_CSUM,))
    with pytest.raises(DamagedPage):
        arena.read(pfn)


def test_checksums_of_scattered_frames_come_in_the_order_of_the_frames(arena: Arena) -> None:
    first = fresh(arena, *range(100, 150))
    arena.csums(first + 10, 20)  # these are known, the others are not
    scattered = [first + at for at in (7, 8, 9, 30, 12, 13, 49, 0)]
    in_order = range(first, first + 50)
    pfns = array("I", [*in_order, *scattered] * 12)  # longer than what is fetched at a time
    sums = list(arena.csums_of(pfns))
    assert sums == [crc32c(page(100 + pfn - first)) for pfn in pfns]
    assert list(arena.csums_of(array("I", [first + 3]))) == [crc32c(page(103))]
    assert list(arena.csums_of(array("I"))) == []


def test_damaged_pages_among_scattered_frames_keep_the_checksums_of_the_last_save(
    arena: Arena,
) -> None:
    first = fresh(arena, 1, 2, 3, 4)
    published(arena)
    arena.set_csums(first, array("I", (4711, UNKNOWN_CSUM)))
    arena.verify_on_first_read([Extent(first, 2)])
    pfns = array("I", [first + 3, first, first + 1])
    assert list(arena.csums_of(pfns)) == [crc32c(page(4)), 4711, UNKNOWN_CSUM]


def test_a_page_that_cannot_be_read_is_left_alone_among_scattered_frames(arena: Arena) -> None:
    """Its checksum is known, so it does not fail the save."""
    first = fresh(arena, 1, 2, 3, 4)
    arena.csums(first, 3)
    published(arena)
    os.truncate(watched(arena)._fd, 0)
    assert list(arena.csums_of(array("I", [first + 2, first]))) == [
        crc32c(page(3)),
        crc32c(page(1)),
    ]
    with pytest.raises(SystemFault):
        arena.csums_of(array("I", [first + 3, first]))


def test_a_frame_that_was_never_read_can_be_used_again(arena: Arena) -> None:
    """What was written into it is not to be measured by what was in it before."""
    pfn = lazily_loaded(arena)
    arena.release(pfn, 1)
    published(arena)
    arena.table.allocate(4)
    assert fresh(arena, 222) == pfn
    assert arena.read(pfn) == page(222)


def test_writes_that_the_memory_takes_only_in_part_are_finished(arena: Arena) -> None:
    """A write(2) may always write less than it was given."""
    (extent,) = arena.allocate(3)
    data = page(1) + page(2) + page(3)
    with pytest.MonkeyPatch.context() as patch:
        pwrite = os.pwrite
        patch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:1000]), at))
        arena.write(extent.pfn, data)
    assert arena.read(extent.pfn, 3) == data


def test_nothing_is_synced_by_an_arena(arena: Arena) -> None:
    """When the pages are durable is for who publishes them to say."""
    fresh(arena, 1, 2, 3)
    published(arena)
    assert Sync() not in watched(arena).journal
