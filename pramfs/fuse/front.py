"""The front on /dev/fuse: reads each request, and answers it or has pyfuse3 do so.

Which opcode is answered where is in docs/design.md. Whatever a handler raises, the mount goes on. A request
that must wait (for room, for a notice) is answered by a task of its own, and others are served meanwhile.
"""

import contextlib
import enum
import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import trio

from pramfs.errors import FramesHeld, words_of
from pramfs.fuse.failures import errno_of
from pramfs.fuse.protocol import (
    GETATTR_IN,
    IN_HEADER,
    INTERRUPT_IN,
    OUT_HEADER,
    REQUEST_MAX_BYTES,
    WRITE_CACHE,
    WRITE_IN,
    Opcode,
)
from pramfs.fuse.request import OddRequestError, Refusal, Request, error_reply, reply
from pramfs.fuse.seam import Seam
from pramfs.storage.layout import PAGE_SIZE
from pramfs.storage.piped import Pipe, Piped
from pramfs.tree.inodes import INO_MAX

log = logging.getLogger("pramfs")

# The most saves that one request waits for. There may be many of them that write where room is reserved, and
# a save gives back frames for 128 pages (`tree.space`): each of them must get its turn, several times.
SAVES_FOR_ROOM = 64

_WITHDRAWN = (errno.ENOENT, errno.EINTR)  # from reading: the caller was killed before

_GETATTR = int(Opcode.GETATTR)
# Of these the kernel has as many under way as there are; but of direct writes, which count as well, few.
_UNWAITED = frozenset(map(int, (Opcode.WRITE, Opcode.RELEASE, Opcode.RELEASEDIR)))
_IN_HEADER_BYTES = IN_HEADER.size
_OUT_HEADER_BYTES = OUT_HEADER.size
_WRITE_HEAD_BYTES = _IN_HEADER_BYTES + WRITE_IN.size
# From so many bytes on, pages are moved with less work than they are copied twice.
_LARGE_BYTES = 128 << 10

Later = Callable[[], Awaitable[bytes]]


class LongWait(NamedTuple):
    """What may take long to wait for: meanwhile the loop polls for requests as ever."""

    later: Later


class Again(NamedTuple):
    """What to wait for, perhaps long, before the handler is called once more."""

    first: Callable[[], Awaitable[None]]


_Other = memoryview | Refusal | Later | LongWait | Again | None
Answer = bytes | _Other
Handler = Callable[[Request], Answer]
"""Returns the reply, what to wait for until there is one, or None where the kernel waits for none."""


class Outcome(enum.Enum):
    """What became of the attempt to read a request."""

    ANSWERED = enum.auto()  # or will be
    CARRIED = enum.auto()  # to pyfuse3
    NOTHING = enum.auto()  # there is none at present
    UNMOUNTED = enum.auto()


# Names of their own, because in Python 3.11 it takes as long as a call to find a member in its class.
ANSWERED, CARRIED, NOTHING, UNMOUNTED = Outcome


class Front:
    """Answers requests by opcode.

    `of_snapshots` are the handlers of requests for inodes in snapshots. `carried`: what pyfuse3 answers;
    `unsupported`: what is answered ENOSYS without a word. `make_room` waits
    for a save that may have made room, and returns whether there was one. `note_change` is called before
    each reply, until it returns True.
    """

    def __init__(
        self,
        handlers: Mapping[Opcode, Handler],
        of_snapshots: Mapping[Opcode, Handler],
        carried: Set[Opcode],
        unsupported: Set[Opcode],
        *,
        make_room: Callable[[], Awaitable[bool]],
        note_change: Callable[[], bool],
        on_internal_error: Callable[[], None],
    ) -> None:
        self._handlers: dict[int, Handler] = {int(op): handlers[op] for op in handlers}
        self._handlers[int(Opcode.INTERRUPT)] = self._interrupt
        self._of_snapshots = {int(op): of_snapshots[op] for op in of_snapshots}
        for table in (self._handlers, self._of_snapshots):
            if Opcode.FORGET in table:
                table[int(Opcode.FORGET)] = functools.partial(self._put_off, table[Opcode.FORGET])
        self._carried = frozenset(int(opcode) for opcode in carried)
        self._unsupported = frozenset(int(opcode) for opcode in unsupported)
        self._make_room = make_room
        self._note_change: Callable[[], bool] | None = note_change
        self._on_internal_error = on_internal_error
        self._buffer = bytearray(REQUEST_MAX_BYTES)
        self._view = memoryview(self._buffer)
        self._waiting: dict[int, Request] = {}  # by `unique`
        # Of each request that waits for room: it is set when that is over.
        self._short_of_room: set[trio.Event] = set()
        self._told: set[int] = set()
        self._forget: tuple[Handler, Request] | None = None  # that has been put off
        self._expects_pages = False
        self.awaited = 0  # tasks that wait for something that takes no longer than a request
        self._needed = 0  # times that `needed` is entered
        # Requests so far of the kinds that the kernel makes without waiting for earlier ones.
        self.unwaited = 0

    def open(self, seam: Seam, spawn: Callable[..., None], pipe: Pipe | None = None) -> None:
        """Begin to serve at that seam; `spawn` starts a task, and large writes come through the pipe."""
        self._seam = seam
        self._tell = seam.tell
        self._read_into = seam.read_into
        self._pipe = pipe
        self._kernel = seam.kernel
        self._spawn = spawn

    def serve_next(self) -> Outcome:
        """Read a request, if there is one, and answer it or carry it on."""
        if self._expects_pages and self._pipe is not None:
            return self._serve_piped(self._pipe)
        try:
            size = self._read_into(self._buffer)
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return UNMOUNTED
            if exc.errno in _WITHDRAWN:
                return ANSWERED
            raise
        if size is None:
            return NOTHING
        if size >= _LARGE_BYTES:
            self._expects_pages = _has_cached_pages(self._view)
        return self.serve(self._view[:size])

    def _serve_piped(self, pipe: Pipe) -> Outcome:
        """Do the same as `serve_next` when pages to write are likely to come: they stay in the pipe."""
        try:
            size = pipe.fill(self._kernel)
        except BlockingIOError:
            return NOTHING
        except OSError:
            self._expects_pages = False
            return ANSWERED  # reading tells what it is
        head = self._view[:_WRITE_HEAD_BYTES]
        pipe.read_into(head)
        self._expects_pages = size >= _LARGE_BYTES and _has_cached_pages(self._view)
        if self._expects_pages and not (size - _WRITE_HEAD_BYTES) % PAGE_SIZE:
            outcome = self.serve(head, Piped(pipe, pipe.left))
            pipe.read_into(self._view)  # what nobody wanted
            return outcome
        pipe.read_into(self._view[_WRITE_HEAD_BYTES:])
        return self.serve(self._view[:size])

    def serve(self, message: memoryview, piped: Piped | None = None) -> Outcome:
        """Answer a request or carry it on; `piped` follows the message."""
        size = len(message)
        if size < _IN_HEADER_BYTES:
            self._tell_once(0, f"{size} bytes")  # there is nobody to answer
            return ANSWERED
        request = Request(message)
        if piped is not None:
            request.piped = piped
            size += len(piped)
        if request.length != size:
            self._tell_once(request.opcode, f"{size} bytes of {request.length}")
            self._tell(error_reply(request.unique, errno.EIO))
            return ANSWERED
        handlers = self._handlers if request.nodeid <= INO_MAX else self._of_snapshots
        handler = handlers.get(request.opcode)
        if handler is None:
            return self._serve_other(request, message)
        self.unwaited += request.opcode in _UNWAITED
        forget = self._forget
        if forget is not None and not _asks_of_a_name(request):
            self.catch_up()
            forget = None
        if not self._attempt(request, handler):
            self._wait_for_room(request, handler)
        if forget is not None:
            self.catch_up()
        return ANSWERED

    def _serve_other(self, request: Request, message: memoryview) -> Outcome:
        if request.opcode in self._carried:
            self._seam.carry(message)
            return CARRIED
        if request.opcode not in self._unsupported:
            self._tell_once(request.opcode, "unknown")
        self._tell(error_reply(request.unique, errno.ENOSYS))
        return ANSWERED

    # --- FORGET ----------------------------------------------------------------------------------

    def _put_off(self, handler: Handler, request: Request) -> None:
        """Put a FORGET off, for which nobody waits, until the next request.

        Where many files are removed, that is the GETATTR of the directory, which is answered first.
        """
        request.keep()
        self._forget = handler, request

    def catch_up(self) -> None:
        """Do what has been put off."""
        if self._forget is not None:
            handler, request = self._forget
            self._forget = None
            self._attempt(request, handler)

    # --- replies ---------------------------------------------------------------------------------

    def _attempt(self, request: Request, handler: Handler) -> bool:
        """Call the handler and reply; return False if the request must wait for room."""
        try:
            answer = handler(request)
            if self._note_change is not None and self._note_change():
                self._note_change = None
        except FramesHeld as exc:
            if request.may_wait:
                return False
            self._refuse(request, exc, handler)
        except Exception as exc:  # noqa: BLE001 - the mount goes on
            self._refuse(request, exc, handler)
        else:
            if isinstance(answer, bytes):  # as nearly all are
                header = OUT_HEADER.pack(_OUT_HEADER_BYTES + len(answer), 0, request.unique)
                self._tell(header + answer)
            else:
                self._reply(request, answer, handler)
        return True

    def _reply(self, request: Request, answer: _Other, handler: Handler) -> None:
        if answer is None:
            return
        unique = request.unique
        if isinstance(answer, memoryview):
            self._tell(OUT_HEADER.pack(_OUT_HEADER_BYTES + len(answer), 0, unique), answer)
        elif isinstance(answer, Refusal):
            self._tell(error_reply(unique, answer.number))
        elif isinstance(answer, LongWait):
            self._wait(request, self._answer_later, answer.later)
        elif isinstance(answer, Again):
            self._wait(request, self._call_again, (answer, handler))
        else:
            self.awaited += 1
            self._wait(request, self._answer_soon, answer)

    def _refuse(self, request: Request, exc: Exception, handler: Any) -> None:
        """Reply with the errno of an exception."""
        if isinstance(exc, OddRequestError):
            self._tell_once(request.opcode, str(exc))
            number = errno.EIO
        else:
            number = errno_of(exc, getattr(handler, "__name__", "a call"), self._on_internal_error)
        self._tell(error_reply(request.unique, number))

    def _tell_once(self, opcode: int, what: str) -> None:
        """Log what is odd about the first odd request with this opcode: more may come, and often."""
        if opcode not in self._told:
            self._told.add(opcode)
            log.warning("odd request of the kernel, opcode %d: %s", opcode, what)

    # --- those that wait -------------------------------------------------------------------------

    def _wait(self, request: Request, task: Callable[..., Awaitable[None]], what: object) -> None:
        request.keep()
        self._waiting[request.unique] = request
        self._spawn(task, request, what)

    @contextlib.contextmanager
    def needed(self) -> Iterator[None]:
        """Have requests answered in the block, because it waits for somebody who makes some."""
        self._needed += 1
        try:
            yield
        finally:
            self._needed -= 1

    @property
    def is_needed(self) -> bool:
        """Whether somebody waits for the kernel, which may have to make requests first."""
        return bool(self._needed or self.awaited)

    @property
    def short_of_room(self) -> int:
        """How many requests wait for room."""
        return len(self._short_of_room)

    async def settled(self) -> None:
        """Wait until no request that waits for room now does so any more."""
        for ended in list(self._short_of_room):
            await ended.wait()

    def _wait_for_room(self, request: Request, handler: Handler) -> None:
        ended = trio.Event()
        self._short_of_room.add(ended)
        self._wait(request, self._until_room, (handler, ended))

    async def _until_room(self, request: Request, what: tuple[Handler, trio.Event]) -> None:
        handler, ended = what
        try:
            await self._once_there_is_room(request, handler)
        finally:
            self._short_of_room.remove(ended)
            ended.set()

    async def _once_there_is_room(self, request: Request, handler: Handler) -> None:
        """Call the handler after each save that may have made room; ENOSPC when there is none."""
        unique = request.unique
        for attempt in range(SAVES_FOR_ROOM + 1):
            request.may_wait = attempt < SAVES_FOR_ROOM and await self._is_room_made()
            # While the handler is called it does not wait; then it may, for something else.
            if self._waiting.pop(unique, None) is None:
                return  # interrupted
            if self._attempt(request, handler):
                return
            self._waiting[unique] = request

    async def _is_room_made(self) -> bool:
        """Wait for room; return whether there may be some. After an error there is none."""
        try:
            return await self._make_room()
        except (OSError, RuntimeError) as exc:  # no process or thread can be started at present
            log.error("no room can be made: %s", words_of(exc))
        except Exception as exc:  # noqa: BLE001 - as above
            errno_of(exc, "a wait for room", self._on_internal_error)
        return False

    async def _call_again(self, request: Request, what: tuple[Again, Handler]) -> None:
        again, handler = what
        error = None
        try:
            await again.first()
        except Exception as exc:  # noqa: BLE001 - as above
            error = exc
        if self._waiting.pop(request.unique, None) is None:
            return  # interrupted
        if error is not None:
            self._refuse(request, error, handler)
        elif not self._attempt(request, handler):
            self._wait_for_room(request, handler)

    async def _answer_soon(self, request: Request, later: Later) -> None:
        try:
            await self._answer_later(request, later)
        finally:
            self.awaited -= 1

    async def _answer_later(self, request: Request, later: Later) -> None:
        try:
            answer = await later()
            if request.unique in self._waiting:
                self._tell(reply(request.unique, answer))
        except Exception as exc:  # noqa: BLE001 - as above
            self._refuse(request, exc, later)
        finally:
            self._waiting.pop(request.unique, None)

    def _interrupt(self, request: Request) -> None:
        """End the wait of a request, whose caller has got a signal."""
        (unique,) = request.fields(INTERRUPT_IN)
        waiting = self._waiting.pop(unique, None)
        if waiting is None:
            return  # it has been answered, or pyfuse3 has it, which ends no wait
        waiting.is_withdrawn = True
        if waiting.so_far:
            self._tell(reply(unique, waiting.so_far))
        else:
            self._tell(error_reply(unique, errno.EINTR))


def _asks_of_a_name(request: Request) -> bool:
    """Return whether a request only asks for attributes. That of an open file asks for room, too."""
    return request.opcode == _GETATTR and not any(request.body[: GETATTR_IN.size])


def _has_cached_pages(message: memoryview) -> bool:
    """Return whether a large request writes whole pages from the page cache. Others are not worth a pipe."""
    _, opcode, *_ = IN_HEADER.unpack_from(message)
    _, offset, _, flags, *_ = WRITE_IN.unpack_from(message, IN_HEADER.size)
    return opcode == Opcode.WRITE and bool(flags & WRITE_CACHE) and not offset % PAGE_SIZE
