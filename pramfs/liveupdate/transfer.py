"""Copy or move the bytes of one memory file into another, in pieces, and back if that is not to be."""

import mmap
import os
from dataclasses import dataclass

from pramfs.storage.image import write_all

CHUNK_BYTES = 4 << 20


@dataclass(slots=True)
class Transfer:
    """The way of `size_bytes` bytes from one file to another.

    With `moving`, each piece is given back to the system where it was, so that both together never take more
    than a piece beyond the size.
    """

    source: int
    target: int
    size_bytes: int
    moving: bool
    done_bytes: int = 0

    def run(self) -> None:
        """Copy or move all. Raises OSError (ENOSPC …); then `undo` brings back what was moved."""
        os.ftruncate(self.target, max(self.size_bytes, os.fstat(self.target).st_size))
        while self.done_bytes < self.size_bytes:
            length = min(CHUNK_BYTES, self.size_bytes - self.done_bytes)
            _copy(self.source, self.target, self.done_bytes, length)
            if self.moving:
                _remove(self.source, self.done_bytes, length)
            self.done_bytes += length

    def undo(self) -> None:
        """Bring back what was moved, the last piece first, and close the target.

        Raises OSError; may be called again then. What was copied is still there, and no hole is made in its
        target, whose size may be fixed for longer.
        """
        while self.moving and self.done_bytes:
            start = (self.done_bytes - 1) // CHUNK_BYTES * CHUNK_BYTES
            length = self.done_bytes - start
            _copy(self.target, self.source, start, length)
            _remove(self.target, start, length)
            self.done_bytes = start
        os.close(self.target)


def _copy(source: int, target: int, offset: int, length: int) -> None:
    while length:
        data = os.pread(source, length, offset)
        if not data:
            raise EOFError(f"{length} bytes are missing at {offset}")
        write_all(target, offset, data)
        offset += len(data)
        length -= len(data)


def _remove(descriptor: int, offset: int, length: int) -> None:
    """Make a hole. A piece starts at a page; the last one may end within one, which goes as a whole."""
    with mmap.mmap(descriptor, length, offset=offset) as mapping:
        mapping.madvise(mmap.MADV_REMOVE)
