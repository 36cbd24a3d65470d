"""Which page of a file has a given checksum, in little memory: for deduplication.

A hash table in flat arrays without objects. A page is in one of two buckets that its checksum has, so that a
search looks at so many slots whatever the checksums are; one that finds no room in the emptier of both takes
that of another, which hardly ever happens. Nothing is removed: what a slot says may be out of date, and
whoever finds it there has to see whether it still holds.
"""

import secrets
import sys
from array import array

EQUAL_MAX = 8  # pages with the same checksum that are noted: each is compared with the others

_NUMBER_MAX = (1 << 32) - 1  # of a page in its file: those behind 16 TiB are not noted
_BUCKET = 16
_PAGES_MIN = 4096


class CsumIndex:
    """Pages, as inode number and index, by checksum. A slot takes 16 bytes, and a page one and a half."""

    def __init__(self, pages: int) -> None:
        """`pages`: how many should fit."""
        self._room = max(pages, _PAGES_MIN)
        self._buckets = self._room * 3 // 2 // _BUCKET
        self._factor = secrets.randbits(64) | 1  # so that nobody can know which checksums collide
        size = self._buckets * _BUCKET
        self._csums = bytearray(4 * size)  # not an array: finding one of 16 there takes longer
        self._inos = array("Q", [0]) * size
        self._numbers = array("I", [0]) * size
        self._used = bytearray(self._buckets)  # slots of each bucket, the first ones
        self._victim = 0

    @property
    def is_full(self) -> bool:
        """Whether more pages were noted than should fit, those that are out of date included."""
        return self._room < 0

    def slots_of(self, csum: int) -> list[int]:
        """Return the slots with this checksum."""
        slots = []
        sought, find = csum.to_bytes(4, sys.byteorder), self._csums.find
        for bucket in self._buckets_of(csum):
            first = 4 * _BUCKET * bucket
            end = first + 4 * self._used[bucket]
            at = find(sought, first, end)
            while at >= 0:
                if not at & 3:  # not parts of two neighbours
                    slots.append(at >> 2)
                at = find(sought, at + 1, end)
        return slots

    def page(self, slot: int) -> tuple[int, int]:
        """Return the inode number of the file in a slot, and the number of the page in it."""
        return self._inos[slot], self._numbers[slot]

    def forget(self, slot: int) -> None:
        """Make the page in a slot none, so that another one with the same checksum can be noted there."""
        self._inos[slot] = 0

    def note(self, csum: int, ino: int, number: int) -> None:
        """Note a page, unless there are EQUAL_MAX with its checksum."""
        if number > _NUMBER_MAX:
            return
        slots = self.slots_of(csum)
        slot = next((slot for slot in slots if not self._inos[slot]), -1)
        if slot < 0:
            if len(slots) >= EQUAL_MAX:
                return
            slot = self._take_slot(csum)
        self._inos[slot] = ino
        self._numbers[slot] = number

    def _take_slot(self, csum: int) -> int:
        """Return a slot for one more page with this checksum."""
        bucket, other = self._buckets_of(csum)
        if self._used[other] < self._used[bucket]:
            bucket = other
        at = self._used[bucket]
        if at < _BUCKET:
            self._used[bucket] = at + 1
        else:
            self._victim = at = (self._victim + 1) % _BUCKET
        slot = bucket * _BUCKET + at
        self._csums[4 * slot : 4 * slot + 4] = csum.to_bytes(4, sys.byteorder)
        self._room -= 1
        return slot

    def _buckets_of(self, csum: int) -> tuple[int, int]:
        """Return the two buckets of a checksum, which may be the same."""
        mixed = csum * self._factor
        one = (mixed & 0xFFFFFFFF) * self._buckets >> 32
        two = (mixed >> 32 & 0xFFFFFFFF) * self._buckets >> 32
        return one, two
