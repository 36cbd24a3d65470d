"""Check data pages against the checksums of their entries.

Pages are read through system calls in pieces: a medium that fails is then an error and no SIGBUS.
"""

from collections.abc import Callable

from crc32c import crc32c

from pramfs.chains import Entries, runs_of
from pramfs.errors import SystemFault
from pramfs.image import Image
from pramfs.layout import PAGE_SHIFT, PAGE_SIZE

_PIECE_FRAMES = 64


def damaged_entries(image: Image, entries: Entries, progress: Callable[[int], None]) -> list[int]:
    """The positions, in `entries`, of data pages that fail their checksum or cannot be read.

    `progress` is told the number of pages that have been checked since it was last told.
    """
    damaged: list[int] = []
    at = 0
    for run in runs_of(entries.pfns):
        for first in range(run.pfn, run.pfn + run.frames, _PIECE_FRAMES):
            count = min(_PIECE_FRAMES, run.pfn + run.frames - first)
            expected = entries.csums[at : at + count].tolist()
            damaged.extend(at + bad for bad in _damaged_pages(image, first, expected))
            at += count
            progress(count)
    return damaged


def _damaged_pages(image: Image, pfn: int, expected: list[int]) -> list[int]:
    """Which of the pages from frame `pfn` on have not the checksums that are `expected`."""
    try:
        data = memoryview(image.read(pfn, len(expected)))
    except SystemFault:
        if len(expected) == 1:
            return [0]
        return [at for at, csum in enumerate(expected) if _damaged_pages(image, pfn + at, [csum])]
    found = [crc32c(data[at : at + PAGE_SIZE]) for at in range(0, len(data), PAGE_SIZE)]
    if found == expected:
        return []
    return [at for at in range(len(data) >> PAGE_SHIFT) if found[at] != expected[at]]
