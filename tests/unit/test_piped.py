"""Pages that go from /dev/fuse into frames through a pipe: what arrives is what a copy would have brought."""

import errno
import os
import random
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pramfs.fuse.front import Outcome
from pramfs.fuse.protocol import FATTR_SIZE, SETATTR_IN, WRITE_CACHE, WRITE_LOCKOWNER, Opcode
from pramfs.saves.save import Saver
from pramfs.storage.image import write_all
from pramfs.storage.layout import PAGE_SIZE
from pramfs.storage.piped import Pipe, Piped
from pramfs.tree.file_flags import APPEND, IMMUTABLE
from pramfs.tree.inodes import File
from pramfs.tree.tree import Owner
from tests.support.image_audit import check_pram
from tests.support.tree_volume import NAME
from tests.unit.test_front import Mount, write_in
from tests.unit.test_protocol import message

LARGE = 32 * PAGE_SIZE  # so that it counts as large, and fits into a socket


class Device(Mount):
    """All handlers, with a socket for /dev/fuse that requests come from; saves make room, if `can_save`."""

    def __init__(self, frames: int, pipe: Pipe | None) -> None:
        super().__init__(frames)
        self._theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._ours = ours
        self.kernel.kernel = ours.fileno()
        assert isinstance(self.file, File)
        self.target = self.file
        self._tasks: list[Callable[[], Awaitable[None]]] = []
        seam: Any = self.kernel
        self.engine.front.open(seam, self._spawn, pipe)
        self._saver = Saver(self.pram, NAME, self.tree)
        self.can_save = True
        self.saves = 0

    def _spawn(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        self._tasks.append(lambda: task(*args))

    async def _no_room(self) -> bool:
        if self.can_save:
            self.save()
        return self.can_save

    def save(self) -> None:
        self.saves += 1
        self._saver.save(final=False, progress=lambda pages: None)

    def ask(self, opcode: int, body: bytes, file: File) -> int:
        """Send a request, have it served, perhaps by a task that waits; return the errno of the reply."""
        self._theirs.send(message(body, opcode, 7, file.ino))
        self.kernel.replies.clear()
        while not (replies := [told for told in self.kernel.replies if told[0]]):  # else a notice
            assert self.engine.front.serve_next() is Outcome.ANSWERED
            while self._tasks:
                trio.run(self._tasks.pop())
        ((_, number, _),) = replies
        return number

    def write(self, data: bytes, offset: int, flags: int = WRITE_CACHE) -> int:
        return self.ask(Opcode.WRITE, write_in(data, flags, offset), self.target)

    @property
    def content(self) -> bytes:
        return bytes(self.tree.data.copy_of(self.target, 0, self.target.length))

    def close(self) -> None:
        check_pram(self.pram, self.tree, orphans=True)
        self.engine.notices.close()
        self._theirs.close()
        self._ours.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    assert not pipe.left, "something stayed behind"
    pipe.close()


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is moved to a file."""
    sizes: list[int] = []
    move_to = Pipe.move_to

    def noting(self: Pipe, fd: int, offset_bytes: int, size_bytes: int) -> int:
        sizes.append(size_bytes)
        return move_to(self, fd, offset_bytes, size_bytes)

    monkeypatch.setattr(Pipe, "move_to", noting)
    return sizes


def filled(pipe: Pipe, data: bytes) -> Piped:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(data)
        assert pipe.fill(theirs.fileno()) == len(data)
    return Piped(pipe, len(data))


def pages(seed: int, size: int = LARGE) -> bytes:
    return random.Random(seed).randbytes(size)


# --- a pipe --------------------------------------------------------------------------------------


def test_parts_reach_their_places_in_a_file(pipe: Pipe) -> None:
    data = pages(1)
    piped = filled(pipe, data)
    fd = os.memfd_create("target")
    write_all(fd, 100, piped[:5000])
    write_all(fd, 0, piped[5000:5100])
    rest = piped[5100:]
    assert len(rest) == LARGE - 5100
    assert rest.read() == data[5100:]
    assert os.pread(fd, LARGE, 0) == data[5000:5100] + data[:5000]
    os.close(fd)


def test_a_file_that_takes_nothing_out_of_a_pipe_gets_a_copy(pipe: Pipe) -> None:
    fd = os.memfd_create("target")
    appending = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND)
    write_all(appending, 0, filled(pipe, pages(1)))
    assert os.pread(fd, LARGE, 0) == pages(1)
    os.close(appending)
    os.close(fd)


def test_a_full_file_system_is_enospc(pipe: Pipe) -> None:
    piped = filled(pipe, pages(1))
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_all(full, 0, piped)
    os.close(full)


# --- the front -----------------------------------------------------------------------------------


def test_a_large_write_after_a_large_one_is_moved(pipe: Pipe, moved: list[int]) -> None:
    device = Device(512, pipe)
    for at in range(3):
        assert device.write(pages(at), at * LARGE) == 0
    assert sum(moved) == 2 * LARGE
    assert device.content == pages(0) + pages(1) + pages(2)
    device.close()


def test_only_whole_pages_out_of_the_cache_are_moved(pipe: Pipe, moved: list[int]) -> None:
    device = Device(512, pipe)
    for data, offset, flags in (
        (pages(1), 0, WRITE_LOCKOWNER),
        (pages(2), LARGE, WRITE_CACHE),
        (pages(3, LARGE + 100), 2 * LARGE, WRITE_CACHE),
        (pages(4), 4 * LARGE + 7, WRITE_CACHE),
        (pages(5, 100), 0, WRITE_CACHE),
    ):
        assert device.write(data, offset, flags) == 0
        assert device.content[offset:][: len(data)] == data
    assert not moved
    device.close()


@pytest.mark.parametrize("flag", [APPEND, IMMUTABLE])
def test_a_flag_of_the_file_forbids_what_is_in_a_pipe(pipe: Pipe, flag: int) -> None:
    device = Device(512, pipe)
    device.write(pages(1), 0)
    device.target.flags = flag
    assert device.write(pages(2), 0) == errno.EPERM
    assert device.content == pages(1)
    assert device.write(pages(2), LARGE) == (errno.EPERM if flag == IMMUTABLE else 0)
    device.close()


def test_a_full_mount_refuses_and_keeps_what_was_written(pipe: Pipe) -> None:
    device = Device(128, pipe)
    device.can_save = False
    wrong = [device.write(pages(at), at * LARGE) for at in range(4)]
    assert wrong[0] == 0
    assert wrong[-1] == errno.ENOSPC
    good = wrong.index(errno.ENOSPC)
    assert device.content[: good * LARGE] == b"".join(pages(at) for at in range(good))
    device.close()


def test_a_write_that_waits_for_room_goes_on_where_it_was(pipe: Pipe, moved: list[int]) -> None:
    """Its first half is written in place, for the second a save must give back frames."""
    device = Device(160, pipe)
    half = LARGE // 2
    device.write(pages(1), 0)
    device.save()
    device.write(pages(2, half), 0)
    at = 2 * LARGE
    while device.tree.arena.table.unused > half // PAGE_SIZE:
        assert device.write(pages(3, PAGE_SIZE), at) == 0
        at += PAGE_SIZE
    device.write(pages(4), 2 * LARGE)  # in place
    assert device.write(pages(5), 0) == 0
    assert moved == [half]
    assert device.saves == 2
    assert device.content == pages(5) + bytes(LARGE) + pages(4) + device.content[3 * LARGE :]
    device.close()


def test_a_device_that_cannot_be_spliced_is_read(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(self: Pipe, source: int) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(Pipe, "fill", fill)
    device = Device(512, pipe)
    for at in range(3):
        assert device.write(pages(at), at * LARGE) == 0
    assert device.content == pages(0) + pages(1) + pages(2)
    device.close()


page = st.integers(0, 64)
steps = st.one_of(
    st.tuples(st.just("large"), page, st.integers(32, 40)),
    st.tuples(st.just("large"), page, st.integers(32, 40)),
    st.tuples(st.just("small"), st.integers(0, 64 * PAGE_SIZE), st.integers(1, 3 * PAGE_SIZE)),
    st.tuples(st.just("cut"), st.integers(0, 100 * PAGE_SIZE), st.just(0)),
    st.tuples(st.just("save"), st.just(0), st.just(0)),
    st.tuples(st.just("share"), st.just(0), st.just(0)),
)


@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=60)
@given(st.lists(steps, max_size=14), st.sampled_from([200, 420, 1024]))
def test_all_mixtures_give_what_copies_give(
    mixture: list[tuple[str, int, int]], frames: int
) -> None:
    pipe = Pipe()
    piped, copied = Device(frames, pipe), Device(frames, None)
    for seed, (kind, at, size) in enumerate(mixture):
        answers = set()
        for device in (piped, copied):
            if kind == "large":
                answers.add(device.write(pages(seed, size * PAGE_SIZE), at * PAGE_SIZE))
            elif kind == "small":
                answers.add(device.write(pages(seed, size), at))
            elif kind == "cut":
                body = SETATTR_IN.pack(FATTR_SIZE, 0, 0, at, *[0] * 12)
                answers.add(device.ask(Opcode.SETATTR, body, device.target))
            elif kind == "save":
                device.save()
            elif device.target.pages is not None and frames > 1000:
                copy = device.tree.create(
                    device.tree.root, b"%d" % seed, stat.S_IFREG | 0o644, Owner(0, 0)
                )
                device.tree.copy_range(
                    device.target, 0, copy, 0, device.target.length // PAGE_SIZE * PAGE_SIZE
                )
        assert len(answers) < 2
        assert piped.content == copied.content
    assert not pipe.left
    piped.close()
    copied.close()
    pipe.close()
