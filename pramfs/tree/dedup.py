"""Deduplication: pages of files that hold the same bytes share a frame, and pages of zeros become holes.

Pages with the same checksum are compared, byte by byte, before they share anything. The work is done in small
pieces, between which the tree may change in any way. It takes no frame, and contents stay as they are. For
files with a name only; pages that fallocate has promised room are left alone, because a page that is shared
needs a new frame when it changes. A page may also share the frame of a page in a snapshot, which stays there.
"""

import contextlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pramfs.errors import PramError
from pramfs.pram.nodes import Node
from pramfs.storage.arena import UNKNOWN_CSUM
from pramfs.storage.extents import pieces_of
from pramfs.storage.frames import PENDING, SAVED, WRITTEN_PENDING
from pramfs.storage.layout import PAGE_SHIFT, PAGE_STREAM, ZEROS, ZEROS_CSUM
from pramfs.tree.csum_index import CsumIndex
from pramfs.tree.inodes import File
from pramfs.tree.pagemap import CHUNK_PAGES, CHUNK_SHIFT, file_extents_of
from pramfs.tree.tree import Tree

PIECE_PAGES = 16  # looked at without a pause: some 200 microseconds
_INODES_AT_ONCE = 256  # that are no files, or empty
_WRITTEN_MAX = 16384  # chunks of files that are noted; with more, everything is looked at again
_FIRST_NODE = 1 << 63  # in place of an inode number, which is lower
_IN_SAVE = (SAVED, PENDING, WRITTEN_PENDING)


@dataclass(slots=True)
class DedupCounts:
    """What was looked at and found, in pages."""

    pages: int = 0  # looked at
    shared: int = 0  # that were given the frame of another one
    holes: int = 0  # that held zeros, and are holes now
    freed: int = 0  # frames that nobody holds any more
    held: int = 0  # of these, those that the last save still needs, until the next one


class _Page(NamedTuple):
    """A page of a file, and its frame; without a file, a page of a snapshot."""

    file: File | None
    number: int
    pfn: int


class Dedup:
    """Deduplicates the files of one tree.

    `on_holes` is called for a file that has got holes, which changes how many blocks it takes. `nodes` are
    those of the image, by name, as they come and go; the page streams among them are snapshots, or of other
    trees, except the one named `own`.
    """

    def __init__(
        self,
        tree: Tree,
        on_holes: Callable[[File], None] = lambda file: None,
        nodes: Mapping[str, Node] | None = None,
        own: str = "",
    ) -> None:
        self.counts = DedupCounts()
        self._tree = tree
        self._arena = tree.arena
        self._on_holes = on_holes
        self._nodes = {} if nodes is None else nodes
        self._own = own
        self._noted_nodes: list[Node | None] = []  # None: it is gone
        self._on_news: Callable[[], None] = lambda: None
        self._index = CsumIndex(0)
        self._written: set[tuple[int, int]] = set()  # inode numbers, and numbers of chunks
        self._everything = True  # is to be looked at, not only what was written

    def look_at_all(self) -> Iterator[int]:
        """Deduplicate all files, counting from 0; yield after each piece how many pages that had."""
        self.counts = DedupCounts()
        self._everything = True
        self._written.clear()
        self._noted_nodes = []
        nodes = self._new_nodes()
        of_nodes = sum(extent.frames for node in nodes for extent in node.owned)
        pages = self._tree.space.pages + min(of_nodes, self._arena.table.summary().used)
        # Half as many again, for what is written meanwhile and afterwards.
        self._index = CsumIndex(pages * 3 // 2)
        yield from self._note_nodes(nodes)
        for at, ino in enumerate(array("Q", self._tree.inodes)):
            yield from self._look_at_range(ino, 0, None)
            if not at % _INODES_AT_ONCE:
                yield 0
        self._everything = False
        if self._index.is_full:
            self.look_at_all_again()

    # --- what is written afterwards --------------------------------------------------------------

    def watch(self, on_news: Callable[[], None] = lambda: None) -> None:
        """Note from now on what is written, for `look_at_news`; `on_news` is called when there is any."""
        self._on_news = on_news
        self._tree.data.on_write = self._note_write
        on_news()

    def has_news(self) -> bool:
        """Whether anything was written that has not been looked at."""
        return self._everything or bool(self._written)

    def look_at_news(self) -> Iterator[int]:
        """Deduplicate what was written since the last call; yield as `look_at_all` does."""
        if not self._everything:
            yield from self._note_nodes(self._new_nodes())
        written, self._written = self._written, set()
        for ino, chunk in written:
            if self._everything or self._index.is_full:
                break
            first = chunk << CHUNK_SHIFT
            yield from self._look_at_range(ino, first, first + CHUNK_PAGES)
        if self._everything or self._index.is_full:
            yield from self.look_at_all()

    def look_at_all_again(self) -> None:
        """Have `look_at_news` look at everything: a look was given up before its end."""
        self._everything = True
        self._on_news()

    def _note_write(self, file: File, offset: int, size: int) -> None:
        if len(self._written) >= _WRITTEN_MAX:
            self._everything = True
            self._written.clear()
        if not self._written:
            self._on_news()
        first = offset >> (PAGE_SHIFT + CHUNK_SHIFT)
        last = max(offset, offset + size - 1) >> (PAGE_SHIFT + CHUNK_SHIFT)
        self._written.update((file.ino, chunk) for chunk in range(first, last + 1))

    # --- helpers ---------------------------------------------------------------------------------

    def _new_nodes(self) -> list[Node]:
        """Return the snapshots that are not noted yet, and forget those that are gone."""
        self._noted_nodes = [
            node if node is not None and self._nodes.get(node.name) is node else None
            for node in self._noted_nodes
        ]
        noted = {id(node) for node in self._noted_nodes}
        return [
            node
            for node in self._nodes.values()
            if node.type == PAGE_STREAM and node.name != self._own and id(node) not in noted
        ]

    def _note_nodes(self, nodes: list[Node]) -> Iterator[int]:
        """Note the pages of snapshots, as far as their checksums are known; yield 0 after each piece."""
        if not nodes:
            return
        seen = bytearray(len(self._arena.table))
        for node in nodes:
            number = _FIRST_NODE + len(self._noted_nodes)
            self._noted_nodes.append(node)
            for pfn, count in pieces_of(node.owned, PIECE_PAGES):
                at = seen.find(0, pfn, pfn + count)
                while at >= 0:
                    seen[at] = 1
                    csum = self._arena.known_csum(at)
                    if csum != UNKNOWN_CSUM and self._arena.table.may_be_shared(at):
                        self._note_page_of_node(number, at, csum)
                    at = seen.find(0, at, pfn + count)
                yield 0

    def _note_page_of_node(self, number: int, pfn: int, csum: int) -> None:
        for slot in self._index.slots_of(csum):
            other = self._page_in(slot, csum)
            if other is not None and other.file is None and other.pfn == pfn:
                return  # another snapshot has it, too
        self._index.note(csum, number, pfn)

    def _look_at_range(self, ino: int, first: int, behind: int | None) -> Iterator[int]:
        """Deduplicate the pages of a file from `first` on, before `behind`."""
        inode = self._tree.inodes.get(ino)
        if not isinstance(inode, File) or not inode.nlink:
            return
        while inode.pages is not None and (found := inode.pages.next_page(first)) is not None:
            if behind is not None and found >= behind:
                return
            first = min(found + PIECE_PAGES, (found | (CHUNK_PAGES - 1)) + 1)
            yield self._look_at_piece(inode, found, first)

    def _look_at_piece(self, file: File, first: int, behind: int) -> int:
        """Deduplicate pages of one chunk; return how many there were."""
        before, holes = self.counts.pages, self.counts.holes
        self._sum(file, first, behind)
        for number in range(first, behind):
            page = self._page(file, number)
            if page is not None:
                self.counts.pages += 1
                try:
                    self._look_at(file, page)
                except (OSError, PramError):
                    continue  # it cannot be read, or is damaged: whoever reads it will be told
        if self.counts.holes > holes:
            self._on_holes(file)
        return self.counts.pages - before

    def _sum(self, file: File, first: int, behind: int) -> None:
        """Compute the checksums that are not known yet, as far as the pages can be read."""
        assert file.pages is not None
        for _, pfn, count in file_extents_of(0, file.pages.pfns(first, behind - first)):
            if pfn:
                try:
                    self._arena.csums(pfn, count)
                except (OSError, PramError):
                    continue

    def _page(self, file: File, number: int) -> _Page | None:
        """Return a page that may be deduplicated, None if that one may not."""
        if file.pages is None or not file.nlink:
            return None
        pfn = file.pages.get(number)
        if not pfn or (file.reserved is not None and number in file.reserved):
            return None
        return _Page(file, number, pfn)

    def _look_at(self, file: File, page: _Page) -> None:
        """Make a page of a file a hole, or have it share a frame, or note it for others.

        Raises OSError or PramError if it cannot be read, or one that it is compared with.
        """
        csum = self._arena.known_csum(page.pfn)
        if csum == ZEROS_CSUM and self._arena.read(page.pfn) == ZEROS:
            with self._counted(file, page.pfn):
                self._tree.data.make_hole(file, page.number)
            self.counts.holes += 1
        elif csum != UNKNOWN_CSUM and not self._find_partner(page, csum):
            self._index.note(csum, file.ino, page.number)

    def _find_partner(self, page: _Page, csum: int) -> bool:
        """Have a page share a frame with an equal one, if there is any; return whether it is noted already.

        It is noted in any case, as there may be others that are equal when the partner has changed.
        """
        data, is_noted = b"", False
        for slot in self._index.slots_of(csum):
            other = self._page_in(slot, csum)
            if other is None:
                self._index.forget(slot)
            elif other.number == page.number and other.file is page.file:
                is_noted = True
            elif other.pfn == page.pfn:
                break
            else:
                data = data or self._arena.read(page.pfn)
                if self._arena.read(other.pfn) == data:
                    self._share(page, other)
                    break
        return is_noted

    def _page_in(self, slot: int, csum: int) -> _Page | None:
        """Return the page in a slot, None if it has not got this checksum any more, or may not be shared."""
        ino, number = self._index.page(slot)
        if ino >= _FIRST_NODE:
            return self._page_of_node(ino - _FIRST_NODE, number, csum)
        file = self._tree.inodes.get(ino)
        page = self._page(file, number) if isinstance(file, File) else None
        return page if page is not None and self._arena.known_csum(page.pfn) == csum else None

    def _page_of_node(self, number: int, pfn: int, csum: int) -> _Page | None:
        """Return a page of a snapshot, None if that or the page is gone."""
        node, table = self._noted_nodes[number], self._arena.table
        is_there = node is not None and self._nodes.get(node.name) is node
        if (
            is_there
            and table.state(pfn) in _IN_SAVE
            and table.may_be_shared(pfn)
            and self._arena.known_csum(pfn) == csum
        ):
            return _Page(None, pfn, pfn)
        return None

    def _share(self, page: _Page, other: _Page) -> None:
        """Give two pages with the same bytes one frame."""
        # The frame of most holders stays, else others would have to be moved; then one that a save has,
        # because the other one comes free at once.
        loser, pfn = page, other.pfn
        if other.file is not None and self._worth(page.pfn) > self._worth(other.pfn):
            loser, pfn = other, page.pfn
        assert loser.file is not None
        with self._counted(loser.file, loser.pfn):
            self._tree.data.map_to_equal(loser.file, loser.number, pfn)
        self.counts.shared += 1

    def _worth(self, pfn: int) -> tuple[int, bool]:
        table = self._arena.table
        return table.holders(pfn), table.state(pfn) in _IN_SAVE

    @contextlib.contextmanager
    def _counted(self, file: File, pfn: int) -> Iterator[None]:
        """Count what comes free when the file, or another that holds the frame, gives it up in the block."""
        frees = self._arena.table.holders(pfn) == 1
        in_save = self._arena.table.state(pfn) in _IN_SAVE
        yield
        self._tree.note_change(file)
        self.counts.freed += frees
        self.counts.held += frees and in_save
