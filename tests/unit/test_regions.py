"""Banned regions as a set: parsed from options, merged, looked up, printed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.errors import RegionSyntaxError
from pramfs.storage.regions import Region, Regions, parse_regions
from pramfs.system.memory_values import memparse

# --- the 2013 file system: the pram_banned option -------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("0x1000", 4096),
        ("0X10k", 16 << 10),
        ("0128", 128),  # never octal
        ("1K", 1 << 10),
        ("3m", 3 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("1p", 1 << 50),
        ("1E", 1 << 60),
        ("16E", 16 << 60),
    ],
)
def test_memparse_takes_decimal_and_hex_with_binary_suffixes(text: str, value: int) -> None:
    assert memparse(text) == value


@pytest.mark.parametrize(
    "text", ["", "K", "1KB", "-1", "1.5G", " 1", "1 ", "0x", "0xG", "\u0661", "1Z"]
)
def test_memparse_refuses_what_is_no_memory_value(text: str) -> None:
    with pytest.raises(ValueError, match="memory value expected"):
        memparse(text)


def test_memparse_refuses_a_number_without_end() -> None:
    with pytest.raises(ValueError, match="memory value expected"):
        memparse("9" * 5000)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("0-128M", 0, 0x7FFF),
        ("0x1000-0x2000", 1, 1),
        ("4K-8K", 1, 1),
        ("1-2", 0, 0),  # PFN_DOWN of the start, PFN_UP of the end
        ("4095-4097", 0, 1),
        ("0-1", 0, 0),
        ("1E-2E", 1 << 48, (1 << 49) - 1),
    ],
)
def test_a_region_covers_every_frame_that_its_range_touches(
    text: str, first: int, last: int
) -> None:
    assert parse_regions(text) == [Region(first, last)]


@pytest.mark.parametrize("separator", [",", ":"])
def test_a_list_of_regions_is_read_to_its_end(separator: str) -> None:
    """The loop of the 2013 file system never gets past the first comma."""
    text = separator.join(["0-4K", "8K-12K", "1M-2M"])
    assert parse_regions(text) == [Region(0, 0), Region(2, 2), Region(0x100, 0x1FF)]


def test_both_separators_may_be_mixed() -> None:
    assert parse_regions("0-4K:8K-12K,16K-20K") == [Region(0, 0), Region(2, 2), Region(4, 4)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "memory value expected"),
        ("-1M", "memory value expected"),
        ("M-1G", "memory value expected"),
        ("0-", "memory value expected"),
        ("0-x", "memory value expected"),
        ("0-1M,", "memory value expected"),
        ("0-1M::2M-3M", "memory value expected"),
        ("128M", "'-' expected"),
        ("0+128M", "'-' expected"),
        ("0 -128M", "'-' expected"),
        ("0-1M,2M", "'-' expected"),
        ("1M-1M", "end <= start"),
        ("2M-1M", "end <= start"),
        ("0-0", "end <= start"),
        ("0-1Mx", "unexpected 'x'"),
        ("0-1M-2M", "unexpected '-2M'"),
    ],
)
def test_a_bad_list_is_refused_in_the_words_of_the_seed(text: str, words: str) -> None:
    with pytest.raises(RegionSyntaxError) as caught:
        parse_regions(text)
    assert str(caught.value) == f"banned: {words} in '{text}'"
    assert caught.value.exit_code == 1


# --- patch 9 of the 2013 series: merge, lookup ----------------------------------------------------


def merged(*pairs: tuple[int, int]) -> list[tuple[int, int]]:
    return [tuple(region) for region in Regions(Region(*pair) for pair in pairs)]  # type: ignore[misc]


def test_regions_are_kept_in_ascending_order() -> None:
    assert merged((30, 39), (0, 9), (50, 59)) == [(0, 9), (30, 39), (50, 59)]


def test_overlapping_regions_merge() -> None:
    assert merged((0, 9), (5, 19)) == [(0, 19)]
    assert merged((5, 19), (0, 9)) == [(0, 19)]


def test_adjacent_regions_merge() -> None:
    assert merged((0, 9), (10, 19)) == [(0, 19)]
    assert merged((10, 19), (0, 9)) == [(0, 19)]


def test_regions_with_a_frame_between_them_stay_apart() -> None:
    assert merged((0, 9), (11, 19)) == [(0, 9), (11, 19)]


def test_a_region_that_bridges_several_merges_with_all_of_them() -> None:
    assert merged((0, 9), (20, 29), (40, 49), (60, 69), (8, 41)) == [(0, 49), (60, 69)]


def test_a_region_within_another_changes_nothing() -> None:
    assert merged((0, 100), (10, 20), (0, 100)) == [(0, 100)]


def test_there_may_be_more_regions_than_the_seed_had_room_for() -> None:
    assert len(merged(*((n * 10, n * 10 + 1) for n in range(5000)))) == 5000


def test_lookup_finds_the_first_and_the_last_frame_and_none_beside() -> None:
    regions = Regions([Region(10, 19), Region(30, 30)])
    assert [pfn for pfn in range(40) if pfn in regions] == [*range(10, 20), 30]


def test_a_run_of_frames_overlaps_as_soon_as_one_of_them_is_banned() -> None:
    regions = Regions([Region(10, 19)])
    assert not regions.overlaps(5, 5)
    assert regions.overlaps(5, 6)
    assert regions.overlaps(19, 100)
    assert not regions.overlaps(20, 100)
    assert regions.overlaps(0, 100)


def test_clipping_cuts_off_what_lies_past_the_last_frame() -> None:
    regions = Regions([Region(0, 4), Region(8, 20), Region(30, 40)])
    assert list(regions.clipped(10)) == [Region(0, 4), Region(8, 9)]


def test_the_table_is_printed_as_the_seed_does() -> None:
    assert Regions([Region(0x10, 0x1F), Region(0, 0)]).table() == [
        "PRAM: banned regions:",
        "   0: [00000000 - 00000000] 1 pages",
        "   1: [00000010 - 0000001f] 16 pages",
        "Total banned: 17 pages in 2 regions",
    ]


def test_the_table_of_no_regions_says_so() -> None:
    assert Regions().table()[-1] == "Total banned: 0 pages in 0 regions"


pairs = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: Region(p[0], p[0] + p[1]))


@given(st.lists(pairs, max_size=12))
def test_a_set_of_regions_holds_exactly_the_frames_that_were_added(added: list[Region]) -> None:
    regions = Regions(added)
    expected = {pfn for region in added for pfn in range(region.first, region.last + 1)}
    assert {pfn for pfn in range(80) if pfn in regions} == expected
    listed = list(regions)
    assert all(one.last + 1 < two.first for one, two in itertools.pairwise(listed))
    assert sum(region.frames for region in listed) == len(expected)
    assert regions == Regions(reversed(added))
