"""Control of a running mount, as extended attributes of its root that no listing shows.

    user.pramfs.status      JSON: everything below, and the state of the arena
    user.pramfs.pid         of the daemon
    user.pramfs.image       the path of the image
    user.pramfs.generation  of the last published save
    user.pramfs.pfn         of its super block, hexadecimal
    user.pramfs.frames.N    the states of the frames N*65536..., a byte each, deflated (see `frames`)
    user.pramfs.save        set it to publish a checkpoint

They are not listed, so that cp -a and rsync -X leave them be. Nothing here needs FUSE.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from pramfs.errors import PramError
from pramfs.mounts import Mount, require_alive

PREFIX = b"user.pramfs."
SAVE = PREFIX + b"save"
FRAMES = PREFIX + b"frames."
FRAMES_AT_ONCE = 65536  # even incompressible, they fit into the 64 KiB of an extended attribute


def read_status(mountpoint: Path) -> dict[str, Any]:
    """The status of the pramfs mounted at `mountpoint`. Raises NotMounted, DeadMount, PramError."""
    mount = require_alive(mountpoint)
    try:
        return dict(json.loads(_read(mount, PREFIX + b"status")))
    except OSError as exc:
        raise PramError(f"{mountpoint}: the daemon does not answer: {exc.strerror}") from exc


def read_frames(mountpoint: Path, frames: int) -> bytes:
    """The states of all frames of the pramfs mounted at `mountpoint`. Raises as `read_status` does."""
    mount = require_alive(mountpoint)
    numbers = range(-(-frames // FRAMES_AT_ONCE))
    try:
        parts = [_read(mount, FRAMES + str(number).encode()) for number in numbers]
    except OSError as exc:
        raise PramError(f"{mountpoint}: the daemon does not answer: {exc.strerror}") from exc
    return b"".join(map(zlib.decompress, parts))


def request_save(mountpoint: Path) -> None:
    """Publish a checkpoint; returns when it is durable. Raises PramError when it is not."""
    mount = require_alive(mountpoint)
    try:
        # fsync of the root does the same as SAVE, and is allowed where a remount has forbidden to write.
        root = os.open(mount.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(root)
        finally:
            os.close(root)
    except PermissionError as exc:
        raise PramError(f"{mountpoint}: only user {mount.user} may ask it to save") from exc
    except OSError as exc:
        why = read_status(mountpoint)["error"] or f"save failed: {exc.strerror}"
        raise PramError(f"{mountpoint}: the {why}") from exc


def _read(mount: Mount, name: bytes) -> bytes:
    if mount.user != os.geteuid() == 0 and not mount.shared:
        return _read_as_user(mount, name)
    return os.getxattr(mount.mountpoint, name)


def _read_as_user(mount: Mount, name: bytes) -> bytes:
    """Read an attribute of a mount that the kernel shows to its user alone, not even to root."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(mount.group, mount.group, mount.group)
            os.setresuid(mount.user, mount.user, mount.user)
            os.write(write_end, os.getxattr(mount.mountpoint, name))
            code = 0
        finally:
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        value = pipe.read()
    _, ended = os.waitpid(child, 0)
    if ended:
        raise PermissionError(1, f"only user {mount.user} may ask it")
    return value
