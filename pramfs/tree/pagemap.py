"""The map of a file's pages to the frames that hold them, whatever these contain.

The map consists of chunks of 512 pages, each an array of pfns up to the last page that is mapped; pfn 0 is
a hole. Chunk 0 is an attribute, because most files are small; the others are in a dict, because files may
be huge and sparse. A page takes 4 bytes and no object.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, MutableMapping
from typing import NamedTuple

from pramfs.storage.extents import count_up, extents_of, is_counting_up
from pramfs.storage.frames import Extent
from pramfs.tree.hardened_dict import HardenedDict

CHUNK_SHIFT = 9
CHUNK_PAGES = 1 << CHUNK_SHIFT
_MASK = CHUNK_PAGES - 1
_HOLE = bytes(4)  # or parts of two neighbours

# The writer of a sparse file chooses the numbers of its chunks. Below this one (32 GiB) too few can collide
# in a dict to matter: some 600, and looking one of these up takes half a microsecond.
_FAR = 1 << 14


FILE_END = 1 << 63  # more than any page's number


class FileExtent(NamedTuple):
    """`pages` pages of a file from page `page` on, in consecutive frames from `pfn` on; pfn 0 is a hole."""

    page: int
    pfn: int
    pages: int


class PageMap:
    """The pages of one file. `count` is the number of pages that are not holes."""

    __slots__ = ("_head", "_numbers", "_rest", "count")

    def __init__(self) -> None:
        self.count = 0
        self._head: array[int] | None = None
        self._rest: MutableMapping[int, array[int]] | None = None
        self._numbers: list[int] | None = None  # of all chunks, sorted; None until somebody asks

    def get(self, index: int) -> int:
        """Return the frame of page `index`, 0 for a hole."""
        chunk = self._head if index < CHUNK_PAGES else self._chunk(index >> CHUNK_SHIFT)
        at = index & _MASK
        return chunk[at] if chunk is not None and at < len(chunk) else 0

    def sole(self) -> int:
        """Return the frame of page 0 if there is no other page, else 0."""
        return self._head[0] if self.count == 1 and self._head is not None else 0

    def pfns(self, index: int, count: int) -> "array[int]":
        """Return the frames of `count` pages from `index`, all in one chunk; 0 for holes."""
        chunk = self._chunk(index >> CHUNK_SHIFT)
        at = index & _MASK
        found = chunk[at : at + count] if chunk is not None else array("I")
        if len(found) < count:
            found.frombytes(bytes(4 * (count - len(found))))
        return found

    def put(self, index: int, pfn: int, count: int) -> None:
        """Map `count` pages from `index`, all in one chunk, to consecutive frames from `pfn`."""
        number, at = index >> CHUNK_SHIFT, index & _MASK
        chunk = self._chunk(number)
        if chunk is None:
            chunk = self._add_chunk(number)
        if len(chunk) < at:
            chunk.frombytes(bytes(4 * (at - len(chunk))))
        if count == 1:
            if at == len(chunk):
                chunk.append(pfn)
                self.count += 1
            else:
                self.count += not chunk[at]
                chunk[at] = pfn
            return
        before = chunk[at : at + count]
        self.count += count - len(before) + count_holes(before)
        chunk[at : at + count] = count_up("I", pfn, count)

    def put_pfns(self, index: int, pfns: "array[int]") -> None:
        """Map pages from `index` on, holes in one chunk, to frames in any order; 0 leaves a hole."""
        number, at = index >> CHUNK_SHIFT, index & _MASK
        mapped = len(pfns) - count_holes(pfns)
        if not mapped:
            return
        chunk = self._chunk(number)
        if chunk is None:
            chunk = self._add_chunk(number)
        if len(chunk) < at:
            chunk.frombytes(bytes(4 * (at - len(chunk))))
        chunk[at : at + len(pfns)] = pfns
        self.count += mapped
        self._trim(number, chunk)

    def load(self, indices: "array[int]", pfns: "array[int]") -> None:
        """Fill an empty map with pages in ascending order of index, as they are in a save.

        Raises ValueError if they are not in that order.
        """
        count = len(pfns)
        if not count:
            return
        if indices[0] == 0 and is_counting_up(indices):
            self.count = count
            self._head = pfns[:CHUNK_PAGES]
            for start in range(CHUNK_PAGES, count, CHUNK_PAGES):
                self._add_chunk(start >> CHUNK_SHIFT).extend(pfns[start : start + CHUNK_PAGES])
            return
        previous = -1
        for index, pfn in zip(indices, pfns, strict=True):
            if index <= previous:
                raise ValueError(f"page {index} follows page {previous}")
            previous = index
            self.put(index, pfn, 1)

    def cut(self, first: int) -> list[Extent]:
        """Unmap all pages from `first` on, and return the frames that they were in."""
        number, at = first >> CHUNK_SHIFT, first & _MASK
        gone: list[int] = []
        if self._rest:
            self._numbers = None
            for later in sorted(n for n in self._rest if n > number):
                gone.extend(self._rest.pop(later))
        if number > 0 or at > 0:
            chunk = self._chunk(number)
            if chunk is not None:
                gone[:0] = chunk[at:]
                del chunk[at:]
                self._trim(number, chunk)
        elif self._head is not None:
            gone[:0] = self._head
            self._head = self._numbers = None
        freed = [pfn for pfn in gone if pfn]
        self.count -= len(freed)
        return list(extents_of(freed))

    def clear(self, first: int, count: int) -> list[Extent]:
        """Unmap `count` pages from `first` on, and return the frames that they were in."""
        gone: list[int] = []
        for number, start, stop in self._parts(first, first + count):
            chunk = self._chunk(number)
            assert chunk is not None
            gone.extend(filter(None, chunk[start:stop]))
            chunk[start:stop] = array("I", bytes(4 * (stop - start)))
            self._trim(number, chunk)
        self.count -= len(gone)
        return list(extents_of(gone))

    def count_in(self, first: int, count: int) -> int:
        """Return how many of `count` pages from `first` on are not holes."""
        mapped = 0
        for number, start, stop in self._parts(first, first + count):
            chunk = self._chunk(number)
            assert chunk is not None
            mapped += stop - start - count_holes(chunk[start:stop])
        return mapped

    def next_page(self, index: int) -> int | None:
        """Return the first page from `index` on that is not a hole, or None."""
        for number, start, stop in self._parts(index, None):
            chunk = self._chunk(number)
            assert chunk is not None
            pfns = chunk[start:stop].tobytes()
            zeros = len(pfns) - len(pfns.lstrip(b"\0"))
            if zeros < len(pfns):
                return (number << CHUNK_SHIFT) + start + zeros // 4
        return None

    def next_hole(self, index: int, end: int = FILE_END) -> int:
        """Return the first page from `index` on that is a hole; if it is at `end` or behind, that or more."""
        while index < end and (chunk := self._chunk(index >> CHUNK_SHIFT)) is not None:
            at = index & _MASK
            if at >= len(chunk):
                return index
            try:
                return index - at + chunk.index(0, at)
            except ValueError:
                index += len(chunk) - at
        return index

    def file_extents(self, index: int, count: int) -> Iterator[FileExtent]:
        """Yield the extents of `count` pages from `index`, in order, holes included."""
        end = index + count
        while index < end:
            part = min(end - index, CHUNK_PAGES - (index & _MASK))
            chunk = self._chunk(index >> CHUNK_SHIFT)
            if chunk is None:
                # A missing chunk is a hole of 2 MiB: a sparse file of terabytes must not be walked by pages.
                yield FileExtent(index, 0, part)
            else:
                yield from file_extents_of(index, self.pfns(index, part))
            index += part

    def chunks(self) -> Iterator[tuple[int, "array[int]"]]:
        """Yield the index of the first page and the pfns of every chunk with pages, in order."""
        if self._head is not None:
            yield 0, self._head
        if self._rest:
            for number in sorted(self._rest):
                yield number << CHUNK_SHIFT, self._rest[number]

    def parts(self, first: int, end: int) -> Iterator[tuple[int, "array[int]"]]:
        """Yield (index, pfns) of the part of each chunk that has pages from `first` on, before `end`."""
        for number, start, stop in self._parts(first, end):
            chunk = self._chunk(number)
            assert chunk is not None
            yield (number << CHUNK_SHIFT) + start, chunk[start:stop]

    def _parts(self, first: int, end: int | None) -> Iterator[tuple[int, int, int]]:
        """Yield (number, start, stop) of the part of each chunk that has pages from `first` to `end`.

        Holes take no step, so that a sparse file of terabytes takes as many as it has chunks.
        """
        numbers = self._sorted_numbers()
        for at in range(bisect_left(numbers, first >> CHUNK_SHIFT), len(numbers)):
            number = numbers[at]
            base = number << CHUNK_SHIFT
            if end is not None and base >= end:
                return
            chunk = self._chunk(number)
            assert chunk is not None
            start = max(first - base, 0)
            stop = len(chunk) if end is None else min(end - base, len(chunk))
            if start < stop:
                yield number, start, stop

    def _sorted_numbers(self) -> list[int]:
        if self._numbers is None:
            self._numbers = [0] if self._head is not None else []
            self._numbers += sorted(self._rest or ())
        return self._numbers

    def _chunk(self, number: int) -> "array[int] | None":
        if number == 0:
            return self._head
        return self._rest.get(number) if self._rest is not None else None

    def _add_chunk(self, number: int) -> "array[int]":
        chunk = array("I")
        self._numbers = None
        if number == 0:
            self._head = chunk
        else:
            if self._rest is None:
                self._rest = {}
            if number >= _FAR and isinstance(self._rest, dict):
                self._rest = HardenedDict(self._rest)
            self._rest[number] = chunk
        return chunk

    def _trim(self, number: int, chunk: "array[int]") -> None:
        """Drop holes at the end of a chunk, and the chunk itself if it is empty then."""
        while chunk and not chunk[-1]:
            chunk.pop()
        if chunk:
            return
        self._numbers = None
        if number == 0:
            self._head = None
        elif self._rest is not None:
            self._rest.pop(number, None)


def count_holes(pfns: "array[int]") -> int:
    """Return how many of `pfns` are 0; fast where there are none."""
    return pfns.count(0) if pfns.tobytes().find(_HOLE) >= 0 else 0


def first_extent(pfns: "array[int]") -> tuple[int, int]:
    """Return the first of `pfns`, and how many are in the frames that follow it; of 0, how many are holes."""
    pfn = pfns[0]
    if not pfn:
        data = pfns.tobytes()
        return 0, (len(data) - len(data.lstrip(b"\0"))) // pfns.itemsize
    if is_counting_up(pfns):
        return pfn, len(pfns)
    return next(file_extents_of(0, pfns))[1:]


def file_extents_of(index: int, pfns: "array[int]") -> Iterator[FileExtent]:
    """Yield the extents of the pages from `index` on, whose frames are `pfns`, holes included."""
    if not count_holes(pfns):
        for extent in extents_of(pfns):
            yield FileExtent(index, extent.pfn, extent.frames)
            index += extent.frames
        return
    start = 0
    for at in range(1, len(pfns) + 1):
        if at < len(pfns) and pfns[at] == (pfns[at - 1] + 1 if pfns[at - 1] else 0):
            continue
        yield FileExtent(index + start, pfns[start], at - start)
        start = at
