"""Turn lists of pfns into extents and back, in bulk: a GiB has 262,144 pages.

Arrays of consecutive numbers are built and recognised with arithmetic on long integers, which handles all
numbers of a block at once. Counting them one by one takes ten times as long.
"""

import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pramfs.storage.frames import Extent

# For public signatures: tools such as pdoc evaluate them, and array takes no [int] before Python 3.12.
if TYPE_CHECKING:
    Numbers = array[int]
else:
    Numbers = array

_BLOCK = 512
_FEW = 64  # numbers, which are counted one by one in less time


def count_up(typecode: str, first: int, count: int) -> "array[int]":
    """Return array(typecode, range(first, first + count)), for the typecodes "I" and "Q".

    All numbers must fit.
    """
    if count <= _FEW:
        return array(typecode, range(first, first + count))
    numbers = array(typecode)
    size_bytes, ones, steps = _BLOCKS[typecode]
    for start in range(0, count, _BLOCK):
        block = (first + start) * ones + steps
        wanted = min(_BLOCK, count - start) * size_bytes
        numbers.frombytes(block.to_bytes((_BLOCK + 1) * size_bytes, "little")[:wanted])
    return numbers


def is_counting_up(numbers: "array[int]") -> bool:
    """Return whether each of `numbers` is one more than the number before it."""
    count = len(numbers)
    if count < 2:
        return True
    if numbers[-1] - numbers[0] != count - 1:
        return False
    if count == 2:
        return True
    return numbers == count_up(numbers.typecode, numbers[0], count)


def is_ascending(numbers: "array[int]") -> bool:
    """Return whether each of `numbers` is larger than the number before it."""
    return all(map(operator.lt, numbers, numbers[1:]))


def extents_of(pfns: Sequence[int]) -> Iterator[Extent]:
    """Yield the extents that `pfns` form, in the same order."""
    if len(pfns) == 1:
        yield Extent(pfns[0], 1)  # the common case: most files have one page
        return
    numbers = pfns if isinstance(pfns, array) else array("I", pfns)
    extent = Extent(0, 0)
    for start in range(0, len(numbers), _BLOCK):
        block = numbers[start : start + _BLOCK]
        pieces = (
            [Extent(block[0], len(block))] if is_counting_up(block) else _extents_one_by_one(block)
        )
        for piece in pieces:
            if piece.pfn == extent.pfn + extent.frames:
                extent = Extent(extent.pfn, extent.frames + piece.frames)
                continue
            if extent.frames:
                yield extent
            extent = piece
    if extent.frames:
        yield extent


def pieces_of(extents: Iterable[Extent], frames_max: int) -> Iterator[Extent]:
    """Yield these extents in pieces of at most `frames_max` frames, in the same order."""
    for pfn, count in extents:
        for start in range(pfn, pfn + count, frames_max):
            yield Extent(start, min(frames_max, pfn + count - start))


def pfns_of(extents: Iterable[Extent]) -> list[int]:
    """Return every frame of these extents, in the same order."""
    return [pfn for first, count in extents for pfn in range(first, first + count)]


def pfn_at(extents: Iterable[Extent], at: int) -> int:
    """Return frame number `at` of these extents, counted from 0. Raises IndexError if they have fewer."""
    for pfn, count in extents:
        if at < count:
            return pfn + at
        at -= count
    raise IndexError("fewer frames")


def _extents_one_by_one(pfns: "array[int]") -> Iterator[Extent]:
    start = previous = pfns[0]
    for pfn in pfns[1:]:
        if pfn != previous + 1:
            yield Extent(start, previous - start + 1)
            start = pfn
        previous = pfn
    yield Extent(start, previous - start + 1)


def _block(typecode: str) -> tuple[int, int, int]:
    """Return the bytes per number and, each as one long integer, the arrays 1, 1, 1 … and 0, 1, 2 …."""
    ones, steps = array(typecode, [1]) * _BLOCK, array(typecode, range(_BLOCK))
    return (
        ones.itemsize,
        int.from_bytes(ones.tobytes(), "little"),
        int.from_bytes(steps.tobytes(), "little"),
    )


_BLOCKS = {typecode: _block(typecode) for typecode in ("I", "Q")}
