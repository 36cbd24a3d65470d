"""What docs/format.md and the docstring of `layout` say of offsets and checksums is what is in the code.

The offsets are computed from the formats of the structs, and compared with every row of every table.
"""

import itertools
import lzma
import re
import struct
from struct import Struct
from typing import NamedTuple

import pytest

from pramfs.storage import layout
from pramfs.storage.layout import PAGE_SIZE
from tests.golden import decoder
from tests.golden.manifest import IMAGE
from tests.support.checkout import CHECKOUT

DOCUMENT = (CHECKOUT / "docs" / "format.md").read_text()
TYPES = {"H": "u16", "I": "u32", "Q": "u64", "q": "i64"}

# In the order of the document: the struct, the names of its fields, and whether it fills a page.
STRUCTS: dict[str, tuple[Struct, tuple[str, ...], bool]] = {
    "Super block": (layout.SUPER, layout.SuperBlock._fields, True),
    "Node": (layout.NODE, layout.NodePage._fields, True),
    "Link": (layout.LINK, layout.LinkHeader._fields, False),
    "Entry": (layout.ENTRY, ("flags", "csum", "pfn", "index"), False),
    "Tree header": (layout.TREE_HEADER, layout.TreeHeader._fields, False),
    "Inode record": (layout.INODE, layout.InodeRecord._fields, False),
    "Directory entry": (layout.DIRENT, ("ino", "name_len"), False),
    "Xattr": (layout.XATTR, ("name_len", "value_len"), False),
    "More header": (layout.MORE_HEADER, layout.MoreHeader._fields, False),
    "Birth": (layout.BIRTH, ("ino", "born_ns"), False),
    "Reserved range": (layout.RESERVED, ("ino", "first", "pages"), False),
}


class Row(NamedTuple):
    """A field: its offset in bytes, its type, its name with [length] for arrays."""

    at: int
    type: str
    name: str


def rows_of(title: str) -> list[Row]:
    """The fields of a struct, computed from its format, and the zeros that fill its page."""
    layout_struct, names, fills_page = STRUCTS[title]
    codes = re.findall(r"\d+s|[A-Za-z]", layout_struct.format)
    sizes = [struct.calcsize(f"<{code}") for code in codes]
    offsets = [0, *itertools.accumulate(sizes)]
    rows = []
    for at, code, size, name in zip(offsets[:-1], codes, sizes, names, strict=True):
        is_bytes = code.endswith("s")
        rows.append(
            Row(at, "u8" if is_bytes else TYPES[code], f"{name}[{size}]" if is_bytes else name)
        )
    if fills_page:
        rows.append(Row(offsets[-1], "u8", f"zero[{PAGE_SIZE - offsets[-1]}]"))
    return rows


def document_tables() -> list[list[Row]]:
    """The tables of offsets in the document, in order; rows without a fixed offset are left out."""
    tables = re.findall(r"\| at \| type \| name .*\n\|[- |]+\n((?:\|.*\n)+)", DOCUMENT)
    row = re.compile(r"\| (\d+) \| (\w*) \| ([^ |]*) \|")
    return [
        [Row(int(at), type_, name) for at, type_, name in row.findall(table)] for table in tables
    ]


def docstring_table(title: str) -> list[Row]:
    """The fields in the column of the docstring below `title`; entries are set in below links."""
    indent = " {4,}" if title == "Entry" else " {0,3}"
    field = re.compile(rf"{indent}(\d+) (\w\d+) +(\S+)")
    lines = (layout.__doc__ or "").splitlines()
    heading = re.compile(rf"\b{'Link' if title == 'Entry' else title}( \(.*)?( {{3}}|$)")
    number, found = next(
        (at, match) for at, line in enumerate(lines) if (match := heading.search(line))
    )
    below = itertools.takewhile(str.strip, lines[number + 1 :])
    column = [line[found.start() : found.start() + 32] for line in below]
    matches = [match for line in column if (match := field.match(line))]
    return [Row(int(match[1]), match[2], match[3]) for match in matches]


@pytest.mark.parametrize("title", STRUCTS)
def test_the_tables_of_the_document_are_the_structs(title: str) -> None:
    rows = rows_of(title)
    table = document_tables()[list(STRUCTS).index(title)]
    assert table[: len(rows)] == rows
    assert [row.at for row in table[len(rows) :]] == [STRUCTS[title][0].size] * (
        len(table) - len(rows)
    ), "what has no fixed size begins where the struct ends"


def test_the_document_has_a_table_for_every_struct_and_no_other() -> None:
    assert len(document_tables()) == len(STRUCTS)


@pytest.mark.parametrize("title", STRUCTS)
def test_the_tables_of_the_docstring_are_the_structs(title: str) -> None:
    rows = rows_of(title)
    assert docstring_table(title)[: len(rows)] == rows


def test_the_checksums_given_as_examples_are_right() -> None:
    uuid = bytes(range(16))
    zeros = bytes(PAGE_SIZE)
    examples = {
        "data page of zeros": decoder.crc32c(zeros),
        "data page of bytes 0xFF": decoder.crc32c(b"\xff" * PAGE_SIZE),
        "data page of bytes 0, 1, … 255, 0, 1, …": decoder.crc32c(bytes(range(256)) * 16),
        "metadata page with bytes 8..4095 zero, uuid 00 01 02 … 0f, pfn 0": (
            decoder.metadata_csum(uuid, 0, zeros)
        ),
        "the same page at pfn 1": decoder.metadata_csum(uuid, 1, zeros),
        "the same page at pfn 0x2A": decoder.metadata_csum(uuid, 0x2A, zeros),
    }
    given = dict(re.findall(r"\| (\S.*) \| 0x([0-9A-F]{8}) \|", DOCUMENT))
    assert given == {what: f"{csum:08X}" for what, csum in examples.items()}
    assert f"`123456789` has 0x{decoder.crc32c(b'123456789'):08X}" in DOCUMENT


@pytest.mark.parametrize("pfn", [0, 1, 0x2A])
def test_the_code_computes_the_csum_that_the_document_describes(pfn: int) -> None:
    uuid, page = bytes(range(16)), bytes(range(256)) * 16
    assert layout.page_csum(uuid, pfn, page) == decoder.metadata_csum(uuid, pfn, page)


def test_the_slots_that_the_document_names_are_those_of_the_code_and_of_the_decoder() -> None:
    (listed,) = re.findall(r"that is (0, 1, 2, 3, [^.]*)\.", DOCUMENT)
    named = [int(number) for number in re.findall(r"\d+", listed)]
    slots = [pfn for pfn in range(12290) if layout.is_slot(pfn)]
    assert named == [pfn for pfn in slots if pfn < 34 or pfn >= 2048]
    assert slots == [pfn for pfn in range(12290) if decoder.is_slot(pfn)]


def test_the_example_is_what_is_in_the_golden_image() -> None:
    content = lzma.decompress(IMAGE.read_bytes())
    save = decoder.decode(content)
    block, greeting = save.super_block, save.nodes[b"greeting"]
    link, entry = greeting.links[0], greeting.pages[0]
    rows = [
        (
            f"| pfn 0x{block.pfn:X}, csum 0x{csum_at(content, block.pfn):08X}, generation 6, "
            f"node_pfn 0x{block.node_pfn:X}, {len(save.nodes)} nodes |"
        ),
        f"| the other slot | pfn 0x{block.other_pfn:X} |",
        f"| pfn 0x{greeting.pfn:X}, csum 0x{csum_at(content, greeting.pfn):08X} |",
        f"| its only link | pfn 0x{link:X}, csum 0x{csum_at(content, link):08X} |",
        f"| pfn 0x{entry.pfn:X}, csum 0x{decoder.crc32c(entry.data):08X}: `hello`",
    ]
    assert [row for row in rows if row not in DOCUMENT] == []


def csum_at(content: bytes, pfn: int) -> int:
    return int.from_bytes(content[pfn * PAGE_SIZE + 4 : pfn * PAGE_SIZE + 8], "little")


def test_the_document_gives_the_magics_as_they_are_in_an_image() -> None:
    for magic in (layout.SUPER_MAGIC, layout.NODE_MAGIC, layout.LINK_MAGIC):
        text = magic.to_bytes(4, "little").decode()
        assert f"0x{magic:08X} (the bytes `{text}`)" in DOCUMENT
    for name in (layout.TREE_MAGIC, layout.MORE_MAGIC):
        assert f"the bytes `{name.decode()}`" in DOCUMENT
