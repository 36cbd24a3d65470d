"""Ranges of frames: the MEMMIN-MEMMAX lists of the `banned=` option and the set they merge into.

Numbers here are pfns unless a name ends in `_bytes`. Nothing here knows about images or frames in use.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from pramfs.errors import RegionSyntaxError
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE

_SUFFIXES = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
# 64 bits and no more: Python itself refuses to read numbers of thousands of digits.
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})([kKmMgGtTpPeE]?)")
# What people write elsewhere: 1.5G, 1,5G, 10 G, 1TB, 1GiB.
_FREE_FORM = re.compile(r"\s*([0-9]{1,20})(?:[.,]([0-9]{1,20}))?\s*([kKmMgGtTpPeE]?)i?[bB]?\s*")


class Region(NamedTuple):
    """A range of frames, first and last inclusive."""

    first: int
    last: int

    @property
    def frames(self) -> int:
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
        """Whether any of the `count` frames from `pfn` is in the set."""
        at = bisect_right(self._firsts, pfn + count - 1) - 1
        return at >= 0 and self._lasts[at] >= pfn

    def clipped(self, frames: int) -> Iterator[Region]:
        """The regions, cut off at `frames`, the number of frames there are."""
        for region in self:
            if region.first < frames:
                yield Region(region.first, min(region.last, frames - 1))

    def table(self) -> list[str]:
        """The lines that the seeds print at boot: one a region, then the total."""
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


def memparse(text: str) -> int:
    """The bytes that `text` names: decimal or 0x hex, with a binary suffix K M G T P E.

    Mirrors the kernel's memparse(). Raises ValueError, which says how it is written, when `text` is not a
    whole memory value.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        rule = "a whole number with a suffix K M G T P E or none"
        raise ValueError(f"memory value expected, not '{text}': {rule}{_example(text)}")
    return _value_bytes(match)


def parse_regions(text: str) -> list[Region]:
    """The regions in `text`: MEMMIN-MEMMAX, several separated by ',' or ':'.

    A region covers PFN_DOWN(MEMMIN)..PFN_UP(MEMMAX)-1, as in seed 002. Raises RegionSyntaxError with
    the seed's words: memory value expected, '-' expected, end <= start.
    """
    return [_parse_region(part, text) for part in re.split("[,:]", text)]


def _example(text: str) -> str:
    """What may have been meant by a memory value that is none, rounded up."""
    match = _FREE_FORM.fullmatch(text)
    if match is None:
        return ""
    whole, decimals, suffix = match.groups()
    if not decimals:
        return f", such as {whole}{suffix.upper()}"
    below = dict(zip("KMGTPE", " KMGTP", strict=True)).get(suffix.upper(), "")
    number = Fraction(f"{whole}.{decimals}") * (1024 if below else 1)
    return f", such as {math.ceil(number)}{below.strip()}"


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
    match = _NUMBER.match(text)
    if match is None:
        raise RegionSyntaxError("memory value expected", whole)
    return _value_bytes(match), text[match.end() :]


def _value_bytes(match: re.Match[str]) -> int:
    digits, suffix = match.groups()
    # C's base 0 would read a leading 0 as octal; nobody who writes 0128M means that.
    value = int(digits, 16) if digits[:2] in ("0x", "0X") else int(digits)
    return value << _SUFFIXES[suffix.upper()]
