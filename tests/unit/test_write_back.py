"""Pages that go out to the image before a save: what is read, written, freed and saved meanwhile."""

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pramfs.errors import FramesHeld, NoRoom
from pramfs.saves.pace import Pace
from pramfs.saves.write_back import WriteBacks
from pramfs.storage import memory_room, write_out
from pramfs.storage.arena import Arena
from pramfs.storage.frames import FREE, FRESH, SAVED, WRITTEN, FrameTable
from pramfs.storage.image_arena import ImageArena
from pramfs.storage.layout import PAGE_SIZE
from pramfs.storage.memory_arena import MemoryArena
from pramfs.system.memory_left import MemoryLeft
from pramfs.tree.attributes import Changes
from tests.support.tree_volume import Volume
from tests.support.watched_image import (
    Sync,
    WatchedImage,
    Write,
    frames_between,
    image_of,
    kernel_with_pages,
)

FRAMES = 128
FIRST = 66  # as in test_arena
MIB = 1 << 20


def page(number: int) -> bytes:
    return bytes((number % 256,)) * PAGE_SIZE


@pytest.fixture(params=[4, 16, 64], ids="{}k".format)
def arena(request: pytest.FixtureRequest) -> Iterator[MemoryArena]:
    with kernel_with_pages(int(request.param) << 10):
        image = image_of(b"".join(page(pfn) for pfn in range(FRAMES)))
        image.guarded = False
        table = FrameTable(FRAMES)
        table.ban(frames_between(0, FIRST - 1))
        arena = MemoryArena(image, table)
        yield arena
        arena.close()


def image_of_arena(arena: MemoryArena) -> WatchedImage:
    assert isinstance(arena.image, WatchedImage)
    return arena.image


def filled(arena: MemoryArena, count: int = 16) -> int:
    """Fresh frames with page(200), page(201) and so on; the pfn of the first."""
    (extent,) = arena.allocate(count)
    arena.write(extent.pfn, b"".join(page(200 + at) for at in range(count)))
    return extent.pfn


def write_back(arena: MemoryArena, count: int = FRAMES) -> None:
    back = arena.begin_write_back(count)
    assert back.write() is None
    assert back.finish() is None


def states(arena: MemoryArena, pfn: int, count: int) -> set[int]:
    return set(arena.table.states(pfn, count))


def memory_of(arena: MemoryArena, pfn: int, count: int) -> bytes:
    return os.pread(arena._fd, count * PAGE_SIZE, pfn * PAGE_SIZE)


def publish(arena: Arena) -> None:
    arena.table.begin_save()
    arena.write_back(lambda frames: None)
    arena.commit_save()


def test_pages_are_in_the_image_and_their_memory_is_given_back(arena: MemoryArena) -> None:
    pfn = filled(arena, 32)
    write_back(arena)
    assert states(arena, pfn, 32) == {WRITTEN}
    assert arena.image.read(pfn, 32) == arena.read(pfn, 32) == b"".join(map(page, range(200, 232)))
    whole_kernel_pages = memory_of(arena, 80, 16)  # of any size
    assert not any(whole_kernel_pages)
    assert isinstance(image_of_arena(arena).journal[-1], Sync)


@pytest.mark.parametrize("offset", [0, 1, 100, PAGE_SIZE - 1])
@pytest.mark.parametrize("size", [1, PAGE_SIZE - 100, PAGE_SIZE, PAGE_SIZE + 1, 3 * PAGE_SIZE])
@pytest.mark.parametrize("when", ["before it is copied", "on its way", "afterwards"])
def test_a_write_counts_whenever_it_comes(
    arena: MemoryArena, offset: int, size: int, when: str
) -> None:
    pfn = filled(arena)
    data = bytearray(arena.read(pfn, 16))
    back = arena.begin_write_back(FRAMES)
    if when != "before it is copied":
        assert back.write() is None
    if when == "afterwards":
        back.finish()
    arena.write(pfn + 3, b"x" * size, offset)
    at = 3 * PAGE_SIZE + offset
    data[at : at + size] = b"x" * size
    if when == "before it is copied":
        assert back.write() is None
    if when != "afterwards":
        back.finish()
    assert arena.read(pfn, 16) == data
    publish(arena)
    assert states(arena, pfn, 16) == {SAVED}
    assert arena.image.read(pfn, 16) == arena.read(pfn, 16) == data


def test_only_what_was_written_again_is_in_memory_again(arena: MemoryArena) -> None:
    pfn = filled(arena)
    back = arena.begin_write_back(FRAMES)
    back.write()
    arena.write(pfn + 5, b"y")
    back.finish()
    assert arena.table.state(pfn + 5) == FRESH
    assert arena.table.count(WRITTEN) == 15
    arena.write(pfn + 9, b"z")
    assert arena.table.count(WRITTEN) == 14


@pytest.mark.parametrize("when", ["on its way", "afterwards", "while it is saved"])
def test_frames_that_are_freed_are_free_and_their_space_goes_back(
    arena: MemoryArena, when: str
) -> None:
    pfn = filled(arena, 32)
    back = arena.begin_write_back(FRAMES)
    if when == "on its way":
        arena.release(pfn, 32)
    back.write()
    back.finish()
    if when == "while it is saved":
        arena.table.begin_save()
        arena.release(pfn, 32)
        arena.abort_save()
    elif when == "afterwards":
        arena.release(pfn, 32)
    assert states(arena, pfn, 32) == {FREE}
    arena._punch_image()
    assert not any(arena.image.read(80, 16))


def test_a_save_does_not_write_again_what_is_there(arena: MemoryArena) -> None:
    pfn = filled(arena)
    write_back(arena, 12)
    image = image_of_arena(arena)
    image.journal.clear()
    publish(arena)
    written = [step for step in image.journal if isinstance(step, Write)]
    assert sum(len(step.data) for step in written) == 4 * PAGE_SIZE
    assert arena.read(pfn, 16) == b"".join(page(200 + at) for at in range(16))


def test_a_save_that_fails_leaves_what_was_written_back(arena: MemoryArena) -> None:
    pfn = filled(arena)
    write_back(arena, 8)
    arena.table.begin_save()
    arena.abort_save()
    assert states(arena, pfn, 8) == {WRITTEN}
    assert states(arena, pfn + 8, 8) == {FRESH}
    publish(arena)
    assert arena.image.read(pfn, 16) == b"".join(page(200 + at) for at in range(16))


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_after_an_error_everything_is_still_in_memory(
    arena: MemoryArena, step: int, error: int
) -> None:
    pfn = filled(arena)
    image = image_of_arena(arena)
    back = arena.begin_write_back(FRAMES)
    with image.failing(step, error=error, torn_bytes=512):
        failure = back.write()
    assert isinstance(failure, OSError)
    assert failure.errno == error
    assert back.finish() is failure
    assert states(arena, pfn, 16) == {FRESH}
    image.write(pfn * PAGE_SIZE, bytes(16 * PAGE_SIZE))  # whatever the medium has made of it
    assert arena.read(pfn, 16) == b"".join(page(200 + at) for at in range(16))
    publish(arena)
    assert arena.image.read(pfn, 16) == b"".join(page(200 + at) for at in range(16))


def test_any_other_error_is_one_of_the_write_back_too(
    arena: MemoryArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would end the session: memory may run out just then."""
    pfn = filled(arena)
    back = arena.begin_write_back(FRAMES)

    def no_memory(size: int, data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(arena.image, "write", no_memory)
    assert "MemoryError" in str(back.write())
    assert back.finish() is not None
    assert states(arena, pfn, 16) == {FRESH}


def test_one_that_was_never_written_has_failed(arena: MemoryArena) -> None:
    """The thread could not be started, or the session has ended before."""
    pfn = filled(arena)
    back = arena.begin_write_back(FRAMES)
    assert back.finish() is not None
    assert back.write() is not None
    assert states(arena, pfn, 16) == {FRESH}


def test_no_save_begins_beside_it(arena: MemoryArena) -> None:
    """They would write the same frames, and one of them would miss an error of the other's sync."""
    filled(arena)
    arena.begin_write_back(1)
    with pytest.raises(AssertionError):
        arena.table.begin_save()


def test_the_end_waits_for_the_thread_that_writes(
    arena: MemoryArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(arena)
    back = arena.begin_write_back(FRAMES)
    writing, go_on = threading.Event(), threading.Event()

    def slow_sync() -> None:
        writing.set()
        assert go_on.wait(60)

    monkeypatch.setattr(arena.image, "sync", slow_sync)
    writer = threading.Thread(target=back.write)
    writer.start()
    assert writing.wait(60)
    threading.Timer(0.05, go_on.set).start()
    assert back.finish() is None
    assert arena.table.count(WRITTEN) == 16
    writer.join()


def test_it_goes_round_and_takes_each_page_once(arena: MemoryArena) -> None:
    pfn = filled(arena, 30)
    for written in (10, 20, 30):
        write_back(arena, 10)
        assert arena.table.count(WRITTEN) == written
    arena.write(pfn + 1, b"again")
    write_back(arena, 10)
    assert arena.table.count(WRITTEN) == 30
    assert arena.begin_write_back(10).frames == 0


def test_what_begins_at_the_end_and_goes_round_is_written_out_in_order(
    arena: MemoryArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window of which the end lies before the start is none that the kernel would write out."""
    monkeypatch.setattr(write_out, "_WINDOW_FRAMES", 16)
    windows = []
    monkeypatch.setattr(
        arena.image, "start_write_out", lambda pfn, frames: windows.append((pfn, frames))
    )
    pfn = filled(arena, 32)
    write_back(arena, 20)
    arena.write(pfn, bytes(5 * PAGE_SIZE))
    windows.clear()
    write_back(arena)
    assert windows == [(pfn, 32)]


def test_checksums_are_known_when_a_save_needs_them(arena: MemoryArena) -> None:
    """Otherwise it would have to read the pages from the disk again."""
    pfn = filled(arena)
    write_back(arena)
    known = arena.csums(pfn, 16)
    image_of_arena(arena).write(pfn * PAGE_SIZE, bytes(16 * PAGE_SIZE))
    assert arena.csums(pfn, 16) == known


def test_a_tree_is_the_same_after_it() -> None:
    volume = Volume(400, arena="memory")
    content = os.urandom(100_000)
    file = volume.create("file", content)
    arena = volume.pram.arena
    assert isinstance(arena, MemoryArena)
    write_back(arena)
    volume.tree.write(file, 5000, b"new")
    volume.tree.setattr(volume.inode("file"), Changes(size=90_000))
    volume.check()
    volume.save()
    volume.reopen()
    expected = bytearray(content[:90_000])
    expected[5000:5003] = b"new"
    file = volume.file("file")
    assert bytes(volume.tree.data.read(file, 0, 100_000)) == bytes(expected)
    volume.check()


# --- when ----------------------------------------------------------------------------------------


@pytest.fixture
def backs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., WriteBacks]]:
    """Make the policy for an arena with that many fresh MiB, with more memory than is needed."""
    arenas = []
    _set_memory(monkeypatch, 8192)

    def make(fresh_mib: int, seconds: int = 30, pages_per_second: int = 0) -> WriteBacks:
        pace = Pace()
        if pages_per_second:
            pace.note(10 * pages_per_second, 10)
        arena = MemoryArena(image_of(bytes(512 * MIB)), FrameTable(512 * 256))
        arenas.append(arena)
        arena.allocate(fresh_mib * 256)
        return WriteBacks(arena, pace, seconds)

    yield make
    for arena in arenas:
        arena.close()


def _set_memory(monkeypatch: pytest.MonkeyPatch, free_mib: int) -> None:
    left = MemoryLeft(free_mib * MIB, 8192 * MIB)
    monkeypatch.setattr(memory_room, "memory_left", lambda: left)


def test_the_first_64_mib_stay_until_the_pace_is_known(backs: Callable[..., WriteBacks]) -> None:
    assert backs(64).pages_wanted(for_memory=False) == 0
    assert backs(68).pages_wanted(for_memory=False) == 1024


def test_what_the_disk_writes_in_time_stays(backs: Callable[..., WriteBacks]) -> None:
    slow = 1024  # 4 MiB a second, so 120 MiB in 30 s
    assert backs(123, pages_per_second=slow).pages_wanted(for_memory=False) == 0
    assert backs(124, pages_per_second=slow).pages_wanted(for_memory=False) == 1024
    assert backs(124, seconds=60, pages_per_second=slow).pages_wanted(for_memory=False) == 0
    assert backs(300, pages_per_second=100_000).pages_wanted(for_memory=False) == 0
    # A batch takes a second, but at most 64 MiB.
    assert backs(300, seconds=1, pages_per_second=2048).pages_wanted(for_memory=False) == 2048
    fast = backs(500, seconds=1, pages_per_second=30_000)
    assert fast.pages_wanted(for_memory=False) == 16384


def test_a_disk_that_shall_be_left_alone_is(
    backs: Callable[..., WriteBacks], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = backs(500, seconds=0, pages_per_second=1024)
    assert quiet.pages_wanted(for_memory=False) == 0
    _set_memory(monkeypatch, 70)
    assert quiet.pages_wanted(for_memory=False) == 1024


def test_writers_who_wait_for_memory_wait_until_there_is_plenty(
    backs: Callable[..., WriteBacks], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_memory(monkeypatch, 100)
    some = backs(32, pages_per_second=1024)
    assert some.pages_wanted(for_memory=False) == 0
    assert some.pages_wanted(for_memory=True) == 1024
    _set_memory(monkeypatch, 128)
    assert some.pages_wanted(for_memory=True) == 0


def test_a_writer_is_refused_or_waits_when_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frames = 64 * 256
    _set_memory(monkeypatch, 64)
    arena = MemoryArena(image_of(bytes(frames * PAGE_SIZE)), FrameTable(frames))
    arena.allocate(4096)  # so much may be there anyway
    with pytest.raises(FramesHeld):
        arena.allocate(1)
    assert arena.memory_is_short
    arena.can_write_back = False  # as in an image that is memory itself
    with pytest.raises(OSError, match="No space left"):
        arena.allocate(1)
    arena.close()


@pytest.mark.parametrize("size", [1, PAGE_SIZE, 3 * PAGE_SIZE, 256 * PAGE_SIZE])
@pytest.mark.parametrize("offset", [0, 100])
def test_what_was_written_back_and_is_written_again_takes_memory_as_new_pages_do(
    monkeypatch: pytest.MonkeyPatch, size: int, offset: int
) -> None:
    """The daemon was killed when a program wrote all over a file that was larger than memory."""
    frames = 64 * 256
    _set_memory(monkeypatch, 64 + 47)
    arena = MemoryArena(image_of(bytes(frames * PAGE_SIZE)), FrameTable(frames))
    pfn = max(arena.allocate(47 * 256), key=lambda extent: extent.frames).pfn
    write_back(arena, frames)
    _set_memory(monkeypatch, 64)
    arena.allocate(4096)  # so much may be there anyway
    with pytest.raises(FramesHeld):
        arena.write(pfn, b"x" * size, offset)
    count = 1 + 256
    assert states(arena, pfn, count) == {WRITTEN}
    assert not any(arena.read(pfn, count))
    assert arena.known_csum(pfn)
    _set_memory(monkeypatch, 64 + 2)
    arena.write(pfn, b"x" * size, offset)
    _set_memory(monkeypatch, 64)
    arena.write(pfn, b"y" * size, offset)  # it is in memory now
    assert arena.read(pfn, count)[offset : offset + size] == b"y" * size
    arena.close()


def test_a_writer_to_an_image_in_memory_is_refused_before_that_runs_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WatchedImage, "in_memory", lambda self: True)
    arena = ImageArena(image_of(bytes(8 * MIB)), FrameTable(2048))
    _set_memory(monkeypatch, 66)
    arena.allocate(512)
    with pytest.raises(OSError, match="No space left"):
        arena.allocate(1024)
    _set_memory(monkeypatch, 100)
    arena.allocate(1024)
    arena.close()


def test_a_writer_waits_for_a_save_that_gives_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a large file was removed there was no space left, until somebody saved."""
    monkeypatch.setattr(WatchedImage, "in_memory", lambda self: True)
    image = image_of(bytes(8 * MIB))
    image.guarded = False
    arena = ImageArena(image, FrameTable(2048))
    _set_memory(monkeypatch, 100)
    (extent,) = arena.allocate(600)
    publish(arena)
    arena.release(*extent)
    _set_memory(monkeypatch, 64)
    arena._room._frames = 0
    with pytest.raises(FramesHeld):
        arena.allocate(600)
    with pytest.raises(NoRoom) as refused:
        arena.allocate(601)
    assert not isinstance(refused.value, FramesHeld)
    publish(arena)
    with pytest.raises(NoRoom) as refused:
        arena.allocate(600)
    assert not isinstance(refused.value, FramesHeld)
    arena.close()


def test_memory_is_left_for_the_copies_that_a_save_makes_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With arena=memory and an image that is memory, too, the save got the daemon killed."""
    frames = 64 * 256
    left_mib = 64 + 40
    monkeypatch.setattr(WatchedImage, "in_memory", lambda self: True)
    _set_memory(monkeypatch, left_mib)
    arena = MemoryArena(image_of(bytes(frames * PAGE_SIZE)), FrameTable(frames))
    for taken in range(18):
        _set_memory(monkeypatch, left_mib - taken)
        arena.allocate(256)
    _set_memory(monkeypatch, left_mib - 18)
    with pytest.raises(NoRoom):
        arena.allocate(4 * 256)
    arena.close()


def test_memory_is_looked_up_once_for_many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = itertools.count()

    def look() -> MemoryLeft:
        next(looks)
        return MemoryLeft(4096 * MIB, 8192 * MIB)

    monkeypatch.setattr(memory_room, "memory_left", look)
    room = memory_room.MemoryRoom()
    assert all(room.take(1) for _ in range(60_000))
    assert next(looks) == 1


def test_after_an_error_there_is_a_pause(
    backs: Callable[..., WriteBacks], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = backs(100)
    assert some.pages_wanted(for_memory=False)
    some.begin(10)
    assert some.settle() is not None
    assert some.settle() is None
    assert some.pages_wanted(for_memory=False) == 0
    now = time.monotonic() + 31
    monkeypatch.setattr("pramfs.saves.write_back.time.monotonic", lambda: now)
    assert some.pages_wanted(for_memory=False)
