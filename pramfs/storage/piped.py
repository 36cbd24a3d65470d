"""Bytes that go from one descriptor to another through a pipe: the kernel moves pages, we copy nothing."""

import contextlib
import fcntl
import mmap
import os

# One page more than a power of two would be enough for a request of 256 pages with its header; who may not
# have as many (pipe-max-size, CAP_SYS_RESOURCE) gets a power of two, and requests of a page less.
_PAGES = (512, 256)


class Pipe:
    """A wide pipe. `left` is how many bytes are in it."""

    def __init__(self) -> None:
        """Make a pipe. Raises OSError where none may be so wide."""
        self._out, self._in = os.pipe()
        self.left = 0
        try:
            self.size_bytes = self._widen()
        except OSError:
            self.close()
            raise

    def _widen(self) -> int:
        for pages in _PAGES[:-1]:
            with contextlib.suppress(OSError):
                return fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, pages * mmap.PAGESIZE)
        return fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _PAGES[-1] * mmap.PAGESIZE)

    def fill(self, source: int) -> int:
        """Move what `source` has into the empty pipe, without waiting; return its size in bytes."""
        self.left = os.splice(source, self._in, self.size_bytes, flags=os.SPLICE_F_NONBLOCK)
        return self.left

    def read_into(self, buffer: memoryview) -> None:
        """Take as many bytes as the buffer has, or all that are left."""
        buffer = buffer[: self.left]
        while buffer:
            count = os.readv(self._out, [buffer])
            self.left -= count
            buffer = buffer[count:]

    def move_to(self, fd: int, offset_bytes: int, size_bytes: int) -> int:
        """Move bytes to a place in a file; return how many it has taken: fewer if not so, or not at all."""
        moved = 0
        with contextlib.suppress(OSError):
            while moved < size_bytes:
                count = os.splice(
                    self._out, fd, size_bytes - moved, offset_dst=offset_bytes + moved
                )
                if not count:
                    break
                self.left -= count
                moved += count
        return moved

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)


class Piped:
    """The next `size_bytes` in a pipe, to be taken in order: by reading, by moving, or a part at a time.

    Those before a part have been taken when that is.
    """

    __slots__ = ("_pipe", "_size_bytes")

    def __init__(self, pipe: Pipe, size_bytes: int) -> None:
        self._pipe = pipe
        self._size_bytes = size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def __getitem__(self, part: slice) -> "Piped":
        return Piped(self._pipe, len(range(self._size_bytes)[part]))

    def move_to(self, fd: int, offset_bytes: int) -> int:
        """Move them to a file, see `Pipe.move_to`."""
        return self._pipe.move_to(fd, offset_bytes, self._size_bytes)

    def read(self) -> bytearray:
        """Take and return them; fewer if there are no more."""
        data = bytearray(min(self._size_bytes, self._pipe.left))
        self._pipe.read_into(memoryview(data))
        return data


Data = bytes | bytearray | memoryview | Piped
"""What can be written to a file."""
