"""A proxy between the kernel and libfuse for FUSE_INIT, which adds flags to libfuse's reply.

FUSE_HANDLE_KILLPRIV_V2: without it the kernel requests `security.capability` before every write(2); with it
4 KiB writes are three times as fast. FUSE_DONT_MASK: without it the kernel applies the umask before the
file system can see that the directory has a default ACL, which replaces the umask.
FUSE_DIRECT_IO_ALLOW_MMAP (Linux 6.6): without it no file of a direct_io mount can be mapped with MAP_SHARED.
libfuse 3.14 does not know the first and the last flag, and pyfuse3 does not expose the second.

During the exchange the session's descriptor is a socket of ours. Flags that the kernel did not offer are
not set. The structs are in <linux/fuse.h>.
"""

import os
import socket
import struct

# struct fuse_out_header {len, error, unique} and the start of struct fuse_init_out {major, minor,
# max_readahead, flags}. Of struct fuse_in_header only the size matters; fuse_init_in starts the same way.
_IN_HEADER_BYTES = 40
_OUT_HEADER = struct.Struct("=IiQ")
_FLAGS_OFFSET = 12
_FLAGS = struct.Struct("=I")
# The upper 32 flags, at other places in both structs; FUSE_INIT_EXT says that they are there.
_FLAGS2_IN_OFFSET = 16
_FLAGS2_OUT_OFFSET = 32
_INIT_EXT = 1 << 30
_DIRECT_IO_ALLOW_MMAP = 1 << (36 - 32)

_HANDLE_KILLPRIV = 1 << 19
_HANDLE_KILLPRIV_V2 = 1 << 28
_DONT_MASK = 1 << 6

_REQUEST_BYTES = (1 << 20) + 4096  # the kernel requires a buffer for the largest request
_REPLY_BYTES = 4096


class Handshake:
    """The exchange on the descriptor `fd` of a session that has just been mounted."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kernel = os.dup(fd)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), fd, inheritable=False)
        request = os.read(self._kernel, _REQUEST_BYTES)
        (self._offered,) = _FLAGS.unpack_from(request, _IN_HEADER_BYTES + _FLAGS_OFFSET)
        self._offered2 = 0
        if self._offered & _INIT_EXT:
            at = _IN_HEADER_BYTES + _FLAGS2_IN_OFFSET
            (self._offered2,) = _FLAGS.unpack_from(request, at)
        self._ours.send(request)

    def finish(self) -> None:
        """Pass libfuse's reply on, and restore the descriptor of the session."""
        reply = bytearray(self._ours.recv(_REPLY_BYTES))
        _, error, _ = _OUT_HEADER.unpack_from(reply)
        at = _OUT_HEADER.size + _FLAGS_OFFSET
        if not error and len(reply) >= at + _FLAGS.size:
            (flags,) = _FLAGS.unpack_from(reply, at)
            _FLAGS.pack_into(reply, at, self._amended(flags))
            self._amend_flags2(reply, at)
        os.write(self._kernel, reply)
        os.dup2(self._kernel, self._fd, inheritable=False)
        os.close(self._kernel)
        self._ours.close()

    def _amended(self, flags: int) -> int:
        flags |= self._offered & _DONT_MASK
        if self._offered & _HANDLE_KILLPRIV_V2:
            flags = flags & ~_HANDLE_KILLPRIV | _HANDLE_KILLPRIV_V2
        return flags

    def _amend_flags2(self, reply: bytearray, flags_at: int) -> None:
        at = _OUT_HEADER.size + _FLAGS2_OUT_OFFSET
        wanted = self._offered2 & _DIRECT_IO_ALLOW_MMAP
        if not wanted or len(reply) < at + _FLAGS.size:
            return
        (flags,) = _FLAGS.unpack_from(reply, flags_at)
        _FLAGS.pack_into(reply, flags_at, flags | _INIT_EXT)
        (flags2,) = _FLAGS.unpack_from(reply, at)
        _FLAGS.pack_into(reply, at, flags2 | wanted)
