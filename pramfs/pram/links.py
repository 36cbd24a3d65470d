"""Chains of links: read one while reserving its frames, or build one. By extents: a GiB has 262,144 entries.

The layout of a link page makes that possible: its header and its entries are multiples of four bytes, so
entries are read and written as arrays of u32 with strides, those of many links at once.
"""

import contextlib
import sys
from array import array
from collections.abc import Callable
from typing import NamedTuple

from pramfs.errors import CorruptedPage, InvalidPfn, PramError
from pramfs.storage import layout
from pramfs.storage.extents import extents_of
from pramfs.storage.frames import Extent, FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import (
    ENTRY,
    LINK,
    LINK_ENTRIES_MAX,
    LINK_MAGIC,
    PAGE_SHIFT,
    PAGE_SIZE,
    LinkHeader,
)

if sys.byteorder != "little":
    raise ImportError("pramfs runs on little-endian machines only")

_READ_AHEAD = 64
_LINKS_AT_ONCE = 64

# An entry as u32s: flags, csum, pfn and index of two each. Strided slices of arrays are by far the fastest
# way to take a thousand links apart and to put them together.
_FLAGS, _CSUM, _PFN, _INDEX, _STRIDE = 0, 1, 2, 4, 6


class Entries:
    """The entries of a chain in order: parallel arrays of flags, csums, pfns and indices."""

    def __init__(self) -> None:
        self.flags = array("I")
        self.csums = array("I")
        self.pfns = array("I")
        self.indices = array("Q")

    def __len__(self) -> int:
        return len(self.pfns)

    def extend(self, others: "Entries") -> None:
        """Append `others`."""
        self.flags += others.flags
        self.csums += others.csums
        self.pfns += others.pfns
        self.indices += others.indices

    def pack(self) -> memoryview:
        """The entries as they lie in links, one after the other."""
        words = array("I", bytes(len(self) * ENTRY.size))
        words[_FLAGS::_STRIDE] = self.flags
        words[_CSUM::_STRIDE] = self.csums
        words[_PFN::_STRIDE] = self.pfns
        indices = array("I")
        indices.frombytes(self.indices.tobytes())
        words[_INDEX::_STRIDE] = indices[0::2]
        words[_INDEX + 1 :: _STRIDE] = indices[1::2]
        return memoryview(words).cast("B")

    def unpack(self, packed: bytes | memoryview) -> "array[int]":
        """Append entries as they lie in links, all but the pfns; returns those, not yet checked.

        Raises InvalidPfn for one that has more than 32 bits: no image is as large.
        """
        words = array("I")
        words.frombytes(packed)
        pfns = words[_PFN::_STRIDE]
        high = words[_PFN + 1 :: _STRIDE]
        if high.tobytes() != bytes(4 * len(high)):
            raise InvalidPfn(next(filter(None, high)) << 32, "data page")
        self.flags += words[_FLAGS::_STRIDE]
        self.csums += words[_CSUM::_STRIDE]
        indices = array("I", bytes(len(packed) // 3))
        indices[0::2] = words[_INDEX::_STRIDE]
        indices[1::2] = words[_INDEX + 1 :: _STRIDE]
        self.indices.frombytes(indices.tobytes())
        return pfns


class Chain:
    """A chain as it was read: the pfns of its links, its entries, and the extents that they name."""

    def __init__(self) -> None:
        self.links: list[int] = []
        self.entries = Entries()
        self.extents: list[Extent] = []


def reserve_chain(
    read: Callable[[int], bytes | memoryview],
    uuid: bytes,
    table: FrameTable,
    link_pfn: int,
    taken: Callable[[Extent], None],
    chain: Chain | None = None,
) -> Chain:
    """Read the chain that starts at `link_pfn`, page by page, and reserve its frames in `table`.

    Every reserved extent is passed to `taken`, so that the caller can unreserve them. The checks are those
    of the 2013 file system, in its order: InvalidPfn, CorruptedPage, BusyPfn for the link, then for each entry. A
    chain that runs into itself meets its own link as busy. Who gives the empty `chain` to fill finds in it,
    after an error, what was read before.
    """
    chain = chain or Chain()
    while link_pfn:
        links = _sound_links(read, uuid, len(table), link_pfn)
        if len(links) > 1 and _reserve_at_once(table, links, taken, chain):
            link_pfn = links[-1].following
        else:
            link_pfn = _reserve_link(read, uuid, table, link_pfn, taken, chain)
    return chain


def link_count(entries: int) -> int:
    """How many links a chain of that many entries has."""
    return -(-entries // LINK_ENTRIES_MAX)


def build_links(uuid: bytes, pfns: list[int], entries: Entries) -> bytearray:
    """The link pages for `entries`, to be written to the frames `pfns`, one page after the other."""
    packed = entries.pack()
    pages = bytearray(len(pfns) << PAGE_SHIFT)
    view = memoryview(pages)
    full = LINK_ENTRIES_MAX * ENTRY.size
    for number, pfn in enumerate(pfns):
        start = number << PAGE_SHIFT
        part = packed[number * full : (number + 1) * full]
        following = pfns[number + 1] if number + 1 < len(pfns) else 0
        LINK.pack_into(pages, start, LINK_MAGIC, 0, len(part) // ENTRY.size, 0, following)
        pages[start + LINK.size : start + LINK.size + len(part)] = part
        layout.seal_page(uuid, pfn, view[start : start + PAGE_SIZE])
    return pages


class _Link(NamedTuple):
    pfn: int
    packed: memoryview  # its entries
    following: int  # pfn of the next link


def _reserve_link(
    read: Callable[[int], bytes | memoryview],
    uuid: bytes,
    table: FrameTable,
    link_pfn: int,
    taken: Callable[[Extent], None],
    chain: Chain,
) -> int:
    """Reserve one link and what it names, in the order of the 2013 file system; returns the pfn of the next."""
    link = _read_link(read, uuid, len(table), link_pfn)
    table.reserve(link_pfn, 1, "link")
    taken(Extent(link_pfn, 1))
    chain.links.append(link_pfn)
    pfns = chain.entries.unpack(link.packed)
    for extent in extents_of(pfns):
        table.reserve(extent.pfn, extent.frames, "data page")
        taken(extent)
        _append_extent(chain.extents, extent)
    chain.entries.pfns += pfns
    return link.following


def _sound_links(
    read: Callable[[int], bytes | memoryview], uuid: bytes, frames: int, link_pfn: int
) -> list[_Link]:
    """The next links of a chain, up to the first that is not sound."""
    links: list[_Link] = []
    with contextlib.suppress(PramError):
        while link_pfn and len(links) < _LINKS_AT_ONCE:
            links.append(_read_link(read, uuid, frames, link_pfn))
            link_pfn = links[-1].following
    return links


def _reserve_at_once(
    table: FrameTable, links: list[_Link], taken: Callable[[Extent], None], chain: Chain
) -> bool:
    """Reserve several links and what they name, if nothing is amiss; else do nothing.

    Then the links must be gone through one by one, to find what is amiss first.
    """
    entries = Entries()
    reserved: list[Extent] = []
    try:
        pfns = entries.unpack(b"".join(link.packed for link in links))
        link_extents = extents_of(array("I", [link.pfn for link in links]))
        data_extents = list(extents_of(pfns))
        for what, extents in (("link", link_extents), ("data page", data_extents)):
            for extent in extents:
                table.reserve(extent.pfn, extent.frames, what)
                reserved.append(extent)
    except PramError:
        table.unreserve(reserved)
        return False
    for extent in reserved:
        taken(extent)
    for extent in data_extents:
        _append_extent(chain.extents, extent)
    entries.pfns = pfns
    chain.entries.extend(entries)
    chain.links += [link.pfn for link in links]
    return True


def _read_link(
    read: Callable[[int], bytes | memoryview], uuid: bytes, frames: int, pfn: int
) -> _Link:
    """The link at `pfn`. Raises InvalidPfn, CorruptedPage."""
    if pfn >= frames:
        raise InvalidPfn(pfn, "link")
    page = memoryview(read(pfn))
    header = LinkHeader._make(LINK.unpack_from(page))
    _check_link(uuid, pfn, header, page)
    return _Link(pfn, page[LINK.size : LINK.size + header.len * ENTRY.size], header.link_pfn)


def _check_link(uuid: bytes, pfn: int, header: LinkHeader, page: memoryview) -> None:
    if header.magic != LINK_MAGIC:
        raise CorruptedPage(pfn, "not a link")
    if header.csum != layout.page_csum(uuid, pfn, page):
        raise CorruptedPage(pfn, "link checksum")
    if not 0 < header.len <= LINK_ENTRIES_MAX:
        raise CorruptedPage(pfn, f"{header.len} entries in a link")


def _append_extent(extents: list[Extent], extent: Extent) -> None:
    if extents and extents[-1].pfn + extents[-1].frames == extent.pfn:
        extent = Extent(extents[-1].pfn, extents.pop().frames + extent.frames)
    extents.append(extent)


class ReadAhead:
    """Reads pages of an image one at a time, but from it several at once while they follow each other.

    As links often do. Where they do not, that would read many times what there is.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._first = 0
        self._pages = memoryview(b"")

    def read(self, pfn: int) -> memoryview:
        """The page at `pfn`. Raises SystemFault when it cannot be read."""
        at = (pfn - self._first) << PAGE_SHIFT
        if not 0 <= at < len(self._pages):
            in_order = at == len(self._pages)
            count = min(_READ_AHEAD, self._image.frames - pfn) if in_order else 1
            self._pages = memoryview(self._image.read(pfn, count))
            self._first, at = pfn, 0
        return self._pages[at : at + PAGE_SIZE]
