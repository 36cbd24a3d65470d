"""Chains of links: what is built is what is read, and reserving one takes every frame that it names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.errors import BusyPfn, CorruptedPage, InvalidPfn, PramError, SystemFault
from pramfs.pram.links import Chain, Entries, ReadAhead, build_links, link_count, reserve_chain
from pramfs.storage.frames import SAVED, Extent, FrameTable
from pramfs.storage.layout import LINK_ENTRIES_MAX, PAGE_SIZE
from tests.support.handmade_image import FRAMES, UUID, Forge
from tests.support.image_audit import check_table
from tests.support.watched_image import image_of

FIRST = 10  # pfn of the first link in these tests


@pytest.fixture
def forge() -> Forge:
    return Forge()


class Taken:
    """What a reservation took, and a table to take it from."""

    def __init__(self) -> None:
        self.table = FrameTable(FRAMES)
        self.extents: list[Extent] = []

    def reserve(self, forge: Forge, link_pfn: int = FIRST, *, shared: bool = False) -> Chain:
        read = ReadAhead(forge.image).read
        return reserve_chain(read, UUID, self.table, link_pfn, self.extents.append, shared=shared)

    def frames(self) -> set[int]:
        check_table(self.table)
        reserved = {pfn for pfn in range(FRAMES) if self.table.state(pfn) == SAVED}
        assert reserved == {
            pfn for extent in self.extents for pfn in range(extent.pfn, sum(extent))
        }
        return reserved


@pytest.fixture
def taken() -> Taken:
    return Taken()


# --- build and read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "links"), [(0, 0), (1, 1), (169, 1), (170, 2), (338, 2), (339, 3), (262144, 1552)]
)
def test_a_chain_has_as_many_links_as_its_entries_need(entries: int, links: int) -> None:
    assert link_count(entries) == links


@pytest.mark.parametrize(
    "count", [1, LINK_ENTRIES_MAX - 1, LINK_ENTRIES_MAX, LINK_ENTRIES_MAX + 1, 500]
)
def test_what_was_built_is_what_is_read(count: int) -> None:
    entries = Entries()
    entries.flags.extend(range(count))
    entries.csums.extend(range(0xFFFFFFFF, 0xFFFFFFFF - count, -1))
    entries.pfns.extend(range(2000 - count, 2000))
    entries.indices.extend((1 << 63) + n * n for n in range(count))
    links = [1000 + 3 * n for n in range(link_count(count), 0, -1)]
    image = image_of(bytes(2000 * PAGE_SIZE))
    pages = build_links(UUID, links, entries.pack())
    for number, pfn in enumerate(links):
        image.write(pfn * PAGE_SIZE, pages[number * PAGE_SIZE : (number + 1) * PAGE_SIZE])
    table = FrameTable(2000)
    chain = reserve_chain(ReadAhead(image).read, UUID, table, links[0], lambda extent: None)
    assert chain.links == links
    for column in ("flags", "csums", "pfns", "indices"):
        assert getattr(chain.entries, column) == getattr(entries, column)
    assert table.count(SAVED) == count + len(links)


def test_pages_are_read_many_at_once_only_while_they_follow_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = image_of(bytes(500 * PAGE_SIZE))
    read, counts = image.read, list[int]()

    def counted(pfn: int, count: int = 1) -> bytes:
        counts.append(count)
        return read(pfn, count)

    monkeypatch.setattr(image, "read", counted)
    ahead = ReadAhead(image)
    for pfn in range(400, 100, -1):
        ahead.read(pfn)
    assert counts == [1] * 300
    counts.clear()
    for pfn in range(100, 400):
        ahead.read(pfn)
    assert len(counts) < 10


def test_the_rest_of_a_link_that_is_not_full_is_zero() -> None:
    entries = Entries()
    for column in (entries.flags, entries.csums, entries.pfns, entries.indices):
        column.append(7)
    page = build_links(UUID, [5], entries.pack())
    assert len(page) == PAGE_SIZE
    assert not page[24 + 24 :].strip(b"\0")


# --- reserve (the 2013 file system) ---------------------------------------------------------------


def test_a_reserved_chain_takes_its_links_and_their_pages(forge: Forge, taken: Taken) -> None:
    forge.link(FIRST, [(20, 0), (21, 1), (30, 2)], link_pfn=40)
    forge.link(40, [(22, 3)])
    chain = taken.reserve(forge)
    assert taken.frames() == {FIRST, 20, 21, 22, 30, 40}
    assert chain.links == [FIRST, 40]
    assert chain.entries.pfns.tolist() == [20, 21, 30, 22]
    assert chain.entries.indices.tolist() == [0, 1, 2, 3]


def test_a_page_that_is_named_twice_is_busy_unless_frames_are_shared(
    forge: Forge, taken: Taken
) -> None:
    forge.link(FIRST, [(20, 0), (21, 1), (20, 2)], link_pfn=40)
    forge.link(40, [(21, 3), (22, 4)])
    with pytest.raises(BusyPfn, match=r"^pfn:14 busy \(data page\)$"):
        taken.reserve(forge)
    taken = Taken()
    chain = taken.reserve(forge, shared=True)
    assert chain.entries.pfns.tolist() == [20, 21, 20, 21, 22]
    assert taken.frames() == {FIRST, 20, 21, 22, 40}
    assert [taken.table.holders(pfn) for pfn in (20, 21, 22)] == [2, 2, 1]
    taken.table.unreserve(reversed(taken.extents))
    assert taken.table.count(SAVED) == taken.table.repeats == 0


@pytest.mark.parametrize("pfn", [FIRST, 40])
def test_a_link_is_never_shared_with_data(forge: Forge, taken: Taken, pfn: int) -> None:
    forge.link(FIRST, [(20, 0), (pfn, 1)], link_pfn=40)
    forge.link(40, [(22, 2)])
    with pytest.raises(BusyPfn, match="busy"):
        taken.reserve(forge, shared=True)


@pytest.mark.parametrize("shared_first", [False, True])
def test_what_is_not_shareable_is_not_shared(
    forge: Forge, taken: Taken, shared_first: bool
) -> None:
    """A byte stream and a page stream cannot have a frame in common, in whatever order they come."""
    forge.link(FIRST, [(20, 0)])
    forge.link(40, [(20, 0)])
    taken.reserve(forge, shared=shared_first)
    with pytest.raises(BusyPfn, match=r"^pfn:14 busy"):
        taken.reserve(forge, 40, shared=not shared_first)


def test_a_chain_that_starts_nowhere_is_empty(forge: Forge, taken: Taken) -> None:
    assert not taken.reserve(forge, 0).links
    assert taken.frames() == set()


@pytest.mark.parametrize("pfn", [FRAMES, FRAMES + 1, 1 << 40, (1 << 64) - 1])
def test_a_link_outside_the_arena_is_invalid(forge: Forge, taken: Taken, pfn: int) -> None:
    forge.link(FIRST, [(20, 0)], link_pfn=pfn)
    with pytest.raises(InvalidPfn, match=rf"^pfn:{pfn:x} invalid \(link\)$"):
        taken.reserve(forge)


@pytest.mark.parametrize("pfn", [0, FRAMES, 1 << 40, (1 << 64) - 1])
def test_a_page_outside_the_arena_is_invalid(forge: Forge, taken: Taken, pfn: int) -> None:
    forge.link(FIRST, [(20, 0), (pfn, 1)])
    with pytest.raises(InvalidPfn, match="data page"):
        taken.reserve(forge)
    taken.frames()


def test_a_page_that_is_no_link_is_corrupted(forge: Forge, taken: Taken) -> None:
    forge.data(FIRST)
    with pytest.raises(CorruptedPage, match=rf"^pfn:{FIRST:x} corrupted \(not a link\)$"):
        taken.reserve(forge)
    assert taken.frames() == set()


def test_a_link_with_a_true_checksum_and_another_magic_is_corrupted(
    forge: Forge, taken: Taken
) -> None:
    forge.link(FIRST, [(20, 0)], magic=0x70726D6E)
    with pytest.raises(CorruptedPage, match="not a link"):
        taken.reserve(forge)


@pytest.mark.parametrize("at", [4, 8, 16, 24, 24 + 24, PAGE_SIZE - 1])
def test_a_flipped_bit_anywhere_in_a_link_makes_it_corrupted(
    forge: Forge, taken: Taken, at: int
) -> None:
    forge.link(FIRST, [(20, 0), (21, 1)])
    forge.flip(FIRST, at)
    with pytest.raises(CorruptedPage, match="link checksum"):
        taken.reserve(forge)


def test_a_link_moved_to_another_frame_is_corrupted(forge: Forge, taken: Taken) -> None:
    forge.link(11, [(20, 0)])
    forge.page(FIRST, forge.image.read(11))
    with pytest.raises(CorruptedPage, match="link checksum"):
        taken.reserve(forge)


@pytest.mark.parametrize("length", [0, LINK_ENTRIES_MAX + 1, 1 << 16, (1 << 32) - 1])
def test_a_link_with_no_entry_or_more_than_fit_is_corrupted(
    forge: Forge, taken: Taken, length: int
) -> None:
    forge.link(FIRST, [(20, 0)], len=length)
    with pytest.raises(CorruptedPage, match=f"{length} entries in a link"):
        taken.reserve(forge)
    assert taken.frames() == set()


@pytest.mark.parametrize("back_to", [FIRST, 40, 41])
def test_a_chain_that_runs_into_itself_is_busy(forge: Forge, taken: Taken, back_to: int) -> None:
    forge.link(FIRST, [(20, 0)], link_pfn=40)
    forge.link(40, [(21, 1)], link_pfn=41)
    forge.link(41, [(22, 2)], link_pfn=back_to)
    with pytest.raises(BusyPfn, match=rf"^pfn:{back_to:x} busy \(link\)$"):
        taken.reserve(forge)
    taken.frames()


@pytest.mark.parametrize("twice", [20, 21, FIRST, 40])
def test_a_page_that_is_claimed_twice_is_busy(forge: Forge, taken: Taken, twice: int) -> None:
    forge.link(40, [(22, 2)])
    forge.link(FIRST, [(20, 0), (21, 1)], link_pfn=40)
    forge.link(40, [(twice, 2)])
    with pytest.raises(BusyPfn, match=rf"^pfn:{twice:x} busy \(data page\)$"):
        taken.reserve(forge)
    taken.frames()


class TestOrderOfChecks:
    """As in the 2013 file system: invalid, corrupted, busy for a link, and only then its entries."""

    def test_an_invalid_pfn_is_not_read(self, forge: Forge, taken: Taken) -> None:
        with pytest.raises(InvalidPfn):
            taken.reserve(forge, FRAMES)

    def test_a_corrupted_link_that_is_busy_is_corrupted(self, forge: Forge, taken: Taken) -> None:
        taken.table.reserve(FIRST, 1, "somebody")
        forge.data(FIRST)
        with pytest.raises(CorruptedPage):
            taken.reserve(forge)

    def test_a_busy_link_with_a_bad_entry_is_busy(self, forge: Forge, taken: Taken) -> None:
        taken.table.reserve(FIRST, 1, "somebody")
        forge.link(FIRST, [(1 << 40, 0)])
        with pytest.raises(BusyPfn, match="link"):
            taken.reserve(forge)

    def test_the_entries_of_a_link_come_before_the_next_link(
        self, forge: Forge, taken: Taken
    ) -> None:
        forge.link(FIRST, [(FRAMES, 0)], link_pfn=FRAMES + 1)
        with pytest.raises(InvalidPfn, match="data page"):
            taken.reserve(forge)

    def test_the_first_bad_entry_is_the_one_that_is_named(self, forge: Forge, taken: Taken) -> None:
        taken.table.reserve(25, 1, "somebody")
        forge.link(FIRST, [(20, 0), (25, 1), (FRAMES, 2), (0, 3)])
        with pytest.raises(BusyPfn, match=r"^pfn:19 busy"):
            taken.reserve(forge)


@pytest.mark.parametrize("frames", [5, 12, 25])
def test_an_image_that_is_cut_short_is_an_error_and_no_crash(
    forge: Forge, taken: Taken, frames: int
) -> None:
    forge.link(FIRST, [(20, 0)], link_pfn=30)
    forge.link(30, [(21, 0)])
    short = image_of(forge.image.content()[: frames * PAGE_SIZE])
    with pytest.raises((SystemFault, CorruptedPage)):
        reserve_chain(ReadAhead(short).read, UUID, taken.table, FIRST, taken.extents.append)


@given(data=st.data())
def test_no_forged_chain_does_more_than_be_refused(data: st.DataObject) -> None:
    """Any links at all, with true checksums: it ends, and it takes no frame twice."""
    forge, taken = Forge(), Taken()
    places = [6, 7, 10, 11, 12, 13, 14]
    links = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=5, unique=True))
    pfns = st.integers(0, FRAMES + 2)
    for pfn in links:
        entries = data.draw(st.lists(st.tuples(pfns, st.integers(0, 99)), max_size=4))
        following = data.draw(st.sampled_from([0, *links, *places]))
        length = data.draw(st.sampled_from([len(entries)] * 6 + [0, 169, 170]))
        forge.link(pfn, entries, following, len=length)
    for pfn in links:  # data pages may have been written over them: seal them again or leave it so
        if data.draw(st.booleans()):
            forge.link(pfn, [(data.draw(pfns), 0)], data.draw(st.sampled_from([0, *links])))
    try:
        chain = taken.reserve(forge, links[0])
    except PramError:
        taken.frames()
        return
    named = [*chain.links, *chain.entries.pfns]
    assert len(set(named)) == len(named)
    assert taken.frames() == set(named)
