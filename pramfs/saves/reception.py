"""Make a new tree of the frames of a file that has no name, and of those of another tree.

Whoever fills the file decides what it says, so all of it is checked. The work is done in steps, between which
other requests may be served; `add` looks at everything once more.
"""

import errno
import mmap
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from pramfs.errors import posix_error
from pramfs.pram.links import Entries, link_count
from pramfs.pram.pram import Pram
from pramfs.pram.reserve import chain_of
from pramfs.saves import codec
from pramfs.saves.more import decode_more
from pramfs.saves.received import add_tree, check_new_tree
from pramfs.saves.tree_nodes import DATA_SUFFIX, TREE_MARKS, drop_tree, has_tree
from pramfs.storage.extents import count_up, extents_of
from pramfs.storage.layout import PAGE_DATA, PAGE_SHIFT, PAGE_SIZE, ZEROS
from pramfs.tree.inodes import FILE_MAX_PAGES, File
from pramfs.tree.pagemap import CHUNK_PAGES
from pramfs.tree.tree import Tree

_RUN_WORDS = 3


@dataclass(frozen=True, slots=True)
class Parts:
    """What lies in the file: so many pages, and behind them bytes of metadata, births and runs.

    A run is (first index, first number, pages). Numbers from `new_pages` on are pages of the file, others
    are frames.
    """

    pages: int
    metadata_bytes: int
    more_bytes: int
    runs_bytes: int
    new_pages: int


class Reception:
    """A tree `name` that is made of a file and of frames of the tree `base`, if that is not ""."""

    def __init__(self, pram: Pram, tree: Tree, file: File, parts: Parts, base: str) -> None:
        """Read what is behind the pages. Raises OSError(EINVAL) if it is not there."""
        self._pram = pram
        self._tree = tree
        self._file = file
        self._parts = parts
        self._base = base
        if not 0 <= parts.pages <= len(pram.arena.table):
            raise posix_error(errno.EINVAL)
        at = parts.pages << PAGE_SHIFT
        self._metadata = self._bytes(at, parts.metadata_bytes)
        at += parts.metadata_bytes
        self._more = self._bytes(at, parts.more_bytes)
        at += parts.more_bytes
        self._runs = array("Q")
        if parts.runs_bytes % (8 * _RUN_WORDS):
            raise posix_error(errno.EINVAL)
        self._runs.frombytes(self._bytes(at, parts.runs_bytes))

    def check_metadata(self) -> None:
        """Raise ValueError unless this is a tree. May run in another thread."""
        decoded = codec.decode_tree(self._metadata)
        if self._more:
            decode_more(self._more, 0)
        indices = array("Q")
        for index, _, pages in self._each_run():
            if not 0 < pages <= FILE_MAX_PAGES - index:
                raise ValueError("an impossible run")
            if len(indices) + pages > sum(decoded.pages):
                raise ValueError("more pages than the files have")
            indices += count_up("Q", index, pages)
        decoded.check_indices(indices)

    def sum_pages(self) -> Iterator[None]:
        """Compute the checksums of the pages that are not known yet, in steps."""
        for _ in self._page_csums():
            yield

    def require_room(self) -> None:
        """Raise FramesHeld if a save gives room for the tree, OSError(ENOSPC) if there is none."""
        metadata = -(-len(self._metadata) // PAGE_SIZE) + -(-len(self._more) // PAGE_SIZE) + 2
        entries = sum(pages for _, _, pages in self._each_run())
        own = metadata + link_count(metadata) + 1 + link_count(entries) + 6
        self._pram.arena.require_free(own + self._tree.space.frames_to_keep_free())

    def add(self, name: str, marks: int) -> None:
        """Add the tree, marked so; a publish saves it. Raises PramError, OSError, and adds nothing then."""
        if marks & ~TREE_MARKS:
            raise posix_error(errno.EINVAL)
        check_new_tree(name)
        if has_tree(self._pram, name):
            raise posix_error(errno.EEXIST)
        add_tree(self._pram, name, self._metadata, self._more, self._entries(), marks)

    def take_back(self, name: str) -> None:
        """Drop what `add` has added, after a save that failed, unless it may be in force all the same."""
        if not self._pram.publisher.in_doubt:
            drop_tree(self._pram, name)

    def _bytes(self, at: int, size: int) -> bytes:
        data = bytes(self._tree.data.read(self._file, at, size)) if size > 0 <= at else b""
        if len(data) != size:
            raise posix_error(errno.EINVAL)
        return data

    def _each_run(self) -> Iterator[tuple[int, int, int]]:
        words = iter(self._runs)
        return zip(words, words, words, strict=True)

    def _entries(self) -> Entries:
        """Return the entries of the tree. Raises OSError(EINVAL, ENOENT) for pages that are not there."""
        pfns, csums = array("I"), array("I")
        for some, sums in self._page_csums():
            pfns += some
            csums += sums
        entries = Entries()
        base = _FrameSums(self._pram, self._base)
        with base:
            for index, number, pages in self._each_run():
                at = number - self._parts.new_pages
                if at < 0:
                    entries.csums += base.csums(number, pages)
                    entries.pfns += count_up("I", number, pages)
                elif at + pages <= len(pfns):
                    entries.csums += csums[at : at + pages]
                    entries.pfns += pfns[at : at + pages]
                else:
                    raise posix_error(errno.EINVAL)
                entries.indices += count_up("Q", index, pages)
        entries.flags = array("I", (PAGE_DATA,)) * len(entries)
        return entries

    def _page_csums(self) -> Iterator[tuple["array[int]", "array[int]"]]:
        """Yield frames and checksums of the pages in the file, a chunk at a time."""
        for first in range(0, self._parts.pages, CHUNK_PAGES):
            count = min(CHUNK_PAGES, self._parts.pages - first)
            pfns = self._frames(first, count)
            csums = array("I")
            for pfn, frames in extents_of(pfns):
                csums += self._pram.arena.csums(pfn, frames)
            yield pfns, csums

    def _frames(self, first: int, count: int) -> "array[int]":
        """Return the frames of pages of the file; a hole, which deduplication may have made, gets one."""
        assert self._file.pages is not None
        pfns = self._file.pages.pfns(first, count)
        for at, pfn in enumerate(pfns):
            if not pfn:
                self._tree.write(self._file, (first + at) << PAGE_SHIFT, ZEROS)
        return pfns if 0 not in pfns else self._file.pages.pfns(first, count)


class _FrameSums:
    """The checksums of the data pages of a tree in the image, by frame."""

    def __init__(self, pram: Pram, name: str) -> None:
        self._memory = mmap.mmap(-1, 8 * len(pram.arena.table))
        self._known = memoryview(self._memory).cast("Q")  # 1 + the checksum, 0 for other frames
        node = pram.nodes.get(name + DATA_SUFFIX) if name else None
        if node is None:
            return
        chain = chain_of(pram.arena, pram.current.uuid, node)
        for pfn, csums in zip(chain.entries.pfns, chain.entries.csums, strict=True):
            self._known[pfn] = csums + 1

    def __enter__(self) -> "_FrameSums":
        return self

    def __exit__(self, *exc: object) -> None:
        self._known.release()
        self._memory.close()

    def csums(self, pfn: int, count: int) -> "array[int]":
        """Return the checksums of these frames. Raises OSError(ENOENT) unless the tree has all of them."""
        known = self._known[pfn : pfn + count].tolist()
        if len(known) != count or 0 in known:
            raise posix_error(errno.ENOENT)
        return array("I", [csum - 1 for csum in known])
