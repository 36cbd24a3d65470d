"""Which pages a stream needs, and how the pages of all files are made of these and of those of a base.

Pages have numbers: those of the base are its entries, in order, and those in the stream follow. A page that
several entries name has one number, so what shared a frame shares one again. A *run* says that pages of
files in ascending order are pages with ascending numbers.
"""

import mmap
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pramfs.pram.links import Entries
from pramfs.storage.extents import count_up, extents_of, is_counting_up, pieces_of
from pramfs.storage.frames import Extent
from pramfs.stream.format import RUN

_PIECE_FRAMES = 4096
_WORDS = RUN.size // 8


class Runs:
    """Runs of pages, as one array of (first index, first number, pages) after the other.

    No run has pages of the base, which come first in numbers, and others.
    """

    def __init__(self, base_pages: int = 0) -> None:
        self.base_pages = base_pages
        self.words = array("Q")

    def __len__(self) -> int:
        return len(self.words) // _WORDS

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        words = iter(self.words)
        return zip(words, words, words, strict=True)

    def add(self, index: int, number: int, pages: int) -> None:
        """Append a run, or make the last one longer."""
        words = self.words
        if words:
            last = words[-1]
            if words[-3] + last == index and words[-2] + last == number != self.base_pages:
                words[-1] = last + pages
                return
        words.extend((index, number, pages))


@dataclass(slots=True)
class PagePlan:
    """What to send of the pages of a tree: these extents, which are so many pages with these checksums."""

    runs: Runs = field(default_factory=Runs)
    extents: list[Extent] = field(default_factory=list)
    csums: "array[int]" = field(default_factory=lambda: array("I"))


def plan_pages(entries: Entries, base: Entries, frames: int) -> PagePlan:
    """Return what of the pages of a tree must be sent to who has those of `base`.

    `frames` are those of the image that both are in.
    """
    plan = PagePlan(Runs(base_pages=len(base)))
    # 1 + the number of the page in each frame, 0 for none yet. Only what is used of it takes memory.
    with mmap.mmap(-1, max(1, frames) * 8) as memory, memoryview(memory).cast("Q") as numbers:
        at = 1
        for pfn, count in extents_of(base.pfns):
            numbers[pfn : pfn + count] = count_up("Q", at, count)
            at += count
        at = 0
        for pfn, count in _pieces(extents_of(entries.pfns)):
            known = array("Q", numbers[pfn : pfn + count])
            if any(known):
                _plan_each(plan, entries, at, len(base), numbers, count)
            else:
                first = len(base) + len(plan.csums)
                numbers[pfn : pfn + count] = count_up("Q", first + 1, count)
                plan.csums += entries.csums[at : at + count]
                _add_extent(plan.extents, Extent(pfn, count))
                _add_runs(plan.runs, entries.indices[at : at + count], first)
            at += count
    return plan


def _plan_each(
    plan: PagePlan, entries: Entries, at: int, base: int, numbers: "memoryview[int]", count: int
) -> None:
    """Plan pages one by one, of which some have numbers already."""
    for one in range(at, at + count):
        pfn = entries.pfns[one]
        number = numbers[pfn] - 1
        if number < 0:
            number = base + len(plan.csums)
            numbers[pfn] = number + 1
            plan.csums.append(entries.csums[one])
            _add_extent(plan.extents, Extent(pfn, 1))
        plan.runs.add(entries.indices[one], number, 1)


def _add_runs(runs: Runs, indices: "array[int]", number: int) -> None:
    if is_counting_up(indices):
        runs.add(indices[0], number, len(indices))
        return
    for at, index in enumerate(indices):
        runs.add(index, number + at, 1)


def _add_extent(extents: list[Extent], extent: Extent) -> None:
    if extents and sum(extents[-1]) == extent.pfn:
        extent = Extent(extents[-1].pfn, extents.pop().frames + extent.frames)
    extents.append(extent)


def _pieces(extents: Iterable[Extent]) -> Iterator[Extent]:
    return pieces_of(extents, _PIECE_FRAMES)
