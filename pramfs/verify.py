"""Check data pages against the checksums of their entries, on all processors.

Pages are read through system calls in pieces: a medium that fails is then an error and no SIGBUS. Big checks
are shared out to forked processes, because Python threads would take turns at pages of 4 KiB.
"""

import json
import os
from collections.abc import Callable
from typing import NamedTuple

from crc32c import crc32c

from pramfs.chains import Chain
from pramfs.errors import SystemFault
from pramfs.image import Image
from pramfs.layout import PAGE_SHIFT, PAGE_SIZE

_PIECE_FRAMES = 64  # small enough to stay in a processor's cache
_SHARE_FRAMES = 16384  # fewer are not worth a process

Progress = Callable[[int], None]


class _Piece(NamedTuple):
    at: int  # position of the first page in the entries
    pfn: int
    frames: int


def damaged_entries(image: Image, chain: Chain, progress: Progress) -> list[int]:
    """The positions, in the entries of `chain`, of data pages that fail their checksum or cannot be read.

    `progress` is told the number of pages that have been checked since it was last told. Forks when there is
    much to do: not to be called while other threads run.
    """
    pieces = _pieces(chain)
    workers = min(len(os.sched_getaffinity(0)), len(chain.entries) // _SHARE_FRAMES)
    if workers < 2:
        return _check(image, chain, pieces, progress)
    share = -(-len(pieces) // workers)
    shares = [pieces[start : start + share] for start in range(0, len(pieces), share)]
    helpers = [_Helper(image, chain, part) for part in shares[1:]]
    damaged = _check(image, chain, shares[0], progress)
    for helper, part in zip(helpers, shares[1:], strict=True):
        damaged += helper.result()
        progress(sum(piece.frames for piece in part))
    return damaged


def _pieces(chain: Chain) -> list[_Piece]:
    pieces = []
    at = 0
    for run in chain.runs:
        for start in range(0, run.frames, _PIECE_FRAMES):
            frames = min(_PIECE_FRAMES, run.frames - start)
            pieces.append(_Piece(at + start, run.pfn + start, frames))
        at += run.frames
    return pieces


def _check(image: Image, chain: Chain, pieces: list[_Piece], progress: Progress) -> list[int]:
    damaged: list[int] = []
    for at, pfn, frames in pieces:
        expected = chain.entries.csums[at : at + frames].tolist()
        damaged.extend(at + bad for bad in _damaged_pages(image, pfn, expected))
        progress(frames)
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


class _Helper:
    """A forked process that checks a share of the pages and reports the damaged ones through a pipe."""

    def __init__(self, image: Image, chain: Chain, pieces: list[_Piece]) -> None:
        self._read_end, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid:
            os.close(write_end)
            return
        try:
            with os.fdopen(write_end, "w") as pipe:
                json.dump(_check(image, chain, pieces, lambda frames: None), pipe)
            os._exit(0)
        finally:
            os._exit(1)

    def result(self) -> list[int]:
        """What it found. Raises SystemFault when it died."""
        with os.fdopen(self._read_end) as pipe:
            text = pipe.read()
        _, status = os.waitpid(self._pid, 0)
        if status:
            raise SystemFault(f"a process that verified pages died (wait status {status})")
        return [int(at) for at in json.loads(text)]
