"""Ask a running mount for its status, or to save. Needs no FUSE; the daemon's side is `control_xattrs`."""

import contextlib
import errno
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pramfs.control.control_xattrs import FRAMES, FRAMES_AT_ONCE, PREFIX, SAVE, SAVE_TO
from pramfs.control.save_target import opened_target
from pramfs.control.status import MountStatus, parse_status
from pramfs.errors import PramError
from pramfs.storage.frames import FrameCounts
from pramfs.system.forked_call import ForkedCall
from pramfs.system.mountinfo import Mount, pramfs_mounts, require_alive, views_of

__all__ = ["FrameCounts", "Mount", "MountStatus", "read_status", "request_save", "running_mounts"]


def read_status(mountpoint: Path) -> MountStatus:
    """Return the status of the pramfs mounted at `mountpoint`.

    Raises NotMounted, DeadMount, or another PramError if this user may not ask or the daemon does not answer.
    """
    mount = _mount_to_ask(mountpoint)
    with _what_cannot_be_asked(mountpoint, mount):
        text = _read(mount, PREFIX + b"status")
    try:
        return parse_status(text)
    except ValueError as exc:
        raise PramError(
            f"{mountpoint}: cannot read the status of the daemon: {exc}; "
            "use the version of pramfs that mounted it"
        ) from exc


def running_mounts() -> list[tuple[Mount, MountStatus | PramError]]:
    """Return every mount that is visible here, oldest first, with its status or why it has none."""
    devices = dict.fromkeys(mount.device for mount in pramfs_mounts())
    views = [views_of(device)[:1] for device in devices]
    return [(view, _status_or_error(view)) for (view,) in filter(None, views)]


def _status_or_error(mount: Mount) -> MountStatus | PramError:
    try:
        return read_status(mount.mountpoint)
    except PramError as exc:
        return exc


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
    """Publish a checkpoint, and return when it is durable.

    Raises NotMounted, DeadMount, or another PramError if this user may not ask for it, the save failed or it
    lacks something. `wait` is called with the running call, and may wait for it in its own way.
    """
    mount = _mount_to_ask(mountpoint)
    _request(mountpoint, mount, lambda: _save(mount), wait)


def request_save_to(
    mountpoint: Path, path: Path, wait: Callable[[ForkedCall], object] = lambda call: None
) -> None:
    """Save to a new image at `path`, where the mount goes on, and return when that is durable.

    `path` is opened here, with the rights of this process. Raises as `request_save`, and for a path that
    cannot be used; the mount then goes on where it was.
    """
    mount = _mount_to_ask(mountpoint)
    status = read_status(mountpoint)
    with opened_target(path, status) as target:

        def save() -> bytes:
            os.setxattr(mount.mountpoint, SAVE_TO, target.to_json())
            return b""

        _request(mountpoint, mount, save, wait)


def _request(
    mountpoint: Path, mount: Mount, act: Callable[[], bytes], wait: Callable[[ForkedCall], object]
) -> None:
    call = ForkedCall(act, mount.access_credentials)
    wait(call)
    try:
        call.result()
    except PermissionError as exc:
        if exc.errno == errno.EACCES:
            told = "its daemon is of an older version, and cannot save to another image"
            raise PramError(f"{mountpoint}: {told}") from exc
        raise PramError(f"{mountpoint}: only {mount.allowed_users} may ask it to save") from exc
    except OSError as exc:
        why = read_status(mountpoint).error or f"save failed: {exc.strerror}"
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
