"""Open directories: what a listing shows, however the directory changes meanwhile. No FUSE in it."""

import itertools
from collections.abc import Iterator

from pramfs.tree.inodes import Directory, Inode


class DirectoryHandle:
    """An open directory: the names there were when reading began, so that each comes once."""

    def __init__(self, directory: Directory, opener: int) -> None:
        self.directory = directory
        self.opener = opener  # the pid of whoever has opened it
        self._names: list[bytes] = []

    def rewind(self) -> None:
        """Begin anew, with the names that there are now."""
        self._names = [b".", b"..", *self.directory.entries]

    def entries(self, start: int) -> Iterator[tuple[int, bytes, Inode]]:
        """The entries from position `start` on that are still there.

        Who begins in the middle goes on where another open directory was: CRIU restores processes so.
        """
        if not self._names:
            self.rewind()
        return itertools.chain(self._dots(start), self._rest(max(start, 2)))

    def _dots(self, start: int) -> Iterator[tuple[int, bytes, Inode]]:
        dots = ((b".", self.directory), (b"..", self.directory.parent))
        for position in range(start, 2):
            yield position, *dots[position]

    def _rest(self, start: int) -> Iterator[tuple[int, bytes, Inode]]:
        entries = self.directory.entries
        for position in range(start, len(self._names)):
            name = self._names[position]
            inode = entries.get(name)
            if inode is not None:
                yield position, name, inode
