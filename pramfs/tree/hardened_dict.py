"""A dict of integers hardened against hash flooding: inode numbers of an image, chunks of a sparse file.

The hash of an int is the int itself, and where in a dict Python looks for it follows from nothing else. So
numbers can be forged that are all looked for in the same slots, each behind all the others: n of them take
the square of n. What is here takes as long for any numbers.
"""

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping, ValuesView
from typing import Any, TypeVar

V = TypeVar("V")

FEW = 4096  # numbers of which the square is not worth a thought: it takes some 10 ms

# The hash of a long int is the int modulo a prime, so number * factor + addend is a universal hash function
# to whoever does not know the two. Less will not do: numbers that meet do so xor a secret, too.
_PRIME = sys.hash_info.modulus
_FACTOR = int.from_bytes(os.urandom(16), "little") % (_PRIME - 1) + 1
_ADDEND = int.from_bytes(os.urandom(16), "little") % _PRIME


class HardenedDict(MutableMapping[int, V]):
    """A dict of numbers in slots that nobody can foretell; it takes a tenth of a microsecond more."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[int, V]) -> None:
        self._values = {number * _FACTOR + _ADDEND: value for number, value in values.items()}

    def __getitem__(self, number: int) -> V:
        return self._values[number * _FACTOR + _ADDEND]

    def __setitem__(self, number: int, value: V) -> None:
        self._values[number * _FACTOR + _ADDEND] = value

    def __delitem__(self, number: int) -> None:
        del self._values[number * _FACTOR + _ADDEND]

    def __iter__(self) -> Iterator[int]:
        return ((key - _ADDEND) // _FACTOR for key in self._values)

    def __len__(self) -> int:
        return len(self._values)

    # What Mapping makes of the above would do, but takes twice as long.

    def get(self, number: int, default: Any = None) -> Any:
        return self._values.get(number * _FACTOR + _ADDEND, default)

    def values(self) -> ValuesView[V]:
        return self._values.values()


def is_dense(count: int, end: int) -> bool:
    """Whether `count` numbers from 1 to `end` - 1 may be in a dict, whoever has chosen them.

    They may when they are few, or at least half of all that there are: a dict that grows gets three times as
    many slots as it has keys, so it has more than `end`, and each number looks first into a slot of its own.
    """
    return count <= FEW or end <= 2 * count


def room_for(count: int, end: int) -> MutableMapping[int, V | None]:
    """A map for `count` numbers from 1 to `end` - 1, to be put in in any order; some may be in it, with None.

    A dict is smaller than that while it grows, and the first numbers might be those that meet. So one that is
    to hold half of all numbers holds all of them at first.
    """
    if end <= 2 * count:
        return dict.fromkeys(range(1, end))
    return {} if is_dense(count, end) else HardenedDict({})
