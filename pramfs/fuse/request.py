"""One request of the kernel, taken apart, and the replies to it. Independent of what is asked."""

from struct import Struct, error
from typing import Any, NamedTuple

from pramfs.fuse.protocol import IN_HEADER, OUT_HEADER
from pramfs.storage.piped import Piped

_BODY_AT = IN_HEADER.size


class OddRequestError(Exception):
    """A request that is not as <linux/fuse.h> has it."""


class Request:
    """A request; `message` is all of it, in a buffer that the next request overwrites.

    `length`: of the message, by its header. `may_wait`: there may be room after a save. `taken`: bytes of a
    write that were written before it had to wait for room; `so_far`: the reply that says so. `is_withdrawn`:
    the caller has got a signal, and waits no more. `piped`: whole pages to write, which follow the message
    and are still in a pipe.
    """

    # What few requests change belongs to the class until then.
    may_wait = True
    taken = 0
    so_far = b""
    is_withdrawn = False
    piped: Piped | None = None

    def __init__(self, message: memoryview) -> None:
        """Take a message apart that is at least as long as a header."""
        self.message = message
        (
            self.length,
            self.opcode,
            self.unique,
            self.nodeid,
            self.uid,
            self.gid,
            self.pid,
        ) = IN_HEADER.unpack_from(message)

    @property
    def body(self) -> memoryview:
        """What follows the header."""
        return self.message[_BODY_AT:]

    def keep(self) -> None:
        """Copy the message, because the request is answered after the next one is read."""
        message = bytes(self.message)
        if self.piped is not None:
            rest = self.piped.read()
            message += bytes(len(self.piped) - len(rest)) + rest  # what was taken is written
            self.piped = None
        self.message = memoryview(message)

    def fields(self, struct: Struct) -> tuple[Any, ...]:
        """Return the fields of the struct that the body begins with. Raises OddRequestError."""
        try:
            return struct.unpack_from(self.message, _BODY_AT)
        except error:
            raise OddRequestError(
                f"{len(self.body)} bytes where {struct.size} are needed"
            ) from None

    def name(self, struct: Struct | None = None) -> bytes:
        """Return the name behind that struct. Raises OddRequestError."""
        at = _BODY_AT + struct.size if struct else _BODY_AT
        name, end, _ = self.message[at:].tobytes().partition(b"\0")
        if not end:
            raise OddRequestError("a name without an end")
        return name

    def names(self, count: int, struct: Struct | None = None) -> list[bytes]:
        """Return the names behind that struct. Raises OddRequestError."""
        at = _BODY_AT + struct.size if struct else _BODY_AT
        names = self.message[at:].tobytes().split(b"\0", count)
        if len(names) <= count:
            raise OddRequestError("a name without an end")
        return names[:count]


def reply(unique: int, payload: bytes = b"") -> bytes:
    """Return the message that answers a request."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(payload), 0, unique) + payload


class Refusal(NamedTuple):
    """An errno that answers a request as an OSError does, with less work."""

    number: int


def error_reply(unique: int, number: int) -> bytes:
    """Return the message that answers a request with an errno."""
    return OUT_HEADER.pack(OUT_HEADER.size, -number, unique)
