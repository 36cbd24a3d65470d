"""Whether all of a save is sound, with memory that does not grow with the image: for a claim after a kexec.

Who opens an image has its chains and the uses of its frames in memory: 27 bytes a page, and 140 where files
are in pieces. Here chains are read a few links at a time and not kept. What must be known of frames, which
are in use and with which checksum, is known of a window of them; a larger image is gone through once for
each window. Every page is read once, however many share it.
"""

import re
from array import array

from pramfs.errors import BusyPfn, CorruptedPage, DamagedPage, InvalidPfn
from pramfs.pram import verify
from pramfs.pram.links import Chain, Entries, ReadAhead, read_links
from pramfs.pram.nodes import Node, is_in_order, read_nodes
from pramfs.pram.reserve import may_share, require_slots
from pramfs.storage import layout
from pramfs.storage.extents import extents_of, pfn_at
from pramfs.storage.frames import Extent
from pramfs.storage.image import Image
from pramfs.storage.layout import BYTE_STREAM, SHARED, SuperBlock

# A byte each, five where pages are shared: 64 and 16 GiB in 16 and 20 MiB.
_WINDOW_FRAMES = 1 << 24
_SHARED_WINDOW_FRAMES = 1 << 22
# Verified at once: enough for eight processors, in few enough extents.
_CHUNK_PAGES = 1 << 17
_CHUNK_EXTENTS = 1 << 14

# Uses of frames.
_UNUSED = 0
_SOLE = 1
_DATA = 2  # by a data page that may be shared

_PARTS = re.compile(b"\\x00+|[^\\x00]+")


def require_sound(image: Image, current: SuperBlock) -> None:
    """Verify the whole save of `current`, whose frames are all there. Raises PramError at the first fault.

    May fork: see `Verification`.
    """
    require_slots(current, current.frames)
    used = 2  # super blocks
    size = _SHARED_WINDOW_FRAMES if current.incompatible & SHARED else _WINDOW_FRAMES
    for first in range(0, current.frames, size):
        # One after the other: two of them would take twice the memory.
        used += _Window(image, current, first, min(first + size, current.frames)).check()
    if used != current.frames_used:
        told = f"it accounts for {current.frames_used} frames, {used} are in use"
        raise CorruptedPage(current.pfn, told)


class _Window:
    """The frames from `first` up to `end`, all uses of which are checked."""

    def __init__(self, image: Image, current: SuperBlock, first: int, end: int) -> None:
        self._used = 0  # without super blocks
        self._image = image
        self._current = current
        self._links = ReadAhead(image)
        self._first = first
        self._end = end
        self._uses = bytearray(end - first)
        for base in layout.slot_bases(end):
            for slot in (base, base + 1):
                if first <= slot < end:
                    self._uses[slot - first] = _SOLE
        # Of frames that may be shared.
        shared = len(self._uses) if current.incompatible & SHARED else 0
        self._csums = array("I", bytes(4)) * shared
        self._unread = Chain()  # pages to be verified: their checksums and extents

    def check(self) -> int:
        """Check all nodes, and the pages in this window; return how many are in use. Raises PramError."""
        for node in read_nodes(self._image, self._current):
            self._claim(Extent(node.pfn, 1), "node")
            self._check_chain(node)
        self._verify()
        return self._used

    def _check_chain(self, node: Node) -> None:
        shared = may_share(self._current, node)
        links = entries = 0
        uuid, frames = self._current.uuid, self._current.frames
        for pfns, some in read_links(self._links.read, uuid, frames, node.link_pfn):
            links += len(pfns)
            if links > min(node.links, frames):  # perhaps a cycle
                break
            for extent in extents_of(pfns):
                self._claim(extent, "link")
            if node.type == BYTE_STREAM and not is_in_order(some.indices, entries):
                raise CorruptedPage(node.pfn, f"the pages of node '{node.name}' are not in order")
            self._take(some, shared=shared)
            entries += len(some)
        if (links, entries) != (node.links, node.entries):
            raise CorruptedPage(node.pfn, f"the chain of '{node.name}' is not as long as it says")

    def _take(self, entries: Entries, *, shared: bool) -> None:
        """Note the data pages of these entries, and verify pages if enough have come together."""
        at = 0
        for extent in extents_of(entries.pfns):
            if sum(extent) > self._current.frames:
                raise InvalidPfn(sum(extent) - 1, "data page")
            inside = self._inside(extent)
            if inside.frames:
                skipped = at + inside.pfn - extent.pfn
                csums = entries.csums[skipped : skipped + inside.frames]
                if shared:
                    self._take_shared(inside, csums)
                else:
                    self._claim(inside, "data page")
                    self._verify_later(inside, csums)
            at += extent.frames
        unread = self._unread
        if len(unread.entries.csums) >= _CHUNK_PAGES or len(unread.extents) >= _CHUNK_EXTENTS:
            self._verify()

    def _take_shared(self, extent: Extent, csums: "array[int]") -> None:
        """Note pages that others may have named, with the same checksum."""
        first = extent.pfn - self._first
        uses = self._uses[first : first + extent.frames]
        for part in _PARTS.finditer(uses):
            pfn, at, end = extent.pfn + part.start(), first + part.start(), first + part.end()
            expected = csums[part.start() : part.end()]
            if part[0][0] == _UNUSED:
                self._claim(Extent(pfn, end - at), "data page", _DATA)
                self._csums[at:end] = expected
                self._verify_later(Extent(pfn, end - at), expected)
            elif part[0].strip(bytes((_DATA,))):
                raise BusyPfn(pfn, "data page")
            elif self._csums[at:end] != expected:
                raise DamagedPage(pfn, "or one behind it: it has two checksums")

    def _inside(self, extent: Extent) -> Extent:
        first, end = max(extent.pfn, self._first), min(sum(extent), self._end)
        return Extent(first, max(0, end - first))

    def _claim(self, extent: Extent, what: str, use: int = _SOLE) -> None:
        """Note the use of those of these frames that are in this window. Raises BusyPfn."""
        pfn, frames = self._inside(extent)
        at = pfn - self._first
        if self._uses.count(_UNUSED, at, at + frames) != frames:
            raise BusyPfn(pfn, what)
        self._uses[at : at + frames] = bytes((use,)) * frames
        self._used += frames

    def _verify_later(self, extent: Extent, csums: "array[int]") -> None:
        extents = self._unread.extents
        if extents and sum(extents[-1]) == extent.pfn:
            extent = Extent(extents[-1].pfn, extents.pop().frames + extent.frames)
        extents.append(extent)
        self._unread.entries.csums += csums

    def _verify(self) -> None:
        chain, self._unread = self._unread, Chain()
        for at in verify.damaged_entries(self._image, chain, lambda pages: None):
            raise DamagedPage(pfn_at(chain.extents, at), "verified")
