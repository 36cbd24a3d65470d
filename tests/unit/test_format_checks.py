"""Every check that docs/format.md asks of a reader: images that break one rule each.

Their checksums are right, as those of a hostile image would be. Both readers must refuse them with an
error of their own: pramfs, and the decoder that was written from the document. The metadata of trees is
encoded here from the document, so this is an independent writer too.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from pramfs.errors import PramError
from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.storage import superblock
from pramfs.storage.image import Image
from pramfs.storage.layout import BYTE_STREAM, PAGE_STREAM
from pramfs.tree.tree import Tree
from tests.golden.decoder import (
    PAGE,
    FormatError,
    Save,
    decode,
    find_super_block,
    metadata_csum,
)
from tests.support.memory_image import memory_image

FRAMES = 64
U64_MAX = (1 << 64) - 1
LINK_ENTRIES_MAX = 169


# --- super block, nodes, links, entries ---------------------------------------------------------


class Editor:
    """Changes fields of an image, and makes the checksums right again."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.save: Save = decode(content)
        self.block = self.save.super_block

    def pfn(self, name: str) -> int:
        return self.save.nodes[name.encode()].pfn

    def link(self, name: str, number: int = 0) -> int:
        return self.save.nodes[name.encode()].links[number]

    def data(self, name: str, number: int = 0) -> int:
        return self.save.nodes[name.encode()].pages[number].pfn

    def put(self, pfn: int, at: int, field: bytes) -> None:
        """Change the metadata page `pfn`."""
        self.put_unsealed(pfn, at, field)
        page = bytes(self.content[pfn * PAGE : (pfn + 1) * PAGE])
        csum = metadata_csum(self.block.uuid, pfn, page)
        self.put_unsealed(pfn, 4, csum.to_bytes(4, "little"))

    def put_unsealed(self, pfn: int, at: int, field: bytes) -> None:
        self.content[pfn * PAGE + at : pfn * PAGE + at + len(field)] = field

    def move(self, pfn: int, new_pfn: int) -> int:
        """Copy the page `pfn` to `new_pfn`; as a metadata page it is sound there."""
        page = bytes(self.content[pfn * PAGE : (pfn + 1) * PAGE])
        self.put_unsealed(new_pfn, 0, page)
        if page[:4] in (b"nmrp", b"marp"):
            self.put(new_pfn, 0, page[:4])
        return new_pfn

    def super(self, at: int, field: bytes) -> None:
        self.put(self.block.pfn, at, field)

    def node(self, name: str, at: int, field: bytes) -> None:
        self.put(self.pfn(name), at, field)

    def entry(self, name: str, number: int, at: int, field: bytes) -> None:
        self.put(self.link(name), 24 + 24 * number + at, field)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


@cache
def sound_image() -> bytes:
    """An image with byte streams "bytes" (3 pages) and "long" (2 links), and a page stream "pages"."""
    with memory_image() as image:
        pram = Pram.create(image, 512, arena="image")
        with pram.prepare_save("bytes", BYTE_STREAM) as stream:
            stream.write(b"b" * (2 * PAGE + 1))
        with pram.prepare_save("long", BYTE_STREAM) as stream:
            stream.write(bytes(PAGE) * (LINK_ENTRIES_MAX + 1))
        save_pages(pram, "pages", [(2, 5), (2, 6)])
        pram.publish()
        pram.close()
        content: bytes = image.read(0, image.frames)
    return content


Edit = Callable[[Editor], None]

STRUCTURES: dict[str, Edit] = {
    "super block of another version": lambda e: e.super(16, u32(2)),
    "super block of version 0": lambda e: e.super(16, u32(0)),
    "super block with a feature that nobody knows": lambda e: e.super(24, u32(1 << 31)),
    "both super blocks in one frame": lambda e: e.super(56, u64(e.block.pfn)),
    "the other slot past the end": lambda e: e.super(56, u64(e.block.frames)),
    "the other slot where none is": lambda e: e.super(56, u64(500)),
    "too few frames": lambda e: e.super(72, u64(2)),
    "more frames than there can be": lambda e: e.super(72, u64((1 << 32) + 1)),
    "more frames than the image has": lambda e: e.super(72, u64(e.block.frames + 1)),
    "first node past the end": lambda e: e.super(8, u64(e.block.frames)),
    "first node far away": lambda e: e.super(8, u64(U64_MAX)),
    "first node is a slot in use": lambda e: e.super(8, u64(e.block.other_pfn)),
    "first node is in an empty slot": lambda e: e.super(8, u64(e.move(e.pfn("bytes"), 257))),
    "first node is a link": lambda e: e.super(8, u64(e.link("bytes"))),
    "more nodes than the list has": lambda e: e.super(88, u64(4)),
    "fewer nodes than the list has": lambda e: e.super(88, u64(2)),
    "an empty list with nodes": lambda e: e.super(8, u64(0)),
    "node without magic": lambda e: e.node("bytes", 0, u32(0)),
    "node with a wrong csum": lambda e: e.put_unsealed(e.pfn("bytes"), 4000, b"\1"),
    "node that is being saved": lambda e: e.node("bytes", 8, u32(1)),
    "node that is being loaded": lambda e: e.node("bytes", 8, u32(2)),
    "node of type 0": lambda e: e.node("pages", 12, u32(0)),
    "node of type 3": lambda e: e.node("pages", 12, u32(3)),
    "byte stream with too few entries": lambda e: e.node("bytes", 16, u64(3 * PAGE + 1)),
    "byte stream with too many entries": lambda e: e.node("bytes", 16, u64(2 * PAGE)),
    "byte stream of 2^64 bytes": lambda e: e.node("bytes", 16, u64(U64_MAX)),
    "page stream with a length": lambda e: e.node("pages", 16, u64(2 * PAGE)),
    "node without a chain that it says it has": lambda e: e.node("pages", 24, u64(0)),
    "node whose chain is past the end": lambda e: e.node("pages", 24, u64(e.block.frames)),
    "node whose chain is of another": lambda e: e.node("pages", 24, u64(e.link("bytes"))),
    "node whose chain is a node": lambda e: e.node("pages", 24, u64(e.pfn("bytes"))),
    "node that follows itself": lambda e: e.node("pages", 32, u64(e.pfn("pages"))),
    "node before the end followed by the first": lambda e: e.node("pages", 32, u64(e.pfn("bytes"))),
    "node followed past the end": lambda e: e.node("bytes", 32, u64(U64_MAX)),
    "node without a name": lambda e: e.node("bytes", 40, bytes(256)),
    "node whose name has no NUL": lambda e: e.node("bytes", 40, b"n" * 256),
    "node with something behind its name": lambda e: e.node("bytes", 295, b"x"),
    "two nodes of one name": lambda e: e.node("pages", 40, b"bytes\0"),
    "node with another number of links": lambda e: e.node("bytes", 296, u64(2)),
    "node with another number of entries": lambda e: e.node("pages", 304, u64(3)),
    "link without magic": lambda e: e.put(e.link("bytes"), 0, u32(0)),
    "link with a wrong csum": lambda e: e.put_unsealed(e.link("bytes"), 4095, b"\1"),
    "link without entries": lambda e: e.put(e.link("long", 1), 8, u32(0)),
    "link with 170 entries": lambda e: e.put(e.link("long"), 8, u32(170)),
    "link with 2^32 - 1 entries": lambda e: e.put(e.link("long"), 8, u32((1 << 32) - 1)),
    "link that follows itself": lambda e: e.put(e.link("bytes"), 16, u64(e.link("bytes"))),
    "link followed by the first": lambda e: e.put(e.link("long", 1), 16, u64(e.link("long"))),
    "link followed past the end": lambda e: e.put(e.link("bytes"), 16, u64(e.block.frames)),
    "link followed by one in a slot": lambda e: e.put(
        e.link("long"), 16, u64(e.move(e.link("long", 1), 256))
    ),
    "link followed by a data page": lambda e: e.put(e.link("bytes"), 16, u64(e.data("bytes"))),
    "chain cut off": lambda e: e.put(e.link("long"), 16, u64(0)),
    "entry of frame 0": lambda e: e.entry("bytes", 0, 8, u64(0)),
    "entry past the end": lambda e: e.entry("bytes", 0, 8, u64(e.block.frames)),
    "entry far away": lambda e: e.entry("bytes", 0, 8, u64(U64_MAX)),
    "entry of a slot in use": lambda e: e.entry("bytes", 0, 8, u64(e.block.other_pfn)),
    "entry of an empty slot": lambda e: e.entry("bytes", 0, 8, u64(e.move(e.data("bytes"), 64))),
    "entry of a node": lambda e: e.entry("bytes", 0, 8, u64(e.pfn("bytes"))),
    "entry of its own link": lambda e: e.entry("bytes", 0, 8, u64(e.link("bytes"))),
    "two entries of one frame": lambda e: e.entry("bytes", 0, 8, u64(e.data("bytes", 1))),
    "entries of one frame in two nodes": lambda e: e.entry("pages", 0, 8, u64(e.data("bytes"))),
    "entry with a wrong csum": lambda e: e.entry("bytes", 1, 4, u32(1)),
    "data page with a flipped bit": lambda e: e.put_unsealed(e.data("pages", 1), 99, b"\xfe"),
    "byte stream in another order": lambda e: e.entry("bytes", 1, 16, u64(0)),
}


def posing(editor: Editor, pfn: int, generation: int) -> None:
    """Put a super block of an empty save into a frame; everything in it is right."""
    page = bytearray(editor.content[editor.block.pfn * PAGE : (editor.block.pfn + 1) * PAGE])
    page[8:16] = page[88:96] = u64(0)
    page[48:56], page[64:72] = u64(pfn), u64(generation)
    page[80:88] = u64(2)
    editor.put(pfn, 0, bytes(page))


@pytest.mark.parametrize("pfn", [6, 7, 10, 31, 255, 258, 500, 511])
def test_both_readers_take_a_page_outside_the_slots_for_no_super_block(pfn: int) -> None:
    """Whatever is in it: users of the file system fill such pages."""
    editor = Editor(sound_image())
    posing(editor, pfn, editor.block.generation + 1)
    content = bytes(editor.content)
    assert find_super_block(content) == editor.block
    with memory_image(content) as image:
        assert superblock.discover(image).generation == editor.block.generation


@pytest.mark.parametrize("pfn", [2, 5, 64, 257])
def test_both_readers_look_into_every_slot(pfn: int) -> None:
    editor = Editor(sound_image())
    posing(editor, pfn, editor.block.generation + 1)
    content = bytes(editor.content)
    assert find_super_block(content).pfn == pfn
    with memory_image(content) as image:
        assert superblock.discover(image).pfn == pfn


@pytest.mark.parametrize("edit", STRUCTURES.values(), ids=STRUCTURES)
def test_both_readers_refuse_a_structure_that_breaks_a_rule(edit: Edit) -> None:
    editor = Editor(sound_image())
    edit(editor)
    assert bytes(editor.content) != sound_image()
    with pytest.raises(FormatError):
        decode(bytes(editor.content))
    with memory_image(bytes(editor.content)) as image, pytest.raises(PramError):
        load_all(image)


def test_both_readers_accept_what_the_rules_leave_open() -> None:
    """Bytes and bits that a reader ignores."""
    editor = Editor(sound_image())
    editor.super(20, u32(1 << 31))  # a compatible feature
    editor.super(28, u32(1 << 31))
    editor.super(152, b"\1" * (PAGE - 152))
    editor.node("bytes", 8, u32(4))
    editor.node("bytes", 320, b"\1" * (PAGE - 320))
    editor.put(editor.link("bytes"), 12, u32(1))
    editor.put(editor.link("bytes"), 24 + 24 * 3, b"\1" * (PAGE - 24 - 24 * 3))
    content = bytes(editor.content)
    assert decode(content).nodes[b"bytes"].content == b"b" * (2 * PAGE + 1)
    with memory_image(content) as image:
        load_all(image)


def load_all(image: Image) -> None:
    """Open the image and read every node with pramfs."""
    pram = Pram.open(image, arena="image")
    with contextlib.closing(pram):
        for name, node in list(pram.nodes.items()):
            stream = pram.prepare_load(name, node.type)
            if node.type == BYTE_STREAM:
                stream.read(node.data_len)
            else:
                while stream.load_page():
                    pass


# --- trees --------------------------------------------------------------------------------------


def record(
    ino: int,
    mode: int,
    nlink: int,
    *,
    size: int = 0,
    pages: int = 0,
    nsec: tuple[int, int, int] = (0, 0, 0),
    xattrs: int = 0,
    body: bytes = b"",
) -> bytes:
    """An inode record. `body` is all that follows the fixed part."""
    head = struct.pack("<QIIIII", ino, 1, mode, 0, 0, nlink)
    times = struct.pack("<IIIqqq", *nsec, 0, 0, 0)
    return head + times + struct.pack("<QQII", size, pages, xattrs, 0) + body


def file(pages: int, *, nlink: int = 2, size: int = 1 << 20) -> bytes:
    return record(2, 0o100644, nlink, size=size, pages=pages)


def entry(ino: int, name: bytes) -> bytes:
    return struct.pack("<QH", ino, len(name)) + name


def xattr(name: bytes, value: bytes) -> bytes:
    return struct.pack("<HI", len(name), len(value)) + name + value


ROOT_ENTRIES = [entry(2, b"file"), entry(3, b"directory"), entry(4, b"link"), entry(5, b"device"),
                entry(6, b"fifo")]  # fmt: skip


def root(
    *more: bytes,
    entries: list[bytes] = ROOT_ENTRIES,
    nlink: int = 3,
    extra: int = 0,
    pages: int = 0,
) -> bytes:
    """The root directory; it says that it has `extra` entries more than it has."""
    all_entries = [*entries, *more]
    size = len(all_entries) + extra
    return record(1, 0o040755, nlink, size=size, pages=pages, body=b"".join(all_entries))


def tree(*, header: dict[str, Any] | None = None, tail: bytes = b"", **records: bytes) -> bytes:
    """The metadata of a sound tree, apart from what the arguments replace."""
    parts = {
        "root": root(),
        "file": record(2, 0o100644, 2, size=2 * PAGE + 1, pages=2, xattrs=2,
                       body=xattr(b"user.a", b"1") + xattr(b"user.b", b"")),
        "directory": record(3, 0o040700, 2, size=1, body=entry(2, b"hard link")),
        "link": record(4, 0o120777, 1, size=3, body=b"../"),
        "device": record(5, 0o020600, 1, size=0x12345678),
        "fifo": record(6, 0o010600, 1),
    } | records  # fmt: skip
    values = {
        "magic": b"PRAMTREE",
        "version": 1,
        "flags": 0,
        "next_ino": 7,
        "inodes": len(parts),
        "pages": 2,
    } | (header or {})
    return pack_header(*values.values()) + b"".join(parts.values()) + tail


def pack_header(*values: Any) -> bytes:
    return struct.pack("<8sIIQQQ", *values)


def attributed(attributes: bytes, xattrs: int = 1) -> bytes:
    return tree(fifo=record(6, 0o010600, 1, xattrs=xattrs, body=attributes))


def named(*names: bytes) -> bytes:
    """The sound tree with these names for the inode that is called fifo."""
    return tree(
        root=root(*(entry(6, name) for name in names), entries=ROOT_ENTRIES[:-1]),
        fifo=record(6, 0o010600, len(names)),
    )


def ring() -> dict[str, bytes]:
    """Two directories in each other, and in nothing else."""
    return {
        "one": record(7, 0o040755, 3, size=1, body=entry(8, b"other")),
        "other": record(8, 0o040755, 3, size=1, body=entry(7, b"one")),
    }


TREES: dict[str, bytes] = {
    "no header": b"",
    "half a header": tree()[:39],
    "another magic": tree(header={"magic": b"PRAMTRE\0"}),
    "another version": tree(header={"version": 2}),
    "flags": tree(header={"flags": 1}),
    "next_ino that is taken": tree(header={"next_ino": 6}),
    "next_ino of more than 63 bits": tree(header={"next_ino": (1 << 63) + 1}),
    "more inodes than there are": tree(header={"inodes": 7}),
    "fewer inodes than there are": tree(header={"inodes": 5}),
    "2^64 - 1 inodes": tree(header={"inodes": U64_MAX}),
    "no inodes": pack_header(b"PRAMTREE", 1, 0, 7, 0, 0),
    "another number of pages": tree(header={"pages": 3}),
    "fewer pages than entries": tree(header={"pages": 1}, file=file(1)),
    "more pages than entries": tree(header={"pages": 3}, file=file(3)),
    "2^64 - 1 pages": tree(header={"pages": U64_MAX}, file=file(U64_MAX)),
    "half a record at the end": tree()[:-1],
    "bytes after the last record": tree(tail=b"\0"),
    "inode 0": tree(root=root(entry(0, b"zero")), zero=record(0, 0o100644, 1)),
    "an inode twice": tree(again=record(6, 0o010600, 1)),
    "mode of 17 bits": tree(fifo=record(6, 0o1010600, 1)),
    "kind 0": tree(fifo=record(6, 0o000600, 1)),
    "kind 017": tree(fifo=record(6, 0o170600, 1)),
    "10^9 nanoseconds of atime": tree(fifo=record(6, 0o010600, 1, nsec=(10**9, 0, 0))),
    "10^9 nanoseconds of mtime": tree(fifo=record(6, 0o010600, 1, nsec=(0, 10**9, 0))),
    "10^9 nanoseconds of ctime": tree(fifo=record(6, 0o010600, 1, nsec=(0, 0, 10**9))),
    "file of 2^63 bytes": tree(file=file(2, size=1 << 63)),
    "directory with pages": tree(file=file(1), root=root(pages=1)),
    "target of no bytes": tree(link=record(4, 0o120777, 1)),
    "target of 4,096 bytes": tree(link=record(4, 0o120777, 1, size=4096, body=b"t" * 4096)),
    "target past the end": tree(fifo=b"", link=record(4, 0o120777, 1, size=4095, body=b"t")),
    "target with a NUL": tree(link=record(4, 0o120777, 1, size=3, body=b"a\0b")),
    "device number of 33 bits": tree(device=record(5, 0o020600, 1, size=1 << 32)),
    "fifo of 2^32": tree(fifo=record(6, 0o010600, 1, size=1 << 32)),
    "directory with fewer entries": tree(root=root(extra=-1)),
    "directory with more entries": tree(root=root(extra=1)),
    "directory with 2^64 - 1 entries": tree(root=root(extra=U64_MAX - 5)),
    "no name": named(b""),
    "name of 256 bytes": named(b"n" * 256),
    "name past the end": tree(fifo=record(6, 0o040755, 2, size=1, body=entry(2, b"n")[:-1])),
    "name with a NUL": named(b"a\0b"),
    "name with a slash": named(b"a/b"),
    "name .": named(b"."),
    "name ..": named(b".."),
    "a name twice": named(b"name", b"name"),
    "a name twice for different inodes": named(b"file"),
    "entry for an inode without record": tree(root=root(entry(99, b"none"))),
    "entry for inode 0": tree(root=root(entry(0, b"none"))),
    "entry for the root": tree(
        directory=record(3, 0o040700, 3, size=2, body=entry(2, b"hard link") + entry(1, b"root"))
    ),
    "directory with two names": tree(root=root(entry(3, b"again"), nlink=4)),
    "directory without a name": tree(header={"next_ino": 8}, more=record(7, 0o040755, 2)),
    "directories in a ring": tree(header={"next_ino": 9}, **ring()),
    "inode without a name": tree(header={"next_ino": 8}, more=record(7, 0o100644, 0)),
    "fewer names than nlink": tree(fifo=record(6, 0o010600, 2)),
    "more names than nlink": tree(file=file(2, nlink=1)),
    "nlink of a directory": tree(root=root(nlink=2)),
    "no root": pack_header(b"PRAMTREE", 1, 0, 7, 1, 0) + record(2, 0o040755, 2),
    "root that is a file": pack_header(b"PRAMTREE", 1, 0, 7, 1, 0) + record(1, 0o100644, 1),
    "attribute without a name": attributed(xattr(b"", b"v")),
    "attribute with a name of 256 bytes": attributed(xattr(b"n" * 256, b"v")),
    "attribute with a NUL in its name": attributed(xattr(b"user.\0", b"v")),
    "attribute of 65,537 bytes": attributed(xattr(b"user.a", bytes(65537))),
    "attribute past the end": attributed(xattr(b"user.a", b"value")[:-1]),
    "an attribute twice": attributed(xattr(b"user.a", b"1") + xattr(b"user.a", b"2"), 2),
    "2^32 - 1 attributes": attributed(xattr(b"user.a", b"1"), (1 << 32) - 1),
}

# flags and index of the entries of a file of 2 pages and a byte
PAGES: dict[str, list[tuple[int, int]]] = {
    "pages in another order": [(2, 1), (2, 0)],
    "a page twice": [(2, 1), (2, 1)],
    "a page past the end": [(2, 1), (2, 3)],
    "a page far past the end": [(2, 1), (2, U64_MAX)],
    "a page that is not data": [(2, 0), (1, 1)],
}


@pytest.mark.parametrize(
    ("metadata", "pages"),
    [
        (tree(), [(2, 0), (2, 2)]),
        (named(b"n" * 255, b"\n\xff"), [(2, 0), (2, 1)]),
        (attributed(xattr(b"n" * 255, bytes(65536))), [(2, 1), (2, 2)]),
        (tree(file=file(2, size=(1 << 63) - 1)), [(2, 0), (2, (1 << 51) - 1)]),
        (tree(link=record(4, 0o120777, 1, size=4095, body=b"t" * 4095)), [(2, 0), (2, 1)]),
    ],
    ids=["all kinds", "names", "attributes", "a huge file", "a long target"],
)  # fmt: skip
def test_both_readers_accept_a_tree_that_keeps_to_the_limits(
    metadata: bytes, pages: list[tuple[int, int]]
) -> None:
    with tree_image(metadata, pages) as image:
        decoded = decode(image.read(0, image.frames)).trees[b"tree"]
        assert sorted(load(image)) == sorted(decoded.inodes)


@pytest.mark.parametrize("metadata", TREES.values(), ids=TREES)
def test_both_readers_refuse_metadata_that_breaks_a_rule(metadata: bytes) -> None:
    check_refused(metadata, [(2, 0), (2, 1)])


@pytest.mark.parametrize("pages", PAGES.values(), ids=PAGES)
def test_both_readers_refuse_entries_that_are_not_those_of_the_files(
    pages: list[tuple[int, int]],
) -> None:
    check_refused(tree(), pages)


def check_refused(metadata: bytes, pages: list[tuple[int, int]]) -> None:
    with tree_image(metadata, pages) as image:
        with pytest.raises(FormatError):
            decode(image.read(0, image.frames))
        with pytest.raises(PramError):
            load(image)


@pytest.mark.parametrize("types", [(BYTE_STREAM, BYTE_STREAM), (PAGE_STREAM, PAGE_STREAM)])
def test_both_readers_refuse_a_tree_of_streams_of_another_type(types: tuple[int, int]) -> None:
    with memory_image() as image:
        pram = Pram.create(image, FRAMES, arena="image")
        for suffix, type_ in zip(("meta", "data"), types, strict=True):
            with pram.prepare_save(f"tree-{suffix}", type_):
                pass
        pram.publish()
        pram.close()
        with pytest.raises(FormatError):
            decode(image.read(0, image.frames))
        with pytest.raises(PramError):
            load(image)


def test_half_a_tree_is_none_and_is_refused_when_asked_for() -> None:
    with memory_image() as image:
        pram = Pram.create(image, FRAMES, arena="image")
        with pram.prepare_save("tree-meta", BYTE_STREAM) as stream:
            stream.write(tree())
        pram.publish()
        pram.close()
        assert decode(image.read(0, image.frames)).trees == {}
        with pytest.raises(PramError):
            load(image)


# --- helpers ------------------------------------------------------------------------------------


@contextlib.contextmanager
def tree_image(metadata: bytes, pages: list[tuple[int, int]]) -> Iterator[Image]:
    """An image with a tree of this metadata and entries of these flags and indices."""
    with memory_image() as image:
        pram = Pram.create(image, FRAMES, arena="image")
        with pram.prepare_save("tree-meta", BYTE_STREAM) as stream:
            stream.write(metadata)
        save_pages(pram, "tree-data", pages)
        pram.publish()
        pram.close()
        yield image


def save_pages(pram: Pram, name: str, pages: list[tuple[int, int]]) -> None:
    """A page stream of pages with these flags and indices."""
    with pram.prepare_save(name, PAGE_STREAM) as stream:
        for flags, index in pages:
            pfn = pram.arena.table.allocate(1)[0].pfn
            pram.arena.write(pfn, bytes([index % 256]) * PAGE)
            stream.save_page(pfn, index, flags)


def load(image: Image) -> list[int]:
    """Load the tree with pramfs; returns the numbers of its inodes."""
    pram = Pram.open(image, arena="image")
    with contextlib.closing(pram):
        loaded = Tree(pram.arena, inodes_max=100, generation=1)
        load_tree(pram, "tree", loaded)
        return list(loaded.inodes)
