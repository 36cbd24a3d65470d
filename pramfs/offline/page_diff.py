"""Count the pages in which two files of one image differ, reading only those that could be equal after all.

A frame that both have is equal; so are different frames with the same bytes, and a page of zeros is as good
as a hole. Frames with different checksums differ, and are not read.
"""

from collections.abc import Iterator

from pramfs.errors import DamagedPage
from pramfs.pram.links import Entries, read_page
from pramfs.storage.image import Image
from pramfs.storage.layout import ZEROS, ZEROS_CSUM

_BLOCK = 512
_HOLE = -1


def changed_pages(image: Image, old: Entries, new: Entries) -> int:
    """Return how many pages differ between two files, whose entries are in order of their index.

    Raises DamagedPage, or another PramError if a page cannot be read.
    """
    return sum(_differ(image, old, at, new, other) for at, other in _other_frames(old, new))


def _other_frames(old: Entries, new: Entries) -> Iterator[tuple[int, int]]:
    """Yield the positions, in both, of pages that are not in one frame; _HOLE where there is none."""
    at = other = 0
    while at < len(old) and other < len(new):
        count = min(_BLOCK, len(old) - at, len(new) - other)
        if old.indices[at : at + count] == new.indices[other : other + count]:
            yield from _other_frames_of(old, at, new, other, count)
            at += count
            other += count
        elif old.indices[at] == new.indices[other]:
            yield from _other_frames_of(old, at, new, other, 1)
            at += 1
            other += 1
        elif old.indices[at] < new.indices[other]:
            yield at, _HOLE
            at += 1
        else:
            yield _HOLE, other
            other += 1
    yield from ((position, _HOLE) for position in range(at, len(old)))
    yield from ((_HOLE, position) for position in range(other, len(new)))


def _other_frames_of(
    old: Entries, at: int, new: Entries, other: int, count: int
) -> Iterator[tuple[int, int]]:
    """Yield those of `count` positions, which have the same indices, at which frame or checksum differ."""
    frames = old.pfns[at : at + count], new.pfns[other : other + count]
    csums = old.csums[at : at + count], new.csums[other : other + count]
    if frames[0] == frames[1] and csums[0] == csums[1]:
        return
    for n, (pfn, other_pfn, csum, other_csum) in enumerate(zip(*frames, *csums, strict=True)):
        if pfn != other_pfn or csum != other_csum:
            yield at + n, other + n


def _differ(image: Image, old: Entries, at: int, new: Entries, other: int) -> bool:
    """Return whether two pages, of which one may be a hole, have different bytes."""
    if at == _HOLE:
        return not _is_zeros(image, new, other)
    if other == _HOLE:
        return not _is_zeros(image, old, at)
    if old.csums[at] != new.csums[other]:
        if old.pfns[at] == new.pfns[other]:
            raise DamagedPage(old.pfns[at], "it has two checksums")
        return True
    return _page(image, old, at) != _page(image, new, other)


def _is_zeros(image: Image, entries: Entries, at: int) -> bool:
    return entries.csums[at] == ZEROS_CSUM and _page(image, entries, at) == ZEROS


def _page(image: Image, entries: Entries, at: int) -> bytes:
    return read_page(image.read, entries.pfns[at], entries.csums[at], "data")
