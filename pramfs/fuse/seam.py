"""The seam between the kernel and pyfuse3, at which requests are answered or carried on.

The session's descriptor, which pyfuse3 reads, is one end of a socket here; the other end and the real
descriptor are ours. Each request that nobody else answers is carried to pyfuse3, and what pyfuse3 writes,
replies and notices, is carried to the kernel.
"""

import errno
import io
import logging
import os
import socket
from collections.abc import Callable

from pramfs.fuse.protocol import REQUEST_MAX_BYTES

log = logging.getLogger("pramfs")

# The mount is gone, the request was withdrawn, an inode is not cached; the session has ended.
_UNWANTED = (errno.ENODEV, errno.ENOENT, errno.EBADF)


class Seam:
    """The seam in a session that has been mounted; `kernel` is the descriptor of /dev/fuse, not blocking."""

    def __init__(self, session_fd: int) -> None:
        self._session_fd = session_fd
        self.kernel = os.dup(session_fd)
        os.set_blocking(self.kernel, False)
        # Reads a request, or returns None. os.readv would raise an exception then, which takes several times
        # as long as the call: too much for polling.
        self.read_into: Callable[[bytearray], int | None]
        self.read_into = io.FileIO(self.kernel, closefd=False).readinto
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), session_fd, inheritable=False)
        self._carried = memoryview(bytearray(REQUEST_MAX_BYTES))

    def carry(self, request: bytes | bytearray | memoryview) -> None:
        """Carry a request to pyfuse3."""
        self._ours.send(request)

    def receive(self) -> bytearray:
        """Wait for what pyfuse3 writes, and return it."""
        return bytearray(self._carried[: self._ours.recv_into(self._carried)])

    def carry_back(self) -> None:
        """Carry what pyfuse3 has written to the kernel."""
        while True:
            try:
                size = self._ours.recv_into(self._carried, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.tell(self._carried[:size])

    def tell(self, message: bytes | bytearray | memoryview, data: memoryview | None = None) -> None:
        """Send a reply or a notice to the kernel, and data behind it; it may not want it any more.

        A notice may wait for pages that are being read or written, so send it from a thread, unless it is
        about attributes only.
        """
        try:
            if data is None:
                os.write(self.kernel, message)  # takes less time than a list of one
            else:
                os.writev(self.kernel, (message, data))
        except OSError as exc:
            if exc.errno not in _UNWANTED:
                # For a reply the kernel has told the caller EIO; EFAULT is a page that cannot be read.
                log.error("the kernel cannot take a reply: %s", exc.strerror)

    def close(self) -> None:
        """Give pyfuse3 the real descriptor back."""
        kernel, self.kernel = self.kernel, -1  # a thread may still have a notice
        os.dup2(kernel, self._session_fd, inheritable=False)
        os.close(kernel)
        self._ours.close()
