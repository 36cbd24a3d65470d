"""Read the header and records of a stream, and check all that can be known of them one by one.

Whoever made the stream may have wanted to do harm: every length has a limit, and memory for a body is taken
once. Whether the records fit together is up to `receive`.
"""

import hashlib
import io
from array import array
from collections.abc import Callable
from typing import NamedTuple

from crc32c import crc32c

from pramfs.errors import NewerStream, NoStream, StreamCut, StreamDamaged
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.stream.format import (
    BODY_MAX_BYTES,
    END,
    HEADER,
    HEADER_CSUM_AT,
    IDENTITY_BYTES,
    LIST_MAX_BYTES,
    MAGIC,
    METADATA,
    PAGES,
    PAGES_MAX,
    PAYLOAD_MAX_BYTES,
    RECORD,
    RECORD_CSUM_AT,
    SIZE,
    VERSION,
    ZSTD,
    Header,
    RecordHead,
)
from pramfs.stream.page_sums import damaged_page, pages_in

# Returns as many bytes as the second argument says, or raises ValueError.
Decompress = Callable[[memoryview, int], bytes]


class Record(NamedTuple):
    """A record whose checksums are right. The body is overwritten by the next record."""

    type: int
    csums: "array[int]"  # of pages
    body: memoryview


class StreamReader:
    """Reads a stream: the header when it is made, then a record at a time."""

    def __init__(self, source: io.RawIOBase, decompress: Callable[[], Decompress]) -> None:
        """Read the header. Raises NoStream, StreamCut, StreamDamaged, NewerStream.

        `decompress` is called for the first body that is compressed.
        """
        self.bytes_read = 0
        self._source = source
        self._make_decompress = decompress
        self._decompress: Decompress | None = None
        self._number = 0
        self._last_type = METADATA
        self._payload = memoryview(bytearray(PAYLOAD_MAX_BYTES))
        usual = slice(LIST_MAX_BYTES, LIST_MAX_BYTES + BODY_MAX_BYTES)
        self._usual_pages = pages_in(self._payload[usual])
        self._digest = hashlib.blake2b(digest_size=IDENTITY_BYTES)
        self.header = self._read_header()

    def read(self) -> Record:
        """Return the next record; of type END for the last, which has been compared with all of the stream.

        Raises StreamCut, StreamDamaged.
        """
        packed = self._take(memoryview(bytearray(RECORD.size)))
        head = RecordHead._make(RECORD.unpack(packed))
        number = self._number
        if (
            not self._last_type <= head.type <= END
            or head.flags & ~ZSTD
            or head.zero
            or head.number != number
            or not SIZE.size <= head.length <= PAYLOAD_MAX_BYTES
        ):
            raise StreamDamaged(f"there is no record {number}")
        payload = self._take(self._payload[: head.length])
        (size,) = SIZE.unpack_from(payload)
        is_pages = head.type == PAGES
        list_end = SIZE.size + (4 * size if is_pages else 0)
        if not 0 < size <= (PAGES_MAX if is_pages else BODY_MAX_BYTES) or list_end > head.length:
            raise StreamDamaged(f"record {number} has an impossible size")
        before, body = payload[:list_end], payload[list_end:]
        csum = crc32c(before, crc32c(bytes(packed[:RECORD_CSUM_AT])))
        if not is_pages or head.flags:
            csum = crc32c(body, csum)
        if csum != head.csum:
            raise StreamDamaged(f"record {number} fails its checksum")
        body = self._plain(body, size << PAGE_SHIFT if is_pages else size, head)
        csums = array("I")
        if is_pages:
            csums.frombytes(before[SIZE.size :])
            # Nearly all records have as many pages, in one place.
            is_usual = size == PAGES_MAX and not head.flags
            pages = self._usual_pages if is_usual else pages_in(body)
            if damaged_page(pages, csums) is not None:
                raise StreamDamaged(f"a page of record {number} fails its checksum")
        if head.type == END:
            self._check_end(body)
        self._digest.update(packed)
        self._digest.update(before)
        self._number += 1
        self._last_type = head.type
        return Record(head.type, csums, body)

    def _read_header(self) -> Header:
        packed = bytearray(HEADER.size)
        first = self._fill(memoryview(packed)[: len(MAGIC)])
        if first < len(MAGIC) or not packed.startswith(MAGIC):
            raise NoStream("it is empty" if not first else "it begins with something else")
        self._take(memoryview(packed)[len(MAGIC) :])
        self._digest.update(packed)
        _, csum, version, *fields = HEADER.unpack(packed)
        packed[HEADER_CSUM_AT : HEADER_CSUM_AT + 4] = bytes(4)
        if crc32c(bytes(packed)) != csum:
            raise StreamDamaged("the header fails its checksum")
        if version != VERSION:
            raise NewerStream(version, VERSION)
        return Header._make(fields)

    def _plain(self, body: memoryview, size: int, head: RecordHead) -> memoryview:
        """Return a body of `size` bytes as it was before it was compressed."""
        if head.flags & ZSTD:
            if self._decompress is None:
                self._decompress = self._make_decompress()
            try:
                body = memoryview(self._decompress(body, size))
            except ValueError as exc:
                raise StreamDamaged(f"record {head.number} cannot be decompressed") from exc
        if len(body) != size:
            raise StreamDamaged(f"record {head.number} has {len(body)} bytes, not {size}")
        return body

    def _check_end(self, digest: memoryview) -> None:
        if digest != self._digest.digest():
            raise StreamDamaged("it is not what its digest says")
        if self._fill(memoryview(bytearray(1))):
            raise StreamDamaged("something follows its end")

    def _take(self, into: memoryview) -> memoryview:
        if self._fill(into) < len(into):
            raise StreamCut(self.bytes_read)
        return into

    def _fill(self, into: memoryview) -> int:
        """Read until `into` is full or the stream ends; return how many bytes there were."""
        filled = 0
        while filled < len(into):
            count = self._source.readinto(into[filled:])
            if not count:
                break
            filled += count
        self.bytes_read += filled
        return filled


assert PAGES_MAX * PAGE_SIZE == BODY_MAX_BYTES
