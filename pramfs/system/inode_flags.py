"""The flags of chattr(1) of a file that is there, as any program can read and set them."""

import errno
import fcntl
import os
import struct
from pathlib import Path

from pramfs.errors import posix_error

_GETFLAGS = 0x80086601  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS of linux/fs.h
_SETFLAGS = 0x40086602
_FLAGS = struct.Struct("=i4x")  # the kernel takes 4 bytes, and the numbers of the calls say 8


def read_flags(fd: int) -> int:
    """Return the flags, as in linux/fs.h. Raises EOPNOTSUPP where the file system has none, OSError."""
    try:
        flags: int = _FLAGS.unpack(fcntl.ioctl(fd, _GETFLAGS, bytes(_FLAGS.size)))[0]
    except OSError as exc:
        if exc.errno == errno.ENOTTY:
            raise posix_error(errno.EOPNOTSUPP) from exc
        raise
    return flags


def add_flags(path: bytes | Path, flags: int) -> None:
    """Set `flags` of a regular file or directory besides those that it has. Raises OSError."""
    set_flags(path, flags, flags)


def set_flags(path: bytes | Path, flags: int, known: int) -> None:
    """Let a regular file or directory have, of the flags `known`, just `flags`. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        before = read_flags(fd)
        wanted = before & ~known | flags
        if wanted != before:
            fcntl.ioctl(fd, _SETFLAGS, _FLAGS.pack(wanted))
    finally:
        os.close(fd)
