"""Reservation, as in the 2013 file system: all that a save holds, or nothing. Forged node lists, too."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.errors import PramError, ReservationFailed
from pramfs.pram.pram import Pram
from pramfs.pram.reserve import reserve
from pramfs.storage import layout, superblock
from pramfs.storage.frames import FREE, SAVED, SUPER, FrameTable
from pramfs.storage.layout import BYTE_STREAM, NAME_MAX, PAGE_SIZE
from tests.support.handmade_image import FRAMES, OTHER_SLOT, SLOT, Forge
from tests.support.image_audit import check_table
from tests.support.watched_image import image_of

SLOTS = set(filter(layout.is_slot, range(FRAMES)))


@pytest.fixture
def forge() -> Forge:
    """A sound image: node 6 with links 10 and 11 and three pages, then node 7 without any."""
    forge = Forge()
    forge.super(node_pfn=6, nodes=2)
    forge.node(6, b"first", link_pfn=10, links=2, entries=3, node_pfn=7)
    forge.link(10, [(20, 0), (21, 1)], link_pfn=11)
    forge.link(11, [(30, 7)])
    forge.node(7, b"second")
    return forge


def refusal(forge: Forge) -> ReservationFailed:
    """Why the image is refused; nothing may be reserved after it."""
    table = FrameTable(FRAMES)
    with pytest.raises(ReservationFailed) as caught:
        reserve(forge.image, table, superblock.discover(forge.image))
    check_table(table)
    assert table.count(SAVED) == 0
    assert table.count(FREE) + table.count(SUPER) == FRAMES
    return caught.value


def test_everything_that_a_save_holds_is_reserved(forge: Forge) -> None:
    table = FrameTable(FRAMES)
    nodes = reserve(forge.image, table, superblock.discover(forge.image))
    assert list(nodes) == ["first", "second"]
    assert {pfn for pfn in range(FRAMES) if table.state(pfn) == SAVED} == {6, 7, 10, 11, 20, 21, 30}
    assert {pfn for pfn in range(FRAMES) if table.state(pfn) == SUPER} == SLOTS


def test_an_image_that_was_opened_keeps_what_it_reserved_out_of_reach(forge: Forge) -> None:
    pram = forge.open()
    free = pram.arena.table.count(FREE)
    taken = {pfn for run in pram.arena.allocate(free) for pfn in range(run.pfn, sum(run))}
    assert taken == set(range(FRAMES)) - SLOTS - {6, 7, 10, 11, 20, 21, 30}


def test_a_refusal_says_reservation_failed_and_why(forge: Forge) -> None:
    forge.flip(11, 100)
    failure = refusal(forge)
    assert str(failure) == "Reservation failed: pfn:b corrupted (link checksum)"
    assert failure.errno == errno.EINVAL


def test_an_image_that_was_refused_is_not_written(forge: Forge) -> None:
    forge.flip(11, 100)
    before = forge.image.content()
    with pytest.raises(ReservationFailed):
        forge.open()
    assert forge.image.content() == before


@pytest.mark.parametrize("pfn", [FRAMES, 1 << 40, (1 << 64) - 1])
def test_a_node_outside_the_arena_is_invalid(forge: Forge, pfn: int) -> None:
    forge.node(7, b"second", node_pfn=pfn)
    assert str(refusal(forge)) == f"Reservation failed: pfn:{pfn:x} invalid (node)"
    forge.super(node_pfn=pfn, nodes=2)
    assert "invalid (node)" in str(refusal(forge))


@pytest.mark.parametrize("at", [4, 8, 16, 24, 40, 300, 4000])
def test_a_flipped_bit_anywhere_in_a_node_makes_it_corrupted(forge: Forge, at: int) -> None:
    forge.flip(7, at)
    assert "pfn:7 corrupted (node checksum)" in str(refusal(forge))


def test_a_link_is_no_node(forge: Forge) -> None:
    forge.super(node_pfn=10, nodes=2)
    assert "pfn:a corrupted (not a node)" in str(refusal(forge))


@pytest.mark.parametrize("back_to", [6, 7])
def test_a_node_list_that_runs_into_itself_is_busy(forge: Forge, back_to: int) -> None:
    forge.node(7, b"second", node_pfn=back_to)
    failure = refusal(forge)
    assert f"pfn:{back_to:x} busy (node)" in str(failure)
    assert failure.errno == errno.EBUSY


@pytest.mark.parametrize("link_pfn", [10, 11, 6, 7, SLOT, OTHER_SLOT, 20])
def test_a_node_that_claims_what_another_one_has_is_refused(forge: Forge, link_pfn: int) -> None:
    forge.node(7, b"second", link_pfn=link_pfn, links=1, entries=1)
    assert "busy" in str(refusal(forge)) or "corrupted" in str(refusal(forge))


@pytest.mark.parametrize("claimed", [SLOT, OTHER_SLOT])
def test_a_slot_of_the_super_block_is_no_data_page(forge: Forge, claimed: int) -> None:
    forge.link(11, [(claimed, 7)])
    assert f"pfn:{claimed:x} busy (data page)" in str(refusal(forge))


@pytest.mark.parametrize(
    "name", [b"", b"\0", b"first", b"se\0cond", b"\0second", b"x" * NAME_MAX, b"x" * 255 + b"y"]
)
def test_a_node_with_an_impossible_name_is_refused(forge: Forge, name: bytes) -> None:
    forge.node(7, name)
    assert "name of a node" in str(refusal(forge)) or "second node 'first'" in str(refusal(forge))


def test_a_node_may_have_a_name_of_255_bytes_that_are_not_utf8(forge: Forge) -> None:
    forge.node(7, b"\xff" * 255)
    assert list(forge.open().nodes) == ["first", "\udcff" * 255]


@pytest.mark.parametrize("type_", [0, 3, (1 << 32) - 1])
def test_a_node_of_an_unknown_type_is_refused(forge: Forge, type_: int) -> None:
    forge.node(7, b"second", type=type_)
    assert f"stream type {type_}" in str(refusal(forge))


@pytest.mark.parametrize(
    "fields",
    [
        {"links": 1, "entries": 3},
        {"links": 3, "entries": 3},
        {"links": 2, "entries": 2},
        {"links": 2, "entries": 4},
        {"links": 2, "entries": 1 << 63},
        {"links": 1 << 63, "entries": 3},
        {"links": 0, "entries": 0},
    ],
)
def test_a_node_whose_chain_is_not_as_long_as_it_says_is_refused(
    forge: Forge, fields: dict[str, int]
) -> None:
    forge.node(6, b"first", link_pfn=10, node_pfn=7, **fields)
    assert "not as long as it says" in str(refusal(forge))


@pytest.mark.parametrize("data_len", [0, 2 * PAGE_SIZE, 3 * PAGE_SIZE + 1, 1 << 40, (1 << 64) - 1])
def test_a_byte_stream_with_more_or_fewer_bytes_than_pages_is_refused(
    forge: Forge, data_len: int
) -> None:
    fields = {"type": BYTE_STREAM, "link_pfn": 10, "links": 2, "entries": 3, "node_pfn": 7}
    forge.node(6, b"first", data_len=data_len, **fields)
    assert f"{data_len} bytes in 3 pages" in str(refusal(forge))


@pytest.mark.parametrize("nodes", [0, 1, 3, (1 << 64) - 1])
def test_a_node_list_that_is_not_as_long_as_the_super_block_says_is_refused(
    forge: Forge, nodes: int
) -> None:
    forge.super(node_pfn=6, nodes=nodes)
    assert f"2 nodes in the list, not {nodes}" in str(refusal(forge))


@pytest.mark.parametrize("other", [SLOT, 40, FRAMES, 1 << 60])
def test_an_impossible_second_slot_is_refused(forge: Forge, other: int) -> None:
    forge.super(node_pfn=6, nodes=2, other_pfn=other)
    refusal(forge)


@pytest.mark.parametrize("frames", [0, 1, 2, 11, 30])
def test_an_image_that_says_it_has_fewer_frames_than_it_uses_is_refused(
    forge: Forge, frames: int
) -> None:
    forge.super(node_pfn=6, nodes=2, frames=frames)
    with pytest.raises(ReservationFailed, match="invalid"):
        forge.open()


def test_an_image_that_is_shorter_than_it_says_is_refused_and_not_touched(forge: Forge) -> None:
    short = image_of(forge.image.content()[: 40 * PAGE_SIZE])
    with pytest.raises(PramError, match="truncated: 40 of 64 frames are there"):
        Pram.open(short, arena="image")
    assert short.frames == 40


def test_a_truncated_image_can_be_opened_for_recovery(forge: Forge) -> None:
    short = image_of(forge.image.content()[: 40 * PAGE_SIZE])
    pram = Pram.open(short, arena="image", accept_truncated=True)
    assert list(pram.nodes) == ["first", "second"]


@given(data=st.data())
def test_no_forged_image_does_more_than_be_refused(data: st.DataObject) -> None:
    """Nodes and links of any content, with true checksums: opening them ends, and no frame has two owners."""
    forge = Forge()
    places = st.sampled_from([0, 6, 7, 10, 11, 12, 13, 14, SLOT])
    forge.super(node_pfn=data.draw(places), nodes=data.draw(st.integers(0, 3)))
    for pfn in (6, 7, 10, 11, 12, 13, 14):
        if data.draw(st.booleans()):
            entries = data.draw(st.lists(st.tuples(places | st.just(FRAMES), places), max_size=3))
            forge.link(pfn, entries, data.draw(places))
        else:
            forge.node(
                pfn,
                data.draw(st.sampled_from([b"a", b"b", b"c", b""])),
                type=data.draw(st.integers(0, 3)),
                link_pfn=data.draw(places),
                node_pfn=data.draw(places),
                links=data.draw(st.integers(0, 3)),
                entries=data.draw(st.integers(0, 4)),
            )
    try:
        pram = forge.open()
    except PramError:
        return
    owned = [
        pfn for node in pram.nodes.values() for run in node.owned for pfn in range(*_span(run))
    ]
    owned += [node.pfn for node in pram.nodes.values()]
    assert len(owned) == len(set(owned)) == pram.arena.table.count(SAVED)


def _span(run: tuple[int, int]) -> tuple[int, int]:
    return run[0], run[0] + run[1]
