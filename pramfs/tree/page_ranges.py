"""Sets of pages of a file as ranges, which may be as wide as files are."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class PageRanges:
    """Sorted ranges (first page, first behind) that neither overlap nor touch.

    Where they begin and end is one list of ascending numbers, so that whether a page is in one is the
    parity of its place in that list.
    """

    __slots__ = ("_bounds",)

    def __init__(self) -> None:
        self._bounds: list[int] = []

    def __len__(self) -> int:
        return len(self._bounds) // 2

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._bounds[::2], self._bounds[1::2], strict=True)

    def __contains__(self, page: int) -> bool:
        return bool(bisect_right(self._bounds, page) & 1)

    def within(self, first: int, behind: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of ranges that lie between these pages."""
        bounds = self._bounds
        for at in range(bisect_right(bounds, first) & ~1, len(bounds), 2):
            if bounds[at] >= behind:
                return
            yield max(bounds[at], first), min(bounds[at + 1], behind)

    def pages_within(self, first: int, behind: int) -> int:
        """Return how many pages between these are in a range."""
        return sum(end - start for start, end in self.within(first, behind))

    def alike(self, first: int, count: int) -> int:
        """Return how many of `count` pages from `first` on are in a range as that one is, or not as it."""
        at = bisect_right(self._bounds, first)
        return min(count, self._bounds[at] - first) if at < len(self._bounds) else count

    def add(self, first: int, behind: int) -> None:
        """Add the pages from `first` on, before `behind`; none if these are the same."""
        if first == behind:
            return
        low, high = bisect_left(self._bounds, first), bisect_right(self._bounds, behind)
        self._bounds[low:high] = [first] * (not low & 1) + [behind] * (not high & 1)

    def remove(self, first: int, behind: int) -> None:
        """Remove the pages from `first` on, before `behind`; none if these are the same."""
        if first == behind:
            return
        low, high = bisect_left(self._bounds, first), bisect_right(self._bounds, behind)
        self._bounds[low:high] = [first] * (low & 1) + [behind] * (high & 1)


class ReservedPages(PageRanges):
    """The pages of a file that were promised room; `claims` of them have no frame yet."""

    __slots__ = ("claims",)

    def __init__(self) -> None:
        super().__init__()
        self.claims = 0
