"""Control of a running mount, as extended attributes that no listing shows.

    user.pramfs.status      JSON: everything below, and the state of the arena
    user.pramfs.pid         of the daemon
    user.pramfs.image       the path of the image
    user.pramfs.generation  of the last published save
    user.pramfs.pfn         of its super block, hexadecimal
    user.pramfs.frames.N    the states of the frames N*65536..., a byte each, deflated (see `frames`)
    user.pramfs.save        set it to publish a checkpoint

They are not listed, so that cp -a and rsync -X ignore them. Every file in the mount has them, because a bind
mount may show any part of it. Nothing here needs FUSE.
"""

import contextlib
import errno
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pramfs.errors import PramError, posix_error
from pramfs.storage.frames import FrameTable
from pramfs.system.forked_call import ForkedCall
from pramfs.system.mountinfo import Mount, require_alive, views_of

PREFIX = b"user.pramfs."
SAVE = PREFIX + b"save"
FRAMES = PREFIX + b"frames."
FRAMES_AT_ONCE = 65536  # even incompressible states fit into the 64 KiB of an extended attribute

_PLAIN = ("pid", "image", "generation", "pfn")  # what of the status is an attribute of its own


def read_status(mountpoint: Path) -> dict[str, Any]:
    """Return the status of the pramfs mounted at `mountpoint`. Raises NotMounted, DeadMount, PramError."""
    mount = _mount_to_ask(mountpoint)
    with _what_cannot_be_asked(mountpoint, mount):
        return dict(json.loads(_read(mount, PREFIX + b"status")))


def read_frames(mountpoint: Path, frames: int) -> bytes:
    """Return the states of all frames of the pramfs mounted at `mountpoint`. Raises as `read_status`."""
    mount = _mount_to_ask(mountpoint)
    numbers = range(-(-frames // FRAMES_AT_ONCE))
    with _what_cannot_be_asked(mountpoint, mount):
        parts = [_read(mount, FRAMES + str(number).encode()) for number in numbers]
    return b"".join(map(zlib.decompress, parts))


def request_save(
    mountpoint: Path, wait: Callable[[ForkedCall], object] = lambda call: None
) -> None:
    """Publish a checkpoint, and return when it is durable. Raises PramError if it is not.

    `wait` is called with the running call, and may wait for it in its own way.
    """
    mount = _mount_to_ask(mountpoint)
    call = ForkedCall(lambda: _save(mount), mount.access_credentials)
    wait(call)
    try:
        call.result()
    except PermissionError as exc:
        raise PramError(f"{mountpoint}: only {mount.allowed_users} may ask it to save") from exc
    except OSError as exc:
        why = read_status(mountpoint)["error"] or f"save failed: {exc.strerror}"
        raise PramError(f"{mountpoint}: the {why}") from exc


def _mount_to_ask(mountpoint: Path) -> Mount:
    """Return the mount through which to access the daemon: one of the root, if there is one."""
    mount = require_alive(mountpoint)
    return (*views_of(mount.device), mount)[0]


def _save(mount: Mount) -> bytes:
    if mount.part != "/":
        os.setxattr(mount.mountpoint, SAVE, b"")
        return b""
    # fsync of the root does the same, and is permitted even after a remount read-only.
    root = os.open(mount.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(root)
    finally:
        os.close(root)
    return b""


def _read(mount: Mount, name: bytes) -> bytes:
    return mount.ask(lambda: os.getxattr(mount.mountpoint, name))


@contextlib.contextmanager
def _what_cannot_be_asked(mountpoint: Path, mount: Mount) -> Iterator[None]:
    try:
        yield
    except PermissionError as exc:
        raise PramError(f"{mountpoint}: only {mount.allowed_users} may ask it how it is") from exc
    except OSError as exc:
        raise PramError(f"{mountpoint}: the daemon does not answer: {exc.strerror}") from exc


class ControlAttributes:
    """The values of the control attributes of one mount, for the daemon.

    Who may request a save, and the save itself, are up to `fuse.operations`.
    """

    def __init__(self, status: Callable[[], dict[str, object]], table: FrameTable) -> None:
        self._status = status
        self._table = table

    def read(self, name: bytes) -> bytes:
        """Return the value of a control attribute. Raises OSError(ENODATA) for an unknown one."""
        if name.startswith(FRAMES):
            return self._frame_states(name.removeprefix(FRAMES))
        status = self._status()
        key = name.removeprefix(PREFIX).decode(errors="replace")
        if key == "status":
            return json.dumps(status).encode()
        if key not in _PLAIN:
            raise posix_error(errno.ENODATA)
        return str(status[key]).encode()

    def _frame_states(self, number: bytes) -> bytes:
        first = int(number) * FRAMES_AT_ONCE if number.isdigit() else -1
        if not 0 <= first < len(self._table):
            raise posix_error(errno.ENODATA)
        return zlib.compress(self._table.states(first, FRAMES_AT_ONCE), 1)
