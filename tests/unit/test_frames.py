"""The frame table: what becomes of a frame as it is taken, saved and given up, and the counts of that."""

import pytest

from pramfs.errors import BusyPfn, InvalidPfn, NoFrames
from pramfs.frames import (
    BANNED,
    DROPPED,
    FREE,
    FRESH,
    HELD,
    OLD,
    PENDING,
    SAVED,
    SUPER,
    FrameTable,
    Run,
)
from pramfs.regions import Region, Regions
from tests.unit.audit import check_table

FRAMES = 64


@pytest.fixture
def table() -> FrameTable:
    return FrameTable(FRAMES)


def states(table: FrameTable, run: Run) -> set[int]:
    check_table(table)
    return {table.state(pfn) for pfn in range(run.pfn, run.pfn + run.frames)}


def saved(table: FrameTable, count: int) -> Run:
    """A run of frames that a published save holds."""
    (run,) = table.allocate(count)
    table.begin_save()
    table.commit_save()
    return run


def test_frame_0_is_never_given_out_because_pfn_0_ends_chains(table: FrameTable) -> None:
    assert table.state(0) == SUPER
    assert table.count(FREE) == FRAMES - 1
    assert 0 not in [run.pfn for run in table.allocate(FRAMES - 1)]


# --- allocating ----------------------------------------------------------------------------------


def test_frames_come_in_one_run_when_there_is_one(table: FrameTable) -> None:
    assert table.allocate(10) == [Run(1, 10)]
    assert table.allocate(20) == [Run(11, 20)]
    assert states(table, Run(1, 30)) == {FRESH}


def test_frames_come_in_several_runs_when_free_ones_are_scattered(table: FrameTable) -> None:
    table.allocate(FRAMES - 1)
    for pfn, count in ((5, 3), (20, 1), (40, 4)):
        table.release(pfn, count)
    runs = table.allocate(8)
    assert runs[0] == Run(40, 4)
    taken = sorted(pfn for run in runs for pfn in range(run.pfn, run.pfn + run.frames))
    assert taken == [5, 6, 7, 20, 40, 41, 42, 43]
    assert table.count(FREE) == 0
    check_table(table)


def test_a_single_frame_fills_the_lowest_gap(table: FrameTable) -> None:
    table.allocate(30)
    table.release(7, 1)
    table.release(3, 1)
    assert [table.allocate(1)[0].pfn for _ in range(3)] == [3, 7, 31]


def test_a_freed_run_is_found_again(table: FrameTable) -> None:
    table.allocate(FRAMES - 1)
    table.release(10, 30)
    assert table.allocate(30) == [Run(10, 30)]


def test_no_frame_is_taken_when_there_are_too_few(table: FrameTable) -> None:
    with pytest.raises(NoFrames, match="64 needed, 63 available"):
        table.allocate(FRAMES)
    assert table.count(FREE) == FRAMES - 1
    check_table(table)


def test_nothing_is_allocated_for_nothing(table: FrameTable) -> None:
    assert table.allocate(0) == []


# --- giving up -----------------------------------------------------------------------------------


def test_a_fresh_frame_that_is_given_up_is_free_at_once(table: FrameTable) -> None:
    (run,) = table.allocate(5)
    table.release(*run)
    assert states(table, run) == {FREE}


def test_a_saved_frame_that_is_given_up_is_held_until_another_save_is_published(
    table: FrameTable,
) -> None:
    run = saved(table, 5)
    table.release(*run)
    assert states(table, run) == {HELD}
    table.begin_save()
    assert states(table, run) == {OLD}
    assert table.commit_save() == [run]
    assert states(table, run) == {FREE}


def test_a_frame_given_up_while_its_save_is_written_is_held_for_that_save(
    table: FrameTable,
) -> None:
    (run,) = table.allocate(5)
    table.begin_save()
    assert states(table, run) == {PENDING}
    table.release(*run)
    assert states(table, run) == {DROPPED}
    table.commit_save()
    assert states(table, run) == {HELD}


def test_a_saved_frame_given_up_while_a_save_that_holds_it_is_written_outlives_that_save(
    table: FrameTable,
) -> None:
    run = saved(table, 5)
    table.begin_save()
    table.release(*run)
    table.commit_save()
    assert states(table, run) == {HELD}


def test_a_run_of_frames_in_several_states_can_be_given_up_at_once(table: FrameTable) -> None:
    saved(table, 3)
    table.allocate(3)
    table.release(1, 6)
    assert states(table, Run(1, 3)) == {HELD}
    assert states(table, Run(4, 3)) == {FREE}


@pytest.mark.parametrize("pfn", [0, 1, 9])
def test_giving_up_what_nobody_owns_is_refused(table: FrameTable, pfn: int) -> None:
    table.allocate(3)
    table.release(1, 1)
    with pytest.raises(AssertionError, match="nobody owned"):
        table.release(pfn, 1)
    check_table(table)


# --- saves ---------------------------------------------------------------------------------------


def test_only_fresh_frames_may_be_written(table: FrameTable) -> None:
    (run,) = table.allocate(4)
    assert table.writable(*run)
    table.begin_save()
    assert not table.writable(*run)
    table.commit_save()
    assert not table.writable(*run)
    (fresh,) = table.allocate(1)
    assert not table.writable(run.pfn, run.frames + fresh.frames)


def test_frames_taken_while_a_save_is_written_are_not_in_it(table: FrameTable) -> None:
    table.begin_save()
    (run,) = table.allocate(4)
    table.commit_save()
    assert states(table, run) == {FRESH}


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
    (run,) = table.allocate(4)
    table.begin_save()
    table.release(*run)
    table.abort_save()
    assert states(table, run) == {FREE}


def test_when_nobody_knows_which_save_is_in_force_the_frames_of_both_are_kept(
    table: FrameTable,
) -> None:
    of_the_old = saved(table, 4)
    table.release(*of_the_old)
    (of_the_new,) = table.allocate(4)
    (dropped,) = table.allocate(4)
    table.begin_save()
    table.release(*dropped)
    table.commit_unsure()
    assert states(table, of_the_old) == {HELD}
    assert states(table, of_the_new) == {SAVED}
    assert states(table, dropped) == {HELD}
    table.begin_save()
    table.commit_save()
    assert states(table, of_the_old) == states(table, dropped) == {FREE}
    assert states(table, of_the_new) == {SAVED}


# --- reservation (seed 002) ----------------------------------------------------------------------


def test_reserved_frames_are_saved_and_never_given_out(table: FrameTable) -> None:
    table.reserve(5, 3, "node")
    assert states(table, Run(5, 3)) == {SAVED}
    assert not {5, 6, 7} & {table.allocate(1)[0].pfn for _ in range(FRAMES - 4)}


@pytest.mark.parametrize(("pfn", "count"), [(0, 1), (FRAMES, 1), (FRAMES - 1, 2), (1 << 60, 1)])
def test_frames_outside_the_arena_are_invalid(table: FrameTable, pfn: int, count: int) -> None:
    with pytest.raises(InvalidPfn, match="link"):
        table.reserve(pfn, count, "link")
    assert table.count(FREE) == FRAMES - 1


def test_a_frame_that_is_reserved_already_is_busy_and_none_of_the_run_is_taken(
    table: FrameTable,
) -> None:
    table.reserve(7, 1, "link")
    with pytest.raises(BusyPfn, match="pfn:7 busy"):
        table.reserve(5, 4, "data page")
    assert states(table, Run(5, 2)) == {FREE}
    assert table.state(8) == FREE


def test_unreserving_makes_the_frames_free_as_if_nothing_had_been(table: FrameTable) -> None:
    runs = [Run(5, 3), Run(20, 1)]
    for run in runs:
        table.reserve(*run, "link")
    table.unreserve(runs)
    assert table.count(FREE) == FRAMES - 1
    assert table.allocate(FRAMES - 1) == [Run(1, FRAMES - 1)]


# --- banning (seed 004) --------------------------------------------------------------------------


def test_banned_frames_are_never_given_out(table: FrameTable) -> None:
    table.ban(Regions([Region(1, 9), Region(30, 200)]))
    assert table.count(BANNED) == 9 + (FRAMES - 30)
    assert table.allocate(20) == [Run(10, 20)]
    with pytest.raises(NoFrames):
        table.allocate(1)
    check_table(table)


def test_a_reserved_frame_in_a_banned_region_stays_until_it_is_given_up_and_saved_without(
    table: FrameTable,
) -> None:
    table.reserve(5, 2, "data page")
    table.ban(Regions([Region(4, 8)]))
    assert states(table, Run(5, 2)) == {SAVED}
    table.release(5, 2)
    assert states(table, Run(5, 2)) == {HELD}
    table.begin_save()
    table.commit_save()
    assert states(table, Run(4, 5)) == {BANNED}


def test_a_fresh_or_dropped_frame_in_a_banned_region_is_banned_when_it_is_given_up(
    table: FrameTable,
) -> None:
    table.allocate(8)
    table.ban(Regions([Region(1, 8)]))
    table.release(1, 4)
    assert states(table, Run(1, 4)) == {BANNED}
    table.begin_save()
    table.release(5, 4)
    table.abort_save()
    assert states(table, Run(1, 8)) == {BANNED}


def test_a_slot_of_the_super_block_becomes_an_ordinary_frame_when_it_has_moved(
    table: FrameTable,
) -> None:
    table.mark_super(5)
    assert 5 not in range(*table.allocate(4)[0])
    table.unmark_super(5)
    assert table.state(5) == FREE
    table.unmark_super(0)
    assert table.state(0) == SUPER
    check_table(table)


# --- looking -------------------------------------------------------------------------------------


def test_runs_are_found_by_state_in_order(table: FrameTable) -> None:
    table.reserve(3, 2, "node")
    table.reserve(8, 1, "node")
    table.reserve(40, 24, "node")
    assert list(table.runs(SAVED)) == [Run(3, 2), Run(8, 1), Run(40, 24)]
    assert list(table.runs(SAVED, first=4, count=40)) == [Run(4, 1), Run(8, 1), Run(40, 4)]
    assert list(table.runs(FREE, SAVED, first=1, count=10)) == [Run(1, 10)]


def test_uniform_tells_whether_a_run_is_in_one_state(table: FrameTable) -> None:
    table.allocate(4)
    assert table.uniform(1, 4)
    assert not table.uniform(4, 2)


def test_the_summary_adds_up_to_all_frames(table: FrameTable) -> None:
    table.ban(Regions([Region(50, 59)]))
    given_up = saved(table, 3)
    table.release(*given_up)
    table.allocate(2)
    summary = table.summary()
    assert summary == {"total": 64, "used": 3, "free": 48, "banned": 10, "reserved": 3}
