"""A fuzzer of the front: requests that no kernel would make, through a socket in place of /dev/fuse.

Whatever comes, each request is answered once, the loop goes on, no line is logged twice, no exception is
unexpected, and the tree can be saved and loaded. `scripts/test --long tests/unit/test_hostile_requests.py`
feeds it 250 times as much.
"""

import errno
import logging
import random
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio

from pramfs.control.status import MountStatus
from pramfs.fuse import protocol as p
from pramfs.fuse.front import Outcome
from pramfs.fuse.protocol import IN_HEADER, OUT_HEADER, REQUEST_MAX_BYTES, Opcode
from pramfs.fuse.seam import Seam
from pramfs.fuse.snapshot_view import FIRST_INO
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from tests.conftest import LONG
from tests.support.image_audit import check_pram
from tests.support.tree_volume import NAME, new_tree
from tests.support.watched_image import reopen
from tests.unit.test_front import Mount
from tests.unit.test_status import STATUS

NO_REPLY = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
FRAMES = 256
REQUESTS = 300
READ_MAX_BYTES = 64 << 10  # what fits into the socket

# What each request begins with, and how many names follow.
SHAPES: dict[Opcode, tuple[struct.Struct | None, int]] = {
    Opcode.LOOKUP: (None, 1),
    Opcode.FORGET: (p.FORGET_IN, 0),
    Opcode.BATCH_FORGET: (p.BATCH_FORGET_IN, 0),
    Opcode.GETATTR: (p.STATX_IN, 0),
    Opcode.STATX: (p.STATX_IN, 0),
    Opcode.SETATTR: (p.SETATTR_IN, 0),
    Opcode.READLINK: (None, 0),
    Opcode.MKNOD: (p.MKNOD_IN, 1),
    Opcode.MKDIR: (p.MKDIR_IN, 1),
    Opcode.SYMLINK: (None, 2),
    Opcode.LINK: (p.LINK_IN, 1),
    Opcode.UNLINK: (None, 1),
    Opcode.RMDIR: (None, 1),
    Opcode.RENAME: (p.RENAME_IN, 2),
    Opcode.RENAME2: (p.RENAME2_IN, 2),
    Opcode.OPEN: (p.OPEN_IN, 0),
    Opcode.READ: (p.READ_IN, 0),
    Opcode.WRITE: (p.WRITE_IN, 0),
    Opcode.RELEASE: (p.RELEASE_IN, 0),
    Opcode.GETXATTR: (p.GETXATTR_IN, 1),
    Opcode.SETXATTR: (p.SETXATTR_IN, 1),
    Opcode.FSYNC: (p.OPEN_IN, 0),
    Opcode.FSYNCDIR: (p.OPEN_IN, 0),
    Opcode.OPENDIR: (p.OPEN_IN, 0),
    Opcode.READDIRPLUS: (p.READ_IN, 0),
    Opcode.RELEASEDIR: (p.RELEASE_IN, 0),
    Opcode.CREATE: (p.CREATE_IN, 1),
    Opcode.TMPFILE: (p.CREATE_IN, 1),
    Opcode.INTERRUPT: (p.INTERRUPT_IN, 0),
    Opcode.IOCTL: (p.IOCTL_IN, 0),
    Opcode.FALLOCATE: (p.FALLOCATE_IN, 0),
    Opcode.LSEEK: (p.LSEEK_IN, 0),
    Opcode.COPY_FILE_RANGE: (p.COPY_FILE_RANGE_IN, 0),
    Opcode.COPY_FILE_RANGE_64: (p.COPY_FILE_RANGE_IN, 0),
}

# The directory of snapshots, the root of one and what is in it, and what there is not.
SNAPSHOT = FIRST_INO + (1 << 40)
IN_SNAPSHOTS = (
    FIRST_INO,
    SNAPSHOT,
    SNAPSHOT,
    SNAPSHOT + 1,
    SNAPSHOT + 1,
    SNAPSHOT + 9,
    FIRST_INO + 1,
)

# Where pages and integers end, modes of files, commands.
EDGES = (
    *(4095, 4096, 4097, 1 << 14, 0o40755, 0o100644, 0o120777, 0o176666),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1),
    *(p.FS_IOC_GETFLAGS, p.FS_IOC_SETFLAGS, p.FS_IOC_FSGETXATTR, p.FS_IOC_FSSETXATTR),
)
NAMES = (
    *(b"file", b"file", b"a", b"b", b"c", b".", b"..", b"", b"a/b", b"\xff" * 255, b"n" * 256),
    *(
        b".snapshots",
        b"one",
        b"user.a",
        b"trusted.b",
        b"user.pramfs.save",
        b"user.pramfs.status",
        b"security.capability",
    ),
)
DATA = (b"", b"x", bytes(28), b"\x10" * 28, b"y" * 5000, bytes(16) * 3)
ROOT, FILE = 1, 2


class Fuzzer:
    """Makes requests: most are well formed with odd fields, others are cut off, too long, or noise."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def request(self) -> tuple[int, int, bytes]:
        """Return an opcode, an inode number, a body."""
        rng = self._rng
        opcode: int = rng.choice(list(SHAPES))
        shape, names = SHAPES[Opcode(opcode)]
        body = self._body(Opcode(opcode), shape) + b"".join(
            rng.choice(NAMES) + b"\0" for _ in range(names)
        )
        nodeid = self._node(ROOT if names else FILE)
        kind = rng.randrange(20)
        if kind == 0:
            body = body[: rng.randrange(len(body) + 1)]
        elif kind == 1:
            body += rng.randbytes(rng.randrange(64))
        elif kind == 2:
            opcode = rng.choice((rng.randrange(64), rng.getrandbits(32)))
        elif kind == 3:
            body = rng.randbytes(rng.randrange(128))
        return opcode, nodeid, body

    def chance(self, of: int) -> bool:
        """Return True once in so many times."""
        return not self._rng.randrange(of)

    def _body(self, opcode: Opcode, shape: struct.Struct | None) -> bytes:
        """Return the struct, and the data behind it."""
        if shape is None:
            return b""
        fields = [self._field(letter) for letter in re.sub(r"[^A-Za-z]", "", shape.format)]
        data = b""
        if opcode in (Opcode.WRITE, Opcode.IOCTL, Opcode.BATCH_FORGET):
            data = self._rng.choice(DATA)
        if opcode is Opcode.WRITE:
            fields[2] = len(data)
        elif opcode is Opcode.IOCTL and self._rng.randrange(4):
            fields[2] = self._rng.choice(EDGES[-4:])
        elif opcode is Opcode.BATCH_FORGET:
            fields[0] = len(data) // p.FORGET_ONE.size
        elif shape is p.READ_IN:
            fields[2] %= READ_MAX_BYTES
        elif shape is p.COPY_FILE_RANGE_IN:
            fields[2] = self._node(FILE)
        elif shape in (p.RENAME_IN, p.RENAME2_IN):
            fields[0] = self._node(ROOT)
        return shape.pack(*fields) + data

    def _field(self, letter: str) -> int:
        rng = self._rng
        kind = rng.randrange(8)
        if kind < 5:
            number = rng.choice((0, 0, 1, 2, 3, rng.randrange(9), 4096 * rng.randrange(20)))
        elif kind < 7:
            number = rng.choice(EDGES)
        else:
            number = rng.getrandbits(64)
        packed = number.to_bytes(8, "little")[: struct.calcsize("=" + letter)]
        return int.from_bytes(packed, "little", signed=letter.islower())

    def _node(self, usual: int) -> int:
        """Return an inode number: the usual one, one that may have been made, or any."""
        kind = self._rng.randrange(8)
        if kind == 6:
            return self._rng.choice(IN_SNAPSHOTS)
        return usual if kind < 4 else self._rng.randrange(9) if kind < 6 else self._field("Q")


class FakeDevice(Mount):
    """All handlers at a real seam, with a socket where /dev/fuse would be."""

    def __init__(self) -> None:
        super().__init__(FRAMES)
        self._kernel, self._session = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._tasks: list[Callable[[], Awaitable[None]]] = []
        self._seam = Seam(self._session.fileno())
        self.engine.front.open(self._seam, self._spawn)
        self.engine.notices.open(self._seam, lambda *task: None)
        Saver(self.pram, NAME, self.tree).save(
            final=False, progress=lambda pages: None, snapshot=f"{NAME}@one"
        )
        self.engine.snapshots.snapshot(b"one").refs += 1  # looked up

    def _status(self) -> MountStatus:
        return STATUS

    def _spawn(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        self._tasks.append(lambda: task(*args))

    def close(self) -> None:
        self._seam.close()
        self._session.close()
        self._kernel.close()

    def ask(self, message: bytes) -> Outcome:
        """Send a message and have it served, perhaps by a task that waits."""
        self._kernel.send(message)
        outcome = self.engine.front.serve_next()
        if outcome is Outcome.CARRIED:
            assert self._session.recv(REQUEST_MAX_BYTES) == message
        return outcome

    def run_tasks(self) -> None:
        """Let the tasks that wait go on to their ends."""
        while self._tasks:
            trio.run(self._tasks.pop())

    def replies(self) -> Iterator[tuple[int, int]]:
        """Yield the unique and the errno of each reply."""
        while True:
            try:
                told = self._kernel.recv(2 * REQUEST_MAX_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            length, error, unique = OUT_HEADER.unpack_from(told)
            assert length == len(told)
            if unique:  # else it is a notice
                yield unique, -error

    def check(self) -> None:
        """The tree can be saved and is loaded again, and every frame has one owner."""
        Saver(self.pram, NAME, self.tree).save(final=True, progress=lambda pages: None)
        check_pram(self.pram, self.tree, orphans=True)
        saved = {ino: inode.size for ino, inode in self.tree.inodes.items() if inode.nlink}
        pram = reopen(self.pram, arena="image")
        loaded = new_tree(pram)
        load_tree(pram, NAME, loaded)
        assert {ino: inode.size for ino, inode in loaded.inodes.items()} == saved


class Lines(logging.Handler):
    """The lines that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def logged() -> Iterator[Lines]:
    lines = Lines()
    logger = logging.getLogger("pramfs")
    logger.addHandler(lines)
    yield lines
    logger.removeHandler(lines)


def test_a_device_without_a_request_is_no_error_and_is_asked_again(logged: Lines) -> None:
    device = FakeDevice()
    try:
        assert device.engine.front.serve_next() is Outcome.NOTHING
        lookup = b"none\0"
        header = IN_HEADER.pack(IN_HEADER.size + len(lookup), Opcode.LOOKUP, 7, 1, 0, 0, 1)
        assert device.ask(header + lookup) is Outcome.ANSWERED
        assert list(device.replies()) == [(7, 0)]
        assert device.engine.front.serve_next() is Outcome.NOTHING
    finally:
        device.close()
    assert logged.lines == []


@pytest.mark.parametrize("seed", range(5000 if LONG else 20))
def test_no_request_breaks_the_loop_or_the_tree(logged: Lines, seed: int) -> None:
    fuzzer = Fuzzer(seed)
    replies: list[tuple[int, int]] = []
    silent = set()  # requests without a reply of the front
    unanswered = set()  # those that get one only if they are odd
    device = FakeDevice()
    try:
        for unique in range(1, REQUESTS + 1):
            opcode, nodeid, body = fuzzer.request()
            size = IN_HEADER.size + len(body) + (1 if fuzzer.chance(50) else 0)
            header = IN_HEADER.pack(size, opcode, unique, nodeid, 1000, 1001, 1)
            if device.ask(header + body) is Outcome.CARRIED:
                silent.add(unique)
            if fuzzer.chance(3):
                device.run_tasks()
            if fuzzer.chance(30):
                device.engine.front.catch_up()
            replies += device.replies()
            if opcode in NO_REPLY:
                unanswered.add(unique)
        device.run_tasks()
        device.engine.front.catch_up()
        replies += device.replies()
        silent |= unanswered - dict(replies).keys()
        device.check()
    finally:
        device.close()
    assert sorted(unique for unique, _ in replies) == sorted({*range(1, REQUESTS + 1)} - silent)
    assert {number for _, number in replies} <= {0, *errno.errorcode}
    assert not device.internal_errors, logged.lines
    assert len(set(logged.lines)) == len(logged.lines)
