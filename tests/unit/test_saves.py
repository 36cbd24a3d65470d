"""Trees to nodes and nodes to trees: what a save keeps, what a load refuses, checkpoints meanwhile."""

import contextlib
import errno
import os
import stat
import threading

import pytest

from pramfs.errors import DamagedPage, DamagedTree, NoSuchNode, SaveFailed
from pramfs.pram.pram import Pram
from pramfs.saves.load import Recovered, load_tree
from pramfs.saves.save import Saver
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, drop_tree, has_tree, tree_names
from pramfs.storage.frames import FREE, SAVED
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE, SUPER_FINAL, SUPER_PAIR, SUPER_SUSPECT
from pramfs.storage.regions import Region, Regions
from pramfs.tree.attributes import Changes
from pramfs.tree.inodes import Directory, File
from tests.support.image_audit import check_bans, walk
from tests.support.tree_volume import NAME, USER, Volume, new_tree
from tests.support.watched_image import frames_between, image_of, reopen, watched


@pytest.fixture
def volume(arena: str) -> Volume:
    return Volume(arena=arena)


def furnish(volume: Volume) -> None:
    """Put something of everything into the tree."""
    volume.create("empty")
    volume.create("small", b"hello")
    volume.create("pages", bytes(range(256)) * 300)
    volume.create("sparse", b"begin")
    volume.tree.write(volume.file("sparse"), 5 << 20, b"middle" * 1000)
    volume.truncate("sparse", 1 << 40)
    for path in ("dir", "dir/a", "dir/a/b"):
        volume.mkdir(path, 0o1770)
    volume.link("pages", "dir/a/b/pages too")
    volume.symlink("dir/link", b"../small")
    volume.mknod("dir/fifo", stat.S_IFIFO | 0o600)
    volume.mknod("dir/socket", stat.S_IFSOCK | 0o700)
    volume.mknod("dir/char", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    volume.mknod("dir/block", stat.S_IFBLK | 0o660, os.makedev(259, 0xFFFFF))
    volume.tree.create(volume.tree.root, b"\xff\xfe not utf-8\n", stat.S_IFREG | 0o4711, USER)
    volume.tree.setxattr(volume.inode("small"), b"user.empty", b"")
    volume.tree.setxattr(volume.inode("small"), b"user.large", bytes(range(256)) * 256)
    volume.tree.setxattr(volume.inode("dir"), b"trusted.x", b"\0")
    changes = Changes(uid=(1 << 32) - 2, gid=7, atime=1, mtime=-1, ctime=(1 << 62) + 123_456_789)
    volume.tree.setattr(volume.inode("small"), changes)


# --- the file system's save and load (the 2013 file system) ---------------------------------------


def test_everything_that_a_tree_has_comes_back(volume: Volume) -> None:
    furnish(volume)
    before = volume.facts()
    volume.save()
    volume.check()
    volume.reopen()
    assert volume.facts() == before
    assert volume.inode("pages") is volume.inode("dir/a/b/pages too")
    assert volume.inode("dir/a/b/..") is volume.inode("dir/a")
    volume.check()


def test_an_empty_tree_comes_back_with_its_root(volume: Volume) -> None:
    volume.tree.setattr(volume.tree.root, Changes(mode=0o1777, uid=5))
    before = volume.facts()
    volume.save()
    assert volume.reopen().facts() == before


def test_holes_take_no_frames_in_a_save(volume: Volume) -> None:
    volume.create("sparse", b"x")
    volume.truncate("sparse", 1 << 50)
    volume.tree.write(volume.file("sparse"), 1 << 49, b"y")
    volume.save()
    data = next(node for node in volume.check().nodes if node.name == NAME + DATA_SUFFIX)
    assert [entry.page for entry in data.entries] == [0, 1 << 37]
    volume.reopen()
    assert volume.file("sparse").blocks == 16


def test_data_stays_in_its_frames_over_saves_and_loads(volume: Volume) -> None:
    volume.create("file", b"x" * 50_000)
    volume.save()
    before = _data_frames(volume)
    volume.reopen()
    volume.create("other", b"y")
    volume.save()
    assert _data_frames(volume)[: len(before)] == before


def _data_frames(volume: Volume) -> list[int]:
    data = next(node for node in walk(volume.image).nodes if node.name == NAME + DATA_SUFFIX)
    return [entry.pfn for entry in data.entries]


def test_thousands_of_files_come_back(arena: str) -> None:
    volume = Volume(4000, arena=arena)
    directory = volume.tree.root
    for number in range(3000):
        directory = volume.mkdir(f"dir {number}") if number % 300 == 0 else directory
        mode = stat.S_IFREG | number % 0o1000
        file = volume.tree.create(directory, b"%d" % number, mode, USER)
        volume.tree.setattr(file, Changes(mtime=number, uid=number))
        if number % 2:
            volume.tree.write(volume.tree.file(file.ino), 0, b"%d" % number)
    before = volume.facts()
    volume.save()
    assert volume.reopen().facts() == before


def test_numbers_of_inodes_go_on_where_they_were(volume: Volume) -> None:
    volume.create("gone")
    last = volume.create("kept").ino
    volume.unlink("gone")
    volume.save()
    volume.reopen()
    assert volume.create("new").ino == last + 1


def test_a_save_says_whether_it_was_the_last_of_its_run_and_sound(volume: Volume) -> None:
    volume.save(final=False)
    assert volume.pram.current.flags == SUPER_PAIR
    volume.saver.note_internal_error()
    volume.save()
    assert volume.pram.current.flags == SUPER_FINAL | SUPER_SUSPECT | SUPER_PAIR
    volume.reopen().save()
    assert volume.pram.current.flags == SUPER_FINAL | SUPER_PAIR


def test_progress_is_told_of_every_page_once_it_is_listed_and_once_it_is_written(
    volume: Volume,
) -> None:
    volume.create("file", b"x" * 100 * PAGE_SIZE)
    told: list[int] = []
    volume.saver.save(final=True, progress=told.append)
    assert sum(told) >= 100
    assert all(told)


# --- several trees, and other nodes --------------------------------------------------------------


def test_trees_of_several_names_and_other_nodes_leave_each_other_alone(arena: str) -> None:
    volume = Volume(arena=arena)
    with volume.pram.prepare_save("other", BYTE_STREAM) as stream:
        stream.write(b"other" * 1000)
    volume.create("file", b"first tree")
    volume.save()
    pram = reopen(volume.pram, arena=arena)
    second = Volume.__new__(Volume)
    second.arena, second.pram = arena, pram
    second.tree = new_tree(pram)
    second.tree.make_root(0o700, USER)
    second.saver = Saver(pram, "second", second.tree)
    second.create("file", b"second tree")
    second.save()
    assert sorted(tree_names(pram.nodes)) == [NAME, "second"]
    pram = reopen(pram, arena=arena)
    for name, content in ((NAME, b"first tree"), ("second", b"second tree")):
        tree = new_tree(pram)
        load_tree(pram, name, tree)
        assert bytes(tree.data.read(tree.file(2), 0, 100)) == content
    other = pram.prepare_load("other", BYTE_STREAM)
    assert other.read(1 << 20) == b"other" * 1000


def test_a_tree_that_is_not_there_is_no_such_node(volume: Volume) -> None:
    assert not has_tree(volume.pram, NAME)
    with pytest.raises(NoSuchNode):
        load_tree(volume.pram, NAME, new_tree(volume.pram))


@pytest.mark.parametrize("suffix", [META_SUFFIX, DATA_SUFFIX])
def test_half_a_tree_is_damaged(volume: Volume, suffix: str) -> None:
    volume.save()
    volume.pram.free(NAME + suffix)
    volume.pram.publish()
    pram = reopen(volume.pram, arena=volume.arena)
    assert has_tree(pram, NAME)
    with pytest.raises(DamagedTree, match="no node"):
        load_tree(pram, NAME, new_tree(pram))


def test_a_dropped_tree_is_replaced_by_the_next_save_and_back_without_one(volume: Volume) -> None:
    volume.create("old", b"x" * 100 * PAGE_SIZE)
    volume.save()
    for publish in (False, True):
        pram = reopen(volume.pram, arena=volume.arena)
        drop_tree(pram, NAME)
        new = Volume(arena=volume.arena, pram=pram)
        new.create("new", b"y" * 150 * PAGE_SIZE if publish else b"y")
        if publish:
            new.save()
        volume = new.reopen()
        assert list(volume.tree.root.entries) == ([b"new"] if publish else [b"old"])


# --- damage --------------------------------------------------------------------------------------


def damage(volume: Volume, *paths: str) -> None:
    """Change a byte in the middle of each of these files, in the image itself."""
    volume.image.guarded = False
    for path in paths:
        pages = volume.file(path).pages
        assert pages is not None
        volume.image.write(pages.get(0) * PAGE_SIZE + 1000, b"\xa5")


def test_a_tree_with_a_damaged_page_is_refused_and_the_files_are_named(volume: Volume) -> None:
    furnish(volume)
    volume.save()
    damage(volume, "small", "pages")
    pram = reopen(volume.pram, arena=volume.arena)
    tree = new_tree(pram)
    with pytest.raises(DamagedTree) as caught:
        load_tree(pram, NAME, tree)
    assert str(caught.value).endswith("3 damaged: /dir/a/b/pages too, /pages, /small")
    assert caught.value.errno == errno.EFAULT
    assert not tree.inodes


def test_many_damaged_files_are_counted_and_some_are_named(volume: Volume) -> None:
    names = [f"file {number:02}" for number in range(30)]
    for name in names:
        volume.create(name, b"x" * 2000)
    volume.save()
    damage(volume, *names)
    pram = reopen(volume.pram, arena=volume.arena)
    with pytest.raises(DamagedTree, match=r"30 damaged: /file 00, .*/file 09 and 20 more$"):
        load_tree(pram, NAME, new_tree(pram))


def test_a_damaged_file_at_the_end_of_a_very_long_path_is_named_by_the_end_of_that(
    volume: Volume,
) -> None:
    tree = volume.tree
    directory = tree.root
    for _ in range(100):
        made = tree.create(directory, b"d" * 250, stat.S_IFDIR | 0o755, USER)
        assert isinstance(made, Directory)
        directory = made
    file = tree.create(directory, b"deep", stat.S_IFREG | 0o644, USER)
    assert isinstance(file, File)
    tree.write(file, 0, b"x")
    assert file.pages is not None
    volume.save()
    volume.image.guarded = False
    volume.image.write(file.pages.get(0) * PAGE_SIZE, b"y")
    pram = reopen(volume.pram, arena=volume.arena)
    with pytest.raises(DamagedTree, match=r"1 damaged: …(/d{250}){17}/deep$"):
        load_tree(pram, NAME, new_tree(pram))


def recovered(volume: Volume) -> tuple[Volume, list[str]]:
    """The volume with what can be read of it, and what is left out."""
    left_out = Recovered()
    volume.pram = reopen(volume.pram, arena=volume.arena)
    volume.tree = new_tree(volume.pram)
    load_tree(volume.pram, NAME, volume.tree, recover=left_out)
    volume.saver = Saver(volume.pram, NAME, volume.tree)
    return volume, left_out.left_out


def test_recover_leaves_damaged_files_out_and_keeps_the_others(volume: Volume) -> None:
    furnish(volume)
    volume.save()
    before = volume.facts()
    gone = volume.inode("pages").ino
    damage(volume, "pages")
    volume, left_out = recovered(volume)
    assert left_out == ["/dir/a/b/pages too", "/pages"]
    after = volume.facts()
    assert set(before) - set(after) == {gone}
    assert all(after[ino].content == before[ino].content for ino in after)
    assert sorted(volume.directory("dir/a/b").entries) == []
    volume.save()
    volume.check()
    assert volume.reopen().facts() == after


def test_recover_destroys_nothing_before_the_next_save(volume: Volume) -> None:
    furnish(volume)
    volume.save()
    damage(volume, "pages")
    content = watched(volume.pram).content()
    volume, _ = recovered(volume)
    volume.create("new", b"x" * 20_000)
    volume.image.guarded = True
    volume.unlink("small")
    damaged = image_of(content)
    damaged.guarded = False
    pram = Pram.open(damaged, arena="image")
    assert all(volume.image.read(pfn) == damaged.read(pfn) for pfn in saved_frames(pram))


def saved_frames(pram: Pram) -> list[int]:
    table = pram.arena.table
    return [pfn for pfn in range(len(table)) if table.state(pfn) == SAVED]


def test_a_lazy_load_shows_damage_on_the_first_read(volume: Volume) -> None:
    furnish(volume)
    volume.save()
    damage(volume, "pages")
    volume.reopen(lazy=True)
    assert volume.read("small") == b"hello"
    for _ in range(2):
        with pytest.raises(DamagedPage):
            volume.read("pages")
    with pytest.raises(DamagedPage):
        volume.tree.write(volume.file("pages"), 5, b"part of a bad page")
    volume.tree.write(volume.file("pages"), 0, b"w" * PAGE_SIZE)
    assert volume.read("pages")[:PAGE_SIZE] == b"w" * PAGE_SIZE


def test_damage_that_nobody_has_read_is_damage_still_after_a_save(volume: Volume) -> None:
    """Above all it does not get a new checksum, that of the damage."""
    furnish(volume)
    volume.save()
    damage(volume, "pages")
    volume.reopen(lazy=True, banned=frames_between(0, 60))
    volume.create("new")
    volume.save()
    pram = reopen(volume.pram, arena=volume.arena)
    with pytest.raises(DamagedTree, match="2 damaged"):
        load_tree(pram, NAME, new_tree(pram))


def test_damage_that_was_moved_does_not_keep_a_failed_save_from_being_made_up_for(
    arena: str,
) -> None:
    """It is not the failed save that has lost that page."""
    for step in range(100):
        volume = Volume(arena=arena)
        furnish(volume)
        volume.save()
        damage(volume, "pages")
        volume.reopen(lazy=True, banned=frames_between(0, 60))
        with contextlib.suppress(SaveFailed), volume.image.failing(step):
            volume.save()
            break
        volume.save()
        with pytest.raises(DamagedPage):
            volume.reopen(lazy=True).read("pages")
    assert step > 3


# --- relocation (patch 9 of the 2013 series) ------------------------------------------------------


def test_a_tree_leaves_frames_that_became_banned_with_the_next_save(volume: Volume) -> None:
    furnish(volume)
    volume.save()
    before = volume.facts()
    volume.reopen(banned=Regions([Region(0, 20), Region(40, 45)]))
    assert volume.tree.space.relocations > 0
    assert volume.facts() == before
    volume.save()
    volume.check()
    check_bans(volume.pram, [NAME + META_SUFFIX, NAME + DATA_SUFFIX])
    assert volume.tree.space.relocations == 0
    assert volume.reopen().facts() == before


def test_a_tree_that_is_only_looked_at_moves_nothing(volume: Volume) -> None:
    furnish(volume)
    volume.save()
    volume.reopen(banned=frames_between(0, 30))
    volume.facts()
    assert not volume.image.journal


# --- checkpoints in the background ---------------------------------------------------------------


def test_a_checkpoint_holds_the_tree_of_the_moment_it_began(volume: Volume) -> None:
    furnish(volume)
    before = volume.facts()
    volume.start()
    volume.tree.write(volume.file("pages"), 0, b"new" * 20_000)
    volume.unlink("small")
    volume.create("later", b"later")
    volume.truncate("sparse", 3)
    volume.saver.wait()
    volume.saver.settle()
    after = volume.facts()
    volume.check()
    assert volume.reopen().facts() == before
    assert after != before


def test_what_changed_during_a_checkpoint_is_in_the_next_save(volume: Volume) -> None:
    furnish(volume)
    volume.start()
    volume.unlink("pages")
    volume.create("later", b"x" * 30_000)
    volume.save()
    after = volume.facts()
    volume.check()
    assert volume.reopen().facts() == after


def test_checkpoints_follow_each_other_with_changes_in_between(volume: Volume) -> None:
    volume.create("log")
    for number in range(20):
        volume.start()
        volume.tree.write(volume.file("log"), volume.file("log").size, b"%d," % number * 500)
        if number % 3 == 0:
            volume.create(str(number), b"x" * number * 1000)
        if number % 4 == 0:
            volume.truncate("log", volume.file("log").size - 700)
    volume.save()
    before = volume.facts()
    volume.check()
    assert volume.reopen().facts() == before


def test_a_checkpoint_under_way_can_be_waited_for_in_another_thread(volume: Volume) -> None:
    furnish(volume)
    generation = volume.pram.current.generation
    volume.start()
    waiter = threading.Thread(target=volume.saver.wait)
    waiter.start()
    waiter.join()
    volume.saver.settle()
    assert volume.saver.error is None
    assert volume.pram.current.generation == generation + 1
    volume.saver.wait()
    volume.saver.settle()


def test_room_is_made_by_ending_a_checkpoint_that_is_under_way(volume: Volume) -> None:
    volume.create("big", b"x" * 150 * PAGE_SIZE)
    volume.save()
    volume.unlink("big")
    volume.start()
    assert volume.pram.arena.table.count(FREE) < 100
    volume.create("again", b"y" * 150 * PAGE_SIZE)
    volume.save()
    volume.check()


def test_a_checkpoint_that_fails_is_known_when_it_is_settled(volume: Volume) -> None:
    furnish(volume)
    volume.save()
    generation = volume.pram.current.generation
    volume.create("new", b"x" * 50_000)
    with volume.image.failing(0 if volume.arena == "memory" else 3):
        try:
            volume.start()
            volume.saver.settle()
        except SaveFailed:
            pass
    error = volume.saver.error
    assert isinstance(error, SaveFailed)
    assert f"generation {generation}) stands" in str(error)
    assert volume.tree.changed
    volume.save()
    assert volume.saver.error is None
    volume.check()
