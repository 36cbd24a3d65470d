"""The image that a save goes to, when that is another one: opened by who asks, taken over by the daemon.

The daemon may have more rights than who asks, and another root or mount namespace. So it is given no path to
open, but the number of an open descriptor, and opens the same file through /proc/PID/fd. The path is only for
messages.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pramfs.control.status import MountStatus
from pramfs.errors import ImageInUse, ImageTooSmall, NotBlank, PramError
from pramfs.storage.image import Image, identity_of, open_image
from pramfs.system import mountinfo
from pramfs.system.json_values import from_json

_ACCESS_MODE = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True, slots=True)
class SaveTarget:
    """A blank file or device that a process has open for reading and writing."""

    descriptor: int
    identity: str  # of the file, see Image.identity
    made: bool  # it did not exist before
    size_bytes: int
    path: str  # as it was given

    def to_json(self) -> bytes:
        """Return the value of the control attribute, for `parse_target`."""
        return json.dumps(asdict(self)).encode()


def parse_target(text: bytes) -> SaveTarget:
    """Return the target that a client names. Raises ValueError."""
    return from_json(SaveTarget, text)


# --- of who asks ---------------------------------------------------------------------------------


@contextlib.contextmanager
def opened_target(path: Path, status: MountStatus) -> Iterator[SaveTarget]:
    """Open or make the file at `path`, with the rights of this process, for the block.

    If the block fails and has left a new file empty, it is removed. Raises PramError unless the file is
    missing, empty or holds only zeros, and a device is large enough.
    """
    if mountinfo.leads_into_pramfs(Path(os.path.realpath(path))):
        raise PramError(f"{path}: lies in a mount of pramfs; give a path outside")
    with open_image(path, writable=True, create=True) as image:
        try:
            _require_usable(image, status)
        except BaseException:
            image.unmake()
            raise
        # Without O_EXCL: the daemon claims a device for itself.
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        target = SaveTarget(
            descriptor, image.identity, image.made, image.size_bytes, str(path.absolute())
        )
    try:
        yield target
    except BaseException:
        if target.made and not os.fstat(descriptor).st_size:
            _unlink(path, target.identity)
        raise
    finally:
        os.close(descriptor)


def _require_usable(image: Image, status: MountStatus) -> None:
    if not image.try_lock():
        holder = image.lock_holder()
        raise ImageInUse(image.path, f"process {holder}" if holder else "another process")
    if not image.is_blank():
        raise NotBlank(image.path)
    needed = status.frames.total
    if image.is_block_device and image.frames < needed:
        raise ImageTooSmall(image.path, f"{image.frames} of {needed} frames of 4 KiB")


def _unlink(path: Path, identity: str) -> None:
    with contextlib.suppress(OSError):
        if identity_of(path.stat()) == identity:
            path.unlink()


# --- of the daemon -------------------------------------------------------------------------------


def take_over(target: SaveTarget, pid: int, frames: int) -> Image:
    """Open and lock what process `pid` has open, and give it room for `frames`.

    Not in the thread that serves the mount: the file may lie there. Raises PramError with the reason.
    """
    image = _open(target, pid)
    try:
        # The second is where a loop device has its file.
        if any(mountinfo.filesystem_type(n) == mountinfo.FSTYPE for n in image.filesystems):
            raise PramError("it lies in a mount of pramfs")
        with contextlib.suppress(OSError):
            if identity_of(image.path.stat()) != image.identity:
                raise PramError(f"the daemon sees another file at {image.path}")
        if not image.try_lock():
            raise PramError("it is in use, or the daemon does not see it in its mount namespace")
        image.grow(frames)
    except BaseException:
        give_back(image, target)
        raise
    return image


def give_back(image: Image, target: SaveTarget) -> None:
    """Leave nothing of a save that has failed: remove the file if it was made, else empty it again."""
    with contextlib.suppress(OSError):
        if image.made:
            image.unmake()
        elif not image.is_block_device:
            image.cut(0)
            image.cut(target.size_bytes)
    image.close()


def _open(target: SaveTarget, pid: int) -> Image:
    try:
        # It stays the same process, even if another one gets its number meanwhile.
        process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise PramError("the daemon does not see who asks: ask in its pid namespace") from exc
    try:
        name = f"fd/{target.descriptor}"
        path = Path(os.readlink(name, dir_fd=process))
        if not _is_writable(process, target.descriptor):
            raise PramError("it is not open for reading and writing")
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        if stat.S_ISBLK(os.stat(name, dir_fd=process).st_mode):
            flags |= os.O_EXCL
        image = Image(path, os.open(name, flags, dir_fd=process), writable=True, made=target.made)
    except OSError as exc:
        hint = ""
        if exc.errno in {errno.EACCES, errno.EPERM}:
            hint = f"; ask as the user of the daemon, {os.geteuid()}"
        raise PramError(f"the daemon cannot open it: {exc.strerror}{hint}") from exc
    finally:
        os.close(process)
    if image.identity != target.identity:
        image.close()
        raise PramError("it is not what was asked for")
    return image


def _is_writable(process: int, descriptor: int) -> bool:
    info = os.open(f"fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    with os.fdopen(info) as lines:
        flags = next(line.split()[1] for line in lines if line.startswith("flags:"))
    return int(flags, 8) & _ACCESS_MODE == os.O_RDWR
