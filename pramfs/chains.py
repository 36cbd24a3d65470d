"""Chains of links: read one while reserving its frames, or build one. Run-wise: a GiB has 262,144 entries.

The layout of a link page makes that possible: its header and its entries are multiples of eight bytes,
so a page is read and written as an array of u64 with strides.
"""

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence

from pramfs import layout
from pramfs.errors import CorruptedPage, InvalidPfn
from pramfs.frames import FrameTable, Run
from pramfs.image import Image
from pramfs.layout import (
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


class Entries:
    """The entries of a chain in order: parallel arrays of flags, csums, pfns and indices."""

    def __init__(self) -> None:
        self.flags = array("I")
        self.csums = array("I")
        self.pfns = array("I")
        self.indices = array("Q")

    def __len__(self) -> int:
        return len(self.pfns)

    def pack(self) -> bytearray:
        """The entries as they lie in links, one after the other."""
        packed = bytearray(len(self) * ENTRY.size)
        halves = memoryview(packed).cast("I")
        wholes = memoryview(packed).cast("Q")
        halves[0::6] = self.flags
        halves[1::6] = self.csums
        wholes[1::3] = array("Q", self.pfns)
        wholes[2::3] = self.indices
        return packed


class Chain:
    """A chain as it was read: the pfns of its links, and its entries."""

    def __init__(self) -> None:
        self.links: list[int] = []
        self.entries = Entries()


def reserve_chain(
    image: Image, uuid: bytes, table: FrameTable, link_pfn: int, taken: Callable[[Run], None]
) -> Chain:
    """Read the chain that starts at `link_pfn` and reserve its frames in `table`.

    Every reserved run is passed to `taken`, so that the caller can unreserve them. The checks are those
    of seed 002, in its order: InvalidPfn, CorruptedPage, BusyPfn for the link, then for each entry. A
    chain that runs into itself meets its own link as busy.
    """
    chain = Chain()
    pages = _Reader(image)
    while link_pfn:
        if link_pfn >= len(table):
            raise InvalidPfn(link_pfn, "link")
        page = pages.read(link_pfn)
        header = LinkHeader._make(LINK.unpack_from(page))
        _check_link(uuid, link_pfn, header, page)
        table.reserve(link_pfn, 1, "link")
        taken(Run(link_pfn, 1))
        chain.links.append(link_pfn)
        pfns = _append_entries(chain.entries, page, header.len)
        for run in runs_of(pfns):
            table.reserve(run.pfn, run.frames, "data page")
            taken(run)
        chain.entries.pfns.extend(pfns)
        link_pfn = header.link_pfn
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


def runs_of(pfns: Sequence[int]) -> Iterator[Run]:
    """The runs of consecutive frames in `pfns`, in its order."""
    count = len(pfns)
    if not count:
        return
    first = pfns[0]
    if pfns[-1] - first == count - 1 and list(pfns) == list(range(first, first + count)):
        yield Run(first, count)
        return
    start = previous = first
    for pfn in pfns[1:]:
        if pfn != previous + 1:
            yield Run(start, previous - start + 1)
            start = pfn
        previous = pfn
    yield Run(start, previous - start + 1)


def _check_link(uuid: bytes, pfn: int, header: LinkHeader, page: memoryview) -> None:
    if header.magic != LINK_MAGIC:
        raise CorruptedPage(pfn, "not a link")
    if header.csum != layout.page_csum(uuid, pfn, page):
        raise CorruptedPage(pfn, "link checksum")
    if not 0 < header.len <= LINK_ENTRIES_MAX:
        raise CorruptedPage(pfn, f"{header.len} entries in a link")


def _append_entries(entries: Entries, page: memoryview, count: int) -> list[int]:
    """Append flags, csums and indices of a link's entries; returns their pfns, not yet checked."""
    halves = page.cast("I")[LINK.size // 4 : LINK.size // 4 + 6 * count]
    wholes = page.cast("Q")[LINK.size // 8 : LINK.size // 8 + 3 * count]
    entries.flags.extend(halves[0::6].tolist())
    entries.csums.extend(halves[1::6].tolist())
    entries.indices.extend(wholes[2::3].tolist())
    return wholes[1::3].tolist()


class _Reader:
    """Reads pages one at a time, several at once from the image: links often follow each other."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._first = 0
        self._pages = memoryview(b"")

    def read(self, pfn: int) -> memoryview:
        at = (pfn - self._first) << PAGE_SHIFT
        if not 0 <= at < len(self._pages):
            count = min(_READ_AHEAD, self._image.frames - pfn)
            self._pages = memoryview(self._image.read(pfn, count))
            self._first, at = pfn, 0
        return self._pages[at : at + PAGE_SIZE]
