"""Images of page streams that share pages, built at once, and nothing else in them; most pages are holes."""

import itertools
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

from crc32c import crc32c

from pramfs.pram.links import Entries, build_links, link_count
from pramfs.pram.nodes import Node, build_nodes
from pramfs.storage import layout, superblock
from pramfs.storage.extents import extents_of, pfns_of
from pramfs.storage.frames import FrameTable
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import PAGE_DATA, PAGE_SHIFT, PAGE_SIZE, PAGE_STREAM
from pramfs.storage.regions import Regions
from pramfs.storage.superblock import Published


def page_image(
    path: Path, streams: Sequence[Sequence[int]], frames: int, *, filled: bool = False, gap: int = 0
) -> Path:
    """An image with a page stream for each of `streams`, which says the number of each of its pages.

    Pages of one number share a frame, and have one content: zeros, or its number if they are `filled`. So
    many frames at the start of the image, `gap`, are free.
    """
    pages = 1 + max(itertools.chain.from_iterable(streams))
    repeats = sum(map(len, streams)) - pages
    with open_image(path, writable=True, create=True) as image:
        block = superblock.format_image(image, frames, Regions(), os.urandom(16))
        table = FrameTable(frames)
        table.allocate(gap)
        places = array("I", pfns_of(table.allocate(pages)))
        csums = array("I", [crc32c(bytes(PAGE_SIZE))]) * pages
        for number, pfn in enumerate(places if filled else ()):
            page = number.to_bytes(8, "little") * (PAGE_SIZE // 8)
            image.write(pfn << PAGE_SHIFT, page)
            csums[number] = crc32c(page)
        nodes = []
        for at, numbers in enumerate(streams):
            entries = Entries()
            entries.pfns = array("I", [places[number] for number in numbers])
            entries.csums = array("I", [csums[number] for number in numbers])
            entries.flags = array("I", [PAGE_DATA]) * len(numbers)
            entries.indices = array("Q", range(len(numbers)))
            nodes.append(_node(image, table, block.uuid, f"node-{at}", entries))
        listed = pfns_of(table.allocate(len(nodes)))
        _write(image, listed, build_nodes(block.uuid, listed, nodes))
        published = Published(
            node_pfn=listed[0],
            nodes=len(nodes),
            frames=frames,
            frames_used=2 + pages + sum(1 + node.links for node in nodes),
            flags=layout.SUPER_FINAL | layout.SUPER_PAIR,
            run=bytes(16),
            incompatible=layout.SHARED if repeats else 0,
        )
        superblock.replace(image, block, block.other_pfn, published)
    return path


def _node(image: Image, table: FrameTable, uuid: bytes, name: str, entries: Entries) -> Node:
    links = pfns_of(table.allocate(link_count(len(entries))))
    _write(image, links, build_links(uuid, links, entries.pack()))
    return Node(
        name,
        PAGE_STREAM,
        link_pfn=links[0],
        links=len(links),
        entries=len(entries),
        saved_ns=1,
    )


def _write(image: Image, pfns: list[int], pages: bytearray) -> None:
    at = 0
    for pfn, frames in extents_of(pfns):
        image.write(pfn << PAGE_SHIFT, pages[at : at + (frames << PAGE_SHIFT)])
        at += frames << PAGE_SHIFT
