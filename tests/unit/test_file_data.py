"""The data of files: what is written is read, zeros elsewhere, and a saved frame is never written."""

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.errors import FramesHeld, ShortWrite
from pramfs.storage.arena import Arena
from pramfs.storage.arenas import open_arena
from pramfs.storage.frames import FREE, FRESH, HELD, SAVED, FrameTable
from pramfs.storage.layout import PAGE_SIZE
from pramfs.storage.regions import Region, Regions
from pramfs.tree.file_data import FileData
from pramfs.tree.inodes import File
from pramfs.tree.space import Space
from tests.support.image_audit import check_table
from tests.support.watched_image import WatchedImage, frames_between, image_of

FRAMES = 256


class FixedAccount(Space):
    """Keeps as many frames free as the test says."""

    def __init__(self, arena: Arena, keep_free: int) -> None:
        super().__init__(arena)
        self.keep_free = keep_free

    def frames_to_keep_free(self, pages: int = 0, metadata_bytes: int = 0, ranges: int = 0) -> int:
        return self.keep_free


class Disk:
    """Files over an arena, with saves reduced to what they mean for frames."""

    def __init__(self, kind: str = "image", keep_free: int = 0) -> None:
        # Stale bytes everywhere.
        self.image: WatchedImage = image_of(b"\xee" * (FRAMES * PAGE_SIZE))
        self.image.guarded = False
        self.arena: Arena = open_arena(kind, self.image, FrameTable(FRAMES))
        self.space = FixedAccount(self.arena, keep_free)
        self.data = FileData(self.arena, self.space)
        self.files: list[File] = []

    def file(self, content: bytes = b"") -> File:
        file = File(len(self.files) + 2, 0, 0o100644, 0, 0, 0)
        self.files.append(file)
        self.data.write(file, 0, content)
        return file

    def read(self, file: File, offset: int = 0, size: int = 1 << 30) -> bytes:
        return bytes(self.data.read(file, offset, size))

    def save(self) -> None:
        self.arena.table.begin_save()
        self.arena.write_back(lambda frames: None)
        self.arena.commit_save()

    def check(self) -> None:
        """Every frame in use belongs to one page of one file; past the end of a file there are zeros."""
        table = self.arena.table
        check_table(table)
        mapped = [pfn for file in self.files if file.pages is not None for pfn in frames_of(file)]
        used = [pfn for pfn in range(FRAMES) if table.state(pfn) in (FRESH, SAVED)]
        assert sorted(mapped) == used
        assert self.space.pages == len(mapped)
        for file in self.files:
            index, end = divmod(file.length, PAGE_SIZE)
            if file.pages is not None and (pfn := file.pages.get(index)):
                assert end, "a page past the end of the file"
                assert not self.arena.read(pfn)[end:].strip(b"\0")


@pytest.fixture(params=["image", "memory"])
def disk(request: pytest.FixtureRequest) -> Disk:
    return Disk(str(request.param))


def frames_of(file: File) -> list[int]:
    """The frames of the file's pages, in the order of the file."""
    assert file.pages is not None
    return [pfn for _, pfns in file.pages.chunks() for pfn in pfns if pfn]


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes, none of them zero, in which no page is like another."""
    pages = -(-size // PAGE_SIZE)
    line = bytes(at % 251 + 1 for at in range(PAGE_SIZE + 251))
    return b"".join(line[(seed + 3 * n) % 251 :][:PAGE_SIZE] for n in range(pages))[:size]


# --- read and write ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 100_000])
def test_a_file_reads_as_it_was_written(disk: Disk, size: int) -> None:
    file = disk.file(pattern(size))
    assert disk.read(file) == pattern(size)
    assert file.length == size
    disk.check()


def test_a_read_at_or_past_the_end_is_empty(disk: Disk) -> None:
    file = disk.file(b"hello")
    assert disk.read(file, 3, 100) == b"lo"
    assert disk.read(file, 5) == b""
    assert disk.read(file, 1 << 62) == b""


@pytest.mark.parametrize("offset", [0, 1, 4000, PAGE_SIZE, PAGE_SIZE + 1, 9999])
@pytest.mark.parametrize("size", [1, 100, PAGE_SIZE, 2 * PAGE_SIZE + 7])
def test_a_write_changes_what_it_covers_and_nothing_else(
    disk: Disk, offset: int, size: int
) -> None:
    before = pattern(12_000)
    file = disk.file(before)
    for saved in (False, True):
        data = pattern(size, seed=50 + saved)
        assert disk.data.write(file, offset, data) == size
        expected = before[:offset] + data + before[offset + size :]
        assert disk.read(file) == expected
        disk.check()
        disk.save()
        before = expected
    disk.check()


def test_a_file_of_many_chunks_can_be_read_in_any_pieces(disk: Disk) -> None:
    data = pattern(130 * PAGE_SIZE)
    file = disk.file()
    start = 500 * PAGE_SIZE  # the write goes over the end of a chunk of 512 pages
    disk.data.write(file, start, data)
    for offset, size in (
        (start, len(data)),
        (start + 5, 1),
        (start + 11 * PAGE_SIZE, 2 * PAGE_SIZE),
    ):
        assert disk.read(file, offset, size) == data[offset - start :][:size]
    assert disk.read(file, 0, 10) == bytes(10)
    disk.check()


# --- holes, ends, stale bytes --------------------------------------------------------------------


def test_a_hole_reads_as_zeros_and_takes_no_frame(disk: Disk) -> None:
    file = disk.file()
    disk.data.write(file, 1 << 40, b"far")
    assert disk.read(file, (1 << 40) - 5, 100) == bytes(5) + b"far"
    assert disk.read(file, 12345, 1 << 20) == bytes(1 << 20)
    assert disk.space.pages == 1


def test_a_file_extended_by_truncate_ends_in_zeros(disk: Disk) -> None:
    file = disk.file(b"x" * 100)
    disk.data.truncate(file, 3 * PAGE_SIZE)
    assert disk.read(file) == b"x" * 100 + bytes(3 * PAGE_SIZE - 100)
    disk.check()


@pytest.mark.parametrize("length", [0, 1, 4095, PAGE_SIZE, PAGE_SIZE + 1, 10_000, 12_000, 20_000])
@pytest.mark.parametrize("saved", [False, True])
def test_what_was_cut_off_is_zeros_when_the_file_grows_again(
    disk: Disk, length: int, saved: bool
) -> None:
    file = disk.file(pattern(12_000))
    if saved:
        disk.save()
    disk.data.truncate(file, length)
    disk.check()
    disk.data.truncate(file, 30_000)
    assert disk.read(file) == (pattern(12_000)[:length] + bytes(30_000))[:30_000]
    disk.check()


def test_a_write_past_the_end_leaves_zeros_between(disk: Disk) -> None:
    file = disk.file(b"x" * 10)
    disk.data.write(file, 5000, b"y")
    assert disk.read(file) == b"x" * 10 + bytes(4990) + b"y"
    disk.check()


def test_stale_bytes_of_a_frame_never_show(disk: Disk) -> None:
    """Every frame of this image is full of 0xee, and of what the file before had in it."""
    for _ in range(3):
        file = disk.file(pattern(100 * PAGE_SIZE))
        disk.data.discard(file)
        file = disk.file(b"x")
        disk.data.write(file, 3 * PAGE_SIZE + 10, b"y")
        disk.data.truncate(file, 8 * PAGE_SIZE)
        expected = bytearray(8 * PAGE_SIZE)
        expected[0], expected[3 * PAGE_SIZE + 10] = ord("x"), ord("y")
        assert disk.read(file) == expected
        disk.save()


def test_a_file_that_is_gone_gives_all_its_frames_back(disk: Disk) -> None:
    free = disk.arena.table.count(FREE)
    file = disk.file(pattern(50 * PAGE_SIZE))
    disk.save()
    disk.data.write(file, 10 * PAGE_SIZE, pattern(60 * PAGE_SIZE))
    disk.data.discard(file)
    assert disk.space.pages == 0
    disk.save()
    assert disk.arena.table.count(FREE) == free


# --- shadow paging -------------------------------------------------------------------------------


def test_frames_of_the_last_save_are_never_written(disk: Disk) -> None:
    file = disk.file(pattern(20 * PAGE_SIZE))
    disk.save()
    frames = frames_of(file)
    before = [disk.image.read(pfn) for pfn in frames]
    disk.data.write(file, 100, b"part of a page")
    disk.data.write(file, 3 * PAGE_SIZE, pattern(4 * PAGE_SIZE, seed=9))
    disk.data.truncate(file, 10 * PAGE_SIZE + 5)
    disk.data.write(file, 12 * PAGE_SIZE, b"again")
    assert [disk.image.read(pfn) for pfn in frames] == before
    assert {disk.arena.table.state(pfn) for pfn in frames} == {SAVED, HELD}
    disk.check()


def test_fresh_pages_are_written_in_place(disk: Disk) -> None:
    file = disk.file(pattern(20 * PAGE_SIZE))
    free = disk.arena.table.count(FREE)
    for offset in (0, 100, 5 * PAGE_SIZE, 19 * PAGE_SIZE + 1):
        disk.data.write(file, offset, pattern(PAGE_SIZE - 1, seed=8))
    assert disk.arena.table.count(FREE) == free


def test_pages_are_copied_while_a_save_is_under_way(disk: Disk) -> None:
    file = disk.file(pattern(4 * PAGE_SIZE))
    saved = frames_of(file)
    disk.arena.table.begin_save()
    disk.data.write(file, PAGE_SIZE, b"new" * 100)
    disk.arena.write_back(lambda frames: None)
    disk.arena.commit_save()
    assert b"".join(map(disk.image.read, saved)) == pattern(4 * PAGE_SIZE)
    assert disk.read(file, PAGE_SIZE, 300) == b"new" * 100
    disk.check()


# --- no room -------------------------------------------------------------------------------------


def test_a_full_arena_is_enospc_and_keeps_what_was_written(disk: Disk) -> None:
    file = disk.file()
    disk.data.write(file, 0, pattern(200 * PAGE_SIZE))
    with pytest.raises(OSError, match="No space left") as caught:
        disk.data.write(file, 200 * PAGE_SIZE, pattern(100 * PAGE_SIZE))
    assert caught.value.errno == errno.ENOSPC
    assert disk.read(file) == pattern(200 * PAGE_SIZE)
    disk.check()
    disk.data.truncate(file, 0)
    assert disk.data.write(file, 0, pattern(230 * PAGE_SIZE)) == 230 * PAGE_SIZE


@pytest.mark.parametrize(
    "change",
    [
        lambda disk, file: disk.data.write(file, 0, b"changed"),
        lambda disk, file: disk.data.truncate(file, PAGE_SIZE + 1),
    ],
    ids=["write", "truncate"],
)
def test_a_change_of_saved_pages_is_enospc_when_all_is_full_and_leaves_the_file(
    disk: Disk, change: Callable[[Disk, File], None]
) -> None:
    content = pattern(5 * PAGE_SIZE)
    file, other = disk.file(content), disk.file()
    disk.data.write(other, 0, bytes(PAGE_SIZE) * disk.arena.table.count(FREE))
    disk.save()
    with pytest.raises(OSError, match="No space left"):
        change(disk, file)
    assert disk.read(file) == content
    disk.data.discard(other)
    disk.save()
    change(disk, file)
    assert disk.read(file) != content
    disk.check()


def test_frames_for_the_next_save_are_kept_free() -> None:
    disk = Disk(keep_free=50)
    file = disk.file()
    for index in range(disk.arena.table.count(FREE) - 50):
        disk.data.write(file, index * PAGE_SIZE, b"x")
    with pytest.raises(OSError, match="No space left"):
        disk.data.write(file, FRAMES * PAGE_SIZE, b"x")
    assert disk.arena.table.count(FREE) == 50


@pytest.mark.parametrize("failing", range(5))
def test_a_write_that_the_medium_refuses_leaves_the_file_as_it_was_or_longer(failing: int) -> None:
    """Whatever did not reach the image is not in the file: no page past its end, no frame lost."""
    disk = Disk()
    filler = [disk.file(b"x") for _ in range(120)]
    for file in filler[::2]:
        disk.data.discard(file)  # free frames are scattered: a large write has many parts
    disk.files = filler[1::2]
    before = pattern(5 * PAGE_SIZE + 100)
    file = disk.file(before)
    disk.save()
    data = pattern(20 * PAGE_SIZE, seed=77)
    with disk.image.failing(failing, error=errno.ENOSPC), pytest.raises(OSError, match="No space"):
        disk.data.write(file, 3 * PAGE_SIZE + 50, data)
    disk.check()
    content = disk.read(file)
    assert len(content) >= len(before)
    after = before[: 3 * PAGE_SIZE + 50] + data
    old_or_new = zip(content, before.ljust(len(after), b"\0"), after, strict=False)
    assert all(byte in (old, new) for byte, old, new in old_or_new)
    disk.data.write(file, 3 * PAGE_SIZE + 50, data)
    assert disk.read(file) == after
    disk.check()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("failing", range(8))
def test_only_what_the_medium_refused_is_missed_of_a_file(failing: int, number: int) -> None:
    """As programs know it that the kernel told that all was taken: the rest is what they wrote."""
    disk = Disk()
    file = disk.file(pattern(40 * PAGE_SIZE))
    disk.save()
    start, data = 3 * PAGE_SIZE + 50, pattern(20 * PAGE_SIZE, seed=77)
    for index in range(3, 24, 2):  # pages that are written in place lie between others
        disk.data.write(file, index * PAGE_SIZE, b"in place")
    before = disk.read(file)
    disk.data.refused.add(file, start, start + len(data), "of before")
    with disk.image.failing(failing, error=number), pytest.raises(OSError) as caught:  # noqa: PT011
        disk.data.write(file, start, data)
    assert caught.value.errno == number
    written = caught.value.written if isinstance(caught.value, ShortWrite) else 0
    assert bool(written) == bool(failing)
    content = disk.read(file)
    assert content[: start + written] == before[:start] + data[:written]
    disk.data.refused.taken(file, start + written, start + len(data))
    assert not disk.data.refused.files()
    disk.check()


def test_a_write_goes_on_after_a_save_that_moves_pages_out_of_banned_frames(disk: Disk) -> None:
    """Room for the rest of a write is made by a save, and a save relocates: all frames may be others."""
    file = disk.file(pattern(8 * PAGE_SIZE))
    first = frames_of(file)[0]
    big = disk.file(pattern(150 * PAGE_SIZE))
    disk.save()
    disk.data.discard(big)
    disk.files.remove(big)
    disk.arena.table.ban(frames_between(0, first + 4))
    other = disk.file(pattern((disk.arena.table.count(FREE) - 7) * PAGE_SIZE))
    disk.space.keep_free = 5  # what the save below needs
    data = pattern(5 * PAGE_SIZE, seed=5)
    with pytest.raises(FramesHeld) as caught:
        disk.data.write(file, PAGE_SIZE + 1, data)
    written = caught.value.written
    assert 0 < written < len(data)
    for one in disk.files:
        disk.data.relocate_banned(one, {})
    disk.save()
    disk.data.write(file, PAGE_SIZE + 1 + written, data[written:])
    expected = bytearray(pattern(8 * PAGE_SIZE))
    expected[PAGE_SIZE + 1 : 6 * PAGE_SIZE + 1] = data
    assert disk.read(file) == expected
    assert disk.read(other) == pattern(other.length)
    disk.check()


# --- relocation (patch 9 of the 2013 series) ------------------------------------------------------


def test_pages_in_banned_frames_move_and_the_file_stays_the_same(disk: Disk) -> None:
    file = disk.file(pattern(10 * PAGE_SIZE))
    disk.data.write(file, 700 * PAGE_SIZE, pattern(10 * PAGE_SIZE))
    before = disk.read(file)
    disk.save()
    banned = frames_of(file)[3:7] + frames_of(file)[-2:]
    disk.arena.table.ban(Regions(Region(pfn, pfn) for pfn in banned))
    disk.data.relocate_banned(file, {})
    assert disk.read(file) == before
    assert not set(banned) & set(frames_of(file))
    disk.check()


def test_pages_outside_banned_frames_stay_where_they_are(disk: Disk) -> None:
    file = disk.file(pattern(10 * PAGE_SIZE))
    disk.save()
    disk.arena.table.ban(frames_between(max(frames_of(file)) + 1, FRAMES))
    disk.data.relocate_banned(file, {})
    assert disk.arena.table.count(FRESH) == 0


# --- against a plain model -----------------------------------------------------------------------

OFFSETS = st.integers(0, 12 * PAGE_SIZE)
STEPS = st.one_of(
    st.tuples(st.just("write"), OFFSETS, st.integers(0, 5 * PAGE_SIZE)),
    st.tuples(st.just("truncate"), OFFSETS, st.just(0)),
    st.tuples(st.just("save"), st.just(0), st.just(0)),
    st.tuples(st.just("begin"), st.just(0), st.just(0)),
)


@pytest.mark.parametrize("kind", ["image", "memory"])
@given(steps=st.lists(STEPS, max_size=25))
def test_a_file_is_an_array_of_bytes(kind: str, steps: list[tuple[str, int, int]]) -> None:
    disk, model, saving = Disk(kind), bytearray(), False
    file = disk.file()
    for number, (step, offset, size) in enumerate(steps):
        if step == "write" and size:
            data = pattern(size, seed=number + 2)
            disk.data.write(file, offset, data)
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + size] = data
        elif step == "truncate":
            disk.data.truncate(file, offset)
            model.extend(bytes(max(0, offset - len(model))))
            del model[offset:]
        elif step == "begin" and not saving:
            disk.arena.table.begin_save()
            saving = True
        elif step == "save":
            if not saving:
                disk.arena.table.begin_save()
            disk.arena.write_back(lambda frames: None)
            disk.arena.commit_save()
            saving = False
        assert disk.read(file) == model
        if not saving:
            disk.check()
