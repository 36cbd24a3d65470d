"""The format is a contract: structs, offsets, limits and checksums are what the docstring says."""

import re
from struct import Struct
from typing import Any

import pytest

from pramfs.storage import layout
from pramfs.storage.layout import PAGE_SIZE

UUID = bytes(range(16))


@pytest.mark.parametrize(
    ("struct", "record", "size_bytes"),
    [
        (layout.SUPER, layout.SuperBlock, 256),
        (layout.NODE, layout.NodePage, 320),
        (layout.LINK, layout.LinkHeader, 24),
        (layout.TREE_HEADER, layout.TreeHeader, 40),
        (layout.INODE, layout.InodeRecord, 88),
        (layout.ENTRY, None, 24),
        (layout.DIRENT, None, 10),
        (layout.XATTR, None, 6),
    ],
)
def test_a_struct_has_its_documented_size_and_a_name_for_every_field(
    struct: Struct, record: Any, size_bytes: int
) -> None:
    assert struct.size == size_bytes
    if record is not None:
        assert len(record._fields) == len(struct.unpack(bytes(size_bytes)))


@pytest.mark.parametrize(
    ("struct", "record", "column"),
    [
        (layout.SUPER, layout.SuperBlock, r"Super block"),
        (layout.NODE, layout.NodePage, r"Node"),
        (layout.LINK, layout.LinkHeader, r"Link"),
        (layout.TREE_HEADER, layout.TreeHeader, r"Tree header"),
        (layout.INODE, layout.InodeRecord, r"Inode record"),
    ],
)
def test_every_field_lies_at_the_offset_that_the_docstring_gives(
    struct: Struct, record: Any, column: str
) -> None:
    """One field at a time is set to ones, and the bytes that change must start at its offset."""
    documented = _documented_offsets(column)
    zeros = struct.unpack(bytes(struct.size))
    for number, name in enumerate(record._fields):
        fields = list(zeros)
        fields[number] = b"\1" * len(zeros[number]) if isinstance(zeros[number], bytes) else 1
        packed = struct.pack(*fields)
        assert len(packed) - len(packed.lstrip(b"\0")) == documented[name], name


def _documented_offsets(title: str) -> dict[str, int]:
    """The offsets in the column of the docstring that is headed by `title`."""
    lines = (layout.__doc__ or "").splitlines()
    head = next(at for at, line in enumerate(lines) if re.search(rf"\b{title}( \(|\s|$)", line))
    match = re.search(rf"\b{title}\b", lines[head])
    assert match is not None
    offsets = {}
    for line in lines[head + 1 :]:
        if not line.strip():
            break
        field = re.match(r" {0,4}(\d+) (?:[uic]\d+ +)(\w+)", line[match.start() :])
        if field:
            offsets[field[2]] = int(field[1])
    return offsets


def test_a_link_holds_169_entries_of_24_bytes() -> None:
    assert layout.LINK_ENTRIES_MAX == 169
    used = layout.LINK.size + layout.LINK_ENTRIES_MAX * layout.ENTRY.size
    assert used <= PAGE_SIZE < used + layout.ENTRY.size


def test_frames_for_super_blocks_are_few_and_everywhere() -> None:
    """Two at every power of two and at every 16 MiB: any image has some, whatever is banned."""
    small = [pfn for pfn in range(300) if layout.is_slot(pfn)]
    assert small == [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257]
    for frames in (0, 1, 2, 3, 300, 4096, 4097, 20_000):
        bases = list(layout.slot_bases(frames))
        found = {base + one for base in bases for one in (0, 1)} & set(range(frames))
        assert found == set(filter(layout.is_slot, range(frames)))
        assert bases == sorted(set(bases))
    assert layout.is_slot(4096 * 1000)
    assert not layout.is_slot(4096 * 1000 + 2)


def test_the_magic_of_a_link_is_that_of_the_2013_filesystem() -> None:
    assert layout.LINK_MAGIC == 0x7072616D
    assert len({layout.LINK_MAGIC, layout.NODE_MAGIC, layout.SUPER_MAGIC}) == 3


def test_a_sealed_page_carries_its_own_checksum() -> None:
    page = _sealed(UUID, 7)
    assert int.from_bytes(page[4:8], "little") == layout.page_csum(UUID, 7, page)


def test_a_page_passes_in_no_other_place_and_in_no_other_image() -> None:
    page = _sealed(UUID, 7)
    csum = int.from_bytes(page[4:8], "little")
    assert csum != layout.page_csum(UUID, 8, page)
    assert csum != layout.page_csum(bytes(16), 7, page)


@pytest.mark.parametrize("at", [8, 100, PAGE_SIZE - 1])
def test_a_flipped_bit_anywhere_after_the_checksum_is_noticed(at: int) -> None:
    page = _sealed(UUID, 7)
    csum = int.from_bytes(page[4:8], "little")
    page[at] ^= 1
    assert csum != layout.page_csum(UUID, 7, page)


def test_a_zeroed_page_with_a_zeroed_checksum_does_not_pass() -> None:
    """The defect of the 2013 series, whose checksum starts from 0."""
    assert layout.page_csum(bytes(16), 0, bytes(PAGE_SIZE)) != 0


def _sealed(uuid: bytes, pfn: int) -> bytearray:
    page = bytearray(range(256)) * (PAGE_SIZE // 256)
    layout.seal_page(uuid, pfn, page)
    return page
