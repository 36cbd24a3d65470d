"""Memory goes back in whole pages of the kernel, and no frame beside is touched, whatever its page size."""

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.storage.frames import FREE, FRESH, Extent, FrameTable
from pramfs.storage.holes import Holes
from pramfs.storage.layout import PAGE_SIZE
from tests.support.watched_image import kernel_with_pages

FIRST = 80  # a multiple of every page size, with no frames for super blocks before the last
FRAMES = 127


@pytest.mark.parametrize("page_kib", [4, 16, 64])
@given(
    needed=st.sets(st.integers(FIRST, FRAMES - 1)),
    given_up=st.lists(st.tuples(st.integers(FIRST, FRAMES - 1), st.integers(1, 40))),
)
def test_pages_of_the_kernel_are_given_back_when_no_frame_of_them_is_needed(
    page_kib: int, needed: set[int], given_up: list[tuple[int, int]]
) -> None:
    table = FrameTable(FRAMES)
    for pfn in needed:
        table.reserve(pfn, 1, "data page")
    extents = [Extent(pfn, min(count, FRAMES - pfn)) for pfn, count in given_up]
    mapping = mmap.mmap(-1, FRAMES * PAGE_SIZE)
    mapping[:] = b"x" * len(mapping)
    with kernel_with_pages(page_kib << 10):
        Holes(mapping, page_kib << 10).give_back(table, [FREE, FRESH], extents)
    size = page_kib // 4
    asked = {
        pfn // size for extent in extents for pfn in range(extent.pfn, extent.pfn + extent.frames)
    }
    for first in range(0, FRAMES, size):
        frames = range(first, min(first + size, FRAMES))
        gone = first // size in asked and len(frames) == size and not needed & set(frames)
        wanted = (b"\0" if gone else b"x") * len(frames) * PAGE_SIZE
        assert mapping[first * PAGE_SIZE : (first + len(frames)) * PAGE_SIZE] == wanted
    mapping.close()
