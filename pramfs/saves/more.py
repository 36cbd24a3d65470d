"""What a tree saves in the node NAME-more: when inodes were born, and for which pages room is reserved.

A reader may do without all of it, and a program that does not know the node leaves it as it is. So it
names inodes by number, which are never used again, and is still true when the tree was changed meanwhile.
Everything from an image is checked before it is used; anything else raises ValueError with the reason.
"""

import itertools
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter

from pramfs.storage import layout
from pramfs.storage.layout import BIRTH, MORE_HEADER, RESERVED, MoreHeader
from pramfs.tree.inodes import FILE_MAX_PAGES, INO_MAX, ROOT_INO, File, Inode
from pramfs.tree.reservations import Reservations
from pramfs.tree.saved_groups import GROUP_SHIFT

if sys.byteorder != "little":
    raise ImportError("pramfs runs on little-endian machines only")


@dataclass(frozen=True, slots=True)
class More:
    """A decoded node: births as parallel arrays, and (ino, first page, pages) of reserved ranges.

    Inodes from the number `inos[n]` on, before the next one, were born at `born[n]`, in nanoseconds since
    the epoch; 0 is unknown.
    """

    generation: int  # of the root
    inos: "array[int]"
    born: "array[int]"
    reserved: list[tuple[int, int, int]]


def encode_more(next_ino: int, inodes: Mapping[int, Inode], *, with_reserved: bool = True) -> bytes:
    """Return the contents of the node for all inodes that have a name, b"" if there is nothing to tell.

    Without `with_reserved` no file has reserved ranges: looking for them takes a while.
    """
    births = _births(next_ino, inodes.values())
    reserved = (
        []
        if not with_reserved
        else [
            (inode.ino, first, behind - first)
            for inode in inodes.values()
            if type(inode) is File and inode.reserved is not None and inode.nlink
            for first, behind in inode.reserved
        ]
    )
    ranges = array("Q", itertools.chain.from_iterable(sorted(reserved)))
    if not births and not ranges:
        return b""
    return _pack(inodes[ROOT_INO].generation, births, ranges)


def encode_changed(
    last: More, next_ino: int, inodes: Mapping[int, Inode], changed: Iterable[int]
) -> bytes:
    """Return the contents of the node if the last save had `last`, and these groups have changed since.

    No room is reserved now.
    """
    births = array("q")
    ino = 0  # all before it are done
    for number in sorted(changed):
        first, behind = number << GROUP_SHIFT, (number + 1) << GROUP_SHIFT
        _copy_births(last, ino, first, births)
        born = -1
        for member in filter(None, map(inodes.get, range(first, behind))):
            if member.nlink and member.born != born:
                born = member.born
                births.extend((member.ino, born))
        ino = behind
    _copy_births(last, ino, INO_MAX, births)
    while births and births[-2] >= next_ino:
        del births[-2:]
    if births and births[-1] and next_ino <= INO_MAX:
        births.extend((next_ino, 0))
    return _pack(inodes[ROOT_INO].generation, births, array("Q"))


def _copy_births(last: More, first: int, behind: int, births: "array[int]") -> None:
    """Append the births of the inodes from `first` on, before `behind`."""
    start, end = bisect_left(last.inos, first), bisect_left(last.inos, behind)
    if first < behind and start and last.inos[start : start + 1] != array("q", (first,)):
        births.extend((first, last.born[start - 1]))
    some = array("q", bytes(16 * (end - start)))
    some[0::2], some[1::2] = last.inos[start:end], last.born[start:end]
    births += some


def _pack(generation: int, births: "array[int]", ranges: "array[int]") -> bytes:
    counts = len(births) * 8 // BIRTH.size, len(ranges) * 8 // RESERVED.size
    header = MORE_HEADER.pack(layout.MORE_MAGIC, layout.MORE_VERSION, generation, *counts)
    return header + births.tobytes() + ranges.tobytes()


def decode_header(data: bytes) -> MoreHeader:
    """Decode the start of the contents. Raises ValueError."""
    if len(data) < MORE_HEADER.size:
        raise ValueError("its node for more has no header")
    header = MoreHeader._make(MORE_HEADER.unpack_from(data))
    if header.magic != layout.MORE_MAGIC:
        raise ValueError("its node for more is not a tree's")
    if header.version != layout.MORE_VERSION:
        raise ValueError(
            f"its node for more has version {header.version}, this pramfs reads {layout.MORE_VERSION}"
        )
    return header


def decode_more(data: bytes, frames: int) -> More:
    """Decode the contents of the node, which is in an image of `frames` frames. Raises ValueError."""
    header = decode_header(data)
    births_end = MORE_HEADER.size + header.births * BIRTH.size
    if births_end + header.reserved * RESERVED.size != len(data):
        raise ValueError(f"{header.births} births and {header.reserved} ranges are not in it")
    births = array("q", data[MORE_HEADER.size : births_end])
    inos = births[0::2]
    if (inos and inos[0] <= 0) or any(ino >= following for ino, following in pairwise(inos)):
        raise ValueError("births are not in order")
    reserved = list(RESERVED.iter_unpack(data[births_end:]))
    _check_ranges(reserved, frames)
    return More(header.generation, inos, births[1::2], reserved)


def apply_more(more: More, inodes: Mapping[int, Inode], reservations: Reservations) -> None:
    """Give the inodes of a tree that is loaded what was saved of them."""
    if not _is_of(more, inodes):
        return
    _set_births(more, inodes.values())
    for ino, first, pages in more.reserved:
        file = inodes.get(ino)
        if isinstance(file, File):
            reservations.restore(file, first, first + pages)


def apply_births(more: More, inodes: Mapping[int, Inode]) -> None:
    """Give the inodes of a tree that is only read their birth times."""
    if _is_of(more, inodes):
        _set_births(more, inodes.values())


def _is_of(more: More, inodes: Mapping[int, Inode]) -> bool:
    """Return whether it is this tree's, not that of another which once had the same name."""
    return more.generation == inodes[ROOT_INO].generation


def _births(next_ino: int, inodes: Iterable[Inode]) -> "array[int]":
    """Return (ino, born) where that changes, in the order of inodes."""
    births = array("q")
    last = previous = 0
    for inode in inodes:
        ino = inode.ino
        if ino < previous:
            return _births(next_ino, sorted(inodes, key=attrgetter("ino")))
        previous = ino
        if inode.born != last and inode.nlink:
            last = inode.born
            births.extend((previous, last))
    if last and next_ino <= INO_MAX:
        births.extend((next_ino, 0))
    return births


def _set_births(more: More, inodes: Iterable[Inode]) -> None:
    inos, times = more.inos, more.born
    first = behind = born = 0
    for inode in inodes:
        ino = inode.ino
        if not first <= ino < behind:
            at = bisect_right(inos, ino)
            first = inos[at - 1] if at else 0
            born = times[at - 1] if at else 0
            behind = inos[at] if at < len(inos) else INO_MAX + 1
        inode.born = born


def _check_ranges(reserved: list[tuple[int, int, int]], frames: int) -> None:
    """Raise ValueError unless the ranges are in order, within files, and have at most `frames` pages.

    Ranges may touch: before its release pramfs wrote such after a hole had been punched within a page.
    """
    last = (0, 0)
    for ino, first, pages in reserved:
        if not pages or (ino, first) < last or first + pages > FILE_MAX_PAGES:
            raise ValueError(f"inode {ino} has an impossible range of reserved pages")
        last = (ino, first + pages)
    if sum(pages for _, _, pages in reserved) > frames:
        raise ValueError(f"room is reserved for more than {frames} pages")
