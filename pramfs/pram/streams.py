"""Streams, which fill or empty a node: page streams of pages with an index each, byte streams of bytes.

Whether a node may be opened, and what becomes of it afterwards, is decided in `pram`.
"""

from array import array
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pramfs.errors import DamagedPage, WrongStreamType
from pramfs.pram import links
from pramfs.pram.links import Chain, Entries, read_page
from pramfs.pram.nodes import Node
from pramfs.storage.arena import Arena
from pramfs.storage.extents import Numbers, count_up, extents_of, pfns_of
from pramfs.storage.frames import Extent
from pramfs.storage.layout import (
    ACCMODE_LOAD,
    BYTE_STREAM,
    ENTRY,
    PAGE_DATA,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGE_STREAM,
    STREAM_TYPES,
)

_WRITE_FRAMES = 256


def require_type(node: Node, type_: int) -> None:
    """Raise WrongStreamType unless `node` is a stream of that type."""
    if node.type != type_:
        raise WrongStreamType(node.name, STREAM_TYPES[node.type], STREAM_TYPES[type_])


class SaveStream:
    """Fills one node. As a context manager, finishes the save, or discards it after an exception."""

    def __init__(self, arena: Arena, uuid: bytes, node: Node, drop: Callable[[Node], None]) -> None:
        self._arena = arena
        self._uuid = uuid
        self._node = node
        self._drop = drop
        self._packed = bytearray()  # the entries, as they will be in links
        self._tail = bytearray()  # bytes of a byte stream that do not fill a page yet

    def save_page(self, pfn: int, index: int, flags: int = PAGE_DATA) -> int:
        """Save the FRESH frame `pfn` as page `index`; return the frame that holds the page.

        The node owns the frame from now on. A page in a banned region is relocated, as in patch 9 of the
        2013 series; then the frame is another one. Raises WrongStreamType, OSError.
        """
        require_type(self._node, PAGE_STREAM)
        if self._arena.table.banned.overlaps(pfn):
            pfn = self._arena.relocate(pfn)
        self._node.owned.append(Extent(pfn, 1))
        self._append(Extent(pfn, 1), index, flags)
        return pfn

    def lend_pages(self, pfns: Numbers, indices: Numbers) -> None:
        """Save frames in bulk that the caller keeps owning: the node then owns only its links.

        The caller has relocated pages in banned regions. Raises WrongStreamType.
        """
        require_type(self._node, PAGE_STREAM)
        entries = Entries()
        entries.flags = array("I", (PAGE_DATA,)) * len(pfns)
        entries.csums = self._arena.csums_of(pfns)
        entries.pfns += pfns
        entries.indices += indices
        self._packed += entries.pack()

    def lend_packed(self, packed: bytes | memoryview) -> None:
        """Save pages as `lend_pages` does, of which another node has these entries: nothing is summed."""
        require_type(self._node, PAGE_STREAM)
        self._packed += packed

    @property
    def entries(self) -> Entries:
        """The entries of the pages saved so far."""
        entries = Entries()
        entries.pfns = entries.unpack(bytes(self._packed))
        return entries

    def share_pages(self, entries: Entries) -> None:
        """Save the pages of these entries, in frames that others hold: the node holds them, too, from now on.

        The checksums are taken as they are. Raises WrongStreamType.
        """
        require_type(self._node, PAGE_STREAM)
        for extent in extents_of(entries.pfns):
            self._arena.table.share(extent.pfn, extent.frames)
            self._node.owned.append(extent)
        self._packed += entries.pack()

    def take_pages(self, pages: Entries) -> None:
        """Append whole pages to a byte stream in frames that nobody else holds: the node owns them now.

        `pages` are their entries in another node, where they had the same indices. What was written before
        must end with a page. Raises WrongStreamType, NoFrames.
        """
        require_type(self._node, BYTE_STREAM)
        # First, so that they go with the node after an error.
        self._node.owned += extents_of(pages.pfns)
        assert self._node.data_len == pages.indices[0] << PAGE_SHIFT
        self._flush_tail()
        self._packed += pages.pack()
        self._node.data_len += len(pages) << PAGE_SHIFT

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append to a byte stream; return the number of bytes, always that of `data`.

        Raises WrongStreamType, NoFrames.
        """
        require_type(self._node, BYTE_STREAM)
        self._tail += data
        whole = len(self._tail) & ~(PAGE_SIZE - 1)
        if whole >= _WRITE_FRAMES << PAGE_SHIFT:
            self._write_pages(memoryview(bytes(self._tail[:whole])))
            del self._tail[:whole]
        self._node.data_len += len(data)
        return len(data)

    def finish_save(self) -> None:
        """Complete the node, so that a publish includes it. Raises NoFrames after discarding the save."""
        try:
            self._flush_tail()
            self._write_links()
        except BaseException:
            self.discard_save()
            raise
        self._node.flags = 0

    def discard_save(self) -> None:
        """Forget the node, and release all its frames."""
        self._drop(self._node)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish_save()
        else:
            self.discard_save()

    def _append(self, extent: Extent, index: int, flags: int) -> None:
        """Append entries for an extent of pages, the first of which has that `index`."""
        entries = Entries()
        entries.flags = array("I", (flags,)) * extent.frames
        entries.csums = self._arena.csums(extent.pfn, extent.frames)
        entries.pfns = count_up("I", extent.pfn, extent.frames)
        entries.indices = count_up("Q", index, extent.frames)
        self._packed += entries.pack()

    def _flush_tail(self) -> None:
        if self._tail:
            padding = -len(self._tail) % PAGE_SIZE
            self._write_pages(memoryview(bytes(self._tail) + bytes(padding)))
            self._tail.clear()

    def _write_pages(self, data: memoryview) -> None:
        """Write whole pages to new frames of the node."""
        extents = self._arena.table.allocate(len(data) >> PAGE_SHIFT)
        self._node.owned += extents
        self._arena.write_extents(extents, data)
        for extent in extents:
            self._append(extent, len(self._packed) // ENTRY.size, PAGE_DATA)

    def _write_links(self) -> None:
        node = self._node
        node.entries = len(self._packed) // ENTRY.size
        node.links = links.link_count(node.entries)
        extents = self._arena.table.allocate(node.links)
        node.owned += extents
        pfns = pfns_of(extents)
        pages = memoryview(links.build_links(self._uuid, pfns, self._packed))
        self._arena.write_extents(extents, pages)
        node.link_pfn = pfns[0] if pfns else 0


class LoadStream:
    """Empties one node, in the order it was saved.

    As a context manager, leaves the node as it is, unless `finish_load` was called to free it.
    """

    def __init__(
        self, arena: Arena, node: Node, chain: Chain, consume: Callable[[Node], None]
    ) -> None:
        self._arena = arena
        self._node = node
        self._chain = chain
        self._consume = consume
        self._next = 0  # entry
        self._unread = memoryview(b"")  # of the page last loaded for `read`
        self._left = node.data_len

    @property
    def chain(self) -> Chain:
        """All links and entries, for callers that load in bulk and verify the pages themselves."""
        return self._chain

    def load_page(self) -> tuple[bytes, int, int] | None:
        """Return the next page as (4,096 bytes, flags, index), or None at the end.

        Raises WrongStreamType, DamagedPage.
        """
        require_type(self._node, PAGE_STREAM)
        return self._next_page()

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes of a byte stream, or fewer at its end.

        Raises WrongStreamType, DamagedPage.
        """
        require_type(self._node, BYTE_STREAM)
        pieces = []
        while count and self._left:
            if not self._unread:
                page = self._next_page()
                if page is None:
                    raise DamagedPage(self._node.pfn, f"node '{self._node.name}' ends too early")
                self._unread = memoryview(page[0])[: self._left]
            piece = self._unread[:count]
            self._unread = self._unread[len(piece) :]
            self._left -= len(piece)
            count -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def finish_load(self) -> None:
        """Finish the load, and free the node if the image is open for writing."""
        self.keep()
        self._consume(self._node)

    def keep(self) -> None:
        """Stop loading, and leave the node as it is."""
        self._node.flags &= ~ACCMODE_LOAD

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.keep()

    def _next_page(self) -> tuple[bytes, int, int] | None:
        entries = self._chain.entries
        if self._next >= len(entries):
            return None
        at, self._next = self._next, self._next + 1
        what = f"node '{self._node.name}'"
        page = read_page(self._arena.read, entries.pfns[at], entries.csums[at], what)
        return page, entries.flags[at], entries.indices[at]
