"""Hash flooding: integers that were chosen to collide, wherever an image or a user can choose dict keys."""

import random
import stat
import statistics
from collections.abc import MutableMapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.saves.codec import decode_tree
from pramfs.storage.frames import Extent
from pramfs.tree import hardened_dict
from pramfs.tree.hardened_dict import FEW, HardenedDict, is_dense, room_for
from pramfs.tree.pagemap import _FAR, CHUNK_PAGES, PageMap
from pramfs.tree.tree import Owner
from tests.support.colliding_image import metadata_of
from tests.support.dict_collisions import DictModel, forge
from tests.support.tree_volume import Volume

numbers = st.integers(1, 40)


def test_forged_numbers_meet_in_a_dict_and_not_when_they_are_scattered() -> None:
    """Each of them probes a tenth of all slots in use; otherwise the generator would not work."""
    forged = forge(2700)
    assert len(set(forged)) == 2700
    assert DictModel(forged).looked_at > 2700 * 270
    secrets = random.Random(0)
    assert statistics.median(_looked_at(forged, secrets) for _ in range(25)) < 2700 * 3.5


def _looked_at(numbers: list[int], secrets: random.Random) -> int:
    """Any secret may be an unlucky one: numbers as good as random look at 3.2 slots each, 1 in 1,000 at 5."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardened_dict, "_FACTOR", secrets.randrange(1, hardened_dict._PRIME))
        patch.setattr(hardened_dict, "_ADDEND", secrets.randrange(hardened_dict._PRIME))
        keys = HardenedDict(dict.fromkeys(numbers))._values
        return DictModel(map(hash, keys)).looked_at


def test_numbers_below_the_far_chunks_meet_less_often_than_matters() -> None:
    forged = forge(2700, bits=_FAR.bit_length() - 1)
    assert len(forged) < 2700
    assert DictModel(forged).looked_at < 300 * len(forged)


@given(st.lists(st.tuples(st.sampled_from(["set", "del"]), st.integers(0, 1 << 63)), max_size=60))
def test_a_scattered_map_is_a_map(changes: list[tuple[str, int]]) -> None:
    expected: dict[int, int] = {}
    found: HardenedDict[int] = HardenedDict({})
    for what, number in changes:
        if what == "set":
            expected[number] = found[number] = len(expected)
        elif expected:
            some = list(expected)[number % len(expected)]
            del expected[some], found[some]
        assert number in found or number not in expected
        assert found.get(number) == expected.get(number)
    assert list(found.items()) == list(expected.items())
    assert list(found.values()) == list(expected.values())
    assert len(found) == len(expected)
    assert HardenedDict(expected) == found


def test_a_number_that_is_not_there_is_missed() -> None:
    found = HardenedDict({1: "one"})
    assert (found.get(2), found.get(2, "none"), 2 in found) == (None, "none", False)
    with pytest.raises(KeyError):
        found[2]
    with pytest.raises(KeyError):
        del found[2]


@given(st.integers(9, 300), st.data())
def test_in_a_dense_dict_every_number_has_a_slot_of_its_own(end: int, data: st.DataObject) -> None:
    """Whichever numbers are removed, in whatever order, as long as half are there when one is added."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardened_dict, "FEW", 0)
        there = set(range(1, end))
        slots = DictModel(there)
        for _ in range(data.draw(st.integers(1, 100))):
            if is_dense(len(there), end) and data.draw(st.integers(0, 3)):
                slots.put(end)
                there.add(end)
                end += 1
            elif there:
                gone = data.draw(st.sampled_from(sorted(there)))
                slots.remove(gone)
                there.remove(gone)
            slots.looked_at = 0
            for number in there:
                slots.find(number)
            assert slots.looked_at == len(there)


@pytest.mark.parametrize(
    ("count", "end", "kind"),
    [
        (FEW, 1 << 63, dict),
        (FEW + 1, 1 << 63, HardenedDict),
        (100_000, 100_001, dict),
        (100_000, 200_000, dict),
        (100_000, 200_001, HardenedDict),
    ],
)
def test_numbers_are_scattered_that_are_many_and_not_dense(
    count: int, end: int, kind: type[MutableMapping[int, Any]]
) -> None:
    assert type(room_for(count, end)) is kind


def test_a_tree_with_forged_inode_numbers_is_scattered() -> None:
    forged = [number for number in forge(6000) if number > 1]
    decoded = decode_tree(metadata_of([(b"%d" % number, number, 0, 0) for number in forged]))
    assert isinstance(decoded.inodes, HardenedDict)
    assert [*decoded.inodes] == [1, *forged]
    assert all(decoded.inodes[number].ino == number for number in forged)


@pytest.mark.parametrize("step", [1, 2])
def test_an_honest_tree_is_in_a_dict_of_the_numbers_that_there_are(step: int) -> None:
    honest = range(2, 2 + 6000 * step, step)
    decoded = decode_tree(metadata_of([(b"%d" % number, number, 0, 0) for number in honest]))
    assert type(decoded.inodes) is dict
    assert [*decoded.inodes] == [1, *honest]
    assert all(ino is inode.ino for ino, inode in decoded.inodes.items())
    assert not any(inode.refs for inode in decoded.inodes.values())


def test_a_mounted_tree_is_scattered_when_it_is_dense_no_more() -> None:
    """A user who may remove files chooses the numbers that stay."""
    tree = Volume(2048).tree
    tree.inodes_max = 1 << 20
    root = tree.root
    for number in range(2 * FEW + 1000):
        tree.create(root, b"%d" % number, stat.S_IFREG | 0o644, Owner(0, 0))
    assert type(tree.inodes) is dict
    stay = {
        name: inode for name, inode in root.entries.items() if int(name) % 2 and int(name) > 200
    }
    for name in list(root.entries):
        if name not in stay:
            tree.unlink(root, name)
    new = tree.create(root, b"new", stat.S_IFREG | 0o644, Owner(0, 0))
    assert isinstance(tree.inodes, HardenedDict)
    assert {*tree.inodes.values()} == {root, new, *stay.values()}
    assert all(tree.get(inode.ino) is inode for inode in (root, new, *stay.values()))


def test_a_file_with_far_chunks_is_scattered_and_one_with_near_chunks_is_not() -> None:
    forged = sorted(forge(3000, bits=42))
    pages = PageMap()
    pages.put(CHUNK_PAGES, 7, 1)
    assert type(pages._rest) is dict
    for at, number in enumerate(forged):
        pages.put(number * CHUNK_PAGES, 10 + at, 1)
    assert isinstance(pages._rest, HardenedDict)
    assert [first // CHUNK_PAGES for first, _ in pages.chunks()] == sorted({1, *forged})
    assert all(pages.get(number * CHUNK_PAGES) == 10 + at for at, number in enumerate(forged))
    assert pages.cut(forged[-2] * CHUNK_PAGES) == [Extent(10 + len(forged) - 2, 2)]
    assert pages.get(forged[-1] * CHUNK_PAGES) == 0
