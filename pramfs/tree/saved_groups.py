"""Which inodes have changed since the last save, and where that has the others, by groups of inodes.

A group is the inodes whose numbers differ only in the last GROUP_SHIFT bits. A save has their records one
after the other, and so the pages of their files, as long as inodes are in the order of their numbers.
"""

from array import array
from bisect import bisect_left
from itertools import pairwise

GROUP_SHIFT = 6


class GroupPlaces:
    """Where a save has each group that has anything in it, in ascending order of their `numbers`.

    `records[n]` is the first byte of group `numbers[n]` in the metadata stream, `pages[n]` its first entry in
    the page stream. Each has one more than there are groups: the end.
    """

    __slots__ = ("numbers", "pages", "records")

    def __init__(self) -> None:
        self.numbers = array("Q")
        self.records = array("Q")
        self.pages = array("Q")

    def begin(self, number: int, record: int, page: int) -> None:
        """Note where the next group begins."""
        self.numbers.append(number)
        self.records.append(record)
        self.pages.append(page)

    def end(self, record: int, page: int) -> None:
        """Note where the last group ends."""
        self.records.append(record)
        self.pages.append(page)

    def take(self, other: "GroupPlaces", first: int, behind: int, record: int, page: int) -> None:
        """Append the groups at the positions from `first` on, before `behind`, as they are elsewhere."""
        records, pages = record - other.records[first], page - other.pages[first]
        self.numbers += other.numbers[first:behind]
        self.records += array("Q", [at + records for at in other.records[first:behind]])
        self.pages += array("Q", [at + pages for at in other.pages[first:behind]])

    def position(self, number: int) -> int:
        """Return the position of the group, or of the next one if that is not there."""
        return bisect_left(self.numbers, number)

    @property
    def are_in_order(self) -> bool:
        """Whether no group is there twice, or after one with a greater number."""
        return all(number < following for number, following in pairwise(self.numbers))


class SavedGroups:
    """What the next save may take from the last one: `places`, but for the groups that have `changed`.

    `places` is None where nothing is known: then all is saved anew.
    """

    __slots__ = ("changed", "places")

    def __init__(self) -> None:
        self.places: GroupPlaces | None = None
        self.changed: set[int] = set()
