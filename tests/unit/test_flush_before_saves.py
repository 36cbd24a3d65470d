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

from pramfs.daemon import checkpoints, flushes
from pramfs.daemon.checkpoints import Checkpoints
from pramfs.daemon.flusher import Flusher
from pramfs.daemon.flushes import Flushes
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


def flushes_of(volume: Volume, flusher: Flusher | None = None) -> Flushes:
    idle = Flusher(lambda: None, Path())
    return Flushes(volume.saver, volume.tree.data.refused, lambda: None, flusher or idle)


def saves_of(volume: Volume, made_by: Flushes | None = None) -> Checkpoints:
    return Checkpoints(volume, ServiceManager(), Keep(), made_by or flushes_of(volume))


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
    made_by = flushes_of(volume)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made_by.flush, mount.engine)
            nursery.start_soon(made_by.flush, mount.engine)

    trio.run(run)
    assert volume.saver.shortfall() is None


class QuickFlusher(Flusher):
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
    saves = saves_of(volume, flushes_of(volume, QuickFlusher(lambda: None, Path())))
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


# --- flushes during which so many requests come that the kernel may leave files out --------------

FEW = 20  # but for the RELEASEDIR of who flushes
MANY = FEW + 1
WRITE = (Opcode.WRITE, write_in(b"data", WRITE_CACHE))
RELEASE = RELEASE_IN.pack(0, 0, 0, 0)


class Congestion:
    """A mount whose kernel makes so many `requests` at each flush, at all later ones the last number."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *requests: int, seconds: float = 0.0
    ) -> None:
        self.mount = Mount()
        self.requests = requests
        self.kind = WRITE
        self.made = 0
        self._seconds = seconds
        threshold = FEW + flushes._BACKGROUND
        monkeypatch.setattr(mount_tools, "flush", self._flush)
        monkeypatch.setattr(mount_tools, "flushes_needed", lambda: 1)
        monkeypatch.setattr(flushes, "congestion_threshold", lambda: threshold)
        monkeypatch.setattr(checkpoints, "ImageName", InPlace)
        volume = volume_of(self.mount)
        self.flushes = flushes_of(volume)
        self.saves = saves_of(volume, self.flushes)

    def save(self) -> None:
        trio.run(self.saves.publish, self.mount.engine)

    def _flush(self, place: Path | None) -> Flushed:
        trio.from_thread.run_sync(self._hand_over)
        return Flushed(0, "")

    def _hand_over(self) -> None:
        opcode, body = self.kind
        self.made += 1
        for _ in range(self.requests[min(self.made, len(self.requests)) - 1]):
            self.mount.serve(opcode, body, self.mount.file.ino)
        time.sleep(self._seconds)


@pytest.mark.parametrize("kind", [WRITE, (Opcode.RELEASEDIR, RELEASE), (Opcode.RELEASE, RELEASE)])
@pytest.mark.parametrize(("busy", "made"), [(0, 1), (1, 2), (3, 4)])
def test_a_flush_with_as_many_requests_as_make_the_kernel_leave_files_out_is_made_again(
    monkeypatch: pytest.MonkeyPatch, kind: tuple[Opcode, bytes], busy: int, made: int
) -> None:
    kernel = Congestion(monkeypatch, *[MANY] * busy, FEW)
    kernel.kind = kind
    trio.run(kernel.flushes.flush, kernel.mount.engine)
    assert kernel.made == made


def test_a_flush_that_never_has_few_requests_makes_a_save_that_may_lack_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But none after one that has: what was left out is in the tree then."""
    kernel = Congestion(monkeypatch, MANY)
    monkeypatch.setattr(flushes, "_REPEATED_S", 0.2)
    with pytest.raises(SaveIncomplete, match="faster than the kernel"):
        kernel.save()
    assert kernel.made > 2
    trio.run(kernel.flushes.flush_for_good, kernel.mount.engine)
    kernel.requests = (1,)
    kernel.save()
    assert not kernel.flushes.left_out


def test_a_slow_flush_is_made_again_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Congestion(monkeypatch, MANY, 0, seconds=0.3)
    monkeypatch.setattr(flushes, "_REPEATED_S", 0.2)
    kernel.save()
    assert kernel.made == 2


def test_what_a_flush_may_have_left_out_is_told_to_who_asked_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if another save comes first, such as one for fsync(2)."""
    kernel = Congestion(monkeypatch, MANY)
    monkeypatch.setattr(flushes, "_REPEATED_S", 0.1)
    saves, mount = kernel.saves, kernel.mount
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
    kernel = Congestion(monkeypatch, MANY, 1, 0)
    mount = kernel.mount
    refused: list[bool] = []
    write = mount.tree.write

    def write_once_there_is_room(*args: Any, **kwargs: Any) -> int:
        if kernel.made == 2 and not refused:
            refused.append(True)
            raise FramesHeld
        return write(*args, **kwargs)

    async def make_room() -> bool:
        await trio.sleep(0.05)
        return True

    monkeypatch.setattr(mount.tree, "write", write_once_there_is_room)
    monkeypatch.setattr(mount.engine.front, "_make_room", make_room)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            seam: Any = mount.kernel
            mount.engine.front.open(seam, nursery.start_soon)
            await kernel.saves.publish(mount.engine)

    trio.run(run)
    assert kernel.made == 3


def test_a_kernel_that_hands_over_copies_is_flushed_twice_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Congestion(monkeypatch, MANY, 0)
    monkeypatch.setattr(mount_tools, "flushes_needed", lambda: 2)
    kernel.save()
    assert kernel.made == 3


# --- trees that are offered ----------------------------------------------------------------------


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
