"""Nodes, and their pages in an image: read and checked, or built.

Not for the frames that nodes hold (`reserve`), nor for their contents (`streams`).
"""

import os
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pramfs.errors import CorruptedPage, InvalidPfn
from pramfs.pram.links import Chain
from pramfs.storage import layout, superblock
from pramfs.storage.extents import is_counting_up
from pramfs.storage.frames import Extent, FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import (
    BYTE_STREAM,
    NODE,
    NODE_MAGIC,
    PAGE_SHIFT,
    PAGE_SIZE,
    STREAM_TYPES,
    NodePage,
    SuperBlock,
)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What there is to tell of a node. `pramfs info --json` has these names, in this order.

    `type` is "page stream" or "byte stream"; `size` is in bytes, of a page stream that of its pages; `pfn` is
    the hexadecimal number of its frame in the published list, "0" before it is published; `pages` counts
    data pages of 4 KiB, and `links` the frames that list them; `saved_ns` is nanoseconds since the epoch.
    """

    name: str
    type: str
    size: int
    pfn: str
    links: int
    pages: int
    saved_ns: int


@dataclass(slots=True)
class Node:
    """A named stream in persistent memory. `info` returns what is of use outside of this package."""

    name: str
    type: int
    flags: int = 0  # ACCMODE_SAVE or ACCMODE_LOAD while a stream is open
    marks: int = 0  # its other flags, as published
    data_len: int = 0  # bytes, only for byte streams
    link_pfn: int = 0
    links: int = 0
    entries: int = 0
    saved_ns: int = 0
    pfn: int = 0  # of its page in the published list, 0 = not in it, or not as it is now
    place: int = 0  # of that page, counted from the end of the list: 1 is the last one
    owned: list[Extent] = field(default_factory=list)  # frames that are released with the node
    chain: Chain | None = None  # as reserved; dropped by its user to save memory

    def info(self) -> NodeInfo:
        """Return what there is to tell of it."""
        return NodeInfo(
            name=self.name,
            type=STREAM_TYPES[self.type],
            size=self.data_len or self.entries * PAGE_SIZE,
            pfn=f"{self.pfn:x}",
            links=self.links,
            pages=self.entries,
            saved_ns=self.saved_ns,
        )


class NodeList:
    """An iterable that reads the nodes of a save one by one, and reserves their pages in `table`.

    Raises InvalidPfn, CorruptedPage or BusyPfn; `pfn` is then the page at fault, and else the one to be
    read next. Every reserved page is passed to `taken`.
    """

    def __init__(
        self,
        image: Image,
        table: FrameTable,
        current: SuperBlock,
        taken: Callable[[Extent], None] = lambda extent: None,
    ) -> None:
        self.pfn = current.node_pfn
        self._image = image
        self._table = table
        self._uuid = current.uuid
        self._taken = taken

    def __iter__(self) -> Iterator[Node]:
        names: set[str] = set()
        while self.pfn:
            node, following = _read_node(self._image, len(self._table), self._uuid, self.pfn)
            self._table.reserve(self.pfn, 1, "node")
            self._taken(Extent(self.pfn, 1))
            if node.name in names:
                raise CorruptedPage(self.pfn, f"a second node '{node.name}'")
            names.add(node.name)
            yield node
            self.pfn = following


def read_nodes(image: Image, current: SuperBlock) -> Iterator[Node]:
    """Yield the nodes of a save one by one; reserve nothing. Raises InvalidPfn, CorruptedPage."""
    names: set[str] = set()
    pfn = current.node_pfn
    while pfn and len(names) < current.nodes:  # a list with a cycle ends, too
        node, following = _read_node(image, current.frames, current.uuid, pfn)
        if node.name in names:
            raise CorruptedPage(pfn, f"a second node '{node.name}'")
        names.add(node.name)
        yield node
        pfn = following
    if pfn or len(names) != current.nodes:
        raise CorruptedPage(current.pfn, f"not {current.nodes} nodes in the list")


def node_names(image: Image) -> list[str]:
    """Return the names of the nodes in the save in force. Raises PramError."""
    current = superblock.require(image)
    table = FrameTable(min(current.frames, image.frames))
    return list(by_age({node.name: node for node in NodeList(image, table, current)}))


def by_age(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Return the nodes of a list in the order in which they were saved: a list begins with the last ones."""
    return dict(sorted(nodes.items(), key=lambda item: item[1].saved_ns))


def check_chain(node: Node, chain: Chain) -> None:
    """Raise CorruptedPage if the chain of `node` is not the one that it describes."""
    if (len(chain.links), len(chain.entries)) != (node.links, node.entries):
        raise CorruptedPage(node.pfn, f"the chain of node '{node.name}' is not as long as it says")
    if node.type == BYTE_STREAM and not is_in_order(chain.entries.indices):
        raise CorruptedPage(node.pfn, f"the pages of node '{node.name}' are not in order")


def is_in_order(indices: "array[int]", first: int = 0) -> bool:
    """Return whether pages of a byte stream, of which so many came before, are all there and in order."""
    return not indices or (indices[0] == first and is_counting_up(indices))


def build_nodes(
    uuid: bytes, pfns: Sequence[int], nodes: Sequence[Node], behind: int = 0
) -> bytearray:
    """Return the pages of `nodes`, each naming the next, to be written to the frames `pfns`.

    The last one names the page at `behind`, which is there already; 0: the list ends. Nodes are linked by
    pfn as in patch 5 of the 2013 series.
    """
    pages = bytearray(len(nodes) << PAGE_SHIFT)
    view = memoryview(pages)
    following = [*pfns[1:], behind]
    for at, (pfn, node) in enumerate(zip(pfns, nodes, strict=True)):
        start = at << PAGE_SHIFT
        NODE.pack_into(pages, start, *_record(node, following[at]))
        layout.seal_page(uuid, pfn, view[start : start + PAGE_SIZE])
    return pages


def _read_node(image: Image, frames: int, uuid: bytes, pfn: int) -> tuple[Node, int]:
    """Return the node at `pfn` and the pfn of the next one. Raises InvalidPfn, CorruptedPage."""
    if pfn >= frames:
        raise InvalidPfn(pfn, "node")
    page = image.read(pfn)
    record = NodePage._make(NODE.unpack_from(page))
    if record.magic != NODE_MAGIC:
        raise CorruptedPage(pfn, "not a node")
    if record.csum != layout.page_csum(uuid, pfn, page):
        raise CorruptedPage(pfn, "node checksum")
    _check_record(pfn, record)
    node = Node(
        os.fsdecode(record.name.rstrip(b"\0")),
        record.type,
        marks=record.flags & ~layout.ACCMODE_MASK,
        data_len=record.data_len,
        link_pfn=record.link_pfn,
        links=record.links,
        entries=record.entries,
        saved_ns=record.saved_ns,
        pfn=pfn,
    )
    return node, record.node_pfn


def _check_record(pfn: int, record: NodePage) -> None:
    """Raise CorruptedPage for field values that no published node has."""
    if record.flags & layout.ACCMODE_MASK:
        raise CorruptedPage(pfn, "a node that was being saved or loaded")
    name, _, rest = record.name.partition(b"\0")
    if not name or rest.strip(b"\0") or len(name) >= layout.NAME_MAX:
        raise CorruptedPage(pfn, "name of a node")
    if record.type not in STREAM_TYPES:
        raise CorruptedPage(pfn, f"stream type {record.type}")
    pages = -(-record.data_len // PAGE_SIZE)
    if pages != (record.entries if record.type == BYTE_STREAM else 0):
        raise CorruptedPage(pfn, f"{record.data_len} bytes in {record.entries} pages")


def _record(node: Node, following: int) -> NodePage:
    return NodePage(
        magic=NODE_MAGIC,
        csum=0,
        flags=node.marks,
        type=node.type,
        data_len=node.data_len,
        link_pfn=node.link_pfn,
        node_pfn=following,
        name=os.fsencode(node.name),
        links=node.links,
        entries=node.entries,
        saved_ns=node.saved_ns,
    )
