"""Regions of frames: the MEMMIN-MEMMAX lists of the `banned=` option, and the set they are merged into.

Numbers are pfns unless a name ends in `_bytes`. Which frames are in use is of no concern here.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pramfs.errors import RegionSyntaxError
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.system.memory_values import leading_value


class Region(NamedTuple):
    """A range of frames, first and last inclusive."""

    first: int
    last: int

    @property
    def frames(self) -> int:
        """The number of frames."""
        return self.last - self.first + 1


class Regions:
    """A set of frames as sorted regions that neither overlap nor touch."""

    def __init__(self, regions: Iterable[Region] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for region in regions:
            self.add(region)

    def add(self, region: Region) -> None:
        """Add `region`, merging it with every region it overlaps or touches."""
        # Neighbours that only touch merge too, hence the -1 and +1.
        low = bisect_right(self._lasts, region.first - 2)
        high = bisect_right(self._firsts, region.last + 1)
        first, last = region
        if low < high:
            first = min(first, self._firsts[low])
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def overlaps(self, pfn: int, count: int = 1) -> bool:
        """Return whether any of the `count` frames from `pfn` is in the set."""
        at = bisect_right(self._firsts, pfn + count - 1) - 1
        return at >= 0 and self._lasts[at] >= pfn

    def clipped(self, frames: int) -> Iterator[Region]:
        """Yield the regions, cut off at `frames`, the number of frames of an image."""
        for region in self:
            if region.first < frames:
                yield Region(region.first, min(region.last, frames - 1))

    def table(self) -> list[str]:
        """Return the lines that patch 9 of the 2013 series logs: one for each region, then the total."""
        lines = ["PRAM: banned regions:"]
        for number, region in enumerate(self):
            span = f"[{region.first:08x} - {region.last:08x}]"
            lines.append(f"{number:4d}: {span} {region.frames} pages")
        total = sum(region.frames for region in self)
        lines.append(f"Total banned: {total} pages in {len(self)} regions")
        return lines

    def __iter__(self) -> Iterator[Region]:
        return map(Region, self._firsts, self._lasts)

    def __len__(self) -> int:
        return len(self._firsts)

    def __contains__(self, pfn: int) -> bool:
        return self.overlaps(pfn)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regions) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # a mutable set


def parse_regions(text: str) -> list[Region]:
    """Return the regions in `text`: MEMMIN-MEMMAX, several separated by ',' or ':'.

    As in the 2013 file system a region covers the frames PFN_DOWN(MEMMIN) to PFN_UP(MEMMAX) - 1, and the
    messages of RegionSyntaxError are: memory value expected, '-' expected, end <= start.
    """
    return [_parse_region(part, text) for part in re.split("[,:]", text)]


def _parse_region(part: str, text: str) -> Region:
    start, rest = _take_value(part, text)
    if not rest.startswith("-"):
        raise RegionSyntaxError("'-' expected", text)
    end, rest = _take_value(rest[1:], text)
    if rest:
        raise RegionSyntaxError(f"unexpected '{rest}'", text)
    if end <= start:
        raise RegionSyntaxError("end <= start", text)
    return Region(start >> PAGE_SHIFT, ((end + PAGE_SIZE - 1) >> PAGE_SHIFT) - 1)


def _take_value(text: str, whole: str) -> tuple[int, str]:
    try:
        return leading_value(text)
    except ValueError:
        raise RegionSyntaxError("memory value expected", whole) from None
