"""Extents: formed from lists of pfns in bulk, without losing or adding one."""

import itertools
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.storage.extents import count_up, extents_of, is_counting_up, pfn_at, pfns_of
from pramfs.storage.frames import Extent

PFN_MAX = 2**32 - 1

# Runs as long as the blocks in which they are looked for, a little shorter and a little longer.
_LENGTHS = st.sampled_from((1, 2, 3, 511, 512, 513, 1024, 1025))


@st.composite
def _pfns(draw: st.DrawFn) -> list[int]:
    pfns: list[int] = []
    for length in draw(st.lists(_LENGTHS, max_size=6)):
        after = pfns[-1] + 1 if pfns else 1
        first = draw(st.sampled_from((1, after, after + 1, PFN_MAX + 1 - length)))
        pfns += range(first, min(first + length, PFN_MAX + 1))
    return pfns


@given(st.one_of(_pfns(), st.lists(st.integers(1, 30), max_size=40)))
def test_runs_are_those_frames_in_that_order_and_no_two_could_be_one(pfns: list[int]) -> None:
    for sequence in (pfns, array("I", pfns)):
        extents = list(extents_of(sequence))
        assert pfns_of(extents) == pfns
        assert all(one.pfn + one.frames != two.pfn for one, two in itertools.pairwise(extents))


@pytest.mark.parametrize("typecode", ["I", "Q"])
@pytest.mark.parametrize("count", [0, 1, 2, 511, 512, 513, 5000])
@pytest.mark.parametrize("from_end", [False, True])
def test_count_up_is_a_range(typecode: str, count: int, from_end: bool) -> None:
    largest = 2 ** (8 * array(typecode).itemsize) - 1
    first = largest - count if from_end else 7
    assert count_up(typecode, first, count) == array(typecode, range(first, first + count))


def test_one_number_out_of_step_is_seen_wherever_it_is() -> None:
    for at in range(1, 1025):
        numbers = count_up("I", 5, 1026)
        assert is_counting_up(numbers)
        numbers[at] += 1
        assert not is_counting_up(numbers)
        assert Extent(5 + at + 1, 1) in extents_of(numbers[: at + 1])


def test_each_frame_of_extents_is_found_by_its_number() -> None:
    extents = [Extent(7, 3), Extent(2, 1), Extent(90, 2)]
    assert [pfn_at(extents, at) for at in range(6)] == pfns_of(extents)
    with pytest.raises(IndexError):
        pfn_at(extents, 6)
