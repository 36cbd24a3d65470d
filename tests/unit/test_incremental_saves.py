"""A save encodes what has changed, and copies the rest from the last one; nobody can tell from the image.

Every save in these tests is compared with one that copies nothing, see `tests/support/compared_saves.py`.
"""

import contextlib
import errno
import operator
import os
from collections.abc import Callable, Iterable, Iterator

import pytest

from pramfs.errors import SaveFailed
from pramfs.pram.reserve import chain_of
from pramfs.saves import staging
from pramfs.saves.codec import encode_inodes
from pramfs.saves.snapshots import drop_snapshot
from pramfs.storage.frames import FREE, HELD
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.attributes import Changes
from pramfs.tree.file_calls import KEEP_SIZE, PUNCH_HOLE
from pramfs.tree.inodes import Inode
from pramfs.tree.tree import RENAME_EXCHANGE, Owner
from tests.support.image_audit import check_owners
from tests.support.refusals import refused
from tests.support.tree_volume import NAME, Volume
from tests.support.watched_image import frames_between

FILES = 40


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of the inodes that a save has encoded."""
    inos: set[int] = set()

    def encode(inodes: Iterable[Inode]) -> Iterator[bytes]:
        inodes = list(inodes)
        inos.update(inode.ino for inode in inodes)
        return encode_inodes(inodes)

    monkeypatch.setattr(staging, "encode_inodes", encode)
    return inos


@pytest.fixture
def volume(arena: str) -> Volume:
    volume = Volume(600, arena=arena)
    for number in range(FILES):
        volume.create(f"file{number}", b"%d" % number * 3000)
    volume.mkdir("dir")
    volume.create("dir/inner", b"inner")
    volume.mkdir("empty")
    volume.symlink("link", b"target")
    volume.create("large", bytes(range(250)) * 200)
    volume.save(final=False)
    return volume


def saved_again(volume: Volume) -> None:
    """Save, and require that the next process finds what this one has."""
    volume.save(final=False)
    volume.check()
    there = volume.facts()
    assert volume.reopen().facts() == there


CHANGES: dict[str, Callable[[Volume], object]] = {
    "write": lambda v: v.tree.write(v.file("file7"), 5, b"changed"),
    "append": lambda v: v.tree.write(v.file("file7"), 50_000, b"changed"),
    "truncate": lambda v: v.truncate("file7", 100),
    "mode": lambda v: v.tree.setattr(v.inode("file7"), Changes(mode=0o600)),
    "owner": lambda v: v.tree.setattr(v.inode("file7"), Changes(uid=7, gid=8)),
    "times": lambda v: v.tree.setattr(v.inode("file7"), Changes(atime=1, mtime=2, ctime=3)),
    "cached times": lambda v: v.tree.set_cached_times(v.inode("file7"), 4, 5),
    "xattr": lambda v: v.tree.setxattr(v.inode("file7"), b"user.a", b"b"),
    "flags": lambda v: v.tree.set_flags(v.inode("file7"), 0x80, 0),
    "punch": lambda v: v.tree.fallocate(v.file("large"), PUNCH_HOLE | KEEP_SIZE, 4096, 8192),
    "create": lambda v: v.create("new", b"new"),
    "mkdir": lambda v: v.mkdir("dir/new"),
    "symlink": lambda v: v.symlink("other", b"elsewhere"),
    "mknod": lambda v: v.mknod("device", 0o020600, 0x501),
    "link": lambda v: v.link("file7", "dir/file7"),
    "unlink": lambda v: v.unlink("file7"),
    "rename": lambda v: v.rename("file7", "dir/moved"),
    "rename over": lambda v: v.rename("file7", "file8"),
    "rename of a directory": lambda v: v.rename("dir", "moved"),
    "exchange": lambda v: v.rename("file7", "dir", RENAME_EXCHANGE),
    "copy": lambda v: v.tree.copy_range(v.file("large"), 0, v.file("file7"), 0, 40_000),
    "rmdir": lambda v: v.rmdir("empty"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_only_what_has_changed_is_encoded(volume: Volume, encoded: set[int], change: str) -> None:
    CHANGES[change](volume)
    saved_again(volume)
    assert 0 < len(encoded) < FILES // 2


@pytest.mark.parametrize("change", CHANGES)
def test_in_the_next_process_too(volume: Volume, encoded: set[int], change: str) -> None:
    volume.reopen()
    CHANGES[change](volume)
    saved_again(volume)
    assert 0 < len(encoded) < FILES // 2


def test_an_access_time_is_saved_without_another_change(volume: Volume, encoded: set[int]) -> None:
    inode = volume.inode("file7")
    inode.atime = 1  # as long ago
    volume.tree.note_change(inode)
    volume.save(final=False)
    encoded.clear()
    volume.tree.touch_atime(inode)
    saved_again(volume)
    assert inode.ino in encoded


def test_nothing_is_encoded_for_a_save_without_a_change(volume: Volume, encoded: set[int]) -> None:
    saved_again(volume)
    assert not encoded


def test_a_file_without_a_name_gets_one_between_groups_that_are_copied(
    volume: Volume, encoded: set[int]
) -> None:
    unnamed = volume.tree.create_unnamed(volume.tree.root, 0o600, Owner(0, 0))
    unnamed.refs += 1
    for number in range(20):
        volume.create(f"later{number}")
    volume.save(final=False)
    encoded.clear()
    volume.tree.link(unnamed, volume.tree.root, b"named")
    saved_again(volume)
    assert unnamed.ino in encoded
    assert len(encoded) < FILES // 2


def test_all_files_of_many_groups_are_removed(volume: Volume) -> None:
    for number in range(FILES - 2):
        volume.unlink(f"file{number}")
    saved_again(volume)
    volume.create("new", b"new")
    saved_again(volume)


@pytest.mark.parametrize("step", range(6))
def test_after_a_save_that_failed_all_is_encoded(
    volume: Volume, encoded: set[int], step: int
) -> None:
    """What it had encoded is in no save."""
    CHANGES["write"](volume)
    with volume.image.failing(step):
        try:
            volume.save(final=False)
        except Exception:  # noqa: BLE001 - whichever: the medium has failed
            encoded.clear()
    CHANGES["mode"](volume)
    saved_again(volume)


def test_a_medium_that_damages_the_last_save_does_not_pass_that_on(
    volume: Volume, encoded: set[int]
) -> None:
    """The metadata in it is verified before it is copied."""
    volume.tree.write(volume.file("file7"), 0, b"changed")
    volume.image.guarded = False  # the guard reads the last save
    node = volume.pram.node(f"{NAME}-meta")
    for extent in node.owned:
        for pfn in range(extent.pfn, extent.pfn + extent.frames):
            os.pwrite(volume.image.fileno(), b"\xff" * 10, pfn * PAGE_SIZE + 2000)
    saved_again(volume)
    assert len(encoded) > FILES


@pytest.fixture
def many(arena: str) -> Volume:
    """A volume with several pages of metadata."""
    volume = Volume(1500, arena=arena)
    for number in range(300):
        volume.create(f"file{number}", b"x" if number % 3 else b"")
    volume.save(final=False)
    return volume


def frames_of(volume: Volume, suffix: str) -> list[int]:
    """The frames that hold the pages of a node, in their order."""
    pram = volume.pram
    chain = chain_of(pram.arena, pram.current.uuid, pram.node(NAME + suffix))
    return list(chain.entries.pfns)


def change_one(volume: Volume, number: int = 150) -> None:
    volume.tree.setattr(volume.inode(f"file{number}"), Changes(mode=0o600 + number % 8))


def damage(volume: Volume, pfn: int) -> None:
    volume.image.guarded = False  # the guard reads the last save
    os.pwrite(volume.image.fileno(), b"\xff" * 10, pfn * PAGE_SIZE + 2000)


def test_metadata_without_changes_stays_where_it_is(many: Volume) -> None:
    before = frames_of(many, "-meta"), frames_of(many, "-more")
    change_one(many)
    saved_again(many)
    metadata, births = frames_of(many, "-meta"), frames_of(many, "-more")
    stayed = sum(map(operator.eq, metadata, before[0]))
    assert len(metadata) - 4 <= stayed < len(metadata)
    assert births == before[1]


def test_metadata_that_has_moved_is_copied(many: Volume) -> None:
    before = frames_of(many, "-meta")
    many.create("new")  # the record of the root, which is before all others, is longer now
    saved_again(many)
    assert not set(before) & set(frames_of(many, "-meta"))


def test_frames_of_several_saves_come_free_after_the_last_of_them(many: Volume) -> None:
    table = many.pram.arena.table
    for number in (10, 150, 290):
        change_one(many, number)
        many.save(final=False)
        many.check()
    free = table.count(FREE)
    many.tree.groups.places = None  # so that all is encoded
    many.save(final=False)
    many.save(final=False)
    many.check()
    assert table.count(FREE) == free
    assert table.count(HELD) == 0


def test_births_that_stayed_are_renewed_with_the_next_new_inode(many: Volume) -> None:
    unnamed = many.tree.create_unnamed(many.tree.root, 0o600, Owner(0, 0))
    unnamed.refs += 1
    many.save(final=False)
    many.unlink("file299")
    saved_births = frames_of(many, "-more")
    many.save(final=False)
    assert frames_of(many, "-more") == saved_births
    many.tree.link(unnamed, many.tree.root, b"named")
    many.create("new")
    saved_again(many)
    assert frames_of(many, "-more") != saved_births


@pytest.mark.parametrize("suffix", ["-meta", "-more"])
def test_damage_in_frames_that_would_stay_is_made_good(
    many: Volume, encoded: set[int], suffix: str
) -> None:
    damage(many, frames_of(many, suffix)[0 if suffix == "-more" else -3])
    change_one(many, 10)
    saved_again(many)
    assert len(encoded) >= 300


@pytest.mark.parametrize("step", range(6))
def test_a_save_that_fails_leaves_the_frames_of_the_last_one(many: Volume, step: int) -> None:
    change_one(many, 10)
    many.save(final=False)
    change_one(many)
    with many.image.failing(step), contextlib.suppress(SaveFailed):
        many.save(final=False)
    check_owners(many.pram, many.tree)
    change_one(many, 290)
    saved_again(many)


def test_a_snapshot_has_metadata_of_its_own(many: Volume) -> None:
    before = frames_of(many, "-meta")
    change_one(many)
    many.saver.save(final=False, progress=lambda pages: None, snapshot=f"{NAME}@one")
    many.check()
    assert set(before) & set(frames_of(many, "-meta"))
    assert not set(frames_of(many, "-meta")) & set(frames_of(many, "@one-meta"))
    drop_snapshot(many.pram, NAME, "one")
    change_one(many, 10)
    saved_again(many)


def test_frames_that_become_banned_are_left(volume: Volume) -> None:
    volume.reopen(banned=frames_between(20, 90))
    CHANGES["write"](volume)
    saved_again(volume)
    CHANGES["mode"](volume)
    saved_again(volume)


def test_reserved_room_comes_and_goes(volume: Volume) -> None:
    volume.tree.fallocate(volume.file("file7"), KEEP_SIZE, 0, 40_000)
    saved_again(volume)
    volume.truncate("file7", 0)
    CHANGES["create"](volume)
    saved_again(volume)
    assert not volume.tree.space.promised_ranges


def test_a_change_that_was_refused_half_way_is_saved_as_far_as_it_went(volume: Volume) -> None:
    file = volume.file("large")
    with refused(errno.EFBIG):
        volume.tree.setattr(file, Changes(uid=5, size=1 << 63))
    saved_again(volume)
