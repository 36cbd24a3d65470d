"""What docs/stream.md says of the layout of a stream is what is in the code."""

import itertools
import re
import struct

import pytest

from pramfs.stream import format as layout
from tests.support.checkout import CHECKOUT

DOCUMENT = (CHECKOUT / "docs/stream.md").read_text()
TYPES = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64"}

# What the code reads a struct as: the format, and the names of the fields.
STRUCTS = {
    "Header": (layout.HEADER.format, ("magic", "csum", "version", *layout.Header._fields)),
    "Records": (
        layout.RECORD.format + layout.SIZE.format[1:],
        (*layout.RecordHead._fields, "size"),
    ),
}


def section(title: str) -> str:
    return DOCUMENT.partition(f"\n### {title}\n")[2].partition("\n### ")[0]


@pytest.mark.parametrize("title", STRUCTS)
def test_the_tables_are_the_structs(title: str) -> None:
    text, names = STRUCTS[title]
    codes = re.findall(r"\d+s|[A-Z]", re.sub(r"(\d)([A-Z])", lambda m: int(m[1]) * m[2], text))
    sizes = [struct.calcsize(f"<{code}") for code in codes]
    offsets = itertools.accumulate(sizes, initial=0)
    fields = [
        (at, TYPES.get(code, "u8"), f"{name}[{size}]" if code.endswith("s") else name)
        for at, code, size, name in zip(offsets, codes, sizes, names, strict=False)
    ]
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (\S+) \|", section(title), re.MULTILINE)
    assert [(int(at), kind, name) for at, kind, name in rows] == fields
    assert len(codes) == len(names)


def test_the_checksums_are_where_the_document_has_them() -> None:
    for title, at in (("Header", layout.HEADER_CSUM_AT), ("Records", 12)):
        assert f"| {at} | u32 | csum | CRC-32C" in section(title)
    assert f"CRC-32C of the {layout.RECORD_CSUM_AT} bytes before" in section("Records")


def test_the_numbers_are_those_of_the_code() -> None:
    assert f"| `{layout.MAGIC.decode()}` |" in section("Header")
    assert f"| version | {layout.VERSION} |" in section("Header")
    assert f"## The format, version {layout.VERSION}\n" in DOCUMENT
    (types,) = re.findall(r"\| type \| (.*); they come in this order", section("Records"))
    assert types == ", ".join(
        f"{getattr(layout, name)} {name}" for name in ("METADATA", "MORE", "RUNS", "PAGES", "END")
    )
    assert 1 << int(re.findall(r"bit (\d+): the body is one zstd", DOCUMENT)[0]) == layout.ZSTD


def test_the_limits_are_those_of_the_code() -> None:
    assert f"METADATA records; at most {layout.METADATA_MAX_BYTES >> 30} GiB" in DOCUMENT
    assert f"MORE records; at most {layout.MORE_MAX_BYTES >> 20} MiB" in DOCUMENT
    largest = f"at most {layout.BODY_MAX_BYTES >> 20} MiB, which is {layout.PAGES_MAX} pages"
    assert largest in DOCUMENT
    assert layout.RUN.format == "<QQQ"
    assert "three u64" in section("Records")
