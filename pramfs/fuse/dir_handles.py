"""Open directories: listings that stay consistent however the directory changes."""

import errno
import itertools
from collections.abc import Iterator, Set

import trio

from pramfs.errors import posix_error
from pramfs.tree.inodes import Directory, Inode


class DirectoryHandle:
    """An open directory: a snapshot of its names from when reading began, so that each comes once."""

    def __init__(self, directory: Directory, opener: int, uid: int) -> None:
        self.directory = directory
        self.opener = opener  # pid of the process that opened it
        self.uid = uid  # its user
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


class OpenDirectories:
    """The handles of all open directories."""

    def __init__(self) -> None:
        self._by_handle: dict[int, DirectoryHandle] = {}
        self._closed = trio.Event()  # set when a directory is closed; replaced by the next waiter
        self._handles = itertools.count(1)

    def __getitem__(self, handle: int) -> DirectoryHandle:
        """Return an open directory. Raises EBADF."""
        listing = self._by_handle.get(handle)
        if listing is None:
            raise posix_error(errno.EBADF)
        return listing

    def handles(self) -> Set[int]:
        """Return the handles of those that are open."""
        return frozenset(self._by_handle)

    def open(self, directory: Directory, opener: int, uid: int) -> int:
        """Return a new handle for the process `opener` of the user `uid`."""
        handle = next(self._handles)
        self._by_handle[handle] = DirectoryHandle(directory, opener, uid)
        return handle

    def close(self, handle: int) -> None:
        """Forget a handle."""
        self._by_handle.pop(handle, None)
        self._closed.set()

    async def closed_by(self, pid: int, *, but: Set[int]) -> None:
        """Wait until process `pid` has no directory open any more, except those in `but`."""
        while any(
            listing.opener == pid and handle not in but
            for handle, listing in self._by_handle.items()
        ):
            if self._closed.is_set():
                self._closed = trio.Event()
            await self._closed.wait()
