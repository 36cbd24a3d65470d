"""Print the structures of an image field by field, as docs/format.md names them.

The counterpart of debugfs and dumpe2fs. It checks nothing but checksums, and shows pages as they are, even
those that a load would refuse.
"""

from collections.abc import Iterator
from typing import NamedTuple

from crc32c import crc32c

from pramfs.errors import PramError
from pramfs.offline.scan import ScannedNode, file_name, scan_image
from pramfs.storage import layout, superblock
from pramfs.storage.image import Image
from pramfs.storage.layout import (
    ENTRY,
    LINK,
    LINK_ENTRIES_MAX,
    LINK_MAGIC,
    NODE,
    NODE_MAGIC,
    PAGE_SIZE,
    STREAM_TYPES,
    SUPER,
    SUPER_MAGIC,
    LinkHeader,
    NodePage,
    SuperBlock,
)

_HEX_FIELDS = {"magic", "csum", "node_pfn", "pfn", "other_pfn", "link_pfn", "flags"}
_DATA_SHOWN_BYTES = 64
_LINE_BYTES = 16


class _Kind(NamedTuple):
    """A kind of metadata page, identified by its magic."""

    name: str
    fields: type[SuperBlock] | type[NodePage] | type[LinkHeader]


_KINDS = {
    SUPER_MAGIC: _Kind("super block", SuperBlock),
    NODE_MAGIC: _Kind("node", NodePage),
    LINK_MAGIC: _Kind("link", LinkHeader),
}
_STRUCTS = {SuperBlock: SUPER, NodePage: NODE, LinkHeader: LINK}


def dump_image(image: Image, *, node: str | None = None, links: bool = False) -> Iterator[str]:
    """Yield the lines for the super block and all nodes, or for one node; with `links` their chains, too.

    Raises PramError for a file that is no image, and for an unknown node.
    """
    found = scan_image(image)
    uuid = found.current.uuid
    if node is None:
        yield from _page(image, uuid, found.current.pfn)
        yield ""
    chosen = [found.require(node)] if node is not None else list(found.nodes.values())
    for scanned in chosen:
        yield from _page(image, uuid, scanned.node.pfn)
        yield ""
        if links:
            yield from _chain(image, uuid, scanned)
    for line in found.damage:
        yield f"damage: {line}"


def dump_page(image: Image, pfn: int) -> Iterator[str]:
    """Yield the lines for the page in frame `pfn`, of any kind. Raises PramError if it cannot be read."""
    if not 0 <= pfn < image.frames:
        raise PramError(f"{image.path}: pfn:{pfn:x} invalid (it has {image.frames} frames)")
    yield from _page(image, superblock.require(image).uuid, pfn)


def _chain(image: Image, uuid: bytes, scanned: ScannedNode) -> Iterator[str]:
    for pfn in scanned.chain.links:
        yield from _page(image, uuid, pfn)
        yield ""


def _page(image: Image, uuid: bytes, pfn: int) -> Iterator[str]:
    """Yield the title of a page, its fields, and what follows these."""
    page = image.read(pfn)
    kind = _KINDS.get(int.from_bytes(page[:4], "little"))
    if kind is None:
        yield from _data(pfn, page)
        return
    record = kind.fields._make(_STRUCTS[kind.fields].unpack_from(page))
    if isinstance(record, SuperBlock):
        uuid = record.uuid
    yield f"{kind.name} at pfn:{pfn:x}"
    right = layout.page_csum(uuid, pfn, page)
    for name, value in record._asdict().items():
        note = "" if name != "csum" or value == right else f"  WRONG, computed 0x{right:08x}"
        yield f"  {name:<14}{_value(name, value)}{note}"
    if isinstance(record, LinkHeader):
        yield from _entries(record, page)


def _entries(header: LinkHeader, page: bytes) -> Iterator[str]:
    if header.len > LINK_ENTRIES_MAX:
        yield f"  len is more than the {LINK_ENTRIES_MAX} entries that fit"
    yield f"  {'entry':>5}  {'flags':<10}  {'csum':<10}  {'pfn':<10}  index"
    for number in range(min(header.len, LINK_ENTRIES_MAX)):
        flags, csum, pfn, index = ENTRY.unpack_from(page, LINK.size + number * ENTRY.size)
        yield f"  {number:>5}  0x{flags:<8x}  0x{csum:08x}  0x{pfn:<8x}  {index}"


def _data(pfn: int, page: bytes) -> Iterator[str]:
    """Yield the lines for a page without a known magic: data, free space, or damaged metadata."""
    yield f"page at pfn:{pfn:x}, data or unused"
    yield f"  {'CRC-32C':<14}0x{crc32c(page):08x}"
    if not any(page):
        yield f"  {PAGE_SIZE} zeros"
        return
    for at in range(0, _DATA_SHOWN_BYTES, _LINE_BYTES):
        line = page[at : at + _LINE_BYTES]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"  {at:<14}{line.hex(' ')}  {text}"
    yield f"  … {PAGE_SIZE - _DATA_SHOWN_BYTES} more bytes"


def _value(name: str, value: int | bytes) -> str:
    if isinstance(value, bytes):
        if name in {"uuid", "run", "machine", "boot"}:
            return value.hex()
        return f"'{file_name(value.rstrip(bytes(1)))}'"
    if name == "type":
        return f"{value} ({STREAM_TYPES.get(value, 'unknown')})"
    return f"0x{value:x}" if name in _HEX_FIELDS else str(value)
