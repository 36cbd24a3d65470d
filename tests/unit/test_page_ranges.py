"""Ranges of pages against a plain set of pages."""

from hypothesis import given
from hypothesis import strategies as st

from pramfs.tree.page_ranges import PageRanges

PAGES = 12
page = st.integers(0, PAGES)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove"]), page, page), max_size=12)


@given(steps)
def test_they_hold_the_pages_that_a_set_would(steps: list[tuple[str, int, int]]) -> None:
    ranges, model = PageRanges(), set[int]()
    for call, *bounds in steps:
        first, behind = sorted(bounds)
        getattr(ranges, call)(first, behind)
        pages = set(range(first, behind))
        model = model | pages if call == "add" else model - pages
        assert {number for start, end in ranges for number in range(start, end)} == model
        ends = [end for one in ranges for end in one]
        assert ends == sorted(set(ends)), "ranges are empty, overlap, or touch"
