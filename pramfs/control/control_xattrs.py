"""Control of a running mount, as extended attributes that no listing shows.

    user.pramfs.status      JSON: everything below, and the state of the arena
    user.pramfs.pid         of the daemon
    user.pramfs.image       the path of the image
    user.pramfs.generation  of the last published save
    user.pramfs.pfn         of its super block, hexadecimal
    user.pramfs.frames.N    the states of the frames N*65536..., a byte each, deflated (see `frames`)
    user.pramfs.save        set it to publish a checkpoint

They are not listed, so that cp -a and rsync -X leave them be. Everything in the mount has them: what is bound
to another place may be any part of it. Nothing here needs FUSE.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pramfs.errors import PramError
from pramfs.system.forked_call import Errand
from pramfs.system.mountinfo import Mount, require_alive, views_of

PREFIX = b"user.pramfs."
SAVE = PREFIX + b"save"
FRAMES = PREFIX + b"frames."
FRAMES_AT_ONCE = 65536  # even incompressible, they fit into the 64 KiB of an extended attribute


def read_status(mountpoint: Path) -> dict[str, Any]:
    """The status of the pramfs mounted at `mountpoint`. Raises NotMounted, DeadMount, PramError."""
    mount = _door(mountpoint)
    with _what_cannot_be_asked(mountpoint, mount):
        return dict(json.loads(_read(mount, PREFIX + b"status")))


def read_frames(mountpoint: Path, frames: int) -> bytes:
    """The states of all frames of the pramfs mounted at `mountpoint`. Raises as `read_status` does."""
    mount = _door(mountpoint)
    numbers = range(-(-frames // FRAMES_AT_ONCE))
    with _what_cannot_be_asked(mountpoint, mount):
        parts = [_read(mount, FRAMES + str(number).encode()) for number in numbers]
    return b"".join(map(zlib.decompress, parts))


def request_save(mountpoint: Path, wait: Callable[[Errand], object] = lambda errand: None) -> None:
    """Publish a checkpoint; returns when it is durable. Raises PramError when it is not.

    `wait` is shown the errand under way, and may wait for it in its own manner.
    """
    mount = _door(mountpoint)
    errand = Errand(lambda: _save(mount), mount.asked_as)
    wait(errand)
    try:
        errand.result()
    except PermissionError as exc:
        raise PramError(f"{mountpoint}: only {mount.masters} may ask it to save") from exc
    except OSError as exc:
        why = read_status(mountpoint)["error"] or f"save failed: {exc.strerror}"
        raise PramError(f"{mountpoint}: the {why}") from exc


def _door(mountpoint: Path) -> Mount:
    """The mount to ask through: one that shows the root, where there is one."""
    mount = require_alive(mountpoint)
    return (*views_of(mount.device), mount)[0]


def _save(mount: Mount) -> bytes:
    if mount.part != "/":
        os.setxattr(mount.mountpoint, SAVE, b"")
        return b""
    # fsync of the root does the same, and is allowed where a remount has forbidden to write.
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
        raise PramError(f"{mountpoint}: only {mount.masters} may ask it how it is") from exc
    except OSError as exc:
        raise PramError(f"{mountpoint}: the daemon does not answer: {exc.strerror}") from exc
