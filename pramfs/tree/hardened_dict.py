"""A dict of integers hardened against hash flooding: inode numbers of an image, chunks of a sparse file.

The hash of an int is the int itself, and it alone decides which slots of a dict are probed. So an attacker
can choose n integers that all probe the same slots, which takes time proportional to n squared. The dict
defined here takes the same time for any integers.
"""

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping, ValuesView
from typing import Any, TypeVar

V = TypeVar("V")

FEW = 4096  # integers, the square of which takes only some 10 ms

# The hash of a large int is the int modulo a prime, so number * factor + addend, with both secret, is a
# universal hash function. Xor with a secret would not do: integers that collide still collide after it.
_PRIME = sys.hash_info.modulus
_FACTOR = int.from_bytes(os.urandom(16), "little") % (_PRIME - 1) + 1
_ADDEND = int.from_bytes(os.urandom(16), "little") % _PRIME


class HardenedDict(MutableMapping[int, V]):
    """A dict of integers in slots that nobody can predict; each access takes 0.1 µs more."""

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

    # The methods that Mapping derives from those above would do, but take twice as long.

    def get(self, number: int, default: Any = None) -> Any:
        return self._values.get(number * _FACTOR + _ADDEND, default)

    def values(self) -> ValuesView[V]:
        return self._values.values()


def is_dense(count: int, end: int) -> bool:
    """Return whether `count` integers from 1 to `end` - 1 may be in a plain dict, whoever chose them.

    They may if they are few, or at least half of the range: a dict that grows gets three times as many slots
    as it has keys, which is more than `end`, so that each integer probes a slot of its own first.
    """
    return count <= FEW or end <= 2 * count


def room_for(count: int, end: int) -> MutableMapping[int, V | None]:
    """Return a map for `count` integers from 1 to `end` - 1, to be added in any order.

    A plain dict has fewer slots while it grows, and the first keys might be those that collide. So one that
    is to hold at least half of the range is returned with all of it as keys, with the value None.
    """
    if end <= 2 * count:
        return dict.fromkeys(range(1, end))
    return {} if is_dense(count, end) else HardenedDict({})
