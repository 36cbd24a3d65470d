"""The pages of an image, found by what the format says about each kind, to damage one of them.

Only as much of the format as that takes, from docs/format.md; of the code of pramfs just where super
blocks may lie.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

from pramfs.storage.layout import slot_bases
from tests.mounted.harness import PAGE

SUPER_MAGIC = 0x70726D73
NODE_MAGIC = 0x70726D6E
LINK_MAGIC = 0x7072616D
PAGE_STREAM = 1
BYTE_STREAM = 2

_GENERATION_AT = 64
_NODE_NAME_AT = 40
_NODE = struct.Struct("<IIIIQQQ256s")
_LINK = struct.Struct("<IIIIQ")
_ENTRY = struct.Struct("<IIQQ")


@dataclass(frozen=True)
class Super:
    """One of the two slots."""

    pfn: int
    node_pfn: int
    generation: int


class Pages:
    """An image that is not mounted."""

    def __init__(self, image: Path) -> None:
        self.image = image

    def read(self, pfn: int) -> bytes:
        with self.image.open("rb") as file:
            file.seek(pfn * PAGE)
            return file.read(PAGE)

    def write(self, pfn: int, page: bytes | bytearray) -> None:
        with self.image.open("r+b") as file:
            file.seek(pfn * PAGE)
            file.write(page)

    def flip(self, pfn: int, byte: int = 0, bit: int = 0) -> None:
        """Turn one bit of a page over."""
        page = bytearray(self.read(pfn))
        page[byte] ^= 1 << bit
        self.write(pfn, page)

    def supers(self) -> list[Super]:
        """Both slots, the one in force first."""
        found = []
        frames = self.image.stat().st_size // PAGE
        for pfn in (base + at for base in slot_bases(frames) for at in (0, 1)):
            page = self.read(pfn)
            if page.startswith(SUPER_MAGIC.to_bytes(4, "little")):
                node_pfn = struct.unpack_from("<Q", page, 8)[0]
                generation = struct.unpack_from("<Q", page, _GENERATION_AT)[0]
                found.append(Super(pfn, node_pfn, generation))
        return sorted(found, key=lambda slot: slot.generation, reverse=True)

    def nodes(self) -> dict[int, int]:
        """The pfn of every node's page, with the pfn of its first link."""
        nodes = {}
        pfn = self.supers()[0].node_pfn
        while pfn:
            *_, link_pfn, next_pfn, _ = _NODE.unpack_from(self.read(pfn))
            nodes[pfn] = link_pfn
            pfn = next_pfn
        return nodes

    def node_of_type(self, kind: int) -> int:
        """The page of the first node that is a page stream or a byte stream."""
        return next(pfn for pfn in self.nodes() if _NODE.unpack_from(self.read(pfn))[3] == kind)

    def links(self, node_pfn: int) -> list[int]:
        """The pages of a node's chain."""
        chain = []
        pfn = self.nodes()[node_pfn]
        while pfn:
            chain.append(pfn)
            pfn = _LINK.unpack_from(self.read(pfn))[4]
        return chain

    def stream(self, node_pfn: int) -> list[int]:
        """The pages that a node's chain names, in order."""
        return [
            _ENTRY.unpack_from(page, _LINK.size + number * _ENTRY.size)[2]
            for page in map(self.read, self.links(node_pfn))
            for number in range(_LINK.unpack_from(page)[2])
        ]

    def patch(self, pfn: int, offset: int, content: bytes) -> None:
        """Change a metadata page and make its checksum right again."""
        uuid = self.read(self.supers()[0].pfn)[32:48]
        page = bytearray(self.read(pfn))
        page[offset : offset + len(content)] = content
        csum = crc32c(bytes(page[8:]), crc32c(uuid + struct.pack("<Q", pfn)))
        struct.pack_into("<I", page, 4, csum)
        self.write(pfn, page)
