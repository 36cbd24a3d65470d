"""Send a tree of an image as a stream: all of it, or what a base does not have. Changes nothing.

Every page is verified before it goes out. What is wrong with the image ends the stream before its end, so
that the receiver takes nothing of it.
"""

import os
from collections.abc import Callable, Iterable, Iterator

from pramfs.errors import DamagedPage
from pramfs.pram.links import Entries
from pramfs.saves.tree_nodes import lack_of
from pramfs.storage.arena import Progress
from pramfs.storage.extents import pfn_at, pieces_of
from pramfs.storage.frames import Extent
from pramfs.storage.image import Image
from pramfs.storage.layout import PAGE_SHIFT
from pramfs.stream.encode import Data, StreamWriter, Write
from pramfs.stream.format import (
    ID_BYTES,
    IDENTITY_BYTES,
    LACKS,
    METADATA,
    MORE,
    PAGES_MAX,
    RUNS,
    Header,
)
from pramfs.stream.identity import WholeTree
from pramfs.stream.page_plan import PagePlan, plan_pages
from pramfs.stream.page_sums import damaged_page, pages_in


class Sending:
    """A tree that is to be sent, planned: `pages` of it are to go out; `warnings` say what it lacks."""

    def __init__(self, image: Image, tree: WholeTree, base: WholeTree | None, name: str) -> None:
        """Plan it. The receiver is told `name` as that of the tree."""
        self.warnings: list[str] = []
        if tree.births_lost:
            self.warnings.append(f"damaged: birth times: {tree.births_lost}")
        if tree.marks:
            self.warnings.append(f"sent as it is: {tree.name} is {lack_of(tree.marks)}")
        self._image = image
        # One for all: memory that is new each time would take longer than reading.
        self._buffer = memoryview(bytearray(PAGES_MAX << PAGE_SHIFT))
        self._pages_read = pages_in(self._buffer)
        self._tree = tree
        self._plan: PagePlan = plan_pages(
            tree.entries, base.entries if base is not None else Entries(), image.frames
        )
        self.pages = len(self._plan.csums)
        self.name = name
        self.base_name = base.name if base is not None else ""
        self.header = Header(
            flags=sum(flag for flag, mark in LACKS.items() if tree.marks & mark),
            id=os.urandom(ID_BYTES),
            identity=tree.identity,
            base_identity=base.identity if base is not None else bytes(IDENTITY_BYTES),
            base_pages=len(base.entries) if base is not None else 0,
            metadata_bytes=len(tree.metadata),
            more_bytes=len(tree.more),
            runs=len(self._plan.runs),
            entries=len(tree.entries),
            pages=self.pages,
            name=os.fsencode(name),
            base_name=os.fsencode(self.base_name),
        )

    def to(
        self,
        write: Write,
        progress: Progress = lambda pages: None,
        compress: Callable[[Data], bytes] | None = None,
    ) -> None:
        """Write the stream. Raises DamagedPage, OSError, or another PramError."""
        writer = StreamWriter(write, self.header, compress)
        writer.write_bytes(METADATA, self._tree.metadata)
        writer.write_bytes(MORE, self._tree.more)
        writer.write_bytes(RUNS, memoryview(self._plan.runs.words).cast("B"))
        at = 0
        for extents in _records(self._plan.extents):
            pages = self._read(extents)
            csums = self._plan.csums[at : at + (len(pages) >> PAGE_SHIFT)]
            wrong = damaged_page(self._pages_read[: len(csums)], csums)
            if wrong is not None:
                raise DamagedPage(pfn_at(extents, wrong), "data")
            writer.write_pages(csums, pages)
            progress(len(csums))
            at += len(csums)
        writer.finish()

    def _read(self, extents: list[Extent]) -> memoryview:
        at = 0
        for pfn, count in extents:
            end = at + (count << PAGE_SHIFT)
            self._image.read_into(pfn, self._buffer[at:end])
            at = end
        return self._buffer[:at]


def _records(extents: Iterable[Extent]) -> Iterator[list[Extent]]:
    """Yield the extents in lists of PAGES_MAX frames, fewer in the last."""
    some: list[Extent] = []
    room = PAGES_MAX
    for pfn, count in pieces_of(extents, PAGES_MAX):
        taken = min(count, room)
        some.append(Extent(pfn, taken))
        room -= taken
        if not room:
            yield some
            some, room = [], PAGES_MAX
        if taken < count:
            some.append(Extent(pfn + taken, count - taken))
            room -= count - taken
    if some:
        yield some
