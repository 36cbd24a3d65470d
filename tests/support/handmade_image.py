"""Images built page by page, with correct checksums: the metadata that an attacker would write."""

import os
from collections.abc import Sequence
from struct import Struct
from typing import Any

from crc32c import crc32c

from pramfs.pram.pram import Pram
from pramfs.storage import layout
from pramfs.storage.layout import (
    ENTRY,
    LINK,
    LINK_MAGIC,
    NODE,
    NODE_MAGIC,
    PAGE_DATA,
    PAGE_SIZE,
    PAGE_STREAM,
    SUPER,
    SUPER_MAGIC,
    LinkHeader,
    NodePage,
    SuperBlock,
)
from tests.support.watched_image import WatchedImage, image_of

UUID = bytes(range(16))
FRAMES = 64
SLOT, OTHER_SLOT = 1, 2


class Forge:
    """An image of 64 frames with super blocks in frames 1 and 2; the rest is up to the test."""

    def __init__(self) -> None:
        self.image: WatchedImage = image_of(bytes(FRAMES * PAGE_SIZE))
        self._metadata: set[int] = set()
        self.super()

    def page(self, pfn: int, data: bytes | bytearray) -> None:
        """Write a page as it is."""
        os.pwrite(self.image._fd, data, pfn * PAGE_SIZE)

    def data(self, pfn: int, byte: int = 0x55) -> int:
        """Fill a data page; returns its checksum."""
        self.page(pfn, bytes((byte,)) * PAGE_SIZE)
        return crc32c(bytes((byte,)) * PAGE_SIZE)

    def super(self, node_pfn: int = 0, nodes: int = 0, **fields: Any) -> None:
        """Write both slots; SLOT is in force."""
        block = SuperBlock(
            SUPER_MAGIC,
            0,
            node_pfn,
            layout.VERSION,
            0,
            0,
            0,
            UUID,
            OTHER_SLOT,
            SLOT,
            8,
            FRAMES,
            2,
            nodes,
            0,
            bytes(16),
            b"forged",
        )
        self._seal(SUPER, OTHER_SLOT, block)
        fields = {"pfn": SLOT, "other_pfn": OTHER_SLOT, "generation": 9} | fields
        self._seal(SUPER, SLOT, block._replace(**fields))

    def node(self, pfn: int, name: bytes = b"n", **fields: Any) -> None:
        """Write a node; without fields it is an empty page stream, the last of the list."""
        node = NodePage(NODE_MAGIC, 0, 0, PAGE_STREAM, 0, 0, 0, name, 0, 0, 0)
        self._seal(NODE, pfn, node._replace(**fields))

    def link(
        self, pfn: int, entries: Sequence[tuple[int, int]] = (), link_pfn: int = 0, **fields: Any
    ) -> None:
        """Write a link with entries (pfn, index); the data pages get content and true checksums.

        An entry that names a page of metadata leaves that as it is.
        """
        self._metadata.add(pfn)
        page = bytearray(PAGE_SIZE)
        header = LinkHeader(LINK_MAGIC, 0, len(entries), 0, link_pfn)._replace(**fields)
        LINK.pack_into(page, 0, *header)
        for number, (frame, index) in enumerate(entries):
            is_data = 0 < frame < FRAMES and frame not in self._metadata
            csum = self.data(frame) if is_data else 0
            ENTRY.pack_into(page, LINK.size + number * ENTRY.size, PAGE_DATA, csum, frame, index)
        layout.seal_page(UUID, pfn, page)
        self.page(pfn, page)

    def flip(self, pfn: int, at: int) -> None:
        """Flip a bit of a page behind its checksum."""
        page = bytearray(self.image.read(pfn))
        page[at] ^= 1
        self.page(pfn, page)

    def open(self) -> Pram:
        return Pram.open(self.image, arena="image")

    def _seal(self, struct: Struct, pfn: int, record: tuple[Any, ...]) -> None:
        self._metadata.add(pfn)
        page = bytearray(PAGE_SIZE)
        struct.pack_into(page, 0, *record)
        layout.seal_page(UUID, pfn, page)
        self.page(pfn, page)
