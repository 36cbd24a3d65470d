"""Page maps: which frame holds which page, and what is a hole."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.storage.frames import Extent
from pramfs.tree.pagemap import (
    CHUNK_PAGES,
    FILE_END,
    FileExtent,
    PageMap,
    file_extents_of,
    first_extent,
)

FAR = 1 << 40  # a page index terabytes away


def pages_of(pages: PageMap) -> dict[int, int]:
    return {first + at: pfn for first, pfns in pages.chunks() for at, pfn in enumerate(pfns) if pfn}


def test_an_empty_map_is_all_hole() -> None:
    pages = PageMap()
    assert (pages.count, pages.get(0), pages.get(FAR)) == (0, 0, 0)
    assert list(pages.file_extents(0, 3)) == [FileExtent(0, 0, 3)]


def test_pages_put_in_any_order_are_found() -> None:
    pages = PageMap()
    pages.put(5, 105, 3)
    pages.put(0, 100, 1)
    pages.put(FAR, 900, 2)
    assert pages_of(pages) == {0: 100, 5: 105, 6: 106, 7: 107, FAR: 900, FAR + 1: 901}
    assert pages.count == 6


def test_a_page_put_again_replaces_the_first_and_is_counted_once() -> None:
    pages = PageMap()
    pages.put(0, 10, 4)
    pages.put(2, 50, 4)
    assert pages_of(pages) == {0: 10, 1: 11, 2: 50, 3: 51, 4: 52, 5: 53}
    assert pages.count == 6


def test_pfns_of_a_range_name_holes_with_zero_and_are_as_many_as_asked_for() -> None:
    pages = PageMap()
    pages.put(1, 7, 1)
    assert pages.pfns(0, 4).tolist() == [0, 7, 0, 0]
    assert pages.pfns(FAR, 2).tolist() == [0, 0]


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 255, 256, 1 << 24]), st.integers(1, 3)), min_size=1)
)
def test_the_first_extent_is_the_first_of_all(extents: list[tuple[int, int]]) -> None:
    pfns = array("I")
    for pfn, count in extents:
        pfns.extend(range(pfn, pfn + count) if pfn else bytes(count))
    assert first_extent(pfns) == next(file_extents_of(0, pfns))[1:]


def test_extents_join_consecutive_frames_and_keep_holes_apart() -> None:
    pages = PageMap()
    pages.put(0, 10, 2)
    pages.put(2, 20, 1)
    pages.put(5, 21, 1)
    assert list(pages.file_extents(0, 7)) == [
        FileExtent(0, 10, 2),
        FileExtent(2, 20, 1),
        FileExtent(3, 0, 2),
        FileExtent(5, 21, 1),
        FileExtent(6, 0, 1),
    ]


def test_extents_may_start_and_end_anywhere() -> None:
    pages = PageMap()
    pages.put(CHUNK_PAGES - 2, 10, 2)
    pages.put(CHUNK_PAGES, 12, 2)
    assert list(pages.file_extents(CHUNK_PAGES - 1, 2)) == [
        FileExtent(CHUNK_PAGES - 1, 11, 1),
        FileExtent(CHUNK_PAGES, 12, 1),
    ]


def test_a_hole_of_terabytes_is_not_walked_page_by_page() -> None:
    pages = PageMap()
    pages.put(0, 1, 1)
    assert len(list(pages.file_extents(0, 1000 * CHUNK_PAGES))) <= 1001


@pytest.mark.parametrize("first", [0, 1, 3, CHUNK_PAGES - 1, CHUNK_PAGES, CHUNK_PAGES + 1, FAR])
def test_a_cut_returns_the_frames_from_there_on_and_leaves_the_others(first: int) -> None:
    mapped = {0: 10, 1: 11, 3: 13, CHUNK_PAGES - 1: 20, CHUNK_PAGES: 30, CHUNK_PAGES + 1: 40}
    mapped |= {FAR: 50}
    pages = PageMap()
    for index, pfn in mapped.items():
        pages.put(index, pfn, 1)
    freed = [pfn for run in pages.cut(first) for pfn in range(run.pfn, run.pfn + run.frames)]
    assert sorted(freed) == sorted(pfn for index, pfn in mapped.items() if index >= first)
    assert pages_of(pages) == {index: pfn for index, pfn in mapped.items() if index < first}
    assert pages.count == len(pages_of(pages))


def test_a_cut_leaves_no_trailing_holes_behind() -> None:
    """They would make the next page of the file look as if it were counted already."""
    pages = PageMap()
    pages.put(0, 10, 1)
    pages.put(9, 19, 1)
    pages.cut(5)
    assert [len(pfns) for _, pfns in pages.chunks()] == [1]
    pages.put(4, 14, 1)
    assert pages.count == 2


def test_cutting_off_everything_leaves_an_empty_map() -> None:
    pages = PageMap()
    pages.put(0, 10, 3)
    pages.put(FAR, 50, 1)
    assert pages.cut(0) == [Extent(10, 3), Extent(50, 1)]
    assert (pages.count, list(pages.chunks())) == (0, [])


@pytest.mark.parametrize("first", [0, 1, 2, CHUNK_PAGES - 1, CHUNK_PAGES, FAR + 1])
@pytest.mark.parametrize("end", [0, 2, 3, CHUNK_PAGES + 1, FAR + 1, FAR + 2, FILE_END])
def test_the_parts_of_chunks_between_two_pages_are_found(first: int, end: int) -> None:
    pages = PageMap()
    mapped = {2: 10, CHUNK_PAGES - 1: 11, CHUNK_PAGES: 12, CHUNK_PAGES + 3: 13, FAR + 1: 14}
    for index, pfn in mapped.items():
        pages.put(index, pfn, 1)
    found = {
        index: pfn
        for start, pfns in pages.parts(first, end)
        for index, pfn in enumerate(pfns, start)
        if pfn
    }
    assert found == {index: pfn for index, pfn in mapped.items() if first <= index < end}


def test_a_file_without_holes_is_loaded_at_once() -> None:
    count = 2 * CHUNK_PAGES + 7
    pages = PageMap()
    pages.load(array("Q", range(count)), array("I", range(1000, 1000 + count)))
    assert pages_of(pages) == {index: 1000 + index for index in range(count)}
    assert pages.count == count


def test_a_file_with_holes_is_loaded_page_by_page() -> None:
    pages = PageMap()
    pages.load(array("Q", [1, 7, FAR]), array("I", [9, 8, 7]))
    assert pages_of(pages) == {1: 9, 7: 8, FAR: 7}


@pytest.mark.parametrize("indices", [[0, 0], [3, 2], [1, 1, 2], [0, 2, 1]])
def test_pages_that_are_not_in_ascending_order_are_refused(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="follows page"):
        PageMap().load(array("Q", indices), array("I", range(1, len(indices) + 1)))
