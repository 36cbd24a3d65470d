"""Births and reserved room: kept from save to save, and no reader is in trouble without them."""

import errno
import stat
from dataclasses import replace

import pytest

from pramfs.errors import DamagedTree
from pramfs.offline.check import check_image
from pramfs.pram.pram import Pram
from pramfs.saves.load import Recovered, load_tree
from pramfs.saves.more import apply_more, decode_more, encode_more
from pramfs.saves.save import Saver
from pramfs.saves.tree_nodes import MORE_SUFFIX
from pramfs.storage.layout import BIRTH, MORE_HEADER, MORE_MAGIC, PAGE_SIZE, RESERVED
from pramfs.tree.file_calls import KEEP_SIZE, PUNCH_HOLE
from pramfs.tree.inodes import FILE_MAX_PAGES, INO_MAX, File
from tests.golden.decoder import decode
from tests.support.image_audit import walk
from tests.support.memory_image import memory_image
from tests.support.refusals import refused
from tests.support.tree_volume import NAME, Volume, new_tree
from tests.support.watched_image import image_of
from tests.unit.test_format_golden import golden, loaded

MORE = NAME + MORE_SUFFIX


@pytest.fixture
def volume() -> Volume:
    return Volume(400)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [10**18]
    monkeypatch.setattr("pramfs.tree.inodes.clock_gettime_ns", lambda clock: now[0])
    return now


def fill(volume: Volume, file: File) -> None:
    """Append to the file until no page is left for it."""
    with refused(errno.ENOSPC):
        volume.tree.write(file, file.length, bytes(2000 * PAGE_SIZE))


# --- births --------------------------------------------------------------------------------------


def test_births_are_kept_whatever_becomes_of_the_other_times(
    volume: Volume, clock: list[int]
) -> None:
    born = {}
    for number in range(300):
        clock[0] += number % 3
        volume.mknod(f"f{number}", stat.S_IFIFO | 0o600)
        born[f"f{number}"] = clock[0]
    for number in range(0, 300, 7):
        volume.unlink(f"f{number}")
        del born[f"f{number}"]
    clock[0] += 10**9
    for _ in range(2):
        volume.link("f1", f"again{clock[0]}")
        volume.save()
        volume.reopen()
        clock[0] += 10**9
    assert {name: volume.inode(name).born for name in born} == born


def test_births_of_inodes_in_any_order_are_kept(volume: Volume, clock: list[int]) -> None:
    for name in "abcdef":
        clock[0] += 1
        volume.create(name)
    volume.unlink("c")
    tree = volume.tree
    more = decode_more(encode_more(tree.next_ino, dict(reversed(list(tree.inodes.items())))), 400)
    born = {ino: inode.born for ino, inode in tree.inodes.items()}
    for inode in tree.inodes.values():
        inode.born = 5
    apply_more(more, tree.inodes, tree.data.reservations)
    assert {ino: inode.born for ino, inode in tree.inodes.items()} == born


def test_nothing_is_added_for_inodes_whose_births_nobody_knows() -> None:
    with memory_image(golden()) as image:
        before = decode(image.read(0, image.frames)).nodes
        volume = Volume(pram=Pram.open(image))
        volume.tree = new_tree(volume.pram)
        load_tree(volume.pram, NAME, volume.tree)
        assert {inode.born for inode in volume.tree.inodes.values()} == {0}
        Saver(volume.pram, NAME, volume.tree).save(final=True, progress=lambda pages: None)
        assert decode(image.read(0, image.frames)).nodes.keys() == before.keys()
        file = volume.create("new")
        Saver(volume.pram, NAME, volume.tree).save(final=True, progress=lambda pages: None)
        again = loaded(volume.pram, NAME)
        assert {ino for ino, inode in again.inodes.items() if inode.born} == {file.ino}
        volume.pram.close()


def test_an_inode_made_by_who_knows_no_births_has_none(volume: Volume) -> None:
    volume.create("before")
    more = decode_more(encode_more(volume.tree.next_ino, volume.tree.inodes), 400)
    volume.create("after").born = 0
    apply_more(more, volume.tree.inodes, volume.tree.data.reservations)
    assert volume.inode("before").born
    assert not volume.inode("after").born


def test_the_births_of_another_tree_are_not_taken(volume: Volume) -> None:
    more = decode_more(encode_more(volume.tree.next_ino, volume.tree.inodes), 400)
    volume.tree.root.generation += 1
    volume.tree.root.born = 0
    apply_more(more, volume.tree.inodes, volume.tree.data.reservations)
    assert volume.tree.root.born == 0


def test_births_take_little_where_many_are_at_once(volume: Volume, clock: list[int]) -> None:
    for number in range(300):
        volume.mknod(f"f{number}", stat.S_IFIFO | 0o600)
    assert len(encode_more(volume.tree.next_ino, volume.tree.inodes)) < 100


# --- reserved room -------------------------------------------------------------------------------


@pytest.mark.parametrize("arena", ["image", "memory"])
def test_room_is_reserved_after_a_save_and_a_load(arena: str) -> None:
    volume = Volume(1024, arena=arena)
    file = volume.create("f", b"x" * 3 * PAGE_SIZE)
    volume.tree.fallocate(file, KEEP_SIZE, 2 * PAGE_SIZE, 200 * PAGE_SIZE)
    filler = volume.create("filler")
    for _ in range(3):
        volume.save()
        volume.reopen()
        file, filler = volume.file("f"), volume.file("filler")
        fill(volume, filler)
        volume.tree.write(file, 2 * PAGE_SIZE, b"y" * 100 * PAGE_SIZE)
        assert file.blocks == 202 * 8
        volume.check()
    volume.tree.write(file, 2 * PAGE_SIZE, b"z" * 200 * PAGE_SIZE)
    volume.save()


def test_many_ranges_fit_in_a_full_image(volume: Volume) -> None:
    file = volume.create("f")
    for page in range(0, 100, 2):
        volume.tree.fallocate(file, KEEP_SIZE, page * PAGE_SIZE, PAGE_SIZE)
    filler = volume.create("filler")
    fill(volume, filler)
    for _ in range(2):
        volume.save()
        volume.reopen()
    for page in range(0, 100, 2):
        volume.tree.write(volume.file("f"), page * PAGE_SIZE, b"x")
    volume.save()


@pytest.mark.parametrize("is_loaded", [False, True])
def test_room_is_reserved_for_pages_that_a_snapshot_has(is_loaded: bool) -> None:
    volume, pages = Volume(1024), 250
    file = volume.create("f", b"x" * pages * PAGE_SIZE)
    volume.saver.save(final=False, progress=lambda frames: None, snapshot=f"{NAME}@s")
    volume.tree.fallocate(file, 0, 0, pages * PAGE_SIZE)
    assert bytes(volume.tree.data.read(file, 0, file.length)) == b"x" * pages * PAGE_SIZE
    volume.save()
    if is_loaded:
        volume.reopen()
    fill(volume, volume.create("filler"))
    volume.tree.write(volume.file("f"), 0, b"y" * pages * PAGE_SIZE)
    volume.save()
    volume.check()


def test_room_for_pages_that_a_snapshot_has_is_refused_if_there_is_none(volume: Volume) -> None:
    file = volume.create("f", b"x" * 200 * PAGE_SIZE)
    volume.saver.save(final=False, progress=lambda frames: None, snapshot=f"{NAME}@s")
    with refused(errno.ENOSPC):
        volume.tree.fallocate(file, 0, 0, file.length)
    assert volume.file("f").reserved is None
    volume.save()  # with those that have got frames of their own
    volume.reopen()
    volume.check()


def test_a_hole_within_a_page_leaves_what_is_reserved_as_it_was(volume: Volume) -> None:
    file = volume.create("f")
    volume.tree.fallocate(file, 0, 0, 5 * PAGE_SIZE)
    for offset in (1, PAGE_SIZE - 1, 2 * PAGE_SIZE, 3 * PAGE_SIZE + 7):
        volume.tree.fallocate(file, KEEP_SIZE | PUNCH_HOLE, offset, 1)
    before = volume.facts()
    volume.save()
    volume.reopen()
    assert volume.facts() == before
    volume.check()


def test_ranges_that_touch_are_one(volume: Volume) -> None:
    """Images with such were written after a hole had been punched within a page."""
    ino = volume.create("f").ino
    more = decode_more(_more(ranges=[(ino, 0, 2), (ino, 2, 1)]), 400)
    more = replace(more, generation=volume.inode("").generation)
    apply_more(more, volume.tree.inodes, volume.tree.data.reservations)
    assert volume.facts()[ino].reserved == [(0, 3)]
    assert volume.tree.space.promised == 3


def test_what_is_reserved_for_files_that_are_gone_is_not_missed(volume: Volume) -> None:
    file = volume.create("f")
    volume.tree.fallocate(file, 0, 0, 5 * PAGE_SIZE)
    more = decode_more(encode_more(volume.tree.next_ino, volume.tree.inodes), 400)
    volume.unlink("f")
    apply_more(more, volume.tree.inodes, volume.tree.data.reservations)
    assert volume.tree.space.promised == 0


# --- damage --------------------------------------------------------------------------------------


def test_damage_is_found_and_everything_else_can_be_recovered(volume: Volume) -> None:
    file = volume.create("f", b"kept")
    volume.tree.fallocate(file, 0, 0, 5 * PAGE_SIZE)
    volume.save()
    content = bytearray(volume.image.content())
    node = next(node for node in walk(volume.image).nodes if node.name == MORE)
    content[node.entries[0].pfn * PAGE_SIZE + 40] ^= 1
    image = image_of(bytes(content))
    (damage,) = check_image(image).damage
    assert MORE in damage
    again = Volume(pram=Pram.open(image))
    again.tree = new_tree(again.pram)
    with pytest.raises(DamagedTree, match=MORE):
        load_tree(again.pram, NAME, again.tree)
    recovered = Recovered()
    load_tree(again.pram, NAME, again.tree, recover=recovered)
    assert MORE in recovered.more_lost
    assert again.read("f").startswith(b"kept")
    assert (again.file("f").born, again.file("f").reserved) == (0, None)
    Saver(again.pram, NAME, again.tree).save(final=True, progress=lambda pages: None)
    assert check_image(image).clean


def _more(
    *,
    magic: bytes = MORE_MAGIC,
    version: int = 1,
    births: list[tuple[int, int]] | None = None,
    ranges: list[tuple[int, int, int]] | None = None,
    more_births: int = 0,
    tail: bytes = b"",
) -> bytes:
    births, ranges = births or [], ranges or []
    header = MORE_HEADER.pack(magic, version, 1, len(births) + more_births, len(ranges))
    packed = [BIRTH.pack(*birth) for birth in births]
    return b"".join([header, *packed, *(RESERVED.pack(*entry) for entry in ranges), tail])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"PRAMMORE", "no header"),
        (_more(magic=b"PRAMTREE"), "not a tree's"),
        (_more(version=2), "has version 2"),
        (_more(tail=b"x"), "not in it"),
        (_more(more_births=1), "not in it"),
        (_more(more_births=(1 << 64) - 1), "not in it"),
        (_more(births=[(0, 1)]), "not in order"),
        (_more(births=[(2, 1), (2, 2)]), "not in order"),
        (_more(births=[(INO_MAX + 1, 1)]), "not in order"),
        (_more(ranges=[(2, 0, 0)]), "impossible range"),
        (_more(ranges=[(2, 0, 2), (2, 1, 1)]), "impossible range"),
        (_more(ranges=[(3, 0, 1), (2, 0, 1)]), "impossible range"),
        (_more(ranges=[(2, FILE_MAX_PAGES, 1)]), "impossible range"),
        (_more(ranges=[(2, 1, (1 << 64) - 1)]), "impossible range"),
        (_more(ranges=[(2, 0, 200), (2, 300, 201)]), "more than 400 pages"),
    ],
)
def test_what_cannot_be_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_more(data, 400)


# --- a reader that knows nothing of it -----------------------------------------------------------


def test_a_reader_of_version_0_1_reads_the_tree(volume: Volume) -> None:
    file = volume.create("f", b"kept")
    volume.tree.fallocate(file, 0, 0, 5 * PAGE_SIZE)
    volume.save()
    save = decode(volume.image.content())
    assert save.super_block.incompatible == 0
    inode = save.trees[NAME.encode()].inodes[file.ino]
    assert (inode.size, len(inode.pages)) == (5 * PAGE_SIZE, 1)
