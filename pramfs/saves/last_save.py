"""What a save may take over from the last one: frames with its metadata, entries of its pages, births.

A frame that is taken over goes from a node of the last save to one of the next, and is in both, as frames
with data are. It stays SAVED: nobody writes to it, and it comes free after a save without it.
"""

import contextlib
import itertools
from array import array
from collections.abc import Iterator

from pramfs.errors import CorruptedPage, PramError
from pramfs.pram.links import Entries, read_packed, read_pages
from pramfs.pram.nodes import Node
from pramfs.pram.pram import Pram
from pramfs.pram.reserve import chain_of
from pramfs.saves.more import More, decode_header, decode_more
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, MORE_SUFFIX, nodes_of
from pramfs.storage.extents import extents_of
from pramfs.storage.image import Image
from pramfs.storage.layout import ENTRY, PAGE_SHIFT
from pramfs.tree.inodes import ROOT_INO
from pramfs.tree.saved_groups import GroupPlaces
from pramfs.tree.tree import Tree

# It is worth while if there are at least this many groups for each one that has changed.
_WORTH_COPYING = 4


class LastSave:
    """The nodes of the last save of a tree, which stay readable until the next one is in force.

    `places` is where they have which groups. `births` is None if the node with these is kept as it is.
    Raises PramError, OSError or ValueError for nodes with damage.
    """

    def __init__(
        self, pram: Pram, name: str, tree: Tree, places: GroupPlaces, *, renew: bool
    ) -> None:
        self.places = places
        self._pram = pram
        self._name = name
        self._metadata = pram.node(name + META_SUFFIX)
        chain = chain_of(pram.arena, pram.current.uuid, self._metadata)
        self._entries = chain.entries
        self._links = list(extents_of(chain.links))
        self._has = bytearray(len(chain.entries))  # 1: no node holds the frame at present
        if sum(extent.frames for extent in self._metadata.owned) != len(chain.links) + len(
            self._entries
        ):
            raise CorruptedPage(self._metadata.link_pfn, "the node does not hold its frames")
        data = pram.node(name + DATA_SUFFIX)  # which owns its links only
        packed = read_packed(pram.image, pram.current.uuid, data.owned, data.entries)
        self._pages = memoryview(packed)
        self.births = _births(pram, pram.node(name + MORE_SUFFIX), tree, renew=renew)

    def drop(self) -> None:
        """Free the nodes, but keep the frames with metadata until `release`."""
        self._metadata.owned = self._links
        self._has = bytearray(b"\1") * len(self._entries)
        for node in nodes_of(self._name):
            if self.births is not None or node != self._name + MORE_SUFFIX:
                self._pram.free(node)

    def release(self) -> None:
        """Release the frames with metadata that were not taken."""
        left = array("I", itertools.compress(self._entries.pfns, self._has))
        self._has = bytearray(len(self._entries))
        self._pram.arena.release_extents(extents_of(left))

    def take(self, first: int, behind: int) -> Entries:
        """Hand over the frames with these pages of the metadata stream, after verifying them.

        Raises DamagedPage.
        """
        pages = self._entries.part(first, behind)
        for _ in read_pages(self._pram.image, pages, "metadata"):
            pass
        self._has[first:behind] = bytes(behind - first)
        return pages

    def records(self, start: int, end: int) -> Iterator[memoryview]:
        """Yield these bytes of the metadata stream, verified, in pieces. Raises DamagedPage."""
        if start >= end:
            return
        first = start >> PAGE_SHIFT
        at = first << PAGE_SHIFT
        pages = self._entries.part(first, ((end - 1) >> PAGE_SHIFT) + 1)
        for data in read_pages(self._pram.image, pages, "metadata"):
            yield memoryview(data)[max(start - at, 0) : end - at]
            at += len(data)

    def pages(self, first: int, behind: int) -> memoryview:
        """Return these entries of the page stream, packed."""
        return self._pages[first * ENTRY.size : behind * ENTRY.size]


def find_last_save(pram: Pram, name: str, tree: Tree, *, renew_births: bool) -> LastSave | None:
    """Return the last save of a tree if the next one may take something over, None if it is to encode all.

    Not from a disk, which may have to be read for it; nor where the save in force lies in frames that are
    banned by now; nor with damage in it: then this save makes it good. With `renew_births` their node is not
    kept.
    """
    places = tree.groups.places
    if places is None or pram.arena.table.banned or not _is_fast(pram.image):
        return None
    if len(tree.groups.changed) * _WORTH_COPYING > len(places.numbers):
        return None
    if tree.space.promised_ranges or not (nodes_of(name) <= pram.nodes.keys()):
        return None
    metadata, pages = pram.node(name + META_SUFFIX), pram.node(name + DATA_SUFFIX)
    if metadata.data_len != places.records[-1] or pages.entries != places.pages[-1]:
        return None
    with contextlib.suppress(PramError, OSError, ValueError):
        return LastSave(pram, name, tree, places, renew=renew_births)
    return None


def _is_fast(image: Image) -> bool:
    return image.in_memory()


def _births(pram: Pram, node: Node, tree: Tree, *, renew: bool) -> More | None:
    """Return the births that a node holds, None if it is as it should be now. Raises as `LastSave`."""
    entries = chain_of(pram.arena, pram.current.uuid, node).entries
    pieces = read_pages(pram.image, entries, "births")
    data = next(pieces, b"")
    header = decode_header(data)
    if header.generation != tree.inodes[ROOT_INO].generation:
        raise ValueError("births of another tree")
    if renew or header.reserved or not tree.groups.births.are_complete(tree.next_ino):
        return decode_more(b"".join((data, *pieces))[: node.data_len], len(pram.arena.table))
    for _ in pieces:
        pass
    return None
