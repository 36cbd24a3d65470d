"""Open directories: listings that stay consistent however the directory changes."""

import errno
import itertools
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Set
from typing import NamedTuple

import trio

from pramfs.errors import posix_error
from pramfs.storage.extents import count_up
from pramfs.tree.inodes import Directory, Inode

_DOTS = 2  # the positions of "." and "..", the first two


class Listing:
    """The order in which a directory's names are listed while it is open: each keeps its position.

    The first order is that of the tree, with the positions 3, 4 and so on. Names that come later have the
    next positions; a name that has gone leaves a gap.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.handles = 0  # that are open
        self._names: list[bytes] = []
        self._positions = array("Q")
        self._last = _DOTS

    def begin(self) -> None:
        """Take in what has changed, because somebody reads from the beginning."""
        entries = self.directory.entries
        in_tree = list(entries)
        if not self._names:  # faster, as each listing of what is cached begins so
            self._names = in_tree
            self._positions = count_up("Q", self._last + 1, len(in_tree))
            self._last += len(in_tree)
        elif in_tree != self._names:
            known = set(self._names)
            left = [
                (p, n) for p, n in zip(self._positions, self._names, strict=True) if n in entries
            ]
            new = [name for name in in_tree if name not in known]
            self._names = [name for _, name in left] + new
            self._positions = array("Q", (position for position, _ in left))
            self._positions.extend(range(self._last + 1, self._last + 1 + len(new)))
            self._last += len(new)
        # What the kernel caches of this outlasts the listing, so another one must have the same positions.
        self.directory.listed = self._last == _DOTS + len(in_tree) and self._names == in_tree

    def entries(self, start: int) -> Iterator[tuple[int, bytes, Inode]]:
        """Yield the entries behind position `start` that still exist, with their positions.

        A listing whose first read begins in the middle continues one of another mount: CRIU restores
        processes in this way.
        """
        if self._last == _DOTS:
            self.begin()
        return itertools.chain(self._dots(start), self._rest(start))

    def _dots(self, start: int) -> Iterator[tuple[int, bytes, Inode]]:
        dots = ((1, b".", self.directory), (_DOTS, b"..", self.directory.parent))
        yield from dots[start:]

    def _rest(self, start: int) -> Iterator[tuple[int, bytes, Inode]]:
        names, positions, entries = self._names, self._positions, self.directory.entries
        for at in range(bisect_right(positions, start), len(names)):
            name = names[at]
            inode = entries.get(name)
            if inode is not None:
                yield positions[at], name, inode


class _Handle(NamedTuple):
    listing: Listing
    opener: int  # pid of the process that opened it


class OpenDirectories:
    """The handles of all open directories."""

    def __init__(self) -> None:
        self._by_handle: dict[int, _Handle] = {}
        self._listings: dict[Directory, Listing] = {}
        self._closed = trio.Event()  # set when a directory is closed; replaced by the next waiter
        self._handles = itertools.count(1)

    def __getitem__(self, handle: int) -> Listing:
        """Return the listing of an open directory. Raises EBADF."""
        known = self._by_handle.get(handle)
        if known is None:
            raise posix_error(errno.EBADF)
        return known.listing

    def handles(self) -> Set[int]:
        """Return the handles of those that are open."""
        return frozenset(self._by_handle)

    def open(self, directory: Directory, opener: int) -> int:
        """Return a new handle for the process `opener`."""
        handle = next(self._handles)
        listing = self._listings.get(directory)
        if listing is None:
            listing = self._listings[directory] = Listing(directory)
            if directory.listed:
                # The kernel lists it from its cache. If it drops that, it asks for the rest, and names may
                # have gone by then: the rest must have the positions that it knows.
                listing.begin()
        listing.handles += 1
        self._by_handle[handle] = _Handle(listing, opener)
        return handle

    def close(self, handle: int) -> None:
        """Forget a handle."""
        known = self._by_handle.pop(handle, None)
        if known is not None:
            known.listing.handles -= 1
            if not known.listing.handles:
                del self._listings[known.listing.directory]
        self._closed.set()

    async def closed_by(self, pid: int, *, but: Set[int]) -> None:
        """Wait until process `pid` has no directory open any more, except those in `but`."""
        while any(
            known.opener == pid and handle not in but for handle, known in self._by_handle.items()
        ):
            if self._closed.is_set():
                self._closed = trio.Event()
            await self._closed.wait()
