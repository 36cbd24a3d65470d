"""Streams of trees in the hands of a test, and a place to receive them that is no image."""

import functools
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from crc32c import crc32c

from pramfs.pram.links import Entries
from pramfs.stream.decode import Decompress, StreamReader
from pramfs.stream.format import (
    HEADER,
    HEADER_CSUM_AT,
    MAGIC,
    VERSION,
    Header,
)
from pramfs.stream.image_target import image_target
from pramfs.stream.receive import Received, receive
from pramfs.stream.source import source_at


def sent(target: Path, since: str | None = None) -> bytes:
    """The stream that `pramfs send` writes."""
    with tempfile.TemporaryFile() as file:
        with source_at(target, since) as sending:
            sending.to(functools.partial(os.writev, file.fileno()))
        file.seek(0)
        return file.read()


def no_compression() -> Decompress:
    raise AssertionError("nothing is compressed here")


def reader_of(stream: bytes) -> StreamReader:
    return StreamReader(io.BytesIO(stream), no_compression)  # type: ignore[arg-type]


def receive_into(path: Path, stream: bytes, name: str = "", frames: int = 0) -> Received:
    """What `pramfs receive` does with a stream."""
    reader = reader_of(stream)
    with image_target(path, reader.header, frames) as target:
        return receive(reader, target, name)


class NoImage:
    """A target that keeps what comes, without checks of its own."""

    place = Path("nowhere")

    def __init__(self) -> None:
        self.pages = b""
        self.published: Received | None = None

    def has_tree(self, name: str) -> bool:
        return False

    def find_base(self, identity: bytes, entries: int, name: str) -> Entries | None:
        return None

    def require_room(self, header: Header) -> None:
        pass

    def take_pages(self, pages: memoryview) -> None:
        self.pages += pages

    def publish(self, received: Received) -> None:
        self.published = received


def with_header(stream: bytes, change: Callable[[Header], Header]) -> bytes:
    """The stream with another header, whose checksum is right."""
    _, _, _, *fields = HEADER.unpack_from(stream)
    header = change(Header._make(fields))
    packed = bytearray(HEADER.pack(MAGIC, 0, VERSION, *header))
    packed[HEADER_CSUM_AT : HEADER_CSUM_AT + 4] = crc32c(bytes(packed)).to_bytes(4, "little")
    return bytes(packed) + stream[HEADER.size :]
