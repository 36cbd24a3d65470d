"""Every image that a crash can leave loads as what was published: the last save, or the one under way.

The saves of a recorded run are cut off after every step. Of the steps since the last sync each is left out,
is torn at 512 bytes, and random ones are lost: a disk may write them in any order.
"""

import random
from collections.abc import Iterator

import pytest

from tests.crash.recorded_run import History, Trees
from tests.support.load_verdict import load_all
from tests.support.watched_image import Step, Sync, Write, replay

SECTOR = 512


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("snapshots", [False, True], ids=["", "snapshots"])
def test_every_crash_leaves_what_was_published(snapshots: bool, long: bool) -> None:
    cases = saves = 0
    for seed in range(300 if long else 6):
        history = History(seed, snapshots=snapshots)
        history.record(8 if long else 5)
        saves += len(history.saves)
        for what, content, allowed in _crashes(history, 20 if long else 3):
            trees, refusal = load_all(content)
            assert trees in allowed, f"seed {seed}: {what}: {refusal or 'a mix'}"
            cases += 1
    print(f"{cases} crashes of {saves} saves")


def test_what_was_recorded_is_what_happened() -> None:
    """The steps of a run, all of them, make the image of its end: the crashes are made of true steps."""
    history = History(4, snapshots=True)
    history.record(8)
    assert load_all(replay(history.before, history.steps)) == (history.saves[-1].trees, "")
    assert len(history.saves) > 8
    names = {name for save in history.saves for name in save.trees}
    assert any("@replaced-" in name for name in names)
    assert len(history.saves[-1].trees) > 1


def _crashes(history: History, subsets: int) -> Iterator[tuple[str, bytearray, list[Trees]]]:
    """The images that crashes leave, what happened, and the trees that may be there."""
    durable, unsynced = bytearray(history.before), 0
    for crash in range(len(history.steps) + 1):
        stretch = history.steps[unsynced:crash]
        allowed = history.allowed(crash)
        yield f"a crash before step {crash}", replay(bytes(durable), stretch), allowed
        if crash == len(history.steps) or isinstance(history.steps[crash], Sync):
            for what, steps in _disorders(stretch, history.rng, subsets):
                yield f"{what} before step {crash}", replay(bytes(durable), steps), allowed
            durable, unsynced = replay(bytes(durable), stretch), crash


def _disorders(
    stretch: list[Step], rng: random.Random, subsets: int
) -> Iterator[tuple[str, list[Step]]]:
    """What may have reached the disk of the steps since the last sync."""
    lossy = [at for at, step in enumerate(stretch) if isinstance(step, Write)]
    for at in lossy:
        yield f"write {at} missing", stretch[:at] + stretch[at + 1 :]
        write = stretch[at]
        assert isinstance(write, Write)
        for size in {
            SECTOR,
            rng.randrange(0, max(1, len(write.data)), SECTOR),
            len(write.data) - SECTOR,
        }:
            if 0 < size < len(write.data):
                torn = Write(write.offset, write.data[:size])
                yield f"write {at} torn at {size}", [*stretch[:at], torn, *stretch[at + 1 :]]
                rest = Write(write.offset + size, write.data[size:])
                yield f"write {at} from {size} on", [*stretch[:at], rest, *stretch[at + 1 :]]
    for _ in range(subsets if lossy else 0):
        lost = set(rng.sample(lossy, rng.randrange(len(lossy) + 1)))
        yield f"writes {lost} missing", [s for at, s in enumerate(stretch) if at not in lost]
