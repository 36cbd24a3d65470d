"""Mount, by mount(2) itself where this process may, and unmount at the end.

libfuse can mount too, but then it runs mount(8), for a table that nobody keeps any more, before the mount is
served. mount(8) of Debian 13 looks into a mount that covers /run, and both would wait for ever. So libfuse
mounts only for those who need fusermount3, a set-uid root program, which lets nobody mount over such places.
"""

import contextlib
import ctypes
import errno
import logging
import os
import select
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyfuse3

from pramfs.errors import PramError

log = logging.getLogger("pramfs")

_DEVICE = "/dev/fuse"
_DEVICE_NUMBER = os.makedev(10, 229)
_SUBTYPE = "pramfs"

# The words that set or clear a flag of mount(2). Like libfuse, this sets two at first.
_NOSUID, _NODEV = 2, 4
_SETS = {
    "ro": 1,
    "nosuid": _NOSUID,
    "nodev": _NODEV,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
}
_CLEARS = {"suid": _NOSUID, "dev": _NODEV, "exec": 8, "async": 16, "atime": 1024}

# Flags of umount2(2).
_DETACH = 2
_NOFOLLOW = 8

_STDERR = 2
_PIPE_BYTES = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class DeviceMount:
    """A mount of this process, from its session with the kernel to its end."""

    def __init__(
        self, operations: pyfuse3.Operations, source: Path, mountpoint: Path, words: Iterable[str]
    ) -> None:
        """Mount with these options of the kernel and of libfuse. Raises PramError when nothing is mounted."""
        self._mountpoint = mountpoint
        self._device: int | None = _open_device(mountpoint)
        words = [*words]
        options = {*words, _FsName(source), f"subtype={_SUBTYPE}"}
        # Before the mount, because libfuse opens /dev/null, which the mount may cover.
        _init(operations, f"/dev/fd/{self._device}", options, mountpoint)
        error = _mount(self._device, source, mountpoint, words)
        if error:
            pyfuse3.close(unmount=False)
            self._device = None  # it is closed, and libfuse has one of its own
        self._session = self._device
        if error == errno.EPERM:
            before = fuse_descriptors()
            _init(operations, str(mountpoint), options, mountpoint)
            (self._session,) = fuse_descriptors() - before
        elif error:
            raise PramError(f"{mountpoint}: cannot mount: {os.strerror(error)}")

    @property
    def is_ended(self) -> bool:
        """Whether the kernel has ended the session: it was unmounted everywhere, or cut off by force."""
        assert self._session is not None
        poll = select.poll()
        poll.register(self._session, 0)  # for POLLERR, which needs no asking
        return bool(poll.poll(0))

    def detach(self, place: Path) -> bool:
        """Unmount at one of its places without a program; return whether this process may."""
        return self._device is not None and _detach(place)

    def close(self, places: Iterable[Path]) -> None:
        """Unmount where it is still mounted, which is at `places`, and end the session."""
        by_libfuse = self._device is None and self._mountpoint in places
        if self._device is not None and not self.is_ended:
            for place in places:
                _detach(place)
        pyfuse3.close(unmount=by_libfuse)


def fuse_descriptors() -> set[int]:
    """Return the descriptors of FUSE sessions in this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor that was used to list the directory
            status = os.fstat(int(name))
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEVICE_NUMBER:
                found.add(int(name))
    return found


def _open_device(mountpoint: Path) -> int:
    """Return the descriptor of a new session with the kernel. Raises PramError."""
    try:
        return os.open(_DEVICE, os.O_RDWR)
    except OSError as exc:
        raise PramError(f"{mountpoint}: cannot mount: {_DEVICE}: {exc.strerror}") from exc


def _init(
    operations: pyfuse3.Operations, place: str, options: Iterable[str], mountpoint: Path
) -> None:
    """Have libfuse begin a session, and mount unless `place` is a descriptor. Raises PramError."""
    failure = None
    with _stderr_taken() as said:
        try:
            pyfuse3.init(operations, place, set(options))
        except RuntimeError as exc:
            failure = exc
    if failure is not None:
        raise PramError(f"{mountpoint}: cannot mount: {'; '.join(said) or failure}")
    for line in said:
        log.warning("%s", line)


def _mount(device: int, source: Path, mountpoint: Path, words: Iterable[str]) -> int:
    """Mount the session of the descriptor; return the errno, 0 if it is mounted."""
    try:
        kind = stat.S_IFMT(mountpoint.stat().st_mode)
    except OSError as exc:
        return exc.errno or errno.EIO
    options = [f"fd={device}", f"rootmode={kind:o}"]
    options += [f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
    flags = _NOSUID | _NODEV
    for word in words:
        if word in _SETS:
            flags |= _SETS[word]
        elif word in _CLEARS:
            flags &= ~_CLEARS[word]
        else:
            options.append(word)
    failed = _libc.mount(
        os.fsencode(source),
        os.fsencode(mountpoint),
        f"fuse.{_SUBTYPE}".encode(),
        ctypes.c_ulong(flags),
        ",".join(options).encode(),
    )
    return ctypes.get_errno() if failed else 0


def _detach(place: Path) -> bool:
    """Unmount at once, even while in use; False where that fails, as where it was unmounted meanwhile.

    umount(8) would be looked for by its path, perhaps in the mount.
    """
    return not _libc.umount2(os.fsencode(place), _DETACH | _NOFOLLOW)


@contextlib.contextmanager
def _stderr_taken() -> Iterator[list[str]]:
    """Take what libfuse and fusermount3 write to standard error: the lines, at the end of the block."""
    lines: list[str] = []
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    kept = os.dup(_STDERR)
    os.dup2(writer, _STDERR)
    os.close(writer)
    try:
        yield lines
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        with contextlib.suppress(BlockingIOError):  # a child still has the other end
            lines += os.fsdecode(os.read(reader, _PIPE_BYTES)).splitlines()
        os.close(reader)


class _FsName(str):
    r"""The option fsname=PATH for libfuse, with commas and backslashes escaped.

    pyfuse3 encodes options as ASCII, but a path may hold any bytes, so this string encodes itself.
    """

    __slots__ = ()

    def __new__(cls, path: Path) -> "_FsName":
        escaped = str(path).replace("\\", "\\\\").replace(",", "\\,")
        return super().__new__(cls, f"fsname={escaped}")

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return os.fsencode(str(self))
