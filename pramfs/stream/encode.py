"""Write the header and records of a stream. What they say is of no concern here."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from crc32c import crc32c

from pramfs.stream.format import (
    BODY_MAX_BYTES,
    END,
    HEADER,
    HEADER_CSUM_AT,
    IDENTITY_BYTES,
    MAGIC,
    PAGES,
    RECORD,
    RECORD_CSUM_AT,
    SIZE,
    VERSION,
    ZSTD,
    Header,
)

if TYPE_CHECKING:
    from array import array

Data = bytes | memoryview
# Takes these parts, or what comes first of them, and returns how many bytes it took, as os.writev does.
Write = Callable[[Sequence[Data]], int]


class StreamWriter:
    """Writes a stream: the header when it is made, then records. `compress` makes bodies shorter."""

    def __init__(
        self, write: Write, header: Header, compress: Callable[[Data], bytes] | None = None
    ) -> None:
        self._write_some = write
        self._compress = compress
        self._number = 0
        self._digest = hashlib.blake2b(digest_size=IDENTITY_BYTES)
        packed = bytearray(HEADER.pack(MAGIC, 0, VERSION, *header))
        packed[HEADER_CSUM_AT : HEADER_CSUM_AT + 4] = crc32c(bytes(packed)).to_bytes(4, "little")
        self._digest.update(packed)
        self._write(bytes(packed))

    def write_bytes(self, type_: int, data: Data) -> None:
        """Write records with these bytes, as many as they need."""
        view = memoryview(data)
        for start in range(0, len(view), BODY_MAX_BYTES):
            piece = view[start : start + BODY_MAX_BYTES]
            self._write_record(type_, SIZE.pack(len(piece)), piece)

    def write_pages(self, csums: "array[int]", pages: Data) -> None:
        """Write a record with at most PAGES_MAX pages, whose checksums have been verified."""
        self._write_record(PAGES, SIZE.pack(len(csums)) + csums.tobytes(), pages)

    def finish(self) -> None:
        """Write the end, with the digest of everything before."""
        digest = self._digest.digest()
        self._compress = None
        self._write_record(END, SIZE.pack(len(digest)), digest)

    def _write_record(self, type_: int, before: bytes, body: Data) -> None:
        """Write a record. A digest of plain pages would take too long: their checksums stand for them."""
        flags = 0
        if self._compress is not None:
            shorter = self._compress(body)
            if len(shorter) < len(body):
                flags, body = ZSTD, shorter
        head = bytearray(RECORD.pack(type_, flags, 0, self._number, len(before) + len(body), 0))
        self._number += 1
        csum = crc32c(before, crc32c(bytes(head[:RECORD_CSUM_AT])))
        if type_ != PAGES or flags:
            csum = crc32c(body, csum)
        head[RECORD_CSUM_AT:] = csum.to_bytes(4, "little")
        self._digest.update(head)
        self._digest.update(before)
        self._write(bytes(head), before, body)

    def _write(self, *parts: Data) -> None:
        """Write all of it. Raises OSError, BrokenPipeError when nobody reads any more."""
        left = sum(map(len, parts))
        written = self._write_some(parts)
        while written < left:
            left -= written
            parts = _behind(parts, written)
            written = self._write_some(parts)


def _behind(parts: tuple[Data, ...], written: int) -> tuple[Data, ...]:
    """Return what follows the first `written` bytes of these parts."""
    rest = list(parts)
    while written >= len(rest[0]):
        written -= len(rest.pop(0))
    rest[0] = memoryview(rest[0])[written:]
    return tuple(rest)
