"""Take a stream apart, check that its records fit together, and hand what it brings to a target.

The target is an image or a mount. It is asked for the base before anything but the header is read, gets the
pages as they come, and publishes the tree once, when all of the stream is known to be right.
"""

import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

from pramfs.errors import NameTaken, NoBase, StreamRefused
from pramfs.pram.links import Entries
from pramfs.saves import codec
from pramfs.saves.more import decode_more
from pramfs.saves.received import check_new_tree
from pramfs.saves.snapshot_names import SNAPSHOT_MARK, snapshot_tree, tree_of
from pramfs.storage.arena import Progress
from pramfs.storage.extents import count_up
from pramfs.storage.layout import PAGE_DATA, TREE_HEADER
from pramfs.stream.decode import Record, StreamReader
from pramfs.stream.format import (
    END,
    IDENTITY_BYTES,
    LACKS,
    METADATA,
    METADATA_MAX_BYTES,
    MORE,
    MORE_MAX_BYTES,
    PAGES,
    RUN,
    Header,
)
from pramfs.stream.identity import identity_by_parts
from pramfs.stream.page_plan import Runs
from pramfs.system.text import printable
from pramfs.tree.inodes import FILE_MAX_PAGES

_NUMBERS_MAX = (1 << 32) - 1  # of pages


@dataclass(slots=True)
class Received:
    """What a stream has brought; without the pages, which the target has."""

    name: str  # that the new tree gets
    marks: int  # what is known that it lacks, see `mark_tree`
    metadata: bytearray = field(default_factory=bytearray)
    more: bytearray = field(default_factory=bytearray)
    runs: Runs = field(default_factory=Runs)
    csums: "array[int]" = field(default_factory=lambda: array("I"))  # of the pages
    base: Entries = field(default_factory=Entries)

    def entries(self, pfns: "array[int]") -> Entries:
        """Return the entries of the tree, whose pages that came are in the frames `pfns`."""
        entries = Entries()
        behind = len(self.base)
        for index, number, pages in self.runs:
            some_pfns, some_csums = self.base.pfns, self.base.csums
            at = number
            if number >= behind:
                some_pfns, some_csums, at = pfns, self.csums, number - behind
            entries.pfns += some_pfns[at : at + pages]
            entries.csums += some_csums[at : at + pages]
            entries.indices += count_up("Q", index, pages)
        entries.flags = array("I", (PAGE_DATA,)) * len(entries)
        return entries


class Target(Protocol):
    """Where a tree is received: an image, or a mount."""

    place: Path  # for messages

    def has_tree(self, name: str) -> bool:
        """Return whether there is a tree of that name."""

    def find_base(self, identity: bytes, entries: int, name: str) -> Entries | None:
        """Return the entries of the tree with that identity, None if there is none; first try `name`."""

    def require_room(self, header: Header) -> None:
        """Raise NoRoomForStream unless there is room for what the header announces."""

    def take_pages(self, pages: memoryview) -> None:
        """Keep pages, which follow those that came before. Raises OSError, or a PramError."""

    def publish(self, received: Received) -> None:
        """Make the tree one of the image, durably. Raises PramError."""


def receive(
    reader: StreamReader,
    target: Target,
    new_name: str = "",
    progress: Progress = lambda pages: None,
) -> Received:
    """Receive the tree of a stream under `new_name`, by default that which the stream has for it.

    Raises StreamCut, StreamDamaged, StreamRefused, NoBase, NameTaken, NoRoomForStream, BadSnapshotName,
    BadTreeName, or another PramError; the target has published nothing then.
    """
    header = reader.header
    _check_header(header)
    marks = sum(mark for flag, mark in LACKS.items() if header.flags & flag)
    received = Received(name_for(_text(header.name), new_name), marks)
    if target.has_tree(received.name):
        raise NameTaken(target.place, received.name)
    if header.base_identity.strip(b"\0"):
        base_name = _text(header.base_name)
        base = target.find_base(header.base_identity, header.base_pages, base_name)
        if base is None:
            raise NoBase(target.place, base_name)
        received.base = base
    target.require_room(header)
    _take_records(reader, target, received, progress)
    target.publish(received)
    return received


def name_for(name: str, new_name: str) -> str:
    """Return the name that a tree gets which was sent as `name`. Raises BadTreeName, BadSnapshotName."""
    if new_name:
        name = snapshot_tree(new_name, tree_of(name)) if SNAPSHOT_MARK in new_name else new_name
    check_new_tree(name)
    return name


def _text(name: bytes) -> str:
    return os.fsdecode(name.rstrip(b"\0"))


def _check_header(header: Header) -> None:
    """Raise StreamRefused for numbers that no stream can have."""
    limits = {
        "metadata": (TREE_HEADER.size, header.metadata_bytes, METADATA_MAX_BYTES),
        "births": (0, header.more_bytes, MORE_MAX_BYTES),
        "entries": (0, header.entries, _NUMBERS_MAX),
        "pages": (0, header.pages, header.entries),
        "runs": (0, header.runs, header.entries),
        "pages of the base": (0, header.base_pages, _NUMBERS_MAX - header.pages),
    }
    for what, (least, number, most) in limits.items():
        if not least <= number <= most:
            raise StreamRefused(f"it announces {number} {what}")
    has_base = header.base_identity != bytes(IDENTITY_BYTES)
    if header.flags & ~sum(LACKS) or (header.base_pages and not has_base):
        raise StreamRefused("it needs what this pramfs does not know")


def _take_records(
    reader: StreamReader, target: Target, received: Received, progress: Progress
) -> None:
    """Read all records. The tree is checked when its pages begin to come, before they are taken."""
    header = reader.header
    is_checked = False
    while True:
        record = reader.read()
        if record.type < PAGES:
            _take_metadata(header, received, record)
            continue
        if not is_checked:
            _check_tree(header, received)
            is_checked = True
        if record.type == END:
            break
        received.csums += record.csums
        if len(received.csums) > header.pages:
            raise StreamRefused("it has more pages than it announces")
        target.take_pages(record.body)
        progress(len(record.csums))
    if len(received.csums) < header.pages:
        raise StreamRefused("it has fewer pages than it announces")
    _check_identity(header, received)


def _take_metadata(header: Header, received: Received, record: Record) -> None:
    if record.type == METADATA:
        _append(received.metadata, record, header.metadata_bytes)
    elif record.type == MORE:
        _append(received.more, record, header.more_bytes)
    else:
        words = received.runs.words
        if len(record.body) % 8 or len(words) * 8 + len(record.body) > header.runs * RUN.size:
            raise StreamRefused("it has more runs than it announces")
        words.frombytes(record.body)


def _append(data: bytearray, record: Record, limit: int) -> None:
    if len(data) + len(record.body) > limit:
        raise StreamRefused("it has more metadata than it announces")
    data += record.body


def _check_tree(header: Header, received: Received) -> None:
    """Raise StreamRefused unless metadata, births and runs are those of a tree."""
    announced = header.metadata_bytes, header.more_bytes, header.runs
    if (len(received.metadata), len(received.more), len(received.runs)) != announced:
        raise StreamRefused("it has less metadata than it announces")
    try:
        decoded = codec.decode_tree(bytes(received.metadata))
        if received.more and decode_more(bytes(received.more), 0).reserved:
            _refuse("room is reserved in it")
        decoded.check_indices(_indices(header, received.runs))
    except ValueError as exc:
        raise StreamRefused(printable(str(exc))) from exc


def _indices(header: Header, runs: Runs) -> "array[int]":
    """Return the indices of all entries. Raises ValueError for a run that cannot be."""
    indices = array("Q")
    behind = header.base_pages + header.pages
    for index, number, pages in runs:
        if not 0 < pages <= header.entries - len(indices) or index + pages > FILE_MAX_PAGES:
            _refuse(f"a run of {pages} pages from {index} on")
        end = header.base_pages if number < header.base_pages else behind
        if number + pages > end:
            _refuse(f"a run of pages from number {number} on, of {behind}")
        indices += count_up("Q", index, pages)
    if len(indices) != header.entries:
        _refuse(f"{len(indices)} entries, not {header.entries}")
    return indices


def _check_identity(header: Header, received: Received) -> None:
    """Raise StreamRefused unless the tree is the one that was sent, down to the pages of the base."""
    frames = array("I", bytes(4 * len(received.csums)))
    entries = received.entries(frames)
    found = identity_by_parts(bytes(received.metadata), entries.indices, entries.csums)
    if found != header.identity:
        raise StreamRefused("the tree is not the one that was sent")


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
