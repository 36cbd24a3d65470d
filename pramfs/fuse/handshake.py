"""FUSE_INIT, with flags that are added to libfuse's reply, and two that are taken away.

FUSE_HANDLE_KILLPRIV_V2: without it the kernel requests `security.capability` before every write(2); with it
4 KiB writes are three times as fast. FUSE_DONT_MASK: without it the kernel applies the umask before the
file system can see that the directory has a default ACL, which replaces the umask.
FUSE_DIRECT_IO_ALLOW_MMAP (Linux 6.6): without it no file of a direct_io mount can be mapped with MAP_SHARED.
libfuse 3.14 does not know the first and the last flag, and pyfuse3 does not expose the second.
FUSE_SETXATTR_EXT goes, as the front reads the shorter form of that request.
FUSE_ATOMIC_O_TRUNC goes where OPEN is not answered: with it that request alone would say O_TRUNC.

Flags that the kernel did not offer are not set. A write is no larger than the pipe for it. The threshold of
congestion is as high as it can be: beyond it, 9 requests by default, syncfs(2) leaves files out.
"""

import mmap
import os
import re
from pathlib import Path

from pramfs.fuse.protocol import (
    ATOMIC_O_TRUNC,
    DIRECT_IO_ALLOW_MMAP,
    DONT_MASK,
    HANDLE_KILLPRIV,
    HANDLE_KILLPRIV_V2,
    IN_HEADER,
    INIT_EXT,
    INIT_FLAGS,
    INIT_FLAGS_OFFSET,
    INIT_IN_FLAGS2_OFFSET,
    INIT_OUT_CONGESTION,
    INIT_OUT_CONGESTION_OFFSET,
    INIT_OUT_FLAGS2_OFFSET,
    INIT_OUT_MAX_WRITE,
    INIT_OUT_MAX_WRITE_OFFSET,
    OUT_HEADER,
    REQUEST_MAX_BYTES,
    SETXATTR_EXT,
)
from pramfs.fuse.seam import Seam
from pramfs.system.descriptors import readable

_CONGESTION_MAX = 0xFFFF
# What the kernel takes at most without CAP_SYS_ADMIN: some 334 for each GiB of memory.
_CONGESTION_OF_USERS = Path("/sys/module/fuse/parameters/max_user_congthresh")
_REQUEST_BYTES = 392  # as the kernel has it where it calculates that
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO in linux/proc_ns.h
_CAP_SYS_ADMIN = 21


def congestion_threshold() -> int:
    """Return from how many requests under way on a flush may leave files out.

    Reads /sys, which a mount may cover: to be called before there is one.
    """
    if _is_admin():
        return _CONGESTION_MAX
    try:
        return min(int(_CONGESTION_OF_USERS.read_text()), _CONGESTION_MAX)
    except (OSError, ValueError):  # /sys is not mounted
        return min(_users_threshold(), _CONGESTION_MAX)


def _users_threshold() -> int:
    """Return what `sanitize_global_limit` of the kernel makes of its memory, or a little less."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    return (memory_bytes >> 13) // _REQUEST_BYTES * 9 // 10


def _is_admin() -> bool:
    """Return whether this process has CAP_SYS_ADMIN, and not only in a user namespace."""
    try:
        if os.stat("/proc/self/ns/user").st_ino != _INITIAL_USER_NAMESPACE:
            return False
        status = Path("/proc/self/status").read_text()
    except OSError:  # /proc is not mounted
        return False
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> _CAP_SYS_ADMIN & 1)


class Handshake:
    """The exchange at the seam of a session that has just been mounted."""

    def __init__(self, seam: Seam, *, answers_open: bool, write_max_bytes: int | None) -> None:
        """Wait for the request of the kernel, and carry it to pyfuse3."""
        self._seam = seam
        self._answers_open = answers_open
        self._write_max_bytes = write_max_bytes
        readable([seam.kernel])
        request = os.read(seam.kernel, REQUEST_MAX_BYTES)
        (self._offered,) = INIT_FLAGS.unpack_from(request, IN_HEADER.size + INIT_FLAGS_OFFSET)
        self._offered2 = 0
        if self._offered & INIT_EXT:
            at = IN_HEADER.size + INIT_IN_FLAGS2_OFFSET
            (self._offered2,) = INIT_FLAGS.unpack_from(request, at)
        seam.carry(request)

    def finish(self) -> None:
        """Pass libfuse's reply on."""
        reply = self._seam.receive()
        _, error, _ = OUT_HEADER.unpack_from(reply)
        at = OUT_HEADER.size + INIT_FLAGS_OFFSET
        if (
            not error
            and len(reply) >= OUT_HEADER.size + INIT_OUT_MAX_WRITE_OFFSET + INIT_OUT_MAX_WRITE.size
        ):
            (flags,) = INIT_FLAGS.unpack_from(reply, at)
            INIT_FLAGS.pack_into(reply, at, self._amended(flags))
            self._amend_flags2(reply, at)
            self._limit_writes(reply)
            at = OUT_HEADER.size + INIT_OUT_CONGESTION_OFFSET
            INIT_OUT_CONGESTION.pack_into(reply, at, _CONGESTION_MAX)
        self._seam.tell(reply)

    def _limit_writes(self, reply: bytearray) -> None:
        at = OUT_HEADER.size + INIT_OUT_MAX_WRITE_OFFSET
        if self._write_max_bytes is not None:
            (max_write,) = INIT_OUT_MAX_WRITE.unpack_from(reply, at)
            INIT_OUT_MAX_WRITE.pack_into(reply, at, min(max_write, self._write_max_bytes))

    def _amended(self, flags: int) -> int:
        flags = flags & ~SETXATTR_EXT | self._offered & DONT_MASK
        if not self._answers_open:
            flags &= ~ATOMIC_O_TRUNC
        if self._offered & HANDLE_KILLPRIV_V2:
            flags = flags & ~HANDLE_KILLPRIV | HANDLE_KILLPRIV_V2
        return flags

    def _amend_flags2(self, reply: bytearray, flags_at: int) -> None:
        at = OUT_HEADER.size + INIT_OUT_FLAGS2_OFFSET
        wanted = self._offered2 & DIRECT_IO_ALLOW_MMAP
        if not wanted or len(reply) < at + INIT_FLAGS.size:
            return
        (flags,) = INIT_FLAGS.unpack_from(reply, flags_at)
        INIT_FLAGS.pack_into(reply, flags_at, flags | INIT_EXT)
        (flags2,) = INIT_FLAGS.unpack_from(reply, at)
        INIT_FLAGS.pack_into(reply, at, flags2 | wanted)
