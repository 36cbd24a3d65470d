"""What the kernel is made to hand over before a save is in it, also what has to wait for room first."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pramfs.daemon import checkpoints
from pramfs.daemon.checkpoints import Checkpoints
from pramfs.daemon.flusher import Flusher
from pramfs.daemon.loader import Volume
from pramfs.daemon.sd_notify import ServiceManager
from pramfs.errors import FramesHeld, SaveIncomplete
from pramfs.fuse.protocol import FORGET_IN, RELEASE_IN, WRITE_CACHE, Opcode
from pramfs.saves.automatic import Keep
from pramfs.saves.pace import Pace
from pramfs.saves.save import Saver
from pramfs.saves.write_back import WriteBacks
from pramfs.system import mount_tools
from pramfs.system.mount_tools import Flushed
from tests.support.tree_volume import USER
from tests.support.watched_image import image_of
from tests.unit.test_front import Mount, write_in

LIMIT_S = 60
UNIQUE = 7


class InPlace:
    """An image that has its name."""

    own_device = ""
    path = Path("image")

    def __init__(self, image: object) -> None:
        self.image = image

    def lost(self) -> None:
        return None

    def close(self) -> None:
        pass


class Kernel:
    """A kernel that has a page for the file, and hands it over when it is told to flush.

    It may wait for the answers to its writes, or, as most do, not.
    """

    def __init__(self, mount: Mount, monkeypatch: pytest.MonkeyPatch, *, waits: bool) -> None:
        self._mount = mount
        self._waits = waits
        self._refusals = 3
        self._write = mount.tree.write
        monkeypatch.setattr(mount.tree, "write", self._write_when_there_is_room)
        monkeypatch.setattr(mount_tools, "flush", self._flush)
        monkeypatch.setattr(mount_tools, "flushes_needed", lambda: 1)

    def _flush(self, place: Path | None) -> Flushed:
        trio.from_thread.run_sync(self._hand_over)
        if self._waits:
            trio.from_thread.run(self._until_answered)
        return Flushed(0, "")

    def _hand_over(self) -> None:
        self._mount.serve(
            Opcode.WRITE, write_in(b"data", WRITE_CACHE), self._mount.file.ino, UNIQUE
        )

    async def _until_answered(self) -> None:
        with trio.fail_after(LIMIT_S):
            while not self._is_answered:
                await trio.testing.wait_all_tasks_blocked(0.01)

    @property
    def _is_answered(self) -> bool:
        return any(unique == UNIQUE for unique, _, _ in self._mount.kernel.replies)

    def _write_when_there_is_room(self, *args: Any, **kwargs: Any) -> int:
        if self._refusals:
            self._refusals -= 1
            raise FramesHeld
        return self._write(*args, **kwargs)


def volume_of(mount: Mount) -> Volume:
    return Volume(
        pram=mount.pram,
        tree=mount.tree,
        saver=Saver(mount.pram, "pramfs", mount.tree),
        write_backs=WriteBacks(mount.pram.arena, Pace(), 0),
        read_only=False,
        run_directory=None,
        log_path=None,
    )


def saves_of(volume: Volume, flusher: Flusher | None = None) -> Checkpoints:
    idle = Flusher(lambda: None, Path())
    return Checkpoints(volume, ServiceManager(), lambda: None, Keep(), flusher or idle)


async def save_to(saves: Checkpoints, mount: Mount) -> None:
    await saves.publish_to(mount.engine, 1, b"")


Save = Callable[[Checkpoints, Mount], Any]
SAVES: list[Save] = [
    lambda saves, mount: saves.publish(mount.engine),
    lambda saves, mount: saves.take_snapshot(mount.engine, "one"),
    save_to,
]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "when it is answered"])
@pytest.mark.parametrize("save", SAVES, ids=["save", "snapshot", "save --to"])
def test_what_waits_for_room_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, save: Save, *, waits: bool
) -> None:
    """A save said that it had what a program had written before, and a save to another image hung."""
    mount = Mount()
    Kernel(mount, monkeypatch, waits=waits)
    other = image_of(b"")
    other.guarded = False
    other.grow(len(mount.pram.arena.table))
    monkeypatch.setattr(checkpoints, "ImageName", InPlace)
    monkeypatch.setattr(checkpoints, "parse_target", lambda request: None)
    monkeypatch.setattr(checkpoints, "take_over", lambda *request: other)
    monkeypatch.setattr(other, "mark_serving", lambda: None)
    volume = volume_of(mount)
    saves = saves_of(volume)
    monkeypatch.setattr(mount.engine.front, "_make_room", saves.make_room)
    saved = []
    start = Saver.start

    def note_start(saver: Saver, *args: Any, **kwargs: Any) -> None:
        saved.append(mount.file.size)
        start(saver, *args, **kwargs)

    monkeypatch.setattr(Saver, "start", note_start)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            seam: Any = mount.kernel
            mount.engine.front.open(seam, nursery.start_soon)
            with trio.fail_after(LIMIT_S):
                await save(saves, mount)

    trio.run(run)
    assert saved == [0, 0, 0, 4]
    assert not volume.tree.changed
    assert (UNIQUE, 0) in {(unique, error) for unique, error, _ in mount.kernel.replies}


def test_a_flush_that_cannot_be_made_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mount = Mount()

    def fail(place: Path | None) -> Flushed:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(mount_tools, "flush", fail)
    monkeypatch.setattr(checkpoints, "ImageName", InPlace)
    saves = saves_of(volume_of(mount))

    async def run() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(saves.publish_at_intervals, mount.engine, 0.001)
                while not caplog.messages:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()

    trio.run(run)
    assert caplog.messages[0] == "no checkpoint: Resource temporarily unavailable"


def test_what_was_refused_explains_the_errors_of_two_flushes_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel tells both of it. One was noted, and a later save called incomplete for nothing."""
    mount = Mount()
    volume = volume_of(mount)
    both = threading.Barrier(2)

    def flush(place: Path | None) -> Flushed:
        mount.tree.data.refused.count_forbidden()
        both.wait(LIMIT_S)
        return Flushed(0, os.strerror(errno.EIO))

    monkeypatch.setattr(mount_tools, "flush", flush)
    monkeypatch.setattr(mount_tools, "flushes_needed", lambda: 1)
    monkeypatch.setattr(checkpoints, "ImageName", InPlace)
    saves = saves_of(volume)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(saves.flush, mount.engine)
            nursery.start_soon(saves.flush, mount.engine)

    trio.run(run)
    assert volume.saver.shortfall() is None


class Flushes(Flusher):
    """A thread that flushes, and needs no time for it."""

    async def flush(self, device: str) -> Flushed:
        return Flushed(0, "")


def test_what_was_saved_where_no_thread_can_be_started_is_not_called_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*call: object) -> None:
        raise RuntimeError("can't start new thread")

    mount = Mount()
    volume = volume_of(mount)
    monkeypatch.setattr(trio.to_thread, "run_sync", fail)
    monkeypatch.setattr(checkpoints, "ImageName", InPlace)
    saves = saves_of(volume, Flushes(lambda: None, Path()))
    trio.run(saves.publish, mount.engine)
    assert volume.saver.published == 1
    assert not volume.tree.changed


@pytest.fixture
def flusher() -> Iterator[Flusher]:
    """One whose thread looks for a place where there is no memory for that."""

    def place() -> Path:
        raise MemoryError

    flusher = Flusher(place, Path())
    flusher.start()
    yield flusher
    flusher._is_ready = False
    flusher._calls.put(lambda: None)


def test_a_thread_that_fails_is_not_waited_for(flusher: Flusher) -> None:
    async def run() -> None:
        with trio.fail_after(LIMIT_S):
            while not flusher._is_ready:  # noqa: ASYNC110
                await trio.sleep(0.001)
            with pytest.raises(MemoryError):
                await flusher.flush("0:1")

    trio.run(run)


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.WRITE, write_in(b"data", WRITE_CACHE)),
        (Opcode.RELEASEDIR, RELEASE_IN.pack(0, 0, 0, 0)),
        (Opcode.RELEASE, RELEASE_IN.pack(0, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize(("busy", "flushes"), [(0, 1), (1, 2), (3, 4)])
def test_a_flush_with_as_many_requests_as_make_the_kernel_leave_files_out_is_made_again(
    monkeypatch: pytest.MonkeyPatch, opcode: Opcode, body: bytes, busy: int, flushes: int
) -> None:
    mount = Mount()
    made: list[int] = []

    def hand_over() -> None:
        # One of these counts for the RELEASEDIR of who flushes.
        for _ in range(MANY + 1 if len(made) < busy else MANY):
            mount.serve(opcode, body, mount.file.ino)
        made.append(1)

    saves = _congested(monkeypatch, mount, hand_over)
    trio.run(saves.flush, mount.engine)
    assert len(made) == flushes


def _write(mount: Mount, count: int) -> None:
    for _ in range(count):
        mount.serve(Opcode.WRITE, write_in(b"data", WRITE_CACHE), mount.file.ino)


def test_a_flush_that_never_has_few_requests_makes_a_save_that_may_lack_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But none after one that has: what was left out is in the tree then."""
    mount = Mount()
    requests = [MANY + 1]
    made: list[int] = []

    def hand_over() -> None:
        _write(mount, requests[0])
        made.append(1)

    saves = _congested(monkeypatch, mount, hand_over)
    monkeypatch.setattr(checkpoints, "_REPEATED_FLUSHES_S", 0.2)
    with pytest.raises(SaveIncomplete, match="faster than the kernel"):
        trio.run(saves.publish, mount.engine)
    assert len(made) > 2
    trio.run(saves.flush_for_good, mount.engine)
    requests[0] = 1
    trio.run(saves.publish, mount.engine)
    assert not saves._left_out


def test_a_slow_flush_is_made_again_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount()
    made: list[int] = []

    def hand_over() -> None:
        _write(mount, MANY + 1 if not made else 0)
        time.sleep(0.3)
        made.append(1)

    saves = _congested(monkeypatch, mount, hand_over)
    monkeypatch.setattr(checkpoints, "_REPEATED_FLUSHES_S", 0.2)
    trio.run(saves.publish, mount.engine)
    assert len(made) == 2


def test_what_a_flush_may_have_left_out_is_told_to_who_asked_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if another save comes first, such as one for fsync(2)."""
    mount = Mount()
    saves = _congested(monkeypatch, mount, lambda: _write(mount, MANY + 1))
    monkeypatch.setattr(checkpoints, "_REPEATED_FLUSHES_S", 0.1)
    told = []

    async def save() -> None:
        try:
            await saves.publish(mount.engine)
        except SaveIncomplete as exc:
            told.append(str(exc))

    async def run() -> None:
        async with trio.open_nursery() as nursery, saves._saving:
            nursery.start_soon(saves.make_durable)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(save)
            await trio.sleep(0.5)

    mount.tree.changed = True
    trio.run(run)
    assert len(told) == 1


def test_what_a_repeated_flush_finds_waiting_for_room_is_flushed_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mount = Mount()
    made: list[int] = []
    refusals: list[int] = []
    write = mount.tree.write

    def write_once_there_is_room(*args: Any, **kwargs: Any) -> int:
        if refusals:
            refusals.pop()
            raise FramesHeld
        return write(*args, **kwargs)

    def hand_over() -> None:
        if len(made) == 1:
            refusals.append(1)
        _write(mount, (MANY + 1, 1, 0)[len(made)])
        made.append(1)

    async def make_room() -> bool:
        await trio.sleep(0.05)
        return True

    monkeypatch.setattr(mount.tree, "write", write_once_there_is_room)
    monkeypatch.setattr(mount.engine.front, "_make_room", make_room)
    saves = _congested(monkeypatch, mount, hand_over)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            seam: Any = mount.kernel
            mount.engine.front.open(seam, nursery.start_soon)
            await saves.publish(mount.engine)

    trio.run(run)
    assert len(made) == 3


def test_a_kernel_that_hands_over_copies_is_flushed_twice_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mount = Mount()
    made: list[int] = []

    def hand_over() -> None:
        _write(mount, 0 if made else MANY + 1)
        made.append(1)

    saves = _congested(monkeypatch, mount, hand_over)
    monkeypatch.setattr(mount_tools, "flushes_needed", lambda: 2)
    trio.run(saves.publish, mount.engine)
    assert len(made) == 3


MANY = 20


def _congested(
    monkeypatch: pytest.MonkeyPatch, mount: Mount, hand_over: Callable[[], None]
) -> Checkpoints:
    """The saves of a mount whose kernel makes requests when it flushes, and calls MANY congestion."""

    def flush(place: Path | None) -> Flushed:
        trio.from_thread.run_sync(hand_over)
        return Flushed(0, "")

    monkeypatch.setattr(mount_tools, "flush", flush)
    monkeypatch.setattr(mount_tools, "flushes_needed", lambda: 1)
    monkeypatch.setattr(checkpoints, "ImageName", InPlace)
    monkeypatch.setattr(checkpoints, "congestion_threshold", lambda: MANY + checkpoints._BACKGROUND)
    return saves_of(volume_of(mount))


def test_an_offered_tree_is_held_though_its_client_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was killed, or stopped and continued, took its pages away while the daemon read them."""
    mount = Mount()
    monkeypatch.setattr(checkpoints, "ImageName", InPlace)
    file = mount.tree.create_unnamed(mount.tree.root, 0o600, USER)
    file.refs = 1
    numbers = {"pages": 1, "metadata_bytes": 1, "more_bytes": 0, "runs_bytes": 0}
    offer = {"inode": file.ino, "name": "pramfs@new", "base": "", "marks": 0, **numbers}
    with saves_of(volume_of(mount))._offered(json.dumps(offer).encode()):
        mount.serve(Opcode.FORGET, FORGET_IN.pack(1), file.ino)
        assert file.ino in mount.tree.inodes
    assert file.ino not in mount.tree.inodes
