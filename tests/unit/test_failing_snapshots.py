"""A medium that fails at any step of taking, freeing and going back: the last save stands, the next works."""

import errno
import os
from collections.abc import Callable

import pytest

from pramfs.errors import SaveFailed
from pramfs.pram.pram import Pram
from pramfs.saves.snapshots import drop_snapshot, roll_back, snapshots_of
from pramfs.storage.frames import FREE
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.file_calls import KEEP_SIZE, PUNCH_HOLE
from tests.support.image_audit import check_owners
from tests.support.load_verdict import load_all, tree_state
from tests.support.snapshots import take
from tests.support.tree_volume import NAME, Volume
from tests.support.watched_image import reopen, watched

PUNCH = PUNCH_HOLE | KEEP_SIZE
OLD, NEW = f"{NAME}@old", f"{NAME}@new"


def prepared(arena: str) -> Volume:
    """A volume with a snapshot, and with changes since the last save."""
    volume = Volume(300, arena=arena)
    volume.mkdir("dir")
    for number in range(8):
        volume.create(f"dir/{number}", bytes((number + 1,)) * 9000)
    take(volume, "old")
    volume.unlink("dir/3")
    volume.tree.write(volume.file("dir/4"), 100, b"changed" * 1000)
    volume.save(final=False)
    volume.create("new", b"new" * 9000)
    return volume


def take_new(volume: Volume) -> None:
    take(volume, "new")


def free_old(volume: Volume) -> None:
    drop_snapshot(volume.pram, NAME, "old")
    volume.save(final=False)


def error_of(operation: Callable[[Volume], None], volume: Volume) -> str:
    try:
        operation(volume)
    except SaveFailed as exc:
        return str(exc)
    return ""


def content(volume: Volume) -> bytes:
    return watched(volume.pram).content()


@pytest.mark.parametrize(
    ("error", "torn_bytes"), [(errno.ENOSPC, 0), (errno.EIO, 512), (errno.EIO, 1 << 30)]
)
@pytest.mark.parametrize("operation", [take_new, free_old])
def test_a_failing_step_loses_nothing(
    arena: str, operation: Callable[[Volume], None], torn_bytes: int, error: int
) -> None:
    """Of the write that fails nothing, a part, or all of it reached the medium."""
    for step in range(100):
        volume = prepared(arena)
        before, _ = load_all(content(volume))
        now = tree_state(volume.tree)
        after = {**before, NAME: now, NEW: now} if operation is take_new else {NAME: now}
        with watched(volume.pram).failing(step, error=error, torn_bytes=torn_bytes):
            failure = error_of(operation, volume)
        if not failure:
            assert load_all(content(volume)) == (after, "")
            break
        assert os.strerror(error) in failure
        check_owners(volume.pram, volume.tree)
        assert load_all(content(volume))[0] in (before, after)
        _goes_on(volume)
    else:
        raise AssertionError("it never ends")
    assert step > 3, "it was over before anything failed"


def test_a_snapshot_that_fails_ends_no_promise(arena: str) -> None:
    """What fallocate has promised ends for the pages that a snapshot shares, if it is taken."""
    for step in range(100):
        volume = prepared(arena)
        file = volume.create("reserved", b"x" * 3 * PAGE_SIZE)
        volume.tree.fallocate(file, 0, 0, 10 * PAGE_SIZE)
        with watched(volume.pram).failing(step, error=errno.ENOSPC):
            failure = error_of(take_new, volume)
        taken = not failure or volume.pram.publisher.in_doubt
        assert list(file.reserved or ()) == ([(3, 10)] if taken else [(0, 10)])
        check_owners(volume.pram, volume.tree)
        assert not volume.tree.space.ending
        if not failure:
            break
    assert step > 3, "it was over before anything failed"


def test_promises_come_back_as_far_as_the_pages_are_there() -> None:
    """While the save that fails is written, the tree changes."""
    volume = prepared("memory")
    for name in ("cut", "punched", "cloned", "written", "gone"):
        file = volume.create(name, b"x" * 4 * PAGE_SIZE)
        volume.tree.fallocate(file, 0, 0, 8 * PAGE_SIZE)
    with watched(volume.pram).failing(2, error=errno.ENOSPC):
        volume.saver.start(lambda pages: None, snapshot=NEW)
        volume.saver.wait()
    volume.truncate("cut", 2 * PAGE_SIZE)
    punched, written = volume.file("punched"), volume.file("written")
    volume.tree.fallocate(punched, PUNCH, PAGE_SIZE, PAGE_SIZE)
    volume.tree.copy_range(volume.file("cloned"), 0, volume.create("clone"), 0, 2 * PAGE_SIZE)
    volume.tree.write(written, 0, b"y" * 2 * PAGE_SIZE)
    volume.unlink("gone")
    volume.saver.settle()
    assert volume.saver.error is not None
    left = {
        name: list(volume.file(name).reserved or ())
        for name in ("cut", "punched", "cloned", "written")
    }
    assert left == {
        "cut": [(0, 2)],
        "punched": [(0, 1), (2, 8)],
        "cloned": [(2, 8)],
        "written": [(0, 8)],
    }
    volume.check()
    volume.save()
    volume.check()


def test_without_room_to_stage_it_a_snapshot_ends_no_promise(arena: str) -> None:
    volume = prepared(arena)
    file = volume.create("reserved", b"x" * 3 * PAGE_SIZE)
    volume.tree.fallocate(file, 0, 0, 10 * PAGE_SIZE)
    table = volume.pram.arena.table
    taken = table.allocate(table.count(FREE) - 8)
    assert "no free frames" in error_of(take_new, volume)
    volume.pram.arena.release_extents(taken)
    assert list(file.reserved or ()) == [(0, 10)]
    take_new(volume)
    assert list(file.reserved or ()) == [(3, 10)]
    volume.check()


def _goes_on(volume: Volume) -> None:
    """After a failure the mount goes on, saves, and takes and frees snapshots as before."""
    volume.create("later", b"later" * 2000)
    volume.save(final=False)
    volume.check()
    if NEW in load_all(content(volume))[0]:  # the save was in doubt
        drop_snapshot(volume.pram, NAME, "new")
    take_new(volume)
    volume.check()
    trees, refusal = load_all(content(volume))
    assert refusal == ""
    assert trees[NEW] == trees[NAME] == tree_state(volume.tree)
    for snapshot in snapshots_of(volume.pram, NAME):
        drop_snapshot(volume.pram, NAME, snapshot.name)
    volume.save()
    volume.check()
    assert load_all(content(volume)) == ({NAME: tree_state(volume.tree)}, "")


@pytest.mark.parametrize("torn_bytes", [0, 512, 1 << 30])
def test_a_rollback_that_fails_at_any_step_changes_nothing_or_all(torn_bytes: int) -> None:
    for step in range(100):
        volume = prepared("image")
        pram = reopen(volume.pram)
        before, _ = load_all(watched(pram).content())
        replaced = ""
        with watched(pram).failing(step, error=errno.ENOSPC, torn_bytes=torn_bytes):
            try:
                replaced = roll_back(pram, NAME, "old")
                pram.publish()
            except SaveFailed:
                failed = True
            else:
                failed = False
        after = {**before, NAME: before[OLD], f"{NAME}@{replaced}": before[NAME]}
        found, refusal = load_all(watched(pram).content())
        if not failed:
            assert (found, refusal) == (after, "")
            break
        assert found in (before, after)
        _can_be_rolled_back(pram, len(found))
    else:
        raise AssertionError("it never ends")
    assert step > 2, "it was over before anything failed"


def _can_be_rolled_back(failed: Pram, trees: int) -> None:
    pram = reopen(failed)
    replaced = roll_back(pram, NAME, "old")
    pram.publish()
    found, refusal = load_all(watched(pram).content())
    assert (len(found), refusal) == (trees + 1, "")
    assert found[NAME] == found[OLD]
    assert f"{NAME}@{replaced}" in found


def test_many_snapshots(arena: str, long: bool) -> None:
    """Each takes a few frames of its own; the tree is saved, loaded and freed of them as ever."""
    count = 10_000 if long else 500
    volume = Volume(16 * count, arena=arena)
    watched(volume.pram).guarded = False  # which looks at all of the image at each save
    file = volume.create("file", b"x" * 5 * PAGE_SIZE)
    for number in range(count):
        volume.tree.write(file, 0, number.to_bytes(8, "little"))
        take(volume, f"s{number}")
    volume.save()
    volume.check()
    volume.reopen()
    watched(volume.pram).guarded = False
    assert len(snapshots_of(volume.pram, NAME)) == count
    assert volume.pram.arena.table.summary().spared >= 4 * count
    volume.create("other", b"y")
    volume.save(final=False)
    for number in range(count):
        drop_snapshot(volume.pram, NAME, f"s{number}")
    volume.save()
    volume.check()
    volume.reopen()
    assert not snapshots_of(volume.pram, NAME)
    assert volume.pram.arena.table.summary().used < 30
