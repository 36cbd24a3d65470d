"""The layout of a stream, as docs/stream.md has it, and nothing else.

A header, then records in the order of their types, each with its length and checksum, and an end. All
numbers are little-endian.
"""

import struct
from typing import NamedTuple

from pramfs.storage.layout import NODE_CUT_OFF, NODE_INCOMPLETE

MAGIC = b"PRAMSEND"
VERSION = 1
ID_BYTES = 16
IDENTITY_BYTES = 32  # blake2b, as is the digest at the end
NAME_BYTES = 256  # of a tree, with the zeros behind it

HEADER = struct.Struct(f"<8sIHH{ID_BYTES}s{IDENTITY_BYTES}s{IDENTITY_BYTES}s6Q256s256s")
HEADER_CSUM_AT = 8

RECORD = struct.Struct("<BBHIII")  # see RecordHead
RECORD_CSUM_AT = 12
SIZE = struct.Struct("<I")
RUN = struct.Struct("<QQQ")  # first index, first source, pages

# The types of records, in their order.
METADATA = 1
MORE = 2
RUNS = 3
PAGES = 4
END = 5

ZSTD = 1  # a flag of a record
# Flags of the header, and the marks of a tree that they stand for.
LACKS = {1: NODE_INCOMPLETE, 2: NODE_CUT_OFF}

BODY_MAX_BYTES = 1 << 20
PAGES_MAX = 256  # in a record
# What comes before the body: the size and, of pages, their checksums.
LIST_MAX_BYTES = SIZE.size + 4 * PAGES_MAX
# zstd makes data that it cannot compress a little longer.
PAYLOAD_MAX_BYTES = LIST_MAX_BYTES + BODY_MAX_BYTES + (BODY_MAX_BYTES >> 8) + 64

METADATA_MAX_BYTES = 1 << 30  # some seven million files
MORE_MAX_BYTES = 1 << 28


class Header(NamedTuple):
    """The header of a stream, without its magic, checksum and version."""

    flags: int
    id: bytes
    identity: bytes  # of the tree
    base_identity: bytes  # of what it builds on, zeros if it is complete
    base_pages: int  # entries of that
    metadata_bytes: int
    more_bytes: int
    runs: int
    entries: int  # pages of all files
    pages: int  # that are in the stream
    name: bytes  # of the tree
    base_name: bytes


class RecordHead(NamedTuple):
    """The head of a record. `csum` is the CRC-32C of what stands before it, and of the checked payload."""

    type: int
    flags: int
    zero: int
    number: int  # of the record, from 0 on
    length: int  # bytes of the payload
    csum: int
