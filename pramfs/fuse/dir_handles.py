"""Open directories: listings that stay consistent however the directory changes. Independent of FUSE."""

import itertools
from collections.abc import Iterator

from pramfs.tree.inodes import Directory, Inode


class DirectoryHandle:
    """An open directory: a snapshot of its names from when reading began, so that each comes once."""

    def __init__(self, directory: Directory, opener: int) -> None:
        self.directory = directory
        self.opener = opener  # pid of the process that opened it
        self._names: list[bytes] = []

    def rewind(self) -> None:
        """Take a new snapshot of the names."""
        self._names = [b".", b"..", *self.directory.entries]

    def entries(self, start: int) -> Iterator[tuple[int, bytes, Inode]]:
        """Yield the entries from position `start` on that still exist.

        A handle whose first read begins in the middle continues where another one was: CRIU restores
        processes in this way.
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
