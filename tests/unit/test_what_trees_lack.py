"""What a save lacks is known of each tree and snapshot, until the tree is saved anew."""

import pytest

from pramfs.control.last_run import ended_badly
from pramfs.pram.pram import Pram
from pramfs.saves.save import Saver
from pramfs.saves.snapshots import copy_tree, rename_tree, roll_back
from pramfs.saves.tree_nodes import marks_of, what_it_lacks
from pramfs.storage import superblock
from pramfs.storage.layout import BYTE_STREAM, NODE_CUT_OFF, NODE_INCOMPLETE
from tests.golden import decoder
from tests.support.tree_volume import NAME, USER, Volume, new_tree
from tests.support.watched_image import reopen

SNAPSHOT = f"{NAME}@s"


@pytest.fixture
def volume(arena: str) -> Volume:
    volume = Volume(arena=arena)
    volume.create("file", b"kept")
    return volume


def refuse(volume: Volume) -> None:
    """What the kernel does when a program has written more than fits."""
    volume.tree.data.refused.add(volume.file("file"), 0, 4096, "no space left")


def save(volume: Volume, *, final: bool = False, snapshot: str = "") -> None:
    volume.saver.save(final=final, progress=lambda pages: None, snapshot=snapshot)


def marks(pram: Pram) -> dict[str, int]:
    """What is known of each tree that lacks something."""
    names = [name.removesuffix("-meta") for name in pram.nodes if name.endswith("-meta")]
    return {name: found for name in names if (found := marks_of(pram.nodes, name))}


def lacks(volume: Volume) -> list[str]:
    """What the super block in force says."""
    return [type(exc).__name__ for exc in superblock.shortcomings(volume.pram.current)]


def mend(volume: Volume) -> None:
    volume.tree.data.refused.taken(volume.file("file"), 0, 4096)


def test_a_snapshot_of_an_incomplete_tree_stays_known_as_one(volume: Volume) -> None:
    refuse(volume)
    save(volume, snapshot=SNAPSHOT)
    assert marks(volume.pram) == {NAME: NODE_INCOMPLETE, SNAPSHOT: NODE_INCOMPLETE}
    assert lacks(volume) == ["EarlierIncomplete"]
    mend(volume)
    save(volume)
    assert marks(volume.pram) == {SNAPSHOT: NODE_INCOMPLETE}
    assert not lacks(volume)
    volume.reopen()
    assert marks(volume.pram) == {SNAPSHOT: NODE_INCOMPLETE}
    assert what_it_lacks(volume.pram.nodes, SNAPSHOT).startswith("incomplete")


def test_other_nodes_and_saves_of_other_trees_change_nothing_of_it(volume: Volume) -> None:
    refuse(volume)
    save(volume, final=True)
    pram = reopen(volume.pram, arena=volume.arena)
    with pram.prepare_save("note", BYTE_STREAM) as stream:
        stream.write(b"text")
    pram.publish()
    pram = reopen(pram, arena=volume.arena)
    assert marks(pram) == {NAME: NODE_INCOMPLETE}
    pram.free("note")
    other = new_tree(pram)
    other.make_root(0o755, USER)
    Saver(pram, "other", other).save(final=True, progress=lambda pages: None)
    assert marks(reopen(pram)) == {NAME: NODE_INCOMPLETE}


def test_a_rollback_and_a_copy_take_it_along(volume: Volume) -> None:
    refuse(volume)
    save(volume, snapshot=SNAPSHOT)
    mend(volume)
    save(volume, final=True)
    pram = reopen(volume.pram, arena=volume.arena)
    replaced = roll_back(pram, NAME, "s")
    copy_tree(pram, SNAPSHOT, "copy")
    rename_tree(pram, SNAPSHOT, f"{NAME}@t")
    pram.publish()
    pram = reopen(pram)
    names = [NAME, f"{NAME}@t", "copy"]
    assert marks(pram) == dict.fromkeys(names, NODE_INCOMPLETE)
    assert not what_it_lacks(pram.nodes, f"{NAME}@{replaced}")


@pytest.mark.parametrize("is_short", [False, True])
def test_a_mount_that_was_cut_off_is_told_from_the_image_alone(
    volume: Volume, is_short: bool
) -> None:
    save(volume)
    if is_short:
        refuse(volume)
    volume.saver.note_cut_off()
    save(volume, final=True, snapshot=SNAPSHOT)
    expected = NODE_CUT_OFF | (NODE_INCOMPLETE if is_short else 0)
    assert marks(volume.pram) == {NAME: expected, SNAPSHOT: expected}
    volume.reopen()
    told = ended_badly(volume.image, volume.pram.current)
    assert "may be incomplete: the mount was cut off by force" in told
    assert told.startswith("the last run's save is" if is_short else "the last run's save may be")
    save(volume)
    assert marks(volume.pram) == {SNAPSHOT: expected}
    assert not lacks(volume)


def test_an_unclean_end_after_an_incomplete_save_does_not_hide_that(volume: Volume) -> None:
    refuse(volume)
    save(volume)
    told = ended_badly(volume.image, volume.pram.current)
    assert "ended without a final save; any change since generation" in told
    assert "; the save is incomplete" in told


def test_another_reader_of_the_format_takes_it(volume: Volume) -> None:
    refuse(volume)
    volume.saver.note_cut_off()
    save(volume, snapshot=SNAPSHOT)
    found = decoder.decode(volume.image.content())
    assert {node.decode() for node in found.nodes} == set(volume.pram.nodes)
    assert decoder.read_tree(found.nodes, SNAPSHOT.encode()).inodes


@pytest.mark.parametrize(
    ("incomplete", "cut_off", "told"),
    [
        (False, False, ""),
        (True, False, "incomplete: not all that programs had written was taken"),
        (True, True, "incomplete: not all that programs had written was taken"),
        (False, True, "perhaps incomplete: the mount was cut off by force"),
    ],
)
def test_the_worse_of_both_is_told_with_and_without_the_reason(
    incomplete: bool, cut_off: bool, told: str
) -> None:
    assert superblock.what_it_lacks(incomplete=incomplete, cut_off=cut_off) == told
    short = superblock.what_it_lacks(incomplete=incomplete, cut_off=cut_off, why=False)
    assert short == told.partition(":")[0]
