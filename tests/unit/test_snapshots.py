"""Snapshots of a tree: taken with a save, listed, freed, rolled back to."""

import os
import re

import pytest

from pramfs.errors import (
    BadSnapshotName,
    NoFrames,
    NoNameForReplaced,
    NoRoomForRollback,
    NoRoomForSnapshot,
    NoSuchSnapshot,
    SaveFailed,
    SnapshotExists,
)
from pramfs.offline.check import check_image
from pramfs.pram import verify
from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.saves.snapshots import (
    check_name,
    copy_tree,
    drop_snapshot,
    require_new,
    roll_back,
    snapshots_of,
)
from pramfs.saves.tree_nodes import MORE_SUFFIX, drop_tree, tree_names
from pramfs.storage.extents import pfns_of
from pramfs.storage.frames import FREE, SAVED
from pramfs.storage.image import Image
from pramfs.storage.layout import PAGE_SIZE
from pramfs.storage.regions import Region, Regions
from tests.support.image_audit import check_bans
from tests.support.tree_volume import NAME, Facts, Volume, new_tree
from tests.support.watched_image import reopen, watched


@pytest.fixture
def volume(arena: str) -> Volume:
    volume = Volume(1024, arena=arena)
    volume.mkdir("dir")
    volume.create("dir/a", os.urandom(20 * PAGE_SIZE))
    volume.create("b", b"b" * 3 * PAGE_SIZE)
    volume.link("b", "c")
    return volume


def snap(volume: Volume, name: str) -> None:
    """Save, and take a snapshot."""
    snapshot = require_new(volume.pram, NAME, name)
    volume.saver.save(final=False, progress=lambda pages: None, snapshot=snapshot)


def facts_of(volume: Volume, name: str) -> dict[int, Facts]:
    """What the published tree of that name holds, in another process."""
    pram = Pram.open(watched(volume.pram).reopen())
    tree = new_tree(pram)
    load_tree(pram, name, tree)
    loaded = Volume(pram=pram, arena=volume.arena)
    loaded.tree = tree
    return loaded.facts()


def names(pram: Pram) -> list[str]:
    return [snapshot.name for snapshot in snapshots_of(pram, NAME)]


def test_a_snapshot_is_what_the_tree_was(volume: Volume) -> None:
    before = volume.facts()
    snap(volume, "first")
    volume.check()
    volume.tree.write(volume.file("dir/a"), 5000, b"changed" * 1000)
    volume.unlink("b")
    volume.create("new", b"new")
    after = volume.facts()
    snap(volume, "second")
    volume.check()
    volume.truncate("dir/a", 0)
    volume.save()
    volume.check()
    assert names(volume.pram) == ["first", "second"]
    assert facts_of(volume, NAME) == volume.facts()
    assert facts_of(volume, f"{NAME}@first") == before
    assert facts_of(volume, f"{NAME}@second") == after


def test_a_snapshot_takes_frames_for_metadata_only(volume: Volume) -> None:
    volume.save(final=False)
    used = volume.pram.arena.table.summary().used
    snap(volume, "s")
    # Three nodes, metadata, births, and a link for each of the three.
    assert volume.pram.arena.table.summary().used == used + 8
    assert volume.pram.arena.table.summary().spared == 23


def test_snapshots_outlive_saves_and_mounts(volume: Volume) -> None:
    before = volume.facts()
    snap(volume, "s")
    for number in range(5):
        volume.tree.write(volume.file("dir/a"), number * PAGE_SIZE, b"x")
        volume.save(final=False)
        volume.check()
        volume.reopen()
    assert facts_of(volume, f"{NAME}@s") == before


@pytest.mark.parametrize("reopened", [False, True])
def test_freeing_a_snapshot_gives_back_what_only_it_held(volume: Volume, reopened: bool) -> None:
    volume.save(final=False)
    free = volume.pram.arena.table.count(FREE)
    snap(volume, "s")
    volume.tree.write(volume.file("dir/a"), 0, os.urandom(20 * PAGE_SIZE))
    volume.save(final=False)
    if reopened:
        volume.reopen()
    after = volume.facts()
    assert volume.pram.arena.table.count(FREE) == free - 20 - 8
    drop_snapshot(volume.pram, NAME, "s")
    assert names(volume.pram) == []
    volume.save(final=False)
    volume.check()
    assert volume.pram.arena.table.count(FREE) == free
    assert volume.reopen().facts() == after


def test_what_is_not_there_cannot_be_freed(volume: Volume) -> None:
    with pytest.raises(NoSuchSnapshot, match="no snapshot 's' of tree 'pramfs'; there are: none"):
        drop_snapshot(volume.pram, NAME, "s")
    with pytest.raises(NoSuchSnapshot):
        roll_back(volume.pram, NAME, "s")


def test_two_snapshots_cannot_have_one_name(volume: Volume) -> None:
    snap(volume, "s")
    with pytest.raises(SnapshotExists, match="there is a snapshot 'pramfs@s' already"):
        snap(volume, "s")


@pytest.mark.parametrize(
    "name",
    ["", "a@b", "a/b", "a\0b", "a\nb", "a\x7f", ".", "..", ".a", "-a", "auto-1", "x" * 129],
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(BadSnapshotName):
        check_name(NAME, name)


def test_the_name_of_the_tree_takes_room_too() -> None:
    assert check_name("t" * 121, "x" * 128)
    with pytest.raises(BadSnapshotName, match="251 bytes, at most 250 fit"):
        check_name("t" * 122, "ä" * 64)


def test_names_may_have_any_other_character() -> None:
    for name in ("x", "before the upgrade", "ä", "1.2", "a-b", "\udcff"):
        assert check_name(NAME, name) == f"{NAME}@{name}"


def test_snapshots_of_another_tree_are_others(volume: Volume) -> None:
    snap(volume, "s")
    copy_tree(volume.pram, NAME, f"{NAME}2@t")
    copy_tree(volume.pram, NAME, f"{NAME}2")
    volume.save(final=False)
    volume.check()
    assert names(volume.pram) == ["s"]
    assert [one.full_name for one in snapshots_of(volume.pram, f"{NAME}2")] == [f"{NAME}2@t"]
    assert facts_of(volume, f"{NAME}2") == volume.facts()


@pytest.mark.parametrize("is_cloned", [False, True])
def test_files_without_a_name_are_in_no_snapshot(volume: Volume, is_cloned: bool) -> None:
    file = volume.file("dir/a")
    if is_cloned:
        copy = volume.create("clone")
        volume.tree.copy_range(file, 0, copy, 0, file.length)
    file.refs += 1
    volume.unlink("dir/a")
    before = volume.facts()
    snap(volume, "s")
    volume.check(orphans=True)
    assert facts_of(volume, f"{NAME}@s") == before
    volume.tree.write(file, 0, b"x" * 5000)
    volume.tree.forget(file, 1)
    volume.save(final=False)
    volume.check()
    assert facts_of(volume, f"{NAME}@s") == before


# --- a save with a snapshot that fails -------------------------------------------------------------


def failing_sync(volume: Volume, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the `at`th sync from now on fail."""
    count = 0
    sync = type(volume.pram.image).sync

    def failing(image: object) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(5, os.strerror(5))
        sync(volume.pram.image)

    monkeypatch.setattr(type(volume.pram.image), "sync", failing)


def test_after_a_save_that_fails_there_is_no_snapshot(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    snap(volume, "old")
    volume.tree.write(volume.file("dir/a"), 0, b"x" * 5000)
    with monkeypatch.context() as patch:
        failing_sync(volume, patch, 1)
        with pytest.raises(SaveFailed):
            snap(volume, "s")
    volume.check()
    assert names(volume.pram) == ["old"]
    snap(volume, "s")
    volume.check()
    assert names(volume.pram) == ["old", "s"]
    assert facts_of(volume, f"{NAME}@s") == volume.facts()


def test_a_snapshot_of_a_save_in_doubt_is_there_when_the_save_is(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing_sync(volume, patch, 2)
        with pytest.raises(SaveFailed):
            snap(volume, "s")
    before = volume.facts()
    volume.tree.write(volume.file("dir/a"), 0, b"x" * 5000)
    volume.save(final=False)
    volume.check()
    assert facts_of(volume, f"{NAME}@s") == before


def take_until_full(volume: Volume, write: str = "") -> tuple[int, str]:
    """Take snapshots while there is room, and return how many, and why there is no more."""
    taken = 0
    while True:
        try:
            volume.saver.require_room_for_snapshot()
        except NoRoomForSnapshot as exc:
            return taken, str(exc)
        snap(volume, str(taken))
        taken += 1
        if write:
            volume.tree.write(volume.file(write), taken * PAGE_SIZE, b"y")


def test_without_room_there_is_no_snapshot_and_the_next_save_works(arena: str) -> None:
    volume = Volume(128, arena=arena)
    for number in range(40):
        volume.create(str(number), b"x")
    volume.save(final=False)
    taken, why = take_until_full(volume)
    assert taken > 1
    assert re.match(r"no room for a snapshot: \d+ free frames needed, \d+ available", why)
    for _ in range(3):
        volume.save(final=False)
        volume.check()
    for number in range(taken):
        drop_snapshot(volume.pram, NAME, str(number))
        volume.save(final=False)
        volume.check()


def test_snapshots_that_fit_leave_room_for_saves(arena: str) -> None:
    """Whatever was written meanwhile: a tree that can be saved is one that can be mounted and saved again."""
    volume = Volume(256, arena=arena)
    volume.create("file", b"x" * 20 * PAGE_SIZE)
    volume.save(final=False)
    assert take_until_full(volume, write="file")[0] > 1
    volume.save()
    volume.reopen()
    assert volume.pram.arena.table.unused >= volume.tree.space.frames_to_keep_free()
    volume.save()
    volume.check()


# --- what fallocate has promised ------------------------------------------------------------------


def test_a_snapshot_ends_promises_for_the_pages_that_it_shares(volume: Volume) -> None:
    file = volume.create("reserved", b"x" * 3 * PAGE_SIZE)
    volume.tree.fallocate(file, 0, 0, 10 * PAGE_SIZE)
    snap(volume, "s")
    assert list(file.reserved or ()) == [(3, 10)]
    volume.check()
    live = facts_of(volume, NAME)[file.ino]
    taken = facts_of(volume, f"{NAME}@s")[file.ino]
    assert (live.reserved, taken.reserved) == ([(3, 10)], [])
    assert live.times == taken.times
    assert f"{NAME}@s{MORE_SUFFIX}" in volume.pram.nodes


def test_what_a_rollback_shares_is_promised_no_room(volume: Volume) -> None:
    """What it replaces has its reservations; a tree that becomes a copy of that has them for holes only."""
    snap(volume, "good")
    file = volume.create("reserved", b"x" * 3 * PAGE_SIZE)
    volume.tree.fallocate(file, 0, 0, 10 * PAGE_SIZE)
    volume.save()
    snapshot = "good"
    for _ in range(2):
        volume.pram = reopen(volume.pram, arena=volume.arena)
        snapshot = roll_back(volume.pram, NAME, snapshot)
        volume.pram.publish()
    volume.reopen()
    assert list(volume.file("reserved").reserved or ()) == [(3, 10)]
    volume.check()


# --- banned frames --------------------------------------------------------------------------------


def test_a_snapshot_leaves_banned_frames(volume: Volume) -> None:
    before = volume.facts()
    snap(volume, "s")
    banned = Regions([Region(20, 60)])
    volume.reopen(banned=banned)
    volume.tree.write(volume.file("b"), 0, b"changed")
    volume.save()
    volume.check()
    check_bans(volume.pram, volume.pram.nodes)
    assert facts_of(volume, f"{NAME}@s") == before
    assert facts_of(volume, NAME) == volume.facts()


@pytest.mark.parametrize("mounted", [True, False])
def test_what_snapshots_share_stays_shared_in_other_frames(volume: Volume, mounted: bool) -> None:
    before = volume.facts()
    for name in ("s", "t"):
        snap(volume, name)
    volume.save()
    spared = volume.pram.arena.table.summary().spared
    assert spared == 2 * 23
    banned = Regions([Region(10, 200)])
    if mounted:
        volume.reopen(banned=banned)
        volume.save()
    else:
        volume.pram = reopen(volume.pram, arena=volume.arena, banned=banned)
        free = volume.pram.arena.table.count(FREE)
        needed = volume.pram.frames_to_move()
        volume.pram.publish()
        assert 0 < needed < 2 * 23 + 9 * 3  # pages that are shared count once
        assert volume.pram.arena.table.count(FREE) >= free - needed - len(volume.pram.nodes)
    assert volume.pram.arena.table.summary().spared == spared
    check_bans(volume.pram, volume.pram.nodes)
    for name in (NAME, f"{NAME}@s", f"{NAME}@t"):
        assert facts_of(volume, name) == before
    volume.reopen()
    assert volume.pram.arena.table.summary().spared == spared
    volume.check()


def test_what_is_open_without_a_name_stays_behind_when_snapshots_leave_banned_frames(
    volume: Volume,
) -> None:
    snap(volume, "s")
    volume.save()
    volume.reopen(banned=Regions([Region(10, 200)]))
    file = volume.file("dir/a")
    content = volume.read("dir/a")
    file.refs += 1
    volume.unlink("dir/a")
    volume.save(final=False)
    table, current = volume.pram.arena.table, volume.pram.current
    assert current.frames_used == 2 + table.count(SAVED) - 20
    assert bytes(volume.tree.data.read(file, 0, file.length)) == content
    assert len(facts_of(volume, f"{NAME}@s")) == 4
    assert check_image(watched(volume.pram)).clean


# --- offline --------------------------------------------------------------------------------------


def test_a_tree_whose_name_is_too_long_for_what_it_was_is_freed_first(volume: Volume) -> None:
    pram, long = volume.pram, "n" * 240
    volume.save()
    for name in (long, f"{long}@s"):
        copy_tree(pram, NAME, name)
    pram.publish()
    before = sorted(pram.nodes)
    with pytest.raises(NoNameForReplaced, match="free it first: pramfs free"):
        roll_back(pram, long, "s")
    assert sorted(pram.nodes) == before
    drop_tree(pram, long)
    assert roll_back(pram, long, "s") == ""
    assert sorted(pram.nodes) == before


def test_a_rollback_keeps_the_snapshot_and_what_it_replaces(volume: Volume) -> None:
    before = volume.facts()
    snap(volume, "good")
    volume.unlink("b")
    volume.tree.write(volume.file("dir/a"), 0, b"bad")
    volume.save()
    bad = volume.facts()
    pram = reopen(volume.pram, arena=volume.arena)
    replaced = roll_back(pram, NAME, "good")
    pram.publish()
    volume.pram = pram
    assert replaced.startswith("replaced-")
    assert names(pram) == ["good", replaced]
    assert facts_of(volume, NAME) == before
    assert facts_of(volume, f"{NAME}@good") == before
    assert facts_of(volume, f"{NAME}@{replaced}") == bad
    volume.reopen()
    volume.create("more", b"more")
    volume.save()
    volume.check()
    assert facts_of(volume, f"{NAME}@good") == before


def test_a_rollback_without_room_changes_nothing(volume: Volume) -> None:
    """There is room for it exactly when the tree can be mounted, changed and saved after it."""
    snap(volume, "good")
    volume.tree.write(volume.file("dir/a"), 0, b"bad")
    volume.save()
    pram = Pram.open(watched(volume.pram).reopen(), arena=volume.arena)
    before, table = dict(pram.nodes), pram.arena.table
    taken = pfns_of(pram.arena.table.allocate(table.unused))
    while not _is_rolled_back(pram):
        assert pram.nodes == before
        pram.arena.release(taken.pop(), 1)
    assert 10 < table.count(FREE) < 40
    pram.publish()
    tree = new_tree(pram)
    load_tree(pram, NAME, tree)
    Saver(pram, NAME, tree)
    assert table.unused >= tree.space.frames_to_keep_free()


def _is_rolled_back(pram: Pram) -> bool:
    try:
        roll_back(pram, NAME, "good")
    except NoRoomForRollback:
        return False
    return True


def test_a_copy_of_a_tree_that_fails_leaves_nothing(volume: Volume) -> None:
    volume.save()
    pram = reopen(volume.pram, arena=volume.arena)
    pram.arena.allocate(pram.arena.table.count(FREE) - 4)
    with pytest.raises(NoFrames):
        copy_tree(pram, NAME, "copy")
    assert tree_names(pram.nodes) == [NAME]
    assert not pram.arena.table.repeats


def test_check_reads_what_snapshots_share_once(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("s", "t"):
        snap(volume, name)
    volume.save()
    reads: list[int] = []
    real = verify._damaged_pages

    def look(image: Image, pfn: int, expected: list[int]) -> list[int]:
        reads.extend(range(pfn, pfn + len(expected)))
        return real(image, pfn, expected)

    monkeypatch.setattr(verify, "_damaged_pages", look)
    report = check_image(watched(volume.pram))
    assert report.clean
    assert report.pages == 3 * 23 + 3 * 2  # metadata and births of each
    assert len(reads) == 23
    watched(volume.pram).guarded = False
    watched(volume.pram).write(reads[0] * PAGE_SIZE, b"damage")
    report = check_image(watched(volume.pram))
    assert len(report.damage) == 3
