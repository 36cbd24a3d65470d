"""The data of regular files: read, write, truncate and clear, with copy-on-write.

A frame of the last save is never written: a page that changes is copied to a new frame first. The last
page of a file always holds zeros after the end of the file.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from pramfs.errors import ShortWrite
from pramfs.storage.arena import Arena
from pramfs.storage.extents import extents_of, is_counting_up
from pramfs.storage.frames import Extent
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.storage.piped import Piped
from pramfs.tree.inodes import FILE_MAX_BYTES, FILE_MAX_PAGES, File
from pramfs.tree.pagemap import (
    CHUNK_PAGES,
    FileExtent,
    PageMap,
    count_holes,
    file_extents_of,
    first_extent,
)
from pramfs.tree.refused_writes import RefusedWrites
from pramfs.tree.reservations import Reservations
from pramfs.tree.space import SPARE_MAX, Space

_OFFSET_MASK = PAGE_SIZE - 1


class FileData:
    """Reads and writes the data of all files of a tree, and counts their pages in `space`."""

    def __init__(self, arena: Arena, space: Space) -> None:
        self.refused = RefusedWrites()
        self.reservations = Reservations(arena, space)
        self.on_write: Callable[[File, int, int], None] | None = None  # file, offset, bytes
        self._arena = arena
        self._space = space

    def read(self, file: File, offset: int, size: int) -> bytes | memoryview:
        """Return `size` bytes from `offset`, or fewer at the end of the file.

        Raises DamagedPage for a page that fails its first verification.
        """
        size = min(size, file.length - offset)
        if size <= 0:
            return b""
        first = offset >> PAGE_SHIFT
        count = ((offset + size - 1) >> PAGE_SHIFT) - first + 1
        if file.pages is None:
            return bytes(size)
        skip = offset & _OFFSET_MASK
        if count == 1 and (pfn := file.pages.get(first)):
            return self._arena.view(pfn, 1)[skip : skip + size]
        file_extents = list(file.pages.file_extents(first, count))
        if len(file_extents) == 1:
            if not file_extents[0].pfn:
                return bytes(size)
            return self._arena.view(file_extents[0].pfn, count)[skip : skip + size]
        # Not views: joining them would access mapped memory, see the docstring of `arena`.
        return memoryview(self._joined(file_extents))[skip : skip + size]

    def copy_of(self, file: File, offset: int, size: int) -> memoryview:
        """Return what `read` does, but never a view of mapped memory: for this process to look at."""
        size = max(0, min(size, file.length - offset))
        first = offset >> PAGE_SHIFT
        count = ((offset + size + PAGE_SIZE - 1) >> PAGE_SHIFT) - first
        skip = offset & _OFFSET_MASK
        if file.pages is None:
            return memoryview(bytes(size))
        return memoryview(self._joined(file.pages.file_extents(first, count)))[skip : skip + size]

    def write(self, file: File, offset: int, data: bytes | memoryview | Piped) -> int:
        """Write all of `data` at `offset`; from a pipe only whole pages.

        Raises NoRoom or FramesHeld, or another OSError when the image fails. What was written before stays;
        if there is any, it is a ShortWrite, which says how much.
        """
        size = len(data)
        if self.on_write is not None:
            self.on_write(file, offset, size)
        pages = file.pages
        if pages is None:
            pages = file.pages = PageMap()
        if size > PAGE_SIZE - (offset & _OFFSET_MASK):
            self._write_pages(file, pages, offset, data)
        elif size:
            self._write_page(file, pages, offset, data)
            length = file.length
            if length < offset + size:
                file.length = offset + size
        if self.refused.by_file:
            self.refused.taken(file, offset, offset + size)
        return size

    def require_room_again(self, file: File) -> None:
        """Raise OSError(ENOSPC) or FramesHeld if the file lacks data and there is still no room for more."""
        if file in self.refused.by_file:
            self._arena.require_free(1 + self._space.frames_to_keep_free(1))

    def fitting(self, offset: int, size: int) -> int:
        """Return how many of `size` bytes at `offset` there is room for without a save, whatever is there."""
        pages = self._arena.table.unused - self._space.frames_to_keep_free(size >> PAGE_SHIFT)
        return max(0, min(size, (pages << PAGE_SHIFT) - (offset & _OFFSET_MASK)))

    def truncate(self, file: File, length: int) -> None:
        """Cut the file off at `length`, or extend it to that with a hole.

        Pages past the end lose what they were promised, unless the file grows.
        """
        first = (length + PAGE_SIZE - 1) >> PAGE_SHIFT
        if length < file.length and length & _OFFSET_MASK:
            self._zero(file, length, -length & _OFFSET_MASK)
        if length <= file.length and file.reserved is not None:
            self.reservations.remove(file, first, FILE_MAX_PAGES)
        if length < file.length and file.pages is not None:
            for extent in file.pages.cut(first):
                self._arena.release(extent.pfn, extent.frames)
                self._space.pages -= extent.frames
            if not file.pages.count:
                file.pages = None
        file.length = length
        if self.refused.by_file:
            self.refused.taken(file, length, FILE_MAX_BYTES)

    def clear(self, file: File, start: int, end: int) -> None:
        """Make the bytes from `start` to `end` zeros: pages that are all in there become holes.

        Raises OSError(ENOSPC) or FramesHeld, as the others may need a copy; some may be zeros by then.
        """
        first, behind = (start + PAGE_SIZE - 1) >> PAGE_SHIFT, end >> PAGE_SHIFT
        if first > behind:
            self._zero(file, start, end - start)
        else:
            if start & _OFFSET_MASK:
                self._zero(file, start, -start & _OFFSET_MASK)
            if end & _OFFSET_MASK:
                self._zero(file, behind << PAGE_SHIFT, end & _OFFSET_MASK)
            self._drop_pages(file, first, behind)
        if self.refused.by_file:
            self.refused.taken(file, start, end)

    def next_data(self, file: File, offset: int) -> int | None:
        """Return the first byte from `offset` on that is in no hole, None if there is none in the file."""
        index = file.pages.next_page(offset >> PAGE_SHIFT) if file.pages is not None else None
        if index is None or index << PAGE_SHIFT >= file.length:
            return None
        return max(offset, index << PAGE_SHIFT)

    def next_hole(self, file: File, offset: int, end: int = FILE_MAX_BYTES) -> int:
        """Return the first byte from `offset` on that is in a hole, or the end of the file.

        Looks no further than `end`: what is returned then is there or behind it.
        """
        if file.pages is None:
            return offset
        index = file.pages.next_hole(offset >> PAGE_SHIFT, (end + _OFFSET_MASK) >> PAGE_SHIFT)
        return min(max(offset, index << PAGE_SHIFT), file.length)

    def discard(self, file: File) -> None:
        """Release all frames of a file that is gone."""
        if file.reserved is None and not self.refused.by_file and file.pages is not None:
            pfn = file.pages.sole()
            if pfn:  # faster, and most files have one page
                self._arena.release(pfn, 1)
                self._space.pages -= 1
                file.pages, file.length = None, 0
                return
        if file.pages is not None or file.reserved is not None or self.refused.by_file:
            self.truncate(file, 0)

    def relocate_banned(self, file: File, moved: dict[int, int]) -> None:
        """Relocate the pages that are in banned frames (patch 9 of the 2013 series).

        `moved` is where shared ones of the same save have gone, see `Arena.relocate`.
        """
        banned = self._arena.table.banned
        for start, pfns in file.pages.chunks() if file.pages else ():
            for index, pfn, count in file_extents_of(start, pfns):
                if pfn and banned.overlaps(pfn, count):
                    for at in range(count):
                        if banned.overlaps(pfn + at):
                            pfns[index - start + at] = self._arena.relocate(pfn + at, moved)

    def verify(self, file: File) -> None:
        """Verify the pages of a file that saves have left out so far. Raises DamagedPage."""
        self._arena.verify(
            Extent(pfn, count)
            for start, pfns in (file.pages.chunks() if file.pages is not None else ())
            for _, pfn, count in file_extents_of(start, pfns)
            if pfn
        )

    def leave_out_orphan(self, file: File) -> None:
        """Leave the pages of an orphan inode out of saves, so that none fails because of them."""
        for start, pfns in file.pages.chunks() if file.pages else ():
            for _, pfn, count in file_extents_of(start, pfns):
                if pfn:
                    self._arena.leave_out_orphan(pfn, count)

    def share(self, source: File, first: int, file: File, index: int, count: int) -> None:
        """Map `count` pages of `file` from `index` on to the frames that `source` has from `first` on.

        Nothing is copied: whoever writes to a shared page gets a copy of it first. What the pages were
        promised ends. Holes become holes. Raises OSError(ENOSPC) or FramesHeld, and shares nothing then.
        """
        mapped = source.pages.count_in(first, count) if source.pages is not None else 0
        self._arena.require_free(self._space.frames_to_keep_free(mapped))
        self.reservations.remove(source, first, first + count)
        self.reservations.remove(file, index, index + count)
        self._drop_pages(file, index, index + count)
        if self.refused.by_file:
            self.refused.taken(file, index << PAGE_SHIFT, (index + count) << PAGE_SHIFT)
        if not mapped:
            return
        assert source.pages is not None
        if file.pages is None:
            file.pages = PageMap()
        while count:
            part = min(count, CHUNK_PAGES - first % CHUNK_PAGES, CHUNK_PAGES - index % CHUNK_PAGES)
            pfns = source.pages.pfns(first, part)
            for extent in extents_of(array("I", filter(None, pfns)) if count_holes(pfns) else pfns):
                self._arena.table.share(extent.pfn, extent.frames)
            file.pages.put_pfns(index, pfns)
            first, index, count = first + part, index + part, count - part
        self._space.pages += mapped

    def map_to_equal(self, file: File, index: int, pfn: int) -> None:
        """Map a page, which is promised no room, to another frame in use that holds the same bytes.

        Takes no frame.
        """
        assert file.pages is not None
        before = file.pages.get(index)
        self._arena.table.share(pfn, 1)
        file.pages.put(index, pfn, 1)
        self._arena.release(before, 1)

    def make_hole(self, file: File, index: int) -> None:
        """Make a hole of a page, which holds zeros and is promised no room."""
        self._drop_pages(file, index, index + 1)

    def end_promises(self, file: File) -> None:
        """Take back what was promised to the pages that have frames, as a snapshot is about to share them.

        It ends for good, or not, with `reservations.end` or `give_back`.
        """
        if file.reserved is None or file.pages is None:
            return
        for start, pfns in file.pages.chunks():
            for index, pfn, count in file_extents_of(start, pfns):
                if pfn:
                    self.reservations.begin_to_end(file, index, index + count)

    def unshare(self, file: File, first: int, behind: int, pages_max: int = FILE_MAX_PAGES) -> int:
        """Give pages from `first` on, before `behind`, frames of their own if they are in shared ones.

        Only then can they be promised room: the next save gives back the frame that a copy leaves, but not
        if a snapshot or another file holds it. Ends after `pages_max` copies; returns the page to go on from.
        Raises OSError(ENOSPC) or FramesHeld; some may have theirs.
        """
        if file.pages is None or not self._arena.table.repeats:
            return behind
        shared = list(islice(self._shared_pages(file.pages, first, behind), pages_max))
        for index, pfn in shared:
            page = bytes(self._arena.read(pfn))
            self._put_new_page(file, file.pages, index, page, replaced=pfn)
        return behind if len(shared) < pages_max else shared[-1][0] + 1

    def end_shared_promises(self, file: File) -> None:
        """Take back what was promised to pages that are shared: those of a tree that was copied."""
        if file.reserved is None or file.pages is None:
            return
        for index, _ in self._shared_pages(file.pages, 0, FILE_MAX_PAGES):
            self.reservations.remove(file, index, index + 1)

    def repeats_of(self, files: Iterable[File], others: Iterable[int] = ()) -> int:
        """Return how many holders, besides the first of each frame, are these files and only they.

        `others` are frames that something else holds, which counts as a file that has them.
        """
        table = self._arena.table
        if not table.repeats:
            return 0
        of_files = (
            pfn
            for file in files
            for _, pfns in (file.pages.chunks() if file.pages is not None else ())
            for pfn in filter(None, pfns)
        )
        times = Counter(pfn for pfn in chain(of_files, others) if table.is_shared(pfn))
        return sum(holds - (holds == table.holders(pfn)) for pfn, holds in times.items())

    # --- helpers ---------------------------------------------------------------------------------

    def _shared_pages(self, pages: PageMap, first: int, behind: int) -> Iterator[tuple[int, int]]:
        """Yield (index, pfn) of the pages between these that are in shared frames."""
        is_shared = self._arena.table.is_shared
        for start, pfns in pages.parts(first, behind):
            if is_counting_up(pfns) and not is_shared(pfns[0], len(pfns)):
                continue  # as in most large files
            for index, pfn in enumerate(pfns, start):
                if pfn and is_shared(pfn):
                    yield index, pfn

    def _joined(self, file_extents: Iterable[FileExtent]) -> bytes:
        return b"".join(
            self._arena.read(pfn, count) if pfn else bytes(count << PAGE_SHIFT)
            for _, pfn, count in file_extents
        )

    def _write_pages(
        self, file: File, pages: PageMap, offset: int, data: bytes | memoryview | Piped
    ) -> None:
        """Do what `write` does with more than a page, or parts of two."""
        start = offset
        left = data if isinstance(data, Piped) else memoryview(data)
        try:
            while left:
                done = self._write_some(file, pages, offset, left)
                offset += done
                left = left[done:]
                file.length = max(file.length, offset)
        except OSError as exc:
            if offset == start:
                raise
            short = exc if isinstance(exc, ShortWrite) else ShortWrite(exc.errno, exc.strerror)
            short.written = offset - start
            if self.refused.by_file:
                self.refused.taken(file, start, offset)
            if short is exc:
                raise
            raise short from exc

    def _write_some(self, file: File, pages: PageMap, offset: int, data: memoryview | Piped) -> int:
        """Write the first part of `data`, as much as goes in one step; return its size in bytes."""
        if offset & _OFFSET_MASK or len(data) < 2 * PAGE_SIZE:
            done = min(PAGE_SIZE - (offset & _OFFSET_MASK), len(data))
            self._write_page(file, pages, offset, data[:done])
            return done
        index = offset >> PAGE_SHIFT
        count = min(len(data) >> PAGE_SHIFT, CHUNK_PAGES - index % CHUNK_PAGES)
        pfn, alike = first_extent(pages.pfns(index, count))
        if pfn:
            alike = self._arena.table.writable_alike(pfn, alike)
        if file.reserved is not None:
            alike = self._promised_alike(file, index, pfn, alike)
        part = data[: alike << PAGE_SHIFT]
        if pfn and self._arena.table.writable(pfn):
            self._arena.write(pfn, part)
        else:
            self._put_new(file, pages, index, part, mapped=bool(pfn))
        return len(part)

    def _promised_alike(self, file: File, index: int, pfn: int, count: int) -> int:
        """Return how many pages from `index` on were promised room as that one was, or not as it.

        Of those that were and have frames, only as many as there are frames for their copies now: all at
        once they might not fit, but a checkpoint gives back what the first ones leave.
        """
        assert file.reserved is not None
        count = file.reserved.alike(index, count)
        if not pfn or index not in file.reserved or self._arena.table.writable(pfn):
            return count
        keep_free = self.reservations.keep_free(file, index, count, mapped=True)
        return min(count, SPARE_MAX, max(1, self._arena.table.unused - keep_free))

    def _put_new(
        self, file: File, pages: PageMap, index: int, data: memoryview | Piped, *, mapped: bool
    ) -> None:
        """Write pages of one chunk to new frames, and map these in place of the old ones, if `mapped`.

        Writes all of them or none, so that no page is ever mapped past the end of its file.
        """
        arena, count = self._arena, len(data) >> PAGE_SHIFT
        extents = self.reservations.allocate(file, index, count, mapped=mapped)
        try:
            self._fill(extents, data)
        except BaseException:
            for extent in extents:
                arena.release(extent.pfn, extent.frames)
            raise
        replaced = pages.pfns(index, count) if mapped else ()
        if not mapped:
            self._space.pages += count
            self.reservations.count_mapped(file, index, count)
        for extent in extents:
            pages.put(index, extent.pfn, extent.frames)
            index += extent.frames
        for pfn, pages_replaced in extents_of(replaced):
            arena.release(pfn, pages_replaced)

    def _put_new_page(
        self,
        file: File,
        pages: PageMap,
        index: int,
        data: bytes | memoryview | Piped,
        *,
        replaced: int,
    ) -> None:
        """Do the same as `_put_new` for a single page, faster: most files have one."""
        arena = self._arena
        if file.reserved is None:
            pfn = arena.allocate_one(self._space.frames_to_keep_free(1))
        else:
            pfn = self.reservations.allocate(file, index, 1, mapped=bool(replaced))[0].pfn
        try:
            arena.write(pfn, data)
        except BaseException:
            arena.release(pfn, 1)
            raise
        pages.put(index, pfn, 1)
        if replaced:
            arena.release(replaced, 1)
        else:
            self._space.pages += 1
            if file.reserved is not None:
                self.reservations.count_mapped(file, index, 1)

    def _fill(self, extents: list[Extent], data: memoryview | Piped) -> None:
        for extent in extents:
            self._arena.write(extent.pfn, data[: extent.frames << PAGE_SHIFT])
            data = data[extent.frames << PAGE_SHIFT :]

    def _write_page(
        self, file: File, pages: PageMap, offset: int, data: bytes | memoryview | Piped
    ) -> None:
        """Write one page, or a part of it."""
        index, start = offset >> PAGE_SHIFT, offset & _OFFSET_MASK
        pfn = pages.get(index)
        if pfn and self._arena.table.writable(pfn):
            self._arena.write(pfn, data, start)
            return
        if len(data) < PAGE_SIZE:
            assert not isinstance(data, Piped)
            page = bytearray(self._arena.read(pfn) if pfn else PAGE_SIZE)
            page[start : start + len(data)] = data
            data = memoryview(page)
        self._put_new_page(file, pages, index, data, replaced=pfn)

    def _zero(self, file: File, offset: int, size: int) -> None:
        """Zero a part of one page, unless that is a hole."""
        if file.pages is not None and file.pages.get(offset >> PAGE_SHIFT):
            if self.on_write is not None:
                self.on_write(file, offset, size)
            self._write_page(file, file.pages, offset, bytes(size))

    def _drop_pages(self, file: File, first: int, behind: int) -> None:
        """Make holes of the pages from `first` on, before `behind`."""
        if file.pages is None:
            return
        claims = self.reservations.claims(file, first, behind)
        for extent in file.pages.clear(first, behind - first):
            self._arena.release(extent.pfn, extent.frames)
            self._space.pages -= extent.frames
        if not file.pages.count:
            file.pages = None
        self.reservations.count_cleared(file, first, behind, claims)
