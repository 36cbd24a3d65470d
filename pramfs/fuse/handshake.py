"""Stand between the kernel and libfuse for their first exchange, FUSE_INIT: libfuse does not know it all.

FUSE_HANDLE_KILLPRIV_V2: without it the kernel asks for `security.capability` before every write(2), one
round trip for each: 4 KiB writes are three times as fast with it. FUSE_DONT_MASK: without it the kernel has
applied the umask before a file system can see that a directory's default ACL forbids that. libfuse 3.14 does
not know the first, and pyfuse3 does not hand out the second.

The session's descriptor is a socket of ours for as long as the exchange takes. What the kernel did not offer
is not asked for. <linux/fuse.h> has the structs.
"""

import os
import socket
import struct

# struct fuse_out_header {len, error, unique} and the start of struct fuse_init_out {major, minor,
# max_readahead, flags}; of struct fuse_in_header only the size matters, then fuse_init_in begins alike.
_IN_HEADER_BYTES = 40
_OUT_HEADER = struct.Struct("=IiQ")
_FLAGS_OFFSET = 12
_FLAGS = struct.Struct("=I")

_HANDLE_KILLPRIV = 1 << 19
_HANDLE_KILLPRIV_V2 = 1 << 28
_DONT_MASK = 1 << 6

_REQUEST_BYTES = (1 << 20) + 4096  # the kernel insists on room for the largest request
_REPLY_BYTES = 4096


class Handshake:
    """The exchange over the descriptor `fd` of a session that has just been mounted."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kernel = os.dup(fd)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), fd, inheritable=False)
        request = os.read(self._kernel, _REQUEST_BYTES)
        (self._offered,) = _FLAGS.unpack_from(request, _IN_HEADER_BYTES + _FLAGS_OFFSET)
        self._ours.send(request)

    def finish(self) -> None:
        """Pass libfuse's reply on, and give the session its descriptor back."""
        reply = bytearray(self._ours.recv(_REPLY_BYTES))
        _, error, _ = _OUT_HEADER.unpack_from(reply)
        at = _OUT_HEADER.size + _FLAGS_OFFSET
        if not error and len(reply) >= at + _FLAGS.size:
            (flags,) = _FLAGS.unpack_from(reply, at)
            _FLAGS.pack_into(reply, at, self._amended(flags))
        os.write(self._kernel, reply)
        os.dup2(self._kernel, self._fd, inheritable=False)
        os.close(self._kernel)
        self._ours.close()

    def _amended(self, flags: int) -> int:
        flags |= self._offered & _DONT_MASK
        if self._offered & _HANDLE_KILLPRIV_V2:
            flags = flags & ~_HANDLE_KILLPRIV | _HANDLE_KILLPRIV_V2
        return flags
