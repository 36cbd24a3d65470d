"""The front: every request gets one reply, whatever it is and whatever its handler does."""

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pramfs.control.dedup_report import DedupReport
from pramfs.control.status import MountStatus
from pramfs.errors import FramesHeld, PramError, posix_error
from pramfs.fuse.engine import Behaviour, Engine, Surroundings
from pramfs.fuse.front import SAVES_FOR_ROOM, Again, Front, Handler, Outcome
from pramfs.fuse.protocol import (
    CREATE_IN,
    FALLOCATE_IN,
    FORGET_IN,
    GETATTR_FH,
    GETATTR_IN,
    INTERRUPT_IN,
    LSEEK_IN,
    LSEEK_OUT,
    MKNOD_IN,
    OPEN_IN,
    OUT_HEADER,
    RELEASE_IN,
    WRITE_CACHE,
    WRITE_IN,
    WRITE_KILL_SUIDGID,
    WRITE_LOCKOWNER,
    WRITE_OUT,
    Opcode,
)
from pramfs.fuse.request import Request
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.attributes import Changes
from pramfs.tree.file_flags import IMMUTABLE
from pramfs.tree.inodes import ROOT_INO
from pramfs.tree.tree import Owner, Tree
from tests.support.tree_volume import USER
from tests.support.watched_image import new_pram, watched
from tests.unit.test_protocol import message

NO_REPLY = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}


class Kernel:
    """A seam that remembers what was said at it."""

    kernel = -1

    def __init__(self) -> None:
        self.replies: list[tuple[int, int, bytes]] = []  # unique, errno, payload
        self.carried: list[bytes] = []

    def read_into(self, buffer: bytearray) -> int:
        return os.readv(self.kernel, [buffer])

    def tell(self, *pieces: bytes) -> None:
        told = b"".join(pieces)
        length, error, unique = OUT_HEADER.unpack_from(told)
        assert length == len(told)
        self.replies.append((unique, -error, told[OUT_HEADER.size :]))

    def carry(self, request: memoryview) -> None:
        self.carried.append(bytes(request))


class Bench:
    """A front with one handler, for LOOKUP; what waits is started by hand."""

    def __init__(self, handler: Handler) -> None:
        self.kernel = Kernel()
        self.tasks: list[Callable[[], Awaitable[None]]] = []
        self.saves: list[bool] = []  # whether each that is waited for succeeds
        self.internal_errors = 0
        self.front = Front(
            {Opcode.LOOKUP: handler},
            {},
            {Opcode.SYMLINK},
            {Opcode.BMAP},
            make_room=self.make_room,
            note_change=lambda: False,
            on_internal_error=self.note_internal_error,
        )
        seam: Any = self.kernel
        self.front.open(seam, lambda task, *args: self.tasks.append(lambda: task(*args)))

    async def make_room(self) -> bool:
        return self.saves.pop(0)

    def note_internal_error(self) -> None:
        self.internal_errors += 1

    def serve(self, body: bytes = b"", opcode: int = Opcode.LOOKUP, unique: int = 2) -> Outcome:
        return self.front.serve(message(body, opcode, unique))

    def run_tasks(self) -> None:
        for task in self.tasks:
            trio.run(task)

    @property
    def errnos(self) -> list[int]:
        return [number for _, number, _ in self.kernel.replies]


def failing(exc: Exception) -> Bench:
    """A front whose handler raises this."""

    def handler(request: Request) -> bytes:
        raise exc

    return Bench(handler)


# --- kinds of requests ---------------------------------------------------------------------------


def test_a_reply_goes_to_the_request_that_asked() -> None:
    bench = Bench(lambda request: bytes(request.body) * 2)
    bench.serve(b"one", unique=1)
    bench.serve(b"two", unique=1 << 63)
    assert bench.kernel.replies == [(1, 0, b"oneone"), (1 << 63, 0, b"twotwo")]


def test_data_are_told_without_a_copy() -> None:
    data = memoryview(b"data")
    bench = Bench(lambda request: data)
    bench.serve()
    assert bench.kernel.replies == [(2, 0, b"data")]


def test_what_is_rare_is_carried_whole() -> None:
    bench = Bench(lambda request: b"")
    assert bench.serve(b"target", Opcode.SYMLINK) is Outcome.CARRIED
    assert bench.kernel.carried == [bytes(message(b"target", Opcode.SYMLINK))]
    assert not bench.kernel.replies


def test_what_nobody_answers_is_enosys_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(lambda request: b"")
    for opcode in (4000, 4000, 4001, Opcode.BMAP):
        bench.serve(opcode=opcode)
    assert bench.errnos == [errno.ENOSYS] * 4
    assert [word in caplog.text for word in ("4000", "4001", f" {Opcode.BMAP}:")] == [1, 1, 0]
    assert len(caplog.messages) == 2


def test_an_odd_request_is_eio_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(lambda request: request.name())
    for _ in range(3):
        bench.serve(b"a name without an end")
    assert bench.errnos == [errno.EIO] * 3
    assert len(caplog.messages) == 1
    assert not bench.internal_errors


def test_a_request_of_another_length_than_it_says_is_eio() -> None:
    bench = Bench(lambda request: b"")
    bench.front.serve(message(b"cut off")[:-1])
    assert bench.errnos == [errno.EIO]


def test_less_than_a_header_has_nobody_to_answer(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(lambda request: b"")
    for size in (0, 1, 39):
        bench.front.serve(message(b"")[:size])
    assert not bench.kernel.replies
    assert caplog.messages


# --- exceptions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exc", "number", "is_internal"),
    [
        (OSError(errno.ENOTEMPTY, ""), errno.ENOTEMPTY, False),
        (PramError("damaged"), errno.EIO, False),
        (MemoryError(), errno.ENOMEM, True),
        (KeyError("bug"), errno.EIO, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_is_answered_and_the_front_goes_on(
    exc: Exception, number: int, is_internal: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench = failing(exc)
    for _ in range(2):
        assert bench.serve() is Outcome.ANSWERED
    assert bench.errnos == [number] * 2
    assert bool(bench.internal_errors) == is_internal
    assert bool(caplog.messages) == (not isinstance(exc, OSError))


# --- waiting -------------------------------------------------------------------------------------


class Narrow:
    """A handler that has room only after some saves, and remembers with what it was called."""

    def __init__(self, saves_needed: int) -> None:
        self._saves_needed = saves_needed
        self.bodies: list[bytes] = []

    def __call__(self, request: Request) -> bytes:
        self.bodies.append(bytes(request.body))
        if len(self.bodies) <= self._saves_needed:
            raise FramesHeld
        return b"done"


def test_a_request_without_room_waits_for_a_save_and_keeps_its_body() -> None:
    handler = Narrow(2)
    bench = Bench(handler)
    body = bytearray(b"body")
    bench.front.serve(memoryview(bytearray(message(bytes(body)))))
    assert not bench.kernel.replies
    bench.saves = [True, True]
    bench.run_tasks()
    assert bench.kernel.replies == [(2, 0, b"done")]
    assert handler.bodies == [b"body"] * 3


@pytest.mark.parametrize("saves", [[False], [True] * SAVES_FOR_ROOM])
def test_without_room_in_the_end_it_is_enospc(saves: list[bool]) -> None:
    bench = Bench(Narrow(100))
    bench.serve()
    bench.saves = saves
    bench.run_tasks()
    assert bench.errnos == [errno.ENOSPC]


def test_what_waits_for_room_may_wait_for_something_else_then() -> None:
    waits: list[Exception | Again] = [
        FramesHeld(),
        Again(trio.lowlevel.checkpoint),
        FramesHeld(),
        Again(trio.lowlevel.checkpoint),
    ]

    def handler(request: Request) -> bytes | Again:
        if not waits:
            return b"done"
        wait = waits.pop(0)
        if isinstance(wait, Exception):
            raise wait
        return wait

    bench = Bench(handler)
    bench.serve()
    bench.saves = [True, True]
    bench.run_tasks()
    assert bench.kernel.replies == [(2, 0, b"done")]


def test_an_interrupt_ends_the_wait_and_nothing_is_answered_twice() -> None:
    handler = Narrow(1)
    bench = Bench(handler)
    bench.serve(unique=8)
    bench.serve(INTERRUPT_IN.pack(8), Opcode.INTERRUPT, unique=9)
    assert bench.kernel.replies == [(8, errno.EINTR, b"")]
    bench.saves = [True]
    bench.run_tasks()
    assert len(bench.kernel.replies) == 1
    assert len(handler.bodies) == 1


def test_an_interrupt_of_what_has_been_answered_is_nothing() -> None:
    bench = Bench(lambda request: b"")
    bench.serve(unique=8)
    bench.serve(INTERRUPT_IN.pack(8), Opcode.INTERRUPT, unique=9)
    assert bench.kernel.replies == [(8, 0, b"")]


def test_a_later_answer_comes_when_it_is_there_and_a_failed_one_is_eio() -> None:
    async def answer() -> bytes:
        return b"late"

    async def fail() -> bytes:
        raise KeyError

    bench = Bench(lambda request: fail if request.unique == 3 else answer)
    bench.serve(unique=2)
    bench.serve(unique=3)
    assert (bench.front.awaited, bench.kernel.replies) == (2, [])
    bench.run_tasks()
    assert bench.front.awaited == 0
    assert bench.kernel.replies == [(2, 0, b"late"), (3, errno.EIO, b"")]
    assert bench.internal_errors == 1


# --- the real handlers ---------------------------------------------------------------------------


class Mount:
    """All handlers, over a tree with a directory and a file."""

    def __init__(self, frames: int = 256) -> None:
        self.pram = new_pram(frames)
        self.tree = Tree(self.pram.arena, inodes_max=frames, generation=1)
        root = self.tree.make_root(0o755, Owner(0, 0))
        self.file = self.tree.create(root, b"file", stat.S_IFREG | 0o644, USER)
        self.internal_errors = 0
        self.recorded: list[int] = []  # the number of replies at each attempt to record a change
        self.kernel = Kernel()
        self.engine = Engine(
            self.pram,
            "pramfs",
            self.tree,
            Behaviour(
                direct_io=False,
                noatime=False,
                nodiratime=False,
                fsync_publishes=False,
                check_open=False,
            ),
            Surroundings(
                status=self._status,
                dedup_report=DedupReport,
                dedup=self._nothing,
                publish=self._nothing,
                orders={},
                make_durable=self._nothing,
                make_room=self._no_room,
                on_change=self._record_change,
                on_internal_error=self._note_internal_error,
            ),
        )
        seam: Any = self.kernel
        self.engine.front.open(seam, lambda *task: None)
        self.engine.notices.open(seam, lambda *task: None)

    def _status(self) -> MountStatus:
        raise NotImplementedError

    async def _nothing(self, *request: object) -> None:
        pass

    async def _no_room(self) -> bool:
        return False

    def _record_change(self) -> bool:
        self.recorded.append(len(self.kernel.replies))
        return len(self.recorded) > 1  # the first time a save is under way

    def _note_internal_error(self) -> None:
        self.internal_errors += 1

    def serve(self, opcode: int, body: bytes, nodeid: int = 1, unique: int = 5) -> Outcome:
        """Serve a request, and what it leaves for later, as at the end of a burst."""
        outcome = self.engine.front.serve(message(body, opcode, unique, nodeid))
        self.engine.front.catch_up()
        return outcome


@pytest.fixture
def mount() -> Mount:
    return Mount()


def test_the_first_change_is_recorded_before_it_is_answered_and_no_other(mount: Mount) -> None:
    mount.tree.changed = False
    mount.serve(Opcode.LOOKUP, b"file\0")
    for name in (b"one\0", b"two\0", b"three\0"):
        mount.serve(Opcode.MKNOD, MKNOD_IN.pack(stat.S_IFREG | 0o644, 0, 0, 0) + name)
    assert mount.recorded == [1, 2]
    assert [number for _, number, _ in mount.kernel.replies] == [0] * 4


def test_an_open_is_not_asked_for_again_and_keeps_nothing(mount: Mount) -> None:
    """The kernel tells of no close then, and makes files by MKNOD, so that it tells of none of theirs."""
    mount.serve(Opcode.OPEN, OPEN_IN.pack(os.O_RDWR, 0), mount.file.ino)
    assert mount.kernel.replies[-1][1] == errno.ENOSYS
    assert mount.file.refs == 0
    mount.serve(Opcode.CREATE, CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"made\0", ROOT_INO)
    assert mount.kernel.replies[-1][1] == errno.ENOSYS
    mount.serve(Opcode.MKNOD, MKNOD_IN.pack(stat.S_IFREG | 0o644, 0, 0, 0) + b"made\0", ROOT_INO)
    made = mount.tree.lookup(mount.tree.root, b"made")
    assert made.refs == 1  # the kernel's lookup
    mount.serve(Opcode.UNLINK, b"made\0", ROOT_INO)
    mount.serve(Opcode.WRITE, write_in(b"x", WRITE_CACHE), made.ino)
    assert mount.kernel.replies[-1][1] == 0
    mount.serve(Opcode.FORGET, FORGET_IN.pack(1), made.ino)
    assert made.ino not in mount.tree.inodes


@pytest.mark.parametrize(
    ("opcode", "body", "done_before"),
    [
        (Opcode.GETATTR, GETATTR_IN.pack(0, 0, 0), False),
        # Before write(2), whether there is room by now: it must know what the removed file leaves.
        (Opcode.GETATTR, GETATTR_IN.pack(GETATTR_FH, 0, 0), True),
        (Opcode.LOOKUP, b"none\0", True),
    ],
)
def test_a_forget_waits_for_nothing_but_one_getattr(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, opcode: Opcode, body: bytes, done_before: bool
) -> None:
    """So many files are removed faster: the kernel asks for the directory behind each FORGET."""
    front, tree = mount.engine.front, mount.tree
    removed = [tree.create(tree.root, name, stat.S_IFREG | 0o644, USER) for name in (b"1", b"2")]
    for file in removed:
        file.refs = 1
        tree.unlink(tree.root, b"%d" % (removed.index(file) + 1))
    there_at_reply: list[bool] = []
    tell = mount.kernel.tell

    def told(*pieces: bytes) -> None:
        there_at_reply.append(removed[-1].ino in tree.inodes)
        tell(*pieces)

    monkeypatch.setattr(front, "_tell", told)
    for file in removed:
        front.serve(message(FORGET_IN.pack(1), Opcode.FORGET, 0, file.ino))
    assert removed[0].ino not in tree.inodes  # never two
    front.serve(message(body, opcode, 9, ROOT_INO))
    assert there_at_reply == [not done_before]
    assert removed[-1].ino not in tree.inodes


def test_a_file_without_a_name_is_released_and_kept_by_the_lookup_alone(mount: Mount) -> None:
    mount.serve(Opcode.TMPFILE, CREATE_IN.pack(os.O_RDWR, 0o644, 0, 0) + b"/\0", ROOT_INO)
    (made,) = (ino for ino, inode in mount.tree.inodes.items() if not inode.nlink)
    mount.serve(Opcode.RELEASE, RELEASE_IN.pack(0, os.O_RDWR, 0, 0), made)
    assert mount.tree.inodes[made].refs == 1
    mount.serve(Opcode.FORGET, FORGET_IN.pack(1), made)
    assert made not in mount.tree.inodes


PIECES = [b"file\0", b"new\0", b".\0", b"..\0", bytes(8), b"\1" + bytes(7)]
opcodes = st.one_of(st.sampled_from(list(Opcode)), st.integers(0, (1 << 32) - 1))
words = st.integers(0, 40).map(lambda n: n.to_bytes(4, "little"))
bodies = st.one_of(
    st.binary(max_size=128),
    st.lists(words, max_size=24).map(b"".join),
    st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join),
)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(st.lists(st.tuples(opcodes, st.integers(0, 4), bodies), min_size=1, max_size=30))
def test_whatever_the_kernel_says_is_answered_once(requests: list[tuple[int, int, bytes]]) -> None:
    mount = Mount()
    for unique, (opcode, nodeid, body) in enumerate(requests, 1):
        outcome = mount.serve(opcode, body, nodeid, unique)
        answered = [told for told in mount.kernel.replies if told[0] == unique]
        silent = outcome is Outcome.CARRIED or (opcode in NO_REPLY and not answered)
        assert len(answered) == (not silent)
    mount.engine.notices.close()


def write_in(data: bytes, flags: int, offset: int = 0) -> bytes:
    return WRITE_IN.pack(0, offset, len(data), flags, 0, 0, 0) + data


def test_a_refused_write_out_of_the_cache_is_remembered_and_a_direct_one_is_not() -> None:
    for flags, remembered in ((WRITE_CACHE, True), (WRITE_LOCKOWNER, False)):
        mount = Mount(frames=32)
        request = write_in(bytes(1 << 19), flags)
        mount.serve(Opcode.WRITE, request, mount.file.ino)
        assert mount.kernel.replies[-1][1] == errno.ENOSPC
        assert bool(mount.tree.data.refused.files()) == remembered


@pytest.mark.parametrize("why", [RuntimeError("no thread"), posix_error(errno.EAGAIN), KeyError()])
def test_a_cached_write_is_remembered_if_no_room_can_be_made_for_it(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, why: Exception
) -> None:
    """Nobody but the tree knew of it, if its program had ended: the next save was called complete."""
    tasks: list[Callable[[], Awaitable[None]]] = []
    front, seam = mount.engine.front, cast(Any, mount.kernel)
    front.open(seam, lambda task, *what: tasks.append(lambda: task(*what)))

    async def fail() -> bool:
        raise why

    def write(*args: Any, **kwargs: Any) -> int:
        raise FramesHeld

    monkeypatch.setattr(front, "_make_room", fail)
    monkeypatch.setattr(mount.tree, "write", write)
    mount.serve(Opcode.WRITE, write_in(b"data", WRITE_CACHE), mount.file.ino, unique=7)
    assert not mount.kernel.replies
    for task in tasks:
        trio.run(task)
    assert mount.kernel.replies[-1] == (7, errno.ENOSPC, b"")
    assert mount.tree.data.refused.files() == [mount.file]
    assert mount.internal_errors == isinstance(why, KeyError)


def test_the_part_of_a_refused_write_that_was_taken_is_not_missed() -> None:
    """Its first pages are there already, and there is no room for more: who cuts the rest off has it all."""
    mount = Mount(frames=32)
    file = mount.tree.file(mount.file.ino)
    mount.tree.write(file, 0, b"a" * 4 * PAGE_SIZE)
    written = b"b" * 32 * PAGE_SIZE
    mount.serve(Opcode.WRITE, write_in(written, WRITE_CACHE), mount.file.ino)
    assert mount.kernel.replies[-1][1] == errno.ENOSPC
    taken = bytes(mount.tree.data.read(file, 0, len(written)))
    assert taken == written[: len(taken)]
    assert 4 * PAGE_SIZE <= len(taken) < len(written)
    assert mount.tree.data.refused.files()
    mount.tree.setattr(file, Changes(size=len(taken)))
    assert not mount.tree.data.refused.files()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_the_part_before_the_medium_failed_is_not_missed(number: int) -> None:
    """The file system of the image is full, or its disk fails, while there are free frames enough."""
    mount = Mount()
    file = mount.tree.file(mount.file.ino)
    mount.tree.write(file, 0, b"a" * 4 * PAGE_SIZE)
    written = b"b" * 16 * PAGE_SIZE
    with watched(mount.pram).failing(1, error=number):
        mount.serve(Opcode.WRITE, write_in(written, WRITE_CACHE), file.ino)
    assert mount.kernel.replies[-1][1] == number
    assert bytes(mount.tree.data.read(file, 0, 1 << 20)) == written[: 4 * PAGE_SIZE]
    assert mount.tree.data.refused.files()
    mount.tree.setattr(file, Changes(size=4 * PAGE_SIZE))
    assert not mount.tree.data.refused.files()


def test_a_cached_write_that_a_flag_forbids_is_refused_and_not_missed(mount: Mount) -> None:
    mount.file.flags = IMMUTABLE
    mount.serve(Opcode.WRITE, write_in(b"x", WRITE_CACHE), mount.file.ino)
    assert mount.kernel.replies[-1][1] == errno.EPERM
    assert not mount.tree.data.refused.files()


def test_much_that_is_shared_is_copied_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that others are served meanwhile."""
    mount = Mount(frames=8192)
    monkeypatch.setattr(mount.engine.front, "_spawn", lambda *task: tasks.append(task))
    tasks: list[Any] = []
    tree, pages = mount.tree, 2500
    file = tree.file(mount.file.ino)
    copy = tree.file(tree.create(tree.root, b"c", stat.S_IFREG | 0o644, USER).ino)
    tree.write(file, 0, b"x" * pages * PAGE_SIZE)
    while (done := copy.length) < file.length:
        tree.copy_range(file, done, copy, done, file.length)
    free = tree.arena.table.unused
    mount.serve(
        Opcode.FALLOCATE, FALLOCATE_IN.pack(0, 100, pages * PAGE_SIZE - 200, 0, 0), copy.ino
    )
    for step, (task, *args) in enumerate(tasks, 1):
        assert not mount.kernel.replies
        assert free - tree.arena.table.unused == 1024 * step
        trio.run(task, *args)
    assert mount.kernel.replies == [(5, 0, b"")]
    assert free - tree.arena.table.unused == pages


def test_a_hole_is_told_at_once_where_the_kernel_has_nothing_of_it(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without OPEN a writer may have data there that the kernel has not handed over."""
    asked: list[tuple[int, int]] = []

    def seek(offset: int, whence: int, *, has_nothing: bool) -> list[tuple[int, bytes]]:
        def note(ino: int, start: int, size: int) -> bool:
            asked.append((start, size))
            return has_nothing

        monkeypatch.setattr(mount.engine.notices, "has_nothing", note)
        mount.kernel.replies.clear()
        mount.serve(Opcode.LSEEK, LSEEK_IN.pack(0, offset, whence, 0), mount.file.ino)
        return [(number, payload) for _, number, payload in mount.kernel.replies]

    mount.serve(Opcode.WRITE, write_in(b"x", WRITE_CACHE, offset=8192), mount.file.ino)
    assert seek(0, os.SEEK_DATA, has_nothing=True) == [(0, LSEEK_OUT.pack(8192))]
    assert seek(0, os.SEEK_DATA, has_nothing=False) == [], "a task waits for the kernel"
    assert seek(8192, os.SEEK_HOLE, has_nothing=True) == [(0, LSEEK_OUT.pack(8193))]
    assert seek(8193, os.SEEK_DATA, has_nothing=True) == [(errno.ENXIO, b"")]
    assert asked == [(0, 8192), (0, 8192), (8193, 0), (8193, 0)]
    assert seek(8192, os.SEEK_DATA, has_nothing=False) == [(0, LSEEK_OUT.pack(8192))]


def test_a_write_that_may_not_keep_rights_drops_them(mount: Mount) -> None:
    for flags, mode in ((WRITE_LOCKOWNER, 0o104755), (WRITE_KILL_SUIDGID, 0o100755)):
        mount.file.mode = 0o104755
        mount.serve(Opcode.WRITE, write_in(b"x", flags), mount.file.ino)
        assert mount.kernel.replies[-1] == (5, 0, WRITE_OUT.pack(1, 0))
        assert mount.file.mode == mode
