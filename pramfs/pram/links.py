"""Chains of links: read a chain while reserving its frames, or build one.

All of it works on extents and arrays, because a GiB has 262,144 entries. The header and the entries of a
link are multiples of four bytes, so the entries of many links are read and written at once, as slices of
u32 arrays with a stride.
"""

import contextlib
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from crc32c import crc32c

from pramfs.errors import CorruptedPage, DamagedPage, InvalidPfn, PramError
from pramfs.storage import layout
from pramfs.storage.extents import extents_of, pieces_of
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
_PAGES_AT_ONCE = 256

# An entry as u32 words: flags, csum, pfn (two words) and index (two words); as u64 words, the index is the
# last of three. Slices with a stride are by far the fastest way to unpack and pack a thousand links.
_FLAGS, _CSUM, _PFN, _STRIDE = 0, 1, 2, 6
_INDEX, _LONG_STRIDE = 2, 3


class Entries:
    """The entries of a chain, in order, as parallel arrays of flags, csums, pfns and indices."""

    def __init__(self) -> None:
        self.flags = array("I")
        self.csums = array("I")
        self.pfns = array("I")
        self.indices = array("Q")

    def __len__(self) -> int:
        return len(self.pfns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entries) and (
            self.pfns == other.pfns
            and self.csums == other.csums
            and self.indices == other.indices
            and self.flags == other.flags
        )

    __hash__ = None  # type: ignore[assignment] # they change

    def extend(self, others: "Entries") -> None:
        """Append `others`."""
        self.flags += others.flags
        self.csums += others.csums
        self.pfns += others.pfns
        self.indices += others.indices

    def part(self, start: int, end: int) -> "Entries":
        """Return a copy of the entries from position `start` up to `end`."""
        some = Entries()
        some.flags = self.flags[start:end]
        some.csums = self.csums[start:end]
        some.pfns = self.pfns[start:end]
        some.indices = self.indices[start:end]
        return some

    def pack(self) -> memoryview:
        """Return the entries in the form that they have in links, one after the other."""
        words = array("I", bytes(len(self) * ENTRY.size))
        words[_FLAGS::_STRIDE] = self.flags
        words[_CSUM::_STRIDE] = self.csums
        words[_PFN::_STRIDE] = self.pfns
        packed = memoryview(words).cast("B")
        packed.cast("Q")[_INDEX::_LONG_STRIDE] = memoryview(self.indices)
        return packed

    def unpack(self, packed: bytes | memoryview) -> "array[int]":
        """Append entries that have the form of those in links, but return their pfns, not yet checked.

        Raises InvalidPfn for a pfn of more than 32 bits, which is outside of any image.
        """
        words = array("I")
        words.frombytes(packed)
        pfns = words[_PFN::_STRIDE]
        high = words[_PFN + 1 :: _STRIDE]
        if high.tobytes() != bytes(4 * len(high)):
            raise InvalidPfn(next(filter(None, high)) << 32, "data page")
        self.flags += words[_FLAGS::_STRIDE]
        self.csums += words[_CSUM::_STRIDE]
        long_words = memoryview(words).cast("B").cast("Q")
        self.indices.frombytes(long_words[_INDEX::_LONG_STRIDE].tobytes())
        return pfns


class Chain:
    """A chain that was read: the pfns of its links, its entries, and the extents of their data pages."""

    def __init__(self) -> None:
        self.links: list[int] = []
        self.entries = Entries()
        self.extents: list[Extent] = []

    def csums_by_extent(self) -> Iterator[tuple[int, "array[int]"]]:
        """Yield for each extent its first pfn, and the checksums of its pages."""
        at = 0
        for pfn, frames in self.extents:
            yield pfn, self.entries.csums[at : at + frames]
            at += frames


def reserve_chain(
    read: Callable[[int], bytes | memoryview],
    uuid: bytes,
    table: FrameTable,
    link_pfn: int,
    taken: Callable[[Extent], None],
    chain: Chain | None = None,
    *,
    shared: bool = False,
) -> Chain:
    """Read the chain that starts at `link_pfn`, and reserve its frames in `table`.

    Every reserved extent is passed to `taken`, so that the caller can unreserve them after an error. Checks
    come in the order of the 2013 file system: InvalidPfn, CorruptedPage and BusyPfn for each link, then for
    its entries. A chain with a cycle meets its own link as busy. `chain`, if given, is filled: after an
    error it holds what was read before. With `shared`, data pages may be in frames that other chains, or this
    one, have named before as data pages of this kind.
    """
    chain = chain or Chain()
    while link_pfn:
        links = _sound_links(read, uuid, len(table), link_pfn)
        if len(links) > 1 and _reserve_at_once(table, links, taken, chain, shared=shared):
            link_pfn = links[-1].following
        else:
            link_pfn = _reserve_link(read, uuid, table, link_pfn, taken, chain, shared=shared)
    return chain


def read_links(
    read: Callable[[int], bytes | memoryview], uuid: bytes, frames: int, link_pfn: int
) -> Iterator[tuple["array[int]", Entries]]:
    """Yield the links of a chain, many at a time: their pfns, and their entries, whose pfns are not checked.

    A chain with a cycle never ends. Raises InvalidPfn, CorruptedPage.
    """
    while link_pfn:
        # If there is none, the first is damaged: reading it again tells how.
        links = _sound_links(read, uuid, frames, link_pfn) or [
            _read_link(read, uuid, frames, link_pfn)
        ]
        entries = Entries()
        entries.pfns = entries.unpack(b"".join(link.packed for link in links))
        yield array("I", [link.pfn for link in links]), entries
        link_pfn = links[-1].following


def read_packed(image: Image, uuid: bytes, extents: Iterable[Extent], count: int) -> bytes:
    """Return the `count` entries of a chain whose links are these frames, in this order, as they are there.

    Raises CorruptedPage, also if the links name other frames; SystemFault when one cannot be read.
    """
    parts: list[memoryview] = []
    following = -1
    for pfn, frames in pieces_of(extents, _PAGES_AT_ONCE):
        pages = memoryview(image.read(pfn, frames))
        for at in range(frames):
            page = pages[at << PAGE_SHIFT : (at + 1) << PAGE_SHIFT]
            header = LinkHeader._make(LINK.unpack_from(page))
            _check_link(uuid, pfn + at, header, page)
            if following not in (-1, pfn + at):
                raise CorruptedPage(pfn + at, f"not the link that follows, pfn:{following:x}")
            following = header.link_pfn
            parts.append(page[LINK.size : LINK.size + header.len * ENTRY.size])
    packed = b"".join(parts)
    if following > 0 or len(packed) != count * ENTRY.size:
        raise CorruptedPage(following, f"not the links of {count} entries")
    return packed


def first_page(
    read: Callable[[int], bytes | memoryview], uuid: bytes, frames: int, pfn: int
) -> bytes:
    """Return the first data page of the chain that starts at `pfn`, verified, without reading the rest.

    Raises InvalidPfn, CorruptedPage, DamagedPage.
    """
    entries = Entries()
    (data_pfn,) = entries.unpack(_read_link(read, uuid, frames, pfn).packed[: ENTRY.size])
    if data_pfn >= frames:
        raise InvalidPfn(data_pfn, "data page")
    return read_page(read, data_pfn, entries.csums[0], "found on first read")


def read_page(read: Callable[[int], bytes | memoryview], pfn: int, csum: int, what: str) -> bytes:
    """Return a data page that has this checksum. Raises DamagedPage, saying `what` it is of."""
    page = bytes(read(pfn))
    if crc32c(page) != csum:
        raise DamagedPage(pfn, what)
    return page


def read_stream(
    read: Callable[[int], bytes | memoryview], entries: Entries, size: int, what: str
) -> bytes:
    """Return the `size` bytes of a byte stream with these entries. Raises as `read_page`."""
    pages = zip(entries.pfns, entries.csums, strict=True)
    return b"".join(read_page(read, pfn, csum, what) for pfn, csum in pages)[:size]


def read_pages(image: Image, entries: Entries, what: str) -> Iterator[bytes]:
    """Yield pages of a save with these entries, in their order, many at a time and verified.

    Raises DamagedPage, saying `what` they are of; SystemFault when one cannot be read.
    """
    at = 0
    for pfn, frames in pieces_of(extents_of(entries.pfns), _PAGES_AT_ONCE):
        data = image.read(pfn, frames)
        view = memoryview(data)
        pages = (view[start : start + PAGE_SIZE] for start in range(0, len(data), PAGE_SIZE))
        if array("I", map(crc32c, pages)) != entries.csums[at : at + frames]:
            raise DamagedPage(pfn, f"or one of the {frames} frames from it on: {what}")
        yield data
        at += frames


def link_count(entries: int) -> int:
    """Return the number of links in a chain of that many entries."""
    return -(-entries // LINK_ENTRIES_MAX)


def build_links(uuid: bytes, pfns: list[int], packed: bytes | bytearray | memoryview) -> bytearray:
    """Return the link pages for packed entries, one after the other, to be written to the frames `pfns`."""
    packed = memoryview(packed)
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
    *,
    shared: bool,
) -> int:
    """Reserve one link, then the frames that it names; return the pfn of the next link."""
    link = _read_link(read, uuid, len(table), link_pfn)
    table.reserve(link_pfn, 1, "link")
    taken(Extent(link_pfn, 1))
    chain.links.append(link_pfn)
    pfns = chain.entries.unpack(link.packed)
    for extent in extents_of(pfns):
        table.reserve(extent.pfn, extent.frames, "data page", shared=shared)
        taken(extent)
        _append_extent(chain.extents, extent)
    chain.entries.pfns += pfns
    return link.following


def _sound_links(
    read: Callable[[int], bytes | memoryview], uuid: bytes, frames: int, link_pfn: int
) -> list[_Link]:
    """Return the next links of a chain, up to the first that is invalid or corrupted."""
    links: list[_Link] = []
    with contextlib.suppress(PramError):
        while link_pfn and len(links) < _LINKS_AT_ONCE:
            links.append(_read_link(read, uuid, frames, link_pfn))
            link_pfn = links[-1].following
    return links


def _reserve_at_once(
    table: FrameTable,
    links: list[_Link],
    taken: Callable[[Extent], None],
    chain: Chain,
    *,
    shared: bool,
) -> bool:
    """Reserve several links and the frames that they name; return False, having reserved none, if one fails.

    The caller must then take the links one by one, to report the error that comes first.
    """
    entries = Entries()
    reserved: list[Extent] = []
    try:
        pfns = entries.unpack(b"".join(link.packed for link in links))
        link_extents = extents_of(array("I", [link.pfn for link in links]))
        data_extents = list(extents_of(pfns))
        for extent in link_extents:
            table.reserve(extent.pfn, extent.frames, "link")
            reserved.append(extent)
        for extent in data_extents:
            table.reserve(extent.pfn, extent.frames, "data page", shared=shared)
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
    """Read and check the link at `pfn`. Raises InvalidPfn, CorruptedPage."""
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
    """Reads single pages of an image, but several at once as long as they are consecutive.

    Links often are. For scattered pages, reading ahead would read many times as much as is needed.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._first = 0
        self._pages = memoryview(b"")

    def read(self, pfn: int) -> memoryview:
        """Return the page at `pfn`. Raises SystemFault when it cannot be read."""
        at = (pfn - self._first) << PAGE_SHIFT
        if not 0 <= at < len(self._pages):
            in_order = at == len(self._pages)
            count = min(_READ_AHEAD, self._image.frames - pfn) if in_order else 1
            self._pages = memoryview(self._image.read(pfn, count))
            self._first, at = pfn, 0
        return self._pages[at : at + PAGE_SIZE]
