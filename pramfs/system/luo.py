"""Linux's Live Update Orchestrator, which carries memory files over a kexec; see <linux/liveupdate.h>.

A session holds what was preserved in it as long as its descriptor is open; the last one to be closed gives
it up. In the new kernel a session can be retrieved once, and a file in it as well.
"""

import errno
import fcntl
import os
import struct
from pathlib import Path

from pramfs.errors import LiveUpdateRefused

DEVICE = Path("/dev/liveupdate")
WORDS = ("kho=on", "liveupdate=on")  # that both kernels need on their command lines

_COMMAND_LINE = Path("/proc/cmdline")
_NAME_MAX = 63

# All are _IO(0xBA, number), and each struct begins with its own size.
_CREATE_SESSION = 0xBA00
_RETRIEVE_SESSION = 0xBA01
_PRESERVE_FD = 0xBA40
_RETRIEVE_FD = 0xBA41
_FINISH = 0xBA42

_SESSION = struct.Struct("=Ii64s")  # size, descriptor, name
_FILE = struct.Struct("=IiQ")  # size, descriptor, token
_END = struct.Struct("=II")  # size, 0

_REASONS = {
    errno.EBUSY: "it is in use by another program; try again when that has ended",
    errno.EACCES: "root is needed",
    errno.EPERM: "root is needed",
    errno.EIO: "this kernel could not read what the last one has handed over, and must be started anew",
    errno.ENODEV: "this kernel has no live update (CONFIG_LIVEUPDATE)",
    errno.ENXIO: "this kernel has no live update (CONFIG_LIVEUPDATE)",
}
_NOT_ENABLED = f"live update is not enabled: start the kernel with {' '.join(WORDS)}"
_NO_MEMORY = "out of memory"
_NOT_THERE = "it was not handed over"


def require() -> None:
    """Raise LiveUpdateRefused, with the reason, unless this kernel has live update and it is enabled."""
    if DEVICE.exists():
        return
    words = _COMMAND_LINE.read_text(encoding="utf-8", errors="surrogateescape").split()
    enabled = all(word in words for word in WORDS)
    raise LiveUpdateRefused(_REASONS[errno.ENODEV] if enabled else _NOT_ENABLED)


def create_session(name: str) -> int:
    """Return a new session's descriptor. Raises LiveUpdateRefused."""
    reasons = {
        errno.EEXIST: f"there is a session '{name}' already",
        errno.ENOMEM: _NO_MEMORY,
    }
    return _session(_CREATE_SESSION, name, reasons)


def retrieve_session(name: str) -> int | None:
    """Return the descriptor of a session of the last kernel, None if it handed none of that name over.

    Raises LiveUpdateRefused, also while another process has it. One that was given up is there no more.
    """
    try:
        return _session(
            _RETRIEVE_SESSION, name, {errno.EINVAL: f"another process has the session '{name}'"}
        )
    except LiveUpdateRefused as exc:
        if errno_of(exc) == errno.ENOENT:
            return None
        raise


def errno_of(refused: LiveUpdateRefused) -> int | None:
    """Return the error of the kernel's that this tells of, None if there is no live update to ask."""
    return refused.__cause__.errno if isinstance(refused.__cause__, OSError) else None


def preserve(session: int, descriptor: int, token: int) -> None:
    """Hand a memory file over to the next kernel, under a number. Its size is fixed from then on.

    Takes all its pages, those of holes too. Raises LiveUpdateRefused.
    """
    reasons = {
        errno.EFBIG: "the image is too large: 2^32 - 1 pages at most",
        errno.ENOMEM: _NO_MEMORY,
        errno.ENOENT: "this kernel does not carry memory files (CONFIG_LIVEUPDATE_MEMFD)",
        errno.EBUSY: "the file is handed over already",
    }
    _call(session, _PRESERVE_FD, bytearray(_FILE.pack(_FILE.size, descriptor, token)), reasons)


def retrieve(session: int, token: int) -> int:
    """Return the descriptor of the file that was preserved under this number.

    Raises LiveUpdateRefused. If that is for lack of memory, the file is lost: the kernel has freed it.
    """
    reply = bytearray(_FILE.pack(_FILE.size, -1, token))
    _call(session, _RETRIEVE_FD, reply, {errno.ENOMEM: _NO_MEMORY, errno.ENOENT: _NOT_THERE})
    descriptor: int = _FILE.unpack(reply)[1]
    return descriptor


def finish(session: int) -> None:
    """End a session that was retrieved; what was not retrieved of it is freed. Raises LiveUpdateRefused."""
    _call(session, _FINISH, bytearray(_END.pack(_END.size, 0)), {})


def _session(request: int, name: str, reasons: dict[int, str]) -> int:
    encoded = name.encode()
    assert 0 < len(encoded) <= _NAME_MAX
    require()
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise LiveUpdateRefused(_REASONS.get(exc.errno or 0, exc)) from exc
    try:
        reply = bytearray(_SESSION.pack(_SESSION.size, -1, encoded))
        _call(device, request, reply, reasons)
    finally:
        os.close(device)
    descriptor: int = _SESSION.unpack(reply)[1]
    os.set_inheritable(descriptor, False)
    return descriptor


def _call(descriptor: int, request: int, argument: bytearray, reasons: dict[int, str]) -> None:
    try:
        fcntl.ioctl(descriptor, request, argument)
    except OSError as exc:
        raise LiveUpdateRefused((_REASONS | reasons).get(exc.errno or 0, exc)) from exc
