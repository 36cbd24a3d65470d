"""The format against an independent reader: tests/golden/decoder.py knows docs/format.md and no pramfs.

The golden image was written once and stays: every later pramfs must read it, and every reader of
version 1. Images that pramfs writes now are read by the decoder in turn.
"""

import json
import lzma
import os
import stat
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.saves.tree_nodes import tree_names
from pramfs.storage.image import Image
from pramfs.storage.layout import BYTE_STREAM, PAGE_STREAM
from pramfs.storage.regions import Region, Regions
from pramfs.tree.tree import SNAPSHOTS_NAME, Tree
from tests.golden import decoder
from tests.golden.decoder import PAGE, Save, decode
from tests.golden.manifest import IMAGE, MANIFEST, manifest_of
from tests.golden.specimen import NS, Specimen, directory, expected, found, plant, regular
from tests.support.memory_image import memory_image

FRAMES = 128
TIMES_MAX = (1 << 63) * NS


# --- the golden image ---------------------------------------------------------------------------


@cache
def golden() -> bytes:
    return lzma.decompress(IMAGE.read_bytes())


@cache
def golden_save() -> Save:
    return decode(golden())


def test_the_golden_image_decodes_to_its_manifest() -> None:
    decoded = json.loads(json.dumps(manifest_of(golden_save())))
    assert decoded == json.loads(MANIFEST.read_text())


def test_the_golden_image_has_every_kind_of_inode_and_no_plain_layout() -> None:
    """The golden image still has everything it is meant to show if it is ever made again."""
    save = golden_save()
    inodes = save.trees[b"pramfs"].inodes.values()
    assert len({stat.S_IFMT(inode.mode) for inode in inodes}) == 7
    data = save.nodes[b"pramfs-data"]
    pfns = [page.pfn for page in data.pages]
    assert len(data.links) > 1
    assert pfns != sorted(pfns)
    assert 0 not in (save.super_block.pfn, save.super_block.other_pfn)
    for pfns in ([node.pfn for node in save.nodes.values()], data.links):
        assert max(pfns) - min(pfns) >= len(pfns), "nodes or links are all in a row"


@pytest.mark.parametrize("writable", [True, False], ids=["writable", "read-only"])
def test_pramfs_loads_the_trees_of_the_golden_image(writable: bool) -> None:
    with memory_image(golden(), writable=writable) as image:
        pram = Pram.open(image)
        assert {os.fsencode(name) for name in tree_names(pram.nodes)} == set(golden_save().trees)
        for name, tree in golden_save().trees.items():
            assert found(loaded(pram, name.decode())) == tree
        pram.close()


def test_pramfs_loads_the_nodes_of_the_golden_image() -> None:
    with memory_image(golden()) as image:
        pram = Pram.open(image)
        assert {os.fsencode(name) for name in pram.nodes} == set(golden_save().nodes)
        for node in golden_save().nodes.values():
            stream = pram.prepare_load(os.fsdecode(node.name), node.type)
            if node.type == BYTE_STREAM:
                assert stream.read(node.data_len + 1) == node.content
            else:
                pages = list(iter(stream.load_page, None))
                assert pages == [(page.data, page.flags, page.index) for page in node.pages]
        pram.close()


def test_pramfs_saves_into_the_golden_image_and_leaves_the_rest_alone() -> None:
    with memory_image(golden()) as image:
        pram = Pram.open(image)
        tree = loaded(pram, "pramfs")
        addition = regular(b"added today")
        home = directory({b"addition": addition}, 0o2701)
        plant_below_root(tree, b"new", home)
        save_tree(pram, tree)
        pram.close()
        after = decode(image.read(0, image.frames))
    assert after.super_block.generation == golden_save().super_block.generation + 1
    assert after.super_block.uuid == golden_save().super_block.uuid
    assert after.trees[b"empty"] == golden_save().trees[b"empty"]
    before = golden_save().trees[b"pramfs"].inodes
    inodes = after.trees[b"pramfs"].inodes
    assert {ino: inodes[ino] for ino in before if ino != 1} == without(before, 1)
    assert inodes[addition.ino].pages == addition.pages
    others = [name for name in golden_save().nodes if not name.startswith(b"pramfs-")]
    for name in others:
        was, now = golden_save().nodes[name], after.nodes[name]
        assert (now.pages, now.data_len, now.saved_ns) == (was.pages, was.data_len, was.saved_ns)


# --- images of today ----------------------------------------------------------------------------


def times() -> st.SearchStrategy[int]:
    return st.integers(-TIMES_MAX, TIMES_MAX - 1) | st.sampled_from([0, -1, NS, -NS - 1])


def names() -> st.SearchStrategy[bytes]:
    # Hypothesis also tries bytes that it finds in the sources, and these names are taken in the root.
    taken = (b".", b"..", SNAPSHOTS_NAME, b"added")
    return st.binary(min_size=1, max_size=255).filter(
        lambda name: not {0, ord("/")} & set(name) and name not in taken
    )


def xattrs() -> st.SearchStrategy[dict[bytes, bytes]]:
    values = st.binary(max_size=100) | st.just(b"v" * 5000)
    return st.dictionaries(names().map(lambda name: b"user." + name[:250]), values, max_size=3)


@st.composite
def files(draw: st.DrawFn) -> Specimen:
    size = draw(st.integers(0, 9 * PAGE) | st.integers(0, (1 << 63) - 1))
    last = (size - 1) // PAGE
    near = st.integers(0, min(last, 8))
    indices = draw(st.sets(near | st.integers(0, last), max_size=6)) if size else set()
    pages = {}
    for index in indices:
        length = min(PAGE, size - index * PAGE)
        pages[index] = (draw(st.binary(min_size=1, max_size=9)) * PAGE)[:length].ljust(PAGE, b"\0")
    return Specimen(stat.S_IFREG, size=size, pages=pages)


def leaves() -> st.SearchStrategy[Specimen]:
    symlinks = st.binary(min_size=1, max_size=4095).filter(lambda target: 0 not in target)
    devices = st.tuples(st.integers(0, 0xFFF), st.integers(0, 0xFFFFF))
    kinds = st.sampled_from([stat.S_IFCHR, stat.S_IFBLK])
    return st.one_of(
        files(),
        symlinks.map(lambda target: Specimen(stat.S_IFLNK, target=target)),
        st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]).map(Specimen),
        st.builds(lambda kind, dev: Specimen(kind, rdev=os.makedev(*dev)), kinds, devices),
    )


def directories() -> st.SearchStrategy[Specimen]:
    return st.recursive(
        st.dictionaries(names(), leaves(), max_size=4).map(directory),
        lambda below: st.dictionaries(names(), leaves() | below, max_size=4).map(directory),
        max_leaves=8,
    )


@st.composite
def trees(draw: st.DrawFn) -> Specimen:
    """A directory with all that can be below it, hard links and attributes included."""
    root = draw(directories())
    specimens = below(root)
    for specimen in specimens:
        specimen.mode = stat.S_IFMT(specimen.mode) | draw(st.integers(0, 0o7777))
        specimen.uid, specimen.gid = draw(st.tuples(*[st.integers(0, (1 << 32) - 2)] * 2))
        specimen.atime, specimen.mtime, specimen.ctime = draw(st.tuples(times(), times(), times()))
        specimen.xattrs = draw(xattrs())
    homes = [one for one in specimens if stat.S_ISDIR(one.mode)]
    linkable = [one for one in specimens if not stat.S_ISDIR(one.mode)]
    if linkable:
        pairs = st.tuples(names(), st.sampled_from(linkable), st.sampled_from(homes))
        for name, specimen, home in draw(st.lists(pairs, max_size=3)):
            home.entries.setdefault(name, specimen)
    return root


@st.composite
def bans(draw: st.DrawFn) -> Regions:
    """Up to 30 of the frames."""
    firsts = draw(st.lists(st.integers(0, FRAMES - 1), max_size=6))
    return Regions([Region(first, first + 4) for first in firsts])


@pytest.mark.timeout(1800)  # the long form decodes thousands of images, in plain Python
@given(first=trees(), second=trees(), banned=bans(), banned_later=bans())
def test_what_pramfs_saves_the_decoder_reads(
    first: Specimen, second: Specimen, banned: Regions, banned_later: Regions
) -> None:
    with memory_image() as image:
        pram = Pram.create(image, 2 * FRAMES, banned=banned, arena="image")
        tree = Tree(pram.arena, inodes_max=1000, generation=1)
        plant(tree, first)
        save_tree(pram, tree)
        pram.close()
        assert decoded_tree(image) == expected(tree, first)

        pram = Pram.open(image, banned=banned_later, arena="image")
        tree = loaded(pram, "pramfs", generation=2)
        assert found(tree) == decoded_tree(image)
        before = found(tree)
        plant_below_root(tree, b"added", second)
        save_tree(pram, tree)
        pram.close()
        after = decoded_tree(image)
        assert after == found(tree)
        assert without(after.inodes, 1).items() >= without(before.inodes, 1).items()


@given(data=st.binary(max_size=3 * PAGE), repeat=st.sampled_from([1, 300]))
def test_a_byte_stream_that_pramfs_saves_the_decoder_reads(data: bytes, repeat: int) -> None:
    with memory_image() as image:
        pram = Pram.create(image, 1024, arena="image")
        with pram.prepare_save("bytes", BYTE_STREAM) as stream:
            for _ in range(repeat):
                stream.write(data[: PAGE if repeat > 1 else None])
        pram.publish()
        pram.close()
        node = decode(image.read(0, image.frames)).nodes[b"bytes"]
    content = data[:PAGE] * repeat if repeat > 1 else data
    assert node.content == content
    padding = b"".join(page.data for page in node.pages)[len(content) :]
    assert not padding.strip(b"\0")


def test_a_page_stream_keeps_flags_indices_and_order() -> None:
    pages = [(2, 9, b"\1" * PAGE), (0, 9, b"\2" * PAGE), (0xFFFFFFFF, (1 << 64) - 1, bytes(PAGE))]
    with memory_image() as image:
        pram = Pram.create(image, FRAMES, arena="image")
        with pram.prepare_save("pages", PAGE_STREAM) as stream:
            for flags, index, page in pages:
                pfn = pram.arena.table.allocate(1)[0].pfn
                pram.arena.write(pfn, page)
                stream.save_page(pfn, index, flags)
        pram.publish()
        pram.close()
        found_pages = decode(image.read(0, image.frames)).nodes[b"pages"].pages
    assert [(page.flags, page.index, page.data) for page in found_pages] == pages


def test_a_new_image_is_an_empty_save() -> None:
    with memory_image() as image:
        Pram.create(image, FRAMES).close()
        save = decode(image.read(0, image.frames))
    assert (save.nodes, save.trees) == ({}, {})
    assert save.super_block.generation == 2


@pytest.mark.parametrize("saves", [1, 2, 3, 4])
def test_the_save_in_force_is_found_when_slots_have_been_left(saves: int) -> None:
    """Then there are more than two super blocks, and not every other slot holds one."""
    with memory_image() as image:
        pram = Pram.create(image, FRAMES, arena="image")
        generation = pram.current.generation
        pram.close()
        pram = Pram.open(image, banned=Regions([Region(0, 9)]), arena="image")
        for number in range(saves):
            with pram.prepare_save(f"save {number}", BYTE_STREAM) as stream:
                stream.write(b"%d" % number)
            pram.publish()
        pram.close()
        save = decode(image.read(0, image.frames))
    assert save.super_block.generation == generation + saves
    assert save.super_block.pfn > 9
    assert len(save.nodes) == saves


# --- helpers ------------------------------------------------------------------------------------


def loaded(pram: Pram, name: str, *, generation: int = 99) -> Tree:
    tree = Tree(pram.arena, inodes_max=1000, generation=generation)
    load_tree(pram, name, tree)
    return tree


def save_tree(pram: Pram, tree: Tree) -> None:
    Saver(pram, "pramfs", tree).save(final=True, progress=lambda frames: None)


def decoded_tree(image: Image) -> decoder.Tree:
    return decode(image.read(0, image.frames)).trees[b"pramfs"]


def plant_below_root(tree: Tree, name: bytes, specimen: Specimen) -> None:
    """Add `specimen`, a directory, to a tree that was loaded."""
    while name in tree.root.entries:
        name = name[1:] + b"+"
    holder = directory({name: specimen}, tree.root.mode)
    holder.ino = 1
    plant(tree, holder)


def without(inodes: dict[int, decoder.Inode], ino: int) -> dict[int, decoder.Inode]:
    return {number: inode for number, inode in inodes.items() if number != ino}


def below(root: Specimen) -> list[Specimen]:
    """`root` and every specimen below it."""
    return [root, *(one for child in root.entries.values() for one in below(child))]
