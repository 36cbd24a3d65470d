"""What is known of a save at any time has one owner, which passes through the states of docs/design.md."""

import itertools
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pramfs.errors import SaveFailed
from pramfs.saves.save import Saver, SaveState, SaveStatus
from tests.support.tree_volume import Volume
from tests.support.watched_image import Punch, Sync

PUBLISHED, STAGING, WRITING = SaveState.PUBLISHED, SaveState.STAGING, SaveState.WRITING
FAILED, IN_DOUBT, RESOLVING = SaveState.FAILED, SaveState.IN_DOUBT, SaveState.RESOLVING

# As drawn in docs/design.md.
TRANSITIONS = {
    (PUBLISHED, STAGING),
    (STAGING, WRITING),
    (STAGING, FAILED),
    (STAGING, IN_DOUBT),
    (WRITING, PUBLISHED),
    (WRITING, FAILED),
    (WRITING, IN_DOUBT),
    (FAILED, STAGING),
    (IN_DOUBT, RESOLVING),
    (IN_DOUBT, STAGING),
    (RESOLVING, IN_DOUBT),
    (RESOLVING, STAGING),
}


@pytest.fixture
def volume() -> Iterator[Volume]:
    volume = Volume()
    volume.create("file", b"x" * 20_000)
    volume.save(final=False)
    yield volume
    volume.pram.close()


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[SaveState]:
    """The states that savers enter from now on."""
    states: list[SaveState] = []
    enter = Saver._enter

    def noting(saver: Saver, state: SaveState) -> None:
        enter(saver, state)
        states.append(state)

    monkeypatch.setattr(Saver, "_enter", noting)
    return states


def save_failing_at(volume: Volume, step: int) -> None:
    """A save whose writes and syncs fail from number `step` on."""
    volume.create(f"another, {step}", b"y" * 5000)
    with volume.image.failing(step), suppress(SaveFailed):
        volume.save(final=False)


def steps_of_a_save(volume: Volume) -> int:
    """How many writes and syncs the medium sees from a save like that of `save_failing_at`."""
    volume.create("another", b"y" * 5000)
    before = volume.image._steps
    volume.save(final=False)
    assert isinstance(
        [step for step in volume.image.journal if not isinstance(step, Punch)][-1], Sync
    )
    return volume.image._steps - before


@pytest.mark.parametrize(("state", "following"), [*itertools.product(SaveState, repeat=2)])
def test_only_these_transitions_exist(
    volume: Volume, state: SaveState, following: SaveState
) -> None:
    saver = volume.saver
    saver.state = state
    if (state, following) in TRANSITIONS:
        saver._enter(following)
        assert saver.state is following
    else:
        with pytest.raises(AssertionError, match=f"cannot be {following.value} next"):
            saver._enter(following)


def test_a_save_is_staged_written_and_in_force(volume: Volume, passed: list[SaveState]) -> None:
    volume.save()
    assert passed == [STAGING, WRITING, PUBLISHED]


def test_a_checkpoint_is_being_written_until_it_is_settled(
    volume: Volume, passed: list[SaveState]
) -> None:
    volume.start()
    volume.saver.wait()
    assert passed == [STAGING, WRITING]
    assert volume.saver.status.pages_total > 0
    volume.saver.settle()
    assert passed == [STAGING, WRITING, PUBLISHED]
    assert volume.saver.status.pages_total == 0


def test_a_save_that_cannot_be_staged_has_failed(
    volume: Volume, passed: list[SaveState], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("pramfs.saves.save.stage_tree", lambda *args: 1 / 0)
        with pytest.raises(SaveFailed, match="division by zero"):
            volume.save()
    assert passed == [STAGING, FAILED]
    volume.save()
    assert passed[2:] == [STAGING, WRITING, PUBLISHED]


def test_whatever_fails_before_the_super_block_leaves_no_doubt(
    volume: Volume, passed: list[SaveState]
) -> None:
    last = steps_of_a_save(volume) - 1  # the sync after the super block
    passed.clear()
    for step in range(last + 1):
        generation = volume.pram.current.generation
        save_failing_at(volume, step)
        assert volume.pram.current.generation == generation
        doubtful = step >= last - 1
        assert volume.saver.state is (IN_DOUBT if doubtful else FAILED)
        assert volume.saver.status.error.startswith("save failed")
        volume.save(final=False)
        assert volume.saver.state is PUBLISHED
        assert volume.saver.status.error == ""
        assert (RESOLVING in passed) == doubtful
        passed.clear()


def test_a_doubt_that_cannot_be_resolved_stays_one(volume: Volume, passed: list[SaveState]) -> None:
    last = steps_of_a_save(volume) - 1
    save_failing_at(volume, last)
    passed.clear()
    save_failing_at(volume, 0)
    assert passed == [RESOLVING, IN_DOUBT]
    volume.save()
    assert passed[2:] == [RESOLVING, STAGING, WRITING, PUBLISHED]
    volume.check()


def test_the_final_save_is_told_from_checkpoints_and_over_when_it_ended(volume: Volume) -> None:
    def marks(status: SaveStatus) -> tuple[bool, bool]:
        return status.final, status.over

    seen: list[tuple[bool, bool]] = []
    saver, last = volume.saver, steps_of_a_save(volume) - 1
    volume.create("one more", b"y" * 5000)
    saver.save(final=False, progress=lambda pages: seen.append(marks(saver.status)))
    assert {*seen, marks(saver.status)} == {(False, False)}
    saver.begin_final()
    assert marks(saver.status) == (True, False)
    seen.clear()
    volume.create("the last", b"z" * 5000)  # so that it takes as many steps
    with volume.image.failing(last), pytest.raises(SaveFailed):
        saver.save(final=True, progress=lambda pages: seen.append(marks(saver.status)))
    assert set(seen) == {(True, False)}
    assert marks(saver.status) == (True, True)


# --- what the kernel could not hand over, of which it tells once ----------------------------------


def complaint_of_a_save(volume: Volume) -> str:
    volume.save(final=False)
    return volume.saver.status.incomplete


def test_a_complaint_is_told_by_one_save(volume: Volume) -> None:
    volume.saver.note_complaint("Cannot allocate memory")
    assert "Cannot allocate memory" in complaint_of_a_save(volume)
    assert not complaint_of_a_save(volume)


def test_a_flush_without_a_complaint_takes_back_none(volume: Volume) -> None:
    """Such as one for a deduplication, which no save follows, or one for a save that failed."""
    volume.saver.note_complaint("Cannot allocate memory")
    volume.saver.note_complaint("")
    assert "Cannot allocate memory" in complaint_of_a_save(volume)


def test_a_complaint_is_told_though_saves_fail_at_first(volume: Volume) -> None:
    steps = steps_of_a_save(volume)
    volume.saver.note_complaint("Cannot allocate memory")
    for step in range(steps):
        save_failing_at(volume, step)
        assert volume.saver.error is not None
        assert "Cannot allocate memory" in str(volume.saver.shortfall())
    assert "Cannot allocate memory" in complaint_of_a_save(volume)
    assert not complaint_of_a_save(volume)


def test_a_complaint_that_comes_during_a_save_is_told_by_the_next_one(volume: Volume) -> None:
    volume.start()
    volume.saver.note_complaint("Cannot allocate memory")
    volume.saver.settle()
    assert not volume.saver.status.incomplete
    assert "Cannot allocate memory" in complaint_of_a_save(volume)


def test_a_complaint_is_told_after_the_files_that_lack_data(volume: Volume) -> None:
    file = volume.file("file")
    volume.tree.data.refused.add(file, 0, 5, "No space left on device")
    volume.saver.note_complaint("Cannot allocate memory")
    assert "/file" in complaint_of_a_save(volume)
    volume.tree.write(file, 0, b"again")
    assert "Cannot allocate memory" in complaint_of_a_save(volume)
