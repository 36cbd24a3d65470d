"""The frame table against a list of words: every state, count and run after any sequence of calls."""

from dataclasses import asdict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pramfs.errors import BusyPfn, InvalidPfn, NoFrames
from pramfs.storage import layout
from pramfs.storage.frames import FREE, STATE_NAMES, Extent, FrameTable
from pramfs.storage.regions import Region, Regions
from tests.conftest import LONG
from tests.support.image_audit import check_table

FRAMES = 100

pfns = st.integers(0, FRAMES - 1)
counts = st.integers(0, 30)

BEGIN = {"fresh": "pending", "held": "old"}
COMMIT = {"pending": "saved", "dropped": "held", "old": "free"}
ABORT = {"pending": "fresh", "dropped": "free", "old": "held"}
RELEASE = {"fresh": "free", "saved": "held", "pending": "dropped"}


class FrameMachine(RuleBasedStateMachine):
    """`model` names the state of every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.table = FrameTable(FRAMES)
        self.model = ["super" if layout.is_slot(pfn) else "free" for pfn in range(FRAMES)]
        self.banned: set[int] = set()
        self.saving = False
        self.holders: dict[int, int] = {}  # of frames that may be shared

    @rule(count=counts)
    def allocate(self, count: int) -> None:
        free = self.model.count("free")
        if count > free:
            with pytest.raises(NoFrames):
                self.table.allocate(count)
            return
        longest = max(map(len, "".join(" x"[s == "free"] for s in self.model).split() or [""]))
        extents = self.table.allocate(count)
        taken = [pfn for extent in extents for pfn in range(extent.pfn, extent.pfn + extent.frames)]
        assert len(taken) == len(set(taken)) == count
        assert {self.model[pfn] for pfn in taken} <= {"free"}
        assert len(extents) <= 1 or longest < count, "there was a run long enough"
        for pfn in taken:
            self.model[pfn] = "fresh"

    @rule(pfn=pfns, count=st.integers(1, 30))
    def release(self, pfn: int, count: int) -> None:
        before = self.model[pfn : pfn + count]
        if any(state not in RELEASE for state in before):
            with pytest.raises(AssertionError):
                self.table.release(pfn, len(before))
            return
        freed = self.table.release(pfn, len(before))
        gone = [one for one in range(pfn, pfn + len(before)) if self.holders.get(one, 1) == 1]
        freed = [Extent(pfn, len(before))] if freed is None else freed
        assert [one for extent in freed for one in range(extent.pfn, sum(extent))] == gone
        for one in range(pfn, pfn + len(before)):
            if one in gone:
                self.model[one] = RELEASE[self.model[one]]
                self.holders.pop(one, None)
            else:
                self.holders[one] -= 1
        self._ban()

    @rule(count=counts)
    def keep(self, count: int) -> None:
        kept = self.table.keep(count)
        self._move(kept, min(count, self.model.count("free")), "free", "kept")

    @rule(first=pfns, frames=counts, count=counts)
    def keep_within(self, first: int, frames: int, count: int) -> None:
        frames = min(frames, FRAMES - first)
        kept = self.table.keep(count, within=Extent(first, frames))
        free = self.model[first : first + frames].count("free")
        self._move(kept, min(count, free), "free", "kept")

    @rule(count=counts, give_up=st.booleans())
    def change_kept(self, count: int, give_up: bool) -> None:
        count = min(count, self.model.count("kept"))
        extents = self.table.give_up_kept(count) if give_up else self.table.take_kept(count)
        self._move(extents, count, "kept", "free" if give_up else "fresh")
        self._ban()

    @rule(pfn=pfns, count=st.integers(1, 30), times=st.sampled_from([1, 1, 1, 253, 300]))
    def share(self, pfn: int, count: int, times: int) -> None:
        count = min(count, FRAMES - pfn)
        if any(state not in RELEASE for state in self.model[pfn : pfn + count]):
            with pytest.raises(AssertionError):
                self.table.share(pfn, count)
            return
        for _ in range(times):
            self.table.share(pfn, count)
        for one in range(pfn, pfn + count):
            self.holders[one] = self.holders.get(one, 1) + times

    @rule(pfn=pfns, count=st.integers(1, 30))
    def writable(self, pfn: int, count: int) -> None:
        count = min(count, FRAMES - pfn)
        expected = [
            self.model[one] == "fresh" and self.holders.get(one, 1) == 1
            for one in range(pfn, pfn + count)
        ]
        assert self.table.writable(pfn, count) == all(expected)
        alike = [state == expected[0] for state in expected]
        assert self.table.writable_alike(pfn, count) == [*alike, False].index(False)

    @rule(pfn=st.integers(0, FRAMES + 5), count=st.integers(1, 10))
    def reserve(self, pfn: int, count: int) -> None:
        if pfn == 0 or pfn + count > FRAMES:
            with pytest.raises(InvalidPfn):
                self.table.reserve(pfn, count, "test")
        elif set(self.model[pfn : pfn + count]) != {"free"}:
            with pytest.raises(BusyPfn):
                self.table.reserve(pfn, count, "test")
        else:
            self.table.reserve(pfn, count, "test")
            self.model[pfn : pfn + count] = ["saved"] * count

    @rule(pfn=st.integers(1, FRAMES - 1), count=st.integers(1, 10), undo=st.booleans())
    def reserve_shared(self, pfn: int, count: int, undo: bool) -> None:
        count = min(count, FRAMES - pfn)
        if any(
            self.model[one] != "free"
            and (self.model[one] not in RELEASE or one not in self.holders)
            for one in range(pfn, pfn + count)
        ):
            with pytest.raises(BusyPfn):
                self.table.reserve(pfn, count, "test", shared=True)
            return
        self.table.reserve(pfn, count, "test", shared=True)
        if undo:
            self.table.unreserve([Extent(pfn, count)])
            self._ban()
            return
        for one in range(pfn, pfn + count):
            self.model[one] = "saved" if self.model[one] == "free" else self.model[one]
            self.holders[one] = self.holders.get(one, 0) + 1

    @rule()
    def begin(self) -> None:
        if not self.saving:
            self.table.begin_save()
            self._translate(BEGIN)
            self.saving = True

    @rule(good=st.booleans())
    def end(self, good: bool) -> None:
        if not self.saving:
            return
        old = {pfn for pfn, state in enumerate(self.model) if state == "old"}
        if good:
            freed = self.table.commit_save()
            assert {pfn for extent in freed for pfn in range(extent.pfn, sum(extent))} == old
        else:
            self.table.abort_save()
        self._translate(COMMIT if good else ABORT)
        self._ban()
        self.saving = False

    @rule(first=pfns, more=st.integers(0, 20))
    def ban(self, first: int, more: int) -> None:
        self.banned |= set(range(first, first + more + 1))
        self.table.ban(Regions(Region(pfn, pfn) for pfn in self.banned))
        self._ban()

    @invariant()
    def states_are_those_of_the_model(self) -> None:
        assert [STATE_NAMES[self.table.state(pfn)] for pfn in range(FRAMES)] == self.model
        check_table(self.table)
        assert self.table.count(FREE) == self.model.count("free")
        summary = asdict(self.table.summary())
        assert summary.pop("spared") == sum(self.holders.values()) - len(self.holders)
        assert sum(summary.values()) == 2 * FRAMES
        for pfn, holders in self.holders.items():
            assert self.table.holders(pfn) == holders
            assert self.table.is_shared(pfn) == (holders > 1)

    def _move(self, extents: list[Extent], count: int, before: str, after: str) -> None:
        moved = [pfn for extent in extents for pfn in range(extent.pfn, sum(extent))]
        assert len(moved) == count
        for pfn in moved:
            assert self.model[pfn] == before
            self.model[pfn] = after

    def _translate(self, changes: dict[str, str]) -> None:
        self.model = [changes.get(state, state) for state in self.model]

    def _ban(self) -> None:
        for pfn in self.banned & set(range(FRAMES)):
            if self.model[pfn] in ("free", "kept", "super"):
                self.model[pfn] = "banned"


def test_the_frame_table_is_like_a_list_of_states() -> None:
    run_state_machine_as_test(
        FrameMachine,
        settings=settings(max_examples=2000 if LONG else 100, stateful_step_count=60),
    )
