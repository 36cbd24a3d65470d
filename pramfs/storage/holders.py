"""Count who holds frames that may be shared, such as the pages of a file and of its clones.

The count of a frame is one byte, so that C code counts extents up and down, and only what was ever shared
takes memory: the counts of all others are 0, in pages that were never touched.
"""

import mmap
import re
from collections.abc import Iterator

# What a byte says. A frame that is not in use has 0, too.
_SOLE = 0  # one holder, and it may not be shared: a link, say, or data that never was
_ONE = 1  # one holder
_MANY = 255  # see `Holders._many`

_CLAIMED = bytes((1, *range(1, 256)))
_ONE_MORE = bytes((2, *range(2, 256), 255))
_ONE_LESS = bytes((0, 0, *range(1, 255)))
_AT_MOST_ONE = re.compile(b"[\\x00\\x01]+")
_IS_SHARED = bytes((0, 0, *(1,) * 254))


class Holders:
    """The counts of holders of all frames of a table."""

    def __init__(self, frames: int) -> None:
        self.repeats = 0  # holders besides the first of each frame
        self._counts = mmap.mmap(-1, max(frames, 1))
        self._many: dict[int, int] = {}  # of frames with _MANY holders or more

    def count(self, pfn: int) -> int:
        """Return how many hold the frame, if anybody does."""
        count = self._counts[pfn]
        return self._many[pfn] if count == _MANY else max(count, 1)

    def is_shared(self, pfn: int, count: int = 1) -> bool:
        """Return whether any of these frames has several holders."""
        if count == 1:
            return self._counts[pfn] > _ONE
        return bool(self._counts[pfn : pfn + count].translate(None, b"\0\1"))

    def shared_alike(self, pfn: int, count: int) -> int:
        """Return how many of `count` frames from `pfn` on are shared as that one is, or not as it."""
        shared = self._counts[pfn : pfn + count].translate(_IS_SHARED)
        return count - len(shared.lstrip(shared[:1]))

    def may_be_shared(self, pfn: int, count: int) -> bool:
        """Return whether all of these frames, which have a holder, may have another one."""
        return self._counts[pfn : pfn + count].find(_SOLE) < 0

    def count_alike(self, other: "Holders", pfn: int, count: int) -> int:
        """Return how many of these frames, which are in use, have as many holders here as there."""
        ours = self._counts[pfn : pfn + count].translate(_CLAIMED)
        theirs = other._counts[pfn : pfn + count].translate(_CLAIMED)
        differing = int.from_bytes(ours, "little") ^ int.from_bytes(theirs, "little")
        alike = differing.to_bytes(count, "little").count(0)
        # With so many holders the byte is the same whatever their number.
        many = _found(ours, bytes((_MANY,)), pfn)
        return alike - sum(
            other._counts[one] == _MANY and self.count(one) != other.count(one) for one in many
        )

    def claim(self, pfn: int, count: int) -> None:
        """Note that frames have got their first holder, and may be shared."""
        self._counts[pfn : pfn + count] = self._counts[pfn : pfn + count].translate(_CLAIMED)

    def add(self, pfn: int, count: int) -> None:
        """Note that each of these frames has one more holder."""
        before = self._counts[pfn : pfn + count]
        self._counts[pfn : pfn + count] = before.translate(_ONE_MORE)
        self.repeats += count
        for one in _found(before, bytes((_MANY - 1, _MANY)), pfn):
            self._many[one] = self._many.get(one, _MANY - 1) + 1

    def drop(self, pfn: int, count: int) -> list[tuple[int, int]]:
        """Take a holder from each of these frames; return the extents (pfn, frames) that have none now."""
        before = self._counts[pfn : pfn + count]
        left = before.translate(None, b"\0\1")
        if not left:
            if before.find(_ONE) >= 0:
                self._counts[pfn : pfn + count] = bytes(count)
            return [(pfn, count)]
        self._counts[pfn : pfn + count] = before.translate(_ONE_LESS)
        self.repeats -= len(left)
        for one in _found(before, bytes((_MANY,)), pfn):
            self._many[one] -= 1
            if self._many[one] >= _MANY:
                self._counts[one] = _MANY
            else:
                del self._many[one]
        return [
            (pfn + found.start(), found.end() - found.start())
            for found in _AT_MOST_ONE.finditer(before)
        ]


def _found(counts: bytes, wanted: bytes, pfn: int) -> Iterator[int]:
    """Yield the frames that have one of the counts `wanted`, the first of all being `pfn`."""
    if not any(count in counts for count in wanted):
        return
    for at, count in enumerate(counts, pfn):
        if count in wanted:
            yield at
