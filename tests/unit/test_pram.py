"""PRAM as a library: the node list, page and byte streams, and what a publish makes durable."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.errors import (
    DamagedPage,
    ImageTooSmall,
    NameTooLong,
    NodeBusy,
    NodeExists,
    NoFrames,
    NoSuchNode,
    NotAnImage,
    PramError,
    ReadOnlyImage,
    SaveFailed,
    WrongStreamType,
)
from pramfs.pram.pram import Pram
from pramfs.pram.streams import SaveStream
from pramfs.storage.frames import FREE
from pramfs.storage.layout import (
    BYTE_STREAM,
    LINK_ENTRIES_MAX,
    PAGE_DATA,
    PAGE_SIZE,
    PAGE_STREAM,
    SUPER_CUT_OFF,
    SUPER_FINAL,
    SUPER_INCOMPLETE,
    SUPER_PAIR,
    SUPER_SUSPECT,
)
from tests.support.image_audit import check_bans, check_owners, check_pram, walk
from tests.support.watched_image import frames_between, image_of, new_pram, reopen, watched


@pytest.fixture
def pram(arena: str) -> Pram:
    return new_pram(256, arena=arena)


def put(pram: Pram, name: str, data: bytes) -> None:
    with pram.prepare_save(name, BYTE_STREAM) as stream:
        assert stream.write(data) == len(data)


def get(pram: Pram, name: str) -> bytes:
    stream = pram.prepare_load(name, BYTE_STREAM)
    data = stream.read(1 << 30)
    stream.keep()
    return data


def page(number: int) -> bytes:
    """A page like no other."""
    return number.to_bytes(4, "little") * (PAGE_SIZE // 4)


def save_pages(pram: Pram, stream: SaveStream, numbers: range) -> None:
    """Save pages with these contents, page N at index 10 N."""
    for number in numbers:
        pfn = pram.arena.allocate(1)[0].pfn
        pram.arena.write(pfn, page(number))
        stream.save_page(pfn, 10 * number)


def put_pages(pram: Pram, name: str, count: int) -> None:
    with pram.prepare_save(name, PAGE_STREAM) as stream:
        save_pages(pram, stream, range(count))


def save_too_much(stream: SaveStream) -> None:
    """Fill a stream, then fail."""
    stream.write(bytes(512 << 10))
    raise TypeError


def free_frames(pram: Pram) -> int:
    return pram.arena.table.count(FREE)


# --- the node list, linked by pfn (patch 5 of the 2013 series) ------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_published_nodes_are_a_list_linked_by_pfn_in_the_order_of_their_saves(
    pram: Pram, arena: str, count: int
) -> None:
    names = [f"node {number}" for number in range(count)]
    for name in names:
        put(pram, name, name.encode())
    pram.publish()
    save = check_pram(pram)
    assert [node.name for node in save.nodes] == names
    following = [node.page.node_pfn for node in save.nodes]
    assert [save.block.node_pfn, *following] == [*(node.pfn for node in save.nodes), 0]
    pram = reopen(pram, arena=arena)
    assert list(pram.nodes) == names
    assert [get(pram, name) for name in names] == [name.encode() for name in names]


def test_only_new_nodes_and_those_before_one_that_is_gone_get_new_pages_in_the_list(
    pram: Pram, arena: str
) -> None:
    for name in ("a", "b", "c"):
        put(pram, name, b"data of " + name.encode())
    pram.publish()
    before = {node.name: node.pfn for node in walk(pram.image).nodes}
    pram.free("b")
    put(pram, "d", b"data of d")
    assert pram.nodes_to_keep() == 1
    pram.publish()
    save = check_pram(pram)
    assert [node.name for node in save.nodes] == ["d", "a", "c"]
    after = {node.name: node.pfn for node in save.nodes}
    assert after["c"] == before["c"]
    assert not {after["a"], after["d"]} & set(before.values())
    pram = reopen(pram, arena=arena)
    assert [get(pram, name) for name in pram.nodes] == [b"data of a", b"data of c", b"data of d"]


@pytest.mark.parametrize("others", [0, 1, 100])
def test_pages_written_for_the_list_do_not_grow_with_the_number_of_nodes(
    arena: str, others: int
) -> None:
    pram = new_pram(1024, arena=arena)
    for number in range(others):
        put(pram, f"other {number}", b"")
    pram.publish()
    pram = reopen(pram, arena=arena)
    put(pram, "new", b"")
    pages: list[int] = []
    pram.publish(progress=pages.append)
    assert sum(pages) == 1
    assert len(check_pram(pram).nodes) == others + 1


def unable() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_publish_that_fails_leaves_the_list_as_it_was(
    pram: Pram, arena: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        put(pram, name, name.encode())
    pram.publish()
    pram.free("b")
    put(pram, "d", b"d")
    with monkeypatch.context() as patch:
        patch.setattr(pram.image, "sync", unable)
        with pytest.raises(SaveFailed):
            pram.publish()
    check_pram(pram)
    pram.publish()
    check_pram(pram)
    pram = reopen(pram, arena=arena)
    assert {name: get(pram, name) for name in pram.nodes} == {"a": b"a", "c": b"c", "d": b"d"}


def test_a_node_keeps_its_contents_under_another_name(pram: Pram, arena: str) -> None:
    put(pram, "a", b"data of a")
    put(pram, "b", b"data of b")
    pram.publish()
    pram.rename("a", "c")
    with pytest.raises(NodeExists):
        pram.rename("b", "c")
    pram.publish()
    check_pram(pram)
    pram = reopen(pram, arena=arena)
    assert {name: get(pram, name) for name in pram.nodes} == {"b": b"data of b", "c": b"data of a"}


def test_a_node_whose_save_is_unfinished_is_not_published(pram: Pram) -> None:
    stream = pram.prepare_save("unfinished", BYTE_STREAM)
    with pytest.raises(NodeBusy, match="'unfinished' is being saved"):
        pram.publish()
    stream.finish_save()
    pram.publish()


def test_a_published_node_is_in_neither_access_mode(pram: Pram) -> None:
    put(pram, "a", b"x")
    pram.prepare_load("a", BYTE_STREAM)
    pram.publish()
    assert [node.page.flags for node in walk(pram.image).nodes] == [0]


def test_what_was_not_published_is_gone_in_the_next_process(pram: Pram, arena: str) -> None:
    put(pram, "published", b"1")
    pram.publish()
    put(pram, "lost", b"2")
    pram.free("published")
    pram = reopen(pram, arena=arena)
    assert list(pram.nodes) == ["published"]
    assert get(pram, "published") == b"1"
    check_pram(pram)


# --- page streams (patch 3 of the 2013 series) ----------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, LINK_ENTRIES_MAX, LINK_ENTRIES_MAX + 1])
def test_pages_load_in_the_order_they_were_saved(pram: Pram, arena: str, count: int) -> None:
    put_pages(pram, "pages", count)
    pram.publish()
    pram = reopen(pram, arena=arena)
    stream = pram.prepare_load("pages", PAGE_STREAM)
    for number in range(count):
        assert stream.load_page() == (page(number), PAGE_DATA, 10 * number)
    assert stream.load_page() is None
    assert stream.load_page() is None


def test_a_saved_page_stays_in_its_frame(pram: Pram) -> None:
    pfn = pram.arena.allocate(1)[0].pfn
    pram.arena.write(pfn, page(1))
    with pram.prepare_save("pages", PAGE_STREAM) as stream:
        assert stream.save_page(pfn, 0) == pfn
    pram.publish()
    assert [entry.pfn for entry in walk(pram.image).nodes[0].entries] == [pfn]


def test_flags_and_indices_of_pages_come_back(pram: Pram, arena: str) -> None:
    with pram.prepare_save("pages", PAGE_STREAM) as stream:
        for index, flags in ((7, PAGE_DATA), (7, 0xFF02), ((1 << 64) - 1, PAGE_DATA)):
            pfn = pram.arena.allocate(1)[0].pfn
            pram.arena.write(pfn, page(1))
            stream.save_page(pfn, index, flags)
    pram.publish()
    pram = reopen(pram, arena=arena)
    load = pram.prepare_load("pages", PAGE_STREAM)
    pages = [load.load_page() for _ in range(3)]
    assert [saved[1:] for saved in pages if saved] == [
        (PAGE_DATA, 7),
        (0xFF02, 7),
        (PAGE_DATA, (1 << 64) - 1),
    ]


def test_loading_a_node_consumes_it(pram: Pram, arena: str) -> None:
    before = free_frames(pram)
    put_pages(pram, "pages", 200)
    pram.publish()
    pram = reopen(pram, arena=arena)
    stream = pram.prepare_load("pages", PAGE_STREAM)
    assert stream.load_page() is not None
    stream.finish_load()
    assert "pages" not in pram.nodes
    pram.publish()
    assert not check_pram(pram).nodes
    pram = reopen(pram, arena=arena)
    assert free_frames(pram) == before


def test_a_node_that_was_consumed_is_back_if_nobody_publishes(pram: Pram, arena: str) -> None:
    put_pages(pram, "pages", 3)
    pram.publish()
    pram.prepare_load("pages", PAGE_STREAM).finish_load()
    pram = reopen(pram, arena=arena)
    assert pram.prepare_load("pages", PAGE_STREAM).load_page() == (page(0), PAGE_DATA, 0)


def test_loading_from_an_image_that_is_open_read_only_consumes_nothing(pram: Pram) -> None:
    put_pages(pram, "pages", 3)
    pram.publish()
    pram = reopen(pram, writable=False)
    for _ in range(2):
        stream = pram.prepare_load("pages", PAGE_STREAM)
        assert stream.load_page() == (page(0), PAGE_DATA, 0)
        stream.finish_load()


def test_a_load_that_is_given_up_leaves_the_node(pram: Pram) -> None:
    put_pages(pram, "pages", 3)
    pram.publish()
    stream = pram.prepare_load("pages", PAGE_STREAM)
    stream.load_page()
    stream.keep()
    assert pram.prepare_load("pages", PAGE_STREAM).load_page() == (page(0), PAGE_DATA, 0)


def test_a_node_can_be_loaded_before_it_is_published(pram: Pram) -> None:
    put(pram, "bytes", b"not yet in the image")
    put_pages(pram, "pages", 200)
    assert get(pram, "bytes") == b"not yet in the image"
    assert pram.prepare_load("pages", PAGE_STREAM).load_page() == (page(0), PAGE_DATA, 0)


# --- byte streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 800_000])
def test_bytes_come_back_as_they_were_written(pram: Pram, arena: str, size: int) -> None:
    data = bytes(n * 7 % 251 for n in range(size))
    put(pram, "bytes", data)
    pram.publish()
    pram = reopen(pram, arena=arena)
    assert get(pram, "bytes") == data


@given(pieces=st.lists(st.binary(max_size=3000), max_size=12), reads=st.lists(st.integers(0, 5000)))
def test_writes_and_reads_need_not_match(pieces: list[bytes], reads: list[int]) -> None:
    pram = new_pram(64)
    with pram.prepare_save("bytes", BYTE_STREAM) as stream:
        for piece in pieces:
            assert stream.write(piece) == len(piece)
    data = b"".join(pieces)
    load = pram.prepare_load("bytes", BYTE_STREAM)
    for count in reads:
        expected, data = data[:count], data[count:]
        assert load.read(count) == expected
    assert load.read(1 << 20) == data
    assert load.read(1) == b""


def test_a_large_write_needs_no_more_frames_than_its_pages_and_links(pram: Pram) -> None:
    before = free_frames(pram)
    put(pram, "bytes", bytes(200 * PAGE_SIZE))
    assert before - free_frames(pram) == 200 + 2


def test_the_rest_of_the_last_page_is_zero(pram: Pram) -> None:
    put(pram, "bytes", b"x" * 5000)
    pram.free("bytes")
    put(pram, "bytes", b"y" * 10)
    pram.publish()
    entry = walk(pram.image).nodes[0].entries[0]
    assert pram.image.read(entry.pfn) == b"y" * 10 + bytes(PAGE_SIZE - 10)


# --- errors, in their order ----------------------------------------------------------------------


class TestPrepareSave:
    """ENAMETOOLONG, ENOSPC (ENOMEM in the 2013 series), EEXIST."""

    def test_a_name_of_255_bytes_is_taken(self, pram: Pram, arena: str) -> None:
        name = "é" * 127 + "x"
        put(pram, name, b"data")
        pram.publish()
        assert get(reopen(pram, arena=arena), name) == b"data"

    @pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "x" * 100_000])
    def test_a_longer_name_is_too_long(self, pram: Pram, name: str) -> None:
        with pytest.raises(NameTooLong) as caught:
            pram.prepare_save(name, BYTE_STREAM)
        assert caught.value.errno == errno.ENAMETOOLONG

    @pytest.mark.parametrize("name", ["", "a\0b", "\0"])
    def test_a_name_that_could_not_be_read_back_is_refused(self, pram: Pram, name: str) -> None:
        with pytest.raises(PramError) as caught:
            pram.prepare_save(name, BYTE_STREAM)
        assert caught.value.errno == errno.EINVAL
        assert not pram.nodes

    def test_a_name_that_is_taken_exists(self, pram: Pram) -> None:
        put(pram, "a", b"")
        with pytest.raises(NodeExists) as caught:
            pram.prepare_save("a", PAGE_STREAM)
        assert caught.value.errno == errno.EEXIST

    def test_a_full_arena_has_no_frames(self, pram: Pram) -> None:
        pram.arena.table.allocate(free_frames(pram))
        with pytest.raises(NoFrames) as caught:
            pram.prepare_save("a", BYTE_STREAM)
        assert caught.value.errno == errno.ENOSPC

    def test_a_name_that_is_too_long_matters_more_than_a_full_arena(self, pram: Pram) -> None:
        pram.arena.table.allocate(free_frames(pram))
        with pytest.raises(NameTooLong):
            pram.prepare_save("x" * 256, BYTE_STREAM)

    def test_a_full_arena_matters_more_than_a_name_that_is_taken(self, pram: Pram) -> None:
        put(pram, "a", b"")
        pram.arena.table.allocate(free_frames(pram))
        with pytest.raises(NoFrames):
            pram.prepare_save("a", BYTE_STREAM)


class TestPrepareLoad:
    """ENOENT, EBUSY, EPERM, and EFAULT for a page that fails its checksum."""

    def test_a_name_that_nobody_saved_does_not_exist(self, pram: Pram) -> None:
        with pytest.raises(NoSuchNode) as caught:
            pram.prepare_load("a", BYTE_STREAM)
        assert caught.value.errno == errno.ENOENT

    def test_a_node_whose_save_is_unfinished_is_busy(self, pram: Pram) -> None:
        pram.prepare_save("a", BYTE_STREAM)
        with pytest.raises(NodeBusy) as caught:
            pram.prepare_load("a", BYTE_STREAM)
        assert caught.value.errno == errno.EBUSY

    def test_a_node_that_is_being_loaded_is_busy(self, pram: Pram) -> None:
        put(pram, "a", b"x")
        pram.prepare_load("a", BYTE_STREAM)
        with pytest.raises(NodeBusy):
            pram.prepare_load("a", BYTE_STREAM)

    def test_a_stream_of_the_other_type_is_not_permitted(self, pram: Pram) -> None:
        put(pram, "a", b"x")
        with pytest.raises(
            WrongStreamType, match="'a' is a byte stream, not a page stream"
        ) as caught:
            pram.prepare_load("a", PAGE_STREAM)
        assert caught.value.errno == errno.EPERM

    def test_a_busy_node_of_the_other_type_is_busy(self, pram: Pram) -> None:
        pram.prepare_save("a", BYTE_STREAM)
        with pytest.raises(NodeBusy):
            pram.prepare_load("a", PAGE_STREAM)

    @pytest.mark.parametrize("damaged", [0, 1, 2])
    def test_a_page_that_fails_its_checksum_is_a_fault(
        self, pram: Pram, arena: str, damaged: int
    ) -> None:
        put_pages(pram, "pages", 3)
        pram.publish()
        entry = walk(pram.image).nodes[0].entries[damaged]
        watched(pram).guarded = False
        pram.image.write(entry.pfn * PAGE_SIZE + 99, b"\xff")
        pram = reopen(pram, arena=arena)
        stream = pram.prepare_load("pages", PAGE_STREAM)
        for number in range(damaged):
            assert stream.load_page() == (page(number), PAGE_DATA, 10 * number)
        with pytest.raises(DamagedPage) as caught:
            stream.load_page()
        assert caught.value.errno == errno.EFAULT

    def test_a_zeroed_page_is_a_fault_too(self, pram: Pram, arena: str) -> None:
        put(pram, "a", b"precious" * 1000)
        pram.publish()
        entry = walk(pram.image).nodes[0].entries[1]
        watched(pram).guarded = False
        pram.image.write(entry.pfn * PAGE_SIZE, bytes(PAGE_SIZE))
        pram = reopen(pram, arena=arena)
        with pytest.raises(DamagedPage):
            pram.prepare_load("a", BYTE_STREAM).read(1 << 20)


def test_an_operation_of_the_other_stream_type_is_not_permitted(pram: Pram) -> None:
    saving_pages = pram.prepare_save("new pages", PAGE_STREAM)
    saving_bytes = pram.prepare_save("new bytes", BYTE_STREAM)
    put(pram, "bytes", b"x")
    put_pages(pram, "pages", 1)
    loading_pages = pram.prepare_load("pages", PAGE_STREAM)
    loading_bytes = pram.prepare_load("bytes", BYTE_STREAM)
    with pytest.raises(WrongStreamType):
        saving_pages.write(b"x")
    with pytest.raises(WrongStreamType):
        saving_bytes.save_page(9, 0)
    with pytest.raises(WrongStreamType):
        loading_pages.read(1)
    with pytest.raises(WrongStreamType):
        loading_bytes.load_page()


def test_nothing_can_be_changed_in_an_image_that_is_open_read_only(pram: Pram) -> None:
    put(pram, "a", b"x")
    pram.publish()
    pram = reopen(pram, writable=False)
    before = pram.image.read_bytes(0, pram.image.size_bytes)
    for change in (
        lambda: pram.prepare_save("b", BYTE_STREAM),
        lambda: pram.free("a"),
        pram.publish,
    ):
        with pytest.raises(ReadOnlyImage) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    assert pram.image.read_bytes(0, pram.image.size_bytes) == before


# --- discard and free ----------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [PAGE_STREAM, BYTE_STREAM])
def test_a_discarded_save_gives_all_its_frames_back(pram: Pram, type_: int) -> None:
    before = free_frames(pram)
    stream = pram.prepare_save("a", type_)
    if type_ == PAGE_STREAM:
        save_pages(pram, stream, range(180))
    else:
        stream.write(bytes(100 * PAGE_SIZE + 5))
    stream.discard_save()
    assert free_frames(pram) == before
    assert not pram.nodes
    check_owners(pram)


def test_an_exception_discards_the_save(pram: Pram) -> None:
    before = free_frames(pram)
    with pytest.raises(TypeError), pram.prepare_save("a", BYTE_STREAM) as stream:
        save_too_much(stream)
    assert free_frames(pram) == before
    assert not pram.nodes


@pytest.mark.parametrize("pages", [300, 254, 253, 252, 251, 250])
def test_a_save_that_does_not_fit_leaves_nothing_behind(pram: Pram, pages: int) -> None:
    before = free_frames(pram)
    try:
        put(pram, "a", bytes(pages * PAGE_SIZE))
        fits = True
    except NoFrames:
        fits = False
    assert fits == (pages + 2 <= before)
    assert fits or free_frames(pram) == before
    check_owners(pram)


def test_a_freed_node_gives_its_frames_back_once_that_is_published(pram: Pram, arena: str) -> None:
    before = free_frames(pram)
    put(pram, "a", bytes(100 * PAGE_SIZE))
    pram.publish()
    pram.free("a")
    assert free_frames(pram) == before - 102
    pram.publish()
    assert free_frames(pram) == before
    check_pram(pram)
    assert not reopen(pram, arena=arena).nodes


def test_only_a_node_that_exists_and_is_idle_can_be_freed(pram: Pram) -> None:
    with pytest.raises(NoSuchNode):
        pram.free("a")
    stream = pram.prepare_save("a", BYTE_STREAM)
    with pytest.raises(NodeBusy):
        pram.free("a")
    stream.finish_save()
    pram.free("a")


# --- publishing ----------------------------------------------------------------------------------


def test_a_publish_without_room_for_the_list_says_so_and_changes_nothing(pram: Pram) -> None:
    put(pram, "a", b"x")
    (run, *_) = pram.arena.table.allocate(free_frames(pram))
    with pytest.raises(NoFrames):
        pram.publish()
    pram.arena.release(*run)
    pram.publish()
    assert pram.current.generation == 3


def test_the_super_block_tells_what_the_save_takes(pram: Pram) -> None:
    put(pram, "a", bytes(10 * PAGE_SIZE))
    put(pram, "b", b"")
    pram.publish()
    block = check_pram(pram).block
    assert block.nodes == 2
    assert block.frames_used == 2 + (1 + 1 + 10) + 1
    assert block.flags == SUPER_FINAL | SUPER_PAIR
    assert block.run == pram.run
    assert block.saved_by.startswith(b"pramfs ")


def test_frames_of_a_save_are_not_written_while_it_is_in_force(pram: Pram) -> None:
    """The watched image refuses every write to one; many saves, each with something new."""
    for generation in range(20):
        put(pram, f"node {generation}", bytes((generation,)) * 20_000)
        if generation > 3:
            pram.free(f"node {generation - 3}")
        pram.publish()
        check_pram(pram)


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_an_image_needs_three_frames(frames: int) -> None:
    with pytest.raises(ImageTooSmall, match=f"too small: {frames} of at least 3"):
        new_pram(frames)


@pytest.mark.parametrize("frames", [3, 6, 7])
def test_a_tiny_image_can_be_saved_empty(frames: int) -> None:
    pram = new_pram(frames)
    pram.publish()
    assert free_frames(reopen(pram)) == max(0, frames - 6)


def test_a_blank_file_is_no_image() -> None:
    with pytest.raises(NotAnImage):
        Pram.open(image_of(bytes(8 * PAGE_SIZE)), arena="image")


def test_an_image_grows_when_more_frames_are_asked_for(pram: Pram, arena: str) -> None:
    put(pram, "a", b"x" * 1000)
    pram.publish()
    free = free_frames(pram)
    pram = reopen(pram, arena=arena, frames=1000)
    assert free_frames(pram) == free + (1000 - 256) - 4  # two slots at 256, two at 512
    put(pram, "b", bytes(600 * PAGE_SIZE))
    pram.publish()
    check_pram(pram)
    assert pram.current.frames == 1000
    pram = reopen(pram, arena=arena)
    assert (get(pram, "a"), get(pram, "b")) == (b"x" * 1000, bytes(600 * PAGE_SIZE))


def test_an_image_that_was_grown_and_never_saved_is_as_it_was(pram: Pram, arena: str) -> None:
    put(pram, "a", b"x")
    pram.publish()
    pram = reopen(reopen(pram, frames=1000), arena=arena)
    assert len(pram.arena.table) == 256
    assert get(pram, "a") == b"x"


def test_an_image_does_not_shrink_when_fewer_frames_are_asked_for(pram: Pram, arena: str) -> None:
    assert len(reopen(pram, arena=arena, frames=10).arena.table) == 256


# --- banned regions: relocation (patch 9 of the 2013 series) --------------------------------------


def test_a_page_in_a_banned_frame_is_relocated_when_it_is_saved(pram: Pram, arena: str) -> None:
    pfn = pram.arena.allocate(1)[0].pfn
    pram.arena.write(pfn, page(7))
    pram.arena.table.ban(frames_between(0, pfn))
    with pram.prepare_save("pages", PAGE_STREAM) as stream:
        new = stream.save_page(pfn, 0)
    assert new > pfn
    pram.publish()
    check_pram(pram)
    check_bans(pram, ["pages"])
    pram = reopen(pram, arena=arena)
    assert pram.prepare_load("pages", PAGE_STREAM).load_page() == (page(7), PAGE_DATA, 0)


def test_nodes_links_and_pages_of_a_new_save_keep_out_of_banned_frames(arena: str) -> None:
    pram = new_pram(256, arena=arena, banned=frames_between(2, 100))
    put(pram, "a", bytes(50 * PAGE_SIZE))
    put_pages(pram, "b", 50)
    pram.publish()
    check_pram(pram)
    check_bans(pram, ["a", "b"])


def test_nothing_of_a_save_stays_in_frames_that_became_banned(pram: Pram, arena: str) -> None:
    """Banned frames may be overwritten by others: a node that was left there would be lost."""
    put(pram, "a", bytes(range(256)) * 300)
    put_pages(pram, "b", 20)
    pram.publish()
    pram = reopen(pram, arena=arena, banned=frames_between(0, 30))
    pram.publish()
    check_pram(pram)
    check_bans(pram, ["a", "b"])
    pram.publish()
    check_bans(pram, ["a", "b"])
    pram = reopen(pram, arena=arena)
    assert get(pram, "a") == bytes(range(256)) * 300
    stream = pram.prepare_load("b", PAGE_STREAM)
    assert [stream.load_page() for _ in range(21)] == [
        *((page(number), PAGE_DATA, 10 * number) for number in range(20)),
        None,
    ]


def test_a_node_that_is_being_loaded_can_leave_banned_frames_meanwhile(
    pram: Pram, arena: str
) -> None:
    put_pages(pram, "pages", 20)
    pram.publish()
    pram = reopen(pram, arena=arena, banned=frames_between(0, 15))
    stream = pram.prepare_load("pages", PAGE_STREAM)
    assert stream.load_page() == (page(0), PAGE_DATA, 0)
    pram.publish()
    check_bans(pram, ["pages"])
    pram.publish()
    put(pram, "more", bytes(200 * PAGE_SIZE))
    for number in range(1, 20):
        assert stream.load_page() == (page(number), PAGE_DATA, 10 * number)


def test_a_page_that_was_damaged_before_it_had_to_move_is_damaged_still(
    pram: Pram, arena: str
) -> None:
    put_pages(pram, "pages", 3)
    pram.publish()
    damaged = walk(pram.image).nodes[0].entries[1].pfn
    watched(pram).guarded = False
    pram.image.write(damaged * PAGE_SIZE, b"damage")
    pram = reopen(pram, arena=arena, banned=frames_between(damaged, damaged))
    watched(pram).guarded = False
    pram.publish()
    pram = reopen(pram, arena=arena)
    stream = pram.prepare_load("pages", PAGE_STREAM)
    assert stream.load_page() == (page(0), PAGE_DATA, 0)
    with pytest.raises(DamagedPage):
        stream.load_page()


def test_a_ban_that_leaves_no_room_to_move_to_is_refused_and_changes_nothing(arena: str) -> None:
    pram = new_pram(64, arena=arena)
    put(pram, "a", bytes(range(256)) * 16 * 40)
    pram.publish()
    pram = reopen(pram, arena=arena, banned=frames_between(0, 31))
    with pytest.raises(NoFrames):
        pram.publish()
    check_pram(pram)
    pram = reopen(pram, arena=arena)
    assert get(pram, "a") == bytes(range(256)) * 16 * 40


@pytest.mark.parametrize(
    ("flags", "marked", "after"),
    [
        (SUPER_FINAL, False, SUPER_FINAL),
        (SUPER_FINAL | SUPER_INCOMPLETE, False, SUPER_FINAL | SUPER_INCOMPLETE),
        (SUPER_FINAL | SUPER_CUT_OFF, False, SUPER_FINAL | SUPER_CUT_OFF),
        (SUPER_FINAL | SUPER_SUSPECT, True, SUPER_SUSPECT),
        (SUPER_INCOMPLETE, False, SUPER_INCOMPLETE),
        (SUPER_FINAL, True, 0),
    ],
)
def test_what_is_known_of_a_save_is_known_after_a_tool_has_published_two_others(
    flags: int, marked: bool, after: int
) -> None:
    pram = new_pram(64)
    pram.publish(flags=flags)
    if marked:
        pram.mark_changed()
    pram = reopen(pram)
    for _ in range(2):
        pram.publish()
        assert pram.current.flags & ~SUPER_PAIR == after
