"""Room that fallocate(2) has promised to pages of files, so that writing there never meets ENOSPC.

A promise is a number in `space`, not a frame: all frames are alike. A page that was promised room and has
no frame yet claims one, and what other calls may take is counted without it. A page that has a frame may
be in a save, and its next change goes to another frame: for these, some spare frames are kept that every
checkpoint gives back. See docs/design.md.
"""

from collections.abc import Callable
from itertools import groupby

from pramfs.storage.arena import Arena
from pramfs.storage.frames import KEPT, Extent
from pramfs.tree.inodes import File
from pramfs.tree.page_ranges import ReservedPages
from pramfs.tree.space import Space


class Reservations:
    """Makes and drops the promises of a tree, and counts them in `space`."""

    def __init__(self, arena: Arena, space: Space) -> None:
        self._arena = arena
        self._space = space
        self._ending: list[tuple[File, int, int]] = []  # what `begin_to_end` has taken back

    def add(self, file: File, first: int, behind: int) -> None:
        """Promise room to the pages from `first` on, before `behind`.

        Raises OSError(ENOSPC) or FramesHeld, and promises nothing then.
        """
        pages = behind - first
        promised = file.reserved.pages_within(first, behind) if file.reserved is not None else 0
        if promised == pages:
            return
        holes = pages - (file.pages.count_in(first, pages) if file.pages is not None else 0)
        claims = holes - self.claims(file, first, behind)
        more_spare = self._space.spare_for(pages - promised)
        keep_free = self._space.frames_to_keep_free(claims, ranges=1)
        self._arena.require_free(claims + more_spare + keep_free)
        self._arena.keep(self._space.claimed + claims + self._space.spare + more_spare)
        self.restore(file, first, behind)

    def restore(self, file: File, first: int, behind: int) -> None:
        """Promise the same without asking whether there is room, as for a tree that is loaded."""
        if file.reserved is None:
            file.reserved = ReservedPages()
        self._change(file, file.reserved, first, behind, file.reserved.add)

    def remove(self, file: File, first: int, behind: int) -> None:
        """Take back what was promised to the pages from `first` on, before `behind`."""
        if file.reserved is None:
            return
        self._change(file, file.reserved, first, behind, file.reserved.remove)
        if not len(file.reserved):
            file.reserved = None

    def begin_to_end(self, file: File, first: int, behind: int) -> None:
        """Take back what was promised there, but keep the room until `end` or `give_back`."""
        if file.reserved is None:
            return
        for start, end in list(file.reserved.within(first, behind)):
            self._ending.append((file, start, end))
            self._space.ending += end - start
            self._space.ending_ranges += 1
        self.remove(file, first, behind)

    def end(self) -> list[tuple[File, int, int]]:
        """Let the room go that was kept for what has ended, and return what that was."""
        ended, self._ending = self._ending, []
        self._space.ending = self._space.ending_ranges = 0
        self._keep()
        return ended

    def give_back(self, is_there: Callable[[File], bool]) -> None:
        """Promise again what has begun to end, as far as these pages are there and not shared."""
        shared = self._arena.table.is_shared
        for file, first, behind in self.end():
            if not is_there(file) or file.pages is None:
                continue
            index = first
            for is_kept, pfns in groupby(
                file.pages.pfns(first, behind - first), lambda pfn: pfn != 0 and not shared(pfn)
            ):
                count = len(list(pfns))
                if is_kept:
                    self.restore(file, index, index + count)
                index += count

    def allocate(self, file: File, index: int, count: int, *, mapped: bool) -> list[Extent]:
        """Allocate frames for `count` pages from `index` on, see `keep_free`. Raises ENOSPC, FramesHeld."""
        keep_free = self.keep_free(file, index, count, mapped=mapped)
        if file.reserved is None or index not in file.reserved:
            return self._arena.allocate(count, keep_free)
        kept = self._arena.table.count(KEPT)
        from_kept = max(0, kept - self._space.claimed) if mapped else kept
        return self._arena.allocate_promised(count, keep_free, from_kept)

    def keep_free(self, file: File, index: int, count: int, *, mapped: bool) -> int:
        """Return how many frames must stay free when `count` pages from `index` on get new ones.

        They must be alike: promised room or not, and with frames already, as `mapped` says, or not.
        """
        space = self._space
        if file.reserved is None or index not in file.reserved:
            return space.frames_to_keep_free(count)
        return space.frames_to_keep_free() - space.spare - (0 if mapped else count)

    def count_mapped(self, file: File, index: int, count: int) -> None:
        """Note that these pages, all alike, were holes and have frames now."""
        if file.reserved is not None and index in file.reserved:
            self._count_claims(file.reserved, -count)
            self._keep()

    def count_cleared(self, file: File, first: int, behind: int, claims_before: int) -> None:
        """Note that pages between these, which had so many claims, have lost their frames."""
        if file.reserved is not None:
            self._count_claims(file.reserved, self.claims(file, first, behind) - claims_before)
            self._keep()

    def claims(self, file: File, first: int, behind: int) -> int:
        """Return how many pages between these were promised room and have no frame."""
        if file.reserved is None:
            return 0
        promised = file.reserved.within(first, behind)
        if file.pages is None:
            return sum(end - start for start, end in promised)
        return sum(end - start - file.pages.count_in(start, end - start) for start, end in promised)

    # --- helpers ---------------------------------------------------------------------------------

    def _change(
        self,
        file: File,
        reserved: ReservedPages,
        first: int,
        behind: int,
        change: Callable[[int, int], None],
    ) -> None:
        ranges, pages = len(reserved), reserved.pages_within(first, behind)
        claims = self.claims(file, first, behind)
        change(first, behind)
        self._space.promised += reserved.pages_within(first, behind) - pages
        self._space.promised_ranges += len(reserved) - ranges
        self._count_claims(reserved, self.claims(file, first, behind) - claims)
        self._keep()

    def _keep(self) -> None:
        self._arena.keep_at_best(self._space.claimed + self._space.spare)

    def _count_claims(self, reserved: ReservedPages, more: int) -> None:
        reserved.claims += more
        self._space.claimed += more
