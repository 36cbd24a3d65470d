"""The frame table: what becomes of a frame as it is taken, saved and given up, and the counts of that."""

from dataclasses import asdict
from typing import Any

import pytest

from pramfs.errors import BusyPfn, InvalidPfn, NoFrames
from pramfs.storage import layout
from pramfs.storage.frames import (
    BANNED,
    DROPPED,
    FREE,
    FRESH,
    HELD,
    OLD,
    PENDING,
    SAVED,
    SUPER,
    Extent,
    FrameTable,
)
from pramfs.storage.regions import Region, Regions
from tests.support.image_audit import check_table

FRAMES = 128
LOW = Region(0, 65)  # banned in these tests: many frames there are for super blocks
FIRST = 66
ROOM = FRAMES - FIRST


@pytest.fixture
def table() -> FrameTable:
    """A table in which 62 frames in a row are free."""
    table = FrameTable(FRAMES)
    table.ban(Regions([LOW]))
    return table


def states(table: FrameTable, extent: Extent) -> set[int]:
    check_table(table)
    return {table.state(pfn) for pfn in range(extent.pfn, extent.pfn + extent.frames)}


def saved(table: FrameTable, count: int) -> Extent:
    """An extent that a published save holds."""
    (extent,) = table.allocate(count)
    table.begin_save()
    table.commit_save()
    return extent


def test_frames_for_super_blocks_are_never_given_out() -> None:
    """Frame 0 is one of them: pfn 0 ends chains."""
    table = FrameTable(FRAMES)
    slots = {pfn for pfn in range(FRAMES) if layout.is_slot(pfn)}
    assert slots >= {0, 1, 2, 3, 64, 65}
    assert {pfn for pfn in range(FRAMES) if table.state(pfn) == SUPER} == slots
    taken = table.allocate(FRAMES - len(slots))
    assert not slots & {
        pfn for extent in taken for pfn in range(extent.pfn, extent.pfn + extent.frames)
    }
    assert table.count(FREE) == 0
    check_table(table)


# --- allocating ----------------------------------------------------------------------------------


def test_frames_come_in_one_run_when_there_is_one(table: FrameTable) -> None:
    assert table.allocate(10) == [Extent(FIRST, 10)]
    assert table.allocate(20) == [Extent(FIRST + 10, 20)]
    assert states(table, Extent(FIRST, 30)) == {FRESH}


class SearchedStates(bytearray):
    """States that count how often they are searched for more than one frame."""

    searches = 0

    def find(self, *args: Any) -> int:
        self.searches += isinstance(args[0], bytes)
        return super().find(*args)


def test_a_table_of_single_free_frames_is_not_searched_for_each_of_them() -> None:
    """An image can be such that it is: then a MiB took seconds to write."""
    table = FrameTable(4096)
    for pfn in range(FIRST + 1, 4096, 2):
        if not layout.is_slot(pfn):
            table.reserve(pfn, 1, "data page")
    table.ban(Regions([LOW]))  # there are runs
    table._states = states = SearchedStates(table._states)
    for _ in range(4):
        assert {extent.frames for extent in table.allocate(256)} == {1}
    assert states.searches < 20


def test_a_table_of_single_free_frames_is_not_searched_anew_when_a_few_more_come_free() -> None:
    table = FrameTable(4096)
    for pfn in range(FIRST + 1, 4096, 2):
        if not layout.is_slot(pfn):
            table.reserve(pfn, 1, "data page")
    table.ban(Regions([LOW]))
    taken = table.allocate(256)
    table._states = states = SearchedStates(table._states)
    for pfn, _ in taken[1:16]:
        table.release(pfn, 1)
        table.allocate(64)
    assert not states.searches


def test_frames_come_in_several_runs_when_free_ones_are_scattered(table: FrameTable) -> None:
    table.allocate(ROOM)
    for pfn, count in ((75, 3), (90, 1), (110, 4)):
        table.release(pfn, count)
    extents = table.allocate(8)
    assert extents[0] == Extent(110, 4)
    taken = sorted(
        pfn for extent in extents for pfn in range(extent.pfn, extent.pfn + extent.frames)
    )
    assert taken == [75, 76, 77, 90, 110, 111, 112, 113]
    assert table.count(FREE) == 0
    check_table(table)


def test_a_single_frame_fills_the_lowest_gap(table: FrameTable) -> None:
    table.allocate(30)
    table.release(77, 1)
    table.release(73, 1)
    assert [table.allocate(1)[0].pfn for _ in range(3)] == [73, 77, FIRST + 30]


def test_a_freed_run_is_found_again(table: FrameTable) -> None:
    table.allocate(ROOM)
    table.release(80, 30)
    assert table.allocate(30) == [Extent(80, 30)]


def test_no_frame_is_taken_when_there_are_too_few(table: FrameTable) -> None:
    with pytest.raises(NoFrames, match="63 needed, 62 available"):
        table.allocate(ROOM + 1)
    assert table.count(FREE) == ROOM
    check_table(table)


def test_nothing_is_allocated_for_nothing(table: FrameTable) -> None:
    assert table.allocate(0) == []


# --- giving up -----------------------------------------------------------------------------------


def test_a_fresh_frame_that_is_given_up_is_free_at_once(table: FrameTable) -> None:
    (extent,) = table.allocate(5)
    table.release(*extent)
    assert states(table, extent) == {FREE}


def test_a_saved_frame_that_is_given_up_is_held_until_another_save_is_published(
    table: FrameTable,
) -> None:
    extent = saved(table, 5)
    table.release(*extent)
    assert states(table, extent) == {HELD}
    table.begin_save()
    assert states(table, extent) == {OLD}
    assert table.commit_save() == [extent]
    assert states(table, extent) == {FREE}


def test_a_frame_given_up_while_its_save_is_written_is_held_for_that_save(
    table: FrameTable,
) -> None:
    (extent,) = table.allocate(5)
    table.begin_save()
    assert states(table, extent) == {PENDING}
    table.release(*extent)
    assert states(table, extent) == {DROPPED}
    table.commit_save()
    assert states(table, extent) == {HELD}


def test_a_saved_frame_given_up_while_a_save_that_holds_it_is_written_outlives_that_save(
    table: FrameTable,
) -> None:
    extent = saved(table, 5)
    table.begin_save()
    table.release(*extent)
    table.commit_save()
    assert states(table, extent) == {HELD}


def test_a_run_of_frames_in_several_states_can_be_given_up_at_once(table: FrameTable) -> None:
    saved(table, 3)
    table.allocate(3)
    table.release(FIRST, 6)
    assert states(table, Extent(FIRST, 3)) == {HELD}
    assert states(table, Extent(FIRST + 3, 3)) == {FREE}


@pytest.mark.parametrize("pfn", [0, 10, FIRST, FIRST + 9])
def test_giving_up_what_nobody_owns_is_refused(table: FrameTable, pfn: int) -> None:
    table.allocate(3)
    table.release(FIRST, 1)
    with pytest.raises(AssertionError, match="nobody owned"):
        table.release(pfn, 1)
    check_table(table)


# --- saves ---------------------------------------------------------------------------------------


def test_only_fresh_frames_may_be_written(table: FrameTable) -> None:
    (extent,) = table.allocate(4)
    assert table.writable(*extent)
    table.begin_save()
    assert not table.writable(*extent)
    table.commit_save()
    assert not table.writable(*extent)
    (fresh,) = table.allocate(1)
    assert not table.writable(extent.pfn, extent.frames + fresh.frames)


def test_frames_taken_while_a_save_is_written_are_not_in_it(table: FrameTable) -> None:
    table.begin_save()
    (extent,) = table.allocate(4)
    table.commit_save()
    assert states(table, extent) == {FRESH}


def test_an_aborted_save_leaves_the_frames_as_they_were(table: FrameTable) -> None:
    kept, given_up = saved(table, 4), saved(table, 4)
    table.release(*given_up)
    (fresh,) = table.allocate(4)
    table.begin_save()
    table.abort_save()
    assert states(table, kept) == {SAVED}
    assert states(table, given_up) == {HELD}
    assert states(table, fresh) == {FRESH}


def test_a_frame_given_up_while_a_save_failed_is_free(table: FrameTable) -> None:
    (extent,) = table.allocate(4)
    table.begin_save()
    table.release(*extent)
    table.abort_save()
    assert states(table, extent) == {FREE}


# --- reservation (the 2013 file system) -----------------------------------------------------------


def test_reserved_frames_are_saved_and_never_given_out(table: FrameTable) -> None:
    table.reserve(75, 3, "node")
    assert states(table, Extent(75, 3)) == {SAVED}
    assert not {75, 76, 77} & {table.allocate(1)[0].pfn for _ in range(ROOM - 3)}


@pytest.mark.parametrize(("pfn", "count"), [(0, 1), (FRAMES, 1), (FRAMES - 1, 2), (1 << 60, 1)])
def test_frames_outside_the_arena_are_invalid(table: FrameTable, pfn: int, count: int) -> None:
    with pytest.raises(InvalidPfn, match="link"):
        table.reserve(pfn, count, "link")
    assert table.count(FREE) == ROOM


@pytest.mark.parametrize("pfn", [1, 2, 3, 64])
def test_a_frame_for_super_blocks_is_busy_for_everything_else(pfn: int) -> None:
    with pytest.raises(BusyPfn, match=f"pfn:{pfn:x} busy"):
        FrameTable(FRAMES).reserve(pfn, 1, "data page")


def test_a_frame_that_is_reserved_already_is_busy_and_none_of_the_run_is_taken(
    table: FrameTable,
) -> None:
    table.reserve(0x50, 1, "link")
    with pytest.raises(BusyPfn, match="pfn:50 busy"):
        table.reserve(0x4E, 4, "data page")
    assert states(table, Extent(0x4E, 2)) == {FREE}
    assert table.state(0x51) == FREE


def test_unreserving_makes_the_frames_free_as_if_nothing_had_been(table: FrameTable) -> None:
    extents = [Extent(75, 3), Extent(90, 1)]
    for extent in extents:
        table.reserve(*extent, "link")
    table.unreserve(extents)
    assert table.count(FREE) == ROOM
    assert table.allocate(ROOM) == [Extent(FIRST, ROOM)]


# --- banning (patch 9 of the 2013 series) ---------------------------------------------------------


def test_banned_frames_are_never_given_out(table: FrameTable) -> None:
    table.ban(Regions([LOW, Region(70, 79), Region(100, 200)]))
    assert table.count(BANNED) == FIRST + 10 + (FRAMES - 100)
    assert table.allocate(20) == [Extent(80, 20)]
    table.allocate(4)
    with pytest.raises(NoFrames):
        table.allocate(1)
    check_table(table)


def test_a_reserved_frame_in_a_banned_region_stays_until_it_is_given_up_and_saved_without(
    table: FrameTable,
) -> None:
    table.reserve(75, 2, "data page")
    table.ban(Regions([LOW, Region(74, 78)]))
    assert states(table, Extent(75, 2)) == {SAVED}
    table.release(75, 2)
    assert states(table, Extent(75, 2)) == {HELD}
    table.begin_save()
    table.commit_save()
    assert states(table, Extent(74, 5)) == {BANNED}


def test_a_fresh_or_dropped_frame_in_a_banned_region_is_banned_when_it_is_given_up(
    table: FrameTable,
) -> None:
    table.allocate(8)
    table.ban(Regions([Region(0, FIRST + 7)]))
    table.release(FIRST, 4)
    assert states(table, Extent(FIRST, 4)) == {BANNED}
    table.begin_save()
    table.release(FIRST + 4, 4)
    table.abort_save()
    assert states(table, Extent(FIRST, 8)) == {BANNED}


def test_a_banned_frame_for_super_blocks_counts_as_banned() -> None:
    table = FrameTable(FRAMES)
    table.ban(Regions([Region(2, 3)]))
    assert states(table, Extent(2, 2)) == {BANNED}
    check_table(table)


# --- looking -------------------------------------------------------------------------------------


def test_runs_are_found_by_state_in_order(table: FrameTable) -> None:
    table.reserve(73, 2, "node")
    table.reserve(78, 1, "node")
    table.reserve(104, 24, "node")
    assert list(table.extents(SAVED)) == [Extent(73, 2), Extent(78, 1), Extent(104, 24)]
    assert list(table.extents(SAVED, first=74, count=34)) == [
        Extent(74, 1),
        Extent(78, 1),
        Extent(104, 4),
    ]
    assert list(table.extents(FREE, SAVED, first=70, count=10)) == [Extent(70, 10)]


def test_uniform_tells_whether_a_run_is_in_one_state(table: FrameTable) -> None:
    table.allocate(4)
    assert table.uniform(FIRST, 4)
    assert not table.uniform(FIRST + 3, 2)


def test_the_summary_adds_up_to_all_frames() -> None:
    table = FrameTable(FRAMES)
    table.ban(Regions([Region(10, 65), Region(100, 109)]))
    given_up = saved(table, 3)
    table.release(*given_up)
    table.allocate(2)
    summary = table.summary()
    for_super_blocks = 8  # 0 to 5, 8 and 9
    assert asdict(summary) == {
        "total": FRAMES,
        "used": 2,
        "free": FRAMES - for_super_blocks - 56 - 10 - 3 - 2,
        "banned": 56 + 10,
        "reserved": for_super_blocks + 3,
        "spared": 0,
    }
    assert sum(asdict(summary).values()) == 2 * FRAMES
