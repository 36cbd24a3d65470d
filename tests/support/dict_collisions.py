"""Integers chosen to collide in a Python dict (hash flooding), and a model of a dict that counts probes.

The model follows CPython's Objects/dictobject.c, from 3.7 on: the hash of an int is the int, the first slot
probed is its low bits, and each further probe mixes in five more bits. When all bits are used up, all
integers walk the same cycle through all slots.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

HASH_BITS = 61
_SHIFT = 5


_EMPTY, _REMOVED = -1, -2


class DictModel:
    """The slots of a dict, for keys that are their own hashes and differ."""

    def __init__(self, keys: Iterable[int] = ()) -> None:
        self.looked_at = 0  # slots probed so far
        self._slots = [_EMPTY] * 8
        self._used = 0
        self._room = 5  # more keys that fit until the dict is resized
        for key in keys:
            self.put(key)

    def put(self, key: int) -> None:
        """Put in a key that is not there."""
        if not self._room:
            self._resize()
        self._take_free(key)
        self._used += 1
        self._room -= 1

    def find(self, key: int) -> int:
        """The slot of a key that is there."""
        for slot in self._walk(key):
            self.looked_at += 1
            if self._slots[slot] == key:
                return slot
        raise AssertionError

    def remove(self, key: int) -> None:
        self._slots[self.find(key)] = _REMOVED
        self._used -= 1

    def _take_free(self, key: int) -> None:
        for slot in self._walk(key):
            self.looked_at += 1
            if self._slots[slot] < 0:
                self._slots[slot] = key
                return

    def _resize(self) -> None:
        keys = [key for key in self._slots if key >= 0]
        size = 8
        while size < 3 * self._used:
            size *= 2
        self._slots = [_EMPTY] * size
        self._room = size * 2 // 3 - self._used
        for key in keys:
            self._take_free(key)

    def _walk(self, key: int) -> Iterator[int]:
        """The slots that a dict probes for a key, in order."""
        mask = len(self._slots) - 1
        slot, rest = key & mask, key
        while True:
            yield slot
            rest >>= _SHIFT
            slot = (5 * slot + rest + 1) & mask


def forge(count: int, *, bits: int = HASH_BITS) -> list[int]:
    """`count` integers of that many bits, if there are so many, that collide in a dict as often as possible.

    Half of the slots of the dict are filled along the cycle that all integers walk in the end. The other
    integers probe only filled slots, until they reach the cycle early and walk it to its end.
    """
    log2 = 3
    while (1 << log2) * 2 // 3 < count:
        log2 += 1
    cycle = [0]
    while len(cycle) < min(count // 2, 1 << log2 - 1):
        cycle.append((5 * cycle[-1] + 1) & (1 << log2) - 1)
    walkers = _Walkers(log2, bits, cycle).numbers()
    return [*cycle[1:], *islice(walkers, count - len(cycle) + 1)]


class _Walkers:
    """Integers that probe only filled slots, for as many probes as their bits decide."""

    def __init__(self, log2: int, bits: int, filled: list[int]) -> None:
        self._log2 = log2
        self._bits = bits
        self._mask = (1 << log2) - 1
        self._filled = filled
        self._is_filled = bytearray(1 << log2)
        for slot in filled:
            self._is_filled[slot] = 1
        self._early = bytearray(1 << log2)  # slots of the first half of what is filled
        for slot in filled[: len(filled) // 2]:
            self._early[slot] = 1

    def numbers(self) -> Iterator[int]:
        for first in reversed(self._filled):
            yield from self._longer(first, first, self._log2, 0)

    def _longer(self, number: int, slot: int, known: int, shift: int) -> Iterator[int]:
        """The numbers that begin, at the low end, with `known` bits of `number`, which led to `slot`."""
        if known >= self._bits:
            if number >> self._log2 and self._ends_early(number, slot, shift):
                yield number
            return
        width = min(_SHIFT, self._bits - known)
        shift += _SHIFT
        for more in range(1 << width):
            longer = number | more << known
            following = (5 * slot + (longer >> shift) + 1) & self._mask
            if self._is_filled[following]:
                yield from self._longer(longer, following, known + width, shift)

    def _ends_early(self, number: int, slot: int, shift: int) -> bool:
        while number >> shift:
            shift += _SHIFT
            slot = (5 * slot + (number >> shift) + 1) & self._mask
            if not self._is_filled[slot]:
                return False
        return bool(self._early[slot])
