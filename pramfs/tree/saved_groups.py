"""Which inodes have changed since the last save, and where that has the others, by groups of inodes.

A group is the inodes whose numbers differ only in the last GROUP_SHIFT bits. A save has their records one
after the other, and so the pages of their files, as long as inodes are in the order of their numbers.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from pramfs.storage.extents import is_ascending
from pramfs.tree.inodes import Inode

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
        self.records += _shifted(other.records[first:behind], records)
        self.pages += _shifted(other.pages[first:behind], pages)

    def position(self, number: int) -> int:
        """Return the position of the group, or of the next one if that is not there."""
        return bisect_left(self.numbers, number)

    @property
    def are_in_order(self) -> bool:
        """Whether no group is there twice, or after one with a greater number."""
        return is_ascending(self.numbers)


def _shifted(numbers: "array[int]", distance: int) -> "array[int]":
    return array("Q", [number + distance for number in numbers]) if distance else numbers


class SavedGroups:
    """What the next save may take from the last one: `places`, but for the groups that have `changed`.

    `places` is None where nothing is known: then all is saved anew.
    """

    __slots__ = ("births", "changed", "places")

    def __init__(self) -> None:
        self.places: GroupPlaces | None = None
        self.changed: set[int] = set()
        self.births = SavedBirths(0)


class SavedBirths:
    """Which births the last save holds: of all inodes below number `behind`, but for those `unnamed`.

    These had no name when the births were encoded, which may be several saves ago: `changed` are the groups
    with changes between then and the last save.
    """

    __slots__ = ("behind", "changed", "unnamed")

    def __init__(self, behind: int, unnamed: Iterable[Inode] = ()) -> None:
        self.behind = behind
        self.unnamed = list(unnamed)
        self.changed: set[int] = set()

    def are_complete(self, next_ino: int) -> bool:
        """Return whether all inodes below `next_ino` that have a name by now have their births in it."""
        return next_ino == self.behind and not any(inode.nlink for inode in self.unnamed)
