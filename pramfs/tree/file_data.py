"""The data of regular files: read, write and truncate, with copy-on-write.

A frame of the last save is never written: a page that changes is copied to a new frame first. The last
page of a file always holds zeros after the end of the file.
"""

from pramfs.errors import FramesHeld
from pramfs.storage.arena import Arena
from pramfs.storage.frames import Extent
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.tree.inodes import FILE_MAX_BYTES, File
from pramfs.tree.pagemap import CHUNK_PAGES, PageMap, file_extents_of
from pramfs.tree.refused_writes import RefusedWrites
from pramfs.tree.space import Space

_OFFSET_MASK = PAGE_SIZE - 1


class FileData:
    """Reads and writes the data of all files of a tree, and counts their pages in `space`."""

    def __init__(self, arena: Arena, space: Space) -> None:
        self.refused = RefusedWrites()
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
        pieces = [
            self._arena.read(pfn, count) if pfn else bytes(count << PAGE_SHIFT)
            for _, pfn, count in file_extents
        ]
        return memoryview(b"".join(pieces))[skip : skip + size]

    def write(self, file: File, offset: int, data: bytes | memoryview) -> int:
        """Write all of `data` at `offset`.

        Raises OSError(ENOSPC) or FramesHeld; what was written before stays, and FramesHeld says how much.
        """
        written = self._write(file, offset, data)
        if self.refused:
            self.refused.taken(file, offset, offset + written)
        return written

    def _write(self, file: File, offset: int, data: bytes | memoryview) -> int:
        if file.pages is None:
            file.pages = PageMap()
        if len(data) <= PAGE_SIZE - (offset & _OFFSET_MASK):
            if data:
                self._write_page(file.pages, offset, data)
                file.length = max(file.length, offset + len(data))
            return len(data)
        left = memoryview(data)
        try:
            while left:
                done = self._write_some(file.pages, offset, left)
                offset += done
                left = left[done:]
                file.length = max(file.length, offset)
        except FramesHeld as held:
            held.written = len(data) - len(left)
            raise
        return len(data)

    def truncate(self, file: File, length: int) -> None:
        """Cut the file off at `length`, or extend it to that with a hole."""
        if length < file.length and file.pages is not None:
            if length & _OFFSET_MASK:
                self._clear_tail(file.pages, length)
            for extent in file.pages.cut((length + PAGE_SIZE - 1) >> PAGE_SHIFT):
                self._arena.release(extent.pfn, extent.frames)
                self._space.pages -= extent.frames
            if not file.pages.count:
                file.pages = None
        file.length = length
        if self.refused:
            self.refused.taken(file, length, FILE_MAX_BYTES)

    def next_data(self, file: File, offset: int) -> int | None:
        """Return the first byte from `offset` on that is in no hole, None if there is none in the file."""
        index = file.pages.next_page(offset >> PAGE_SHIFT) if file.pages is not None else None
        if index is None or index << PAGE_SHIFT >= file.length:
            return None
        return max(offset, index << PAGE_SHIFT)

    def next_hole(self, file: File, offset: int) -> int:
        """Return the first byte from `offset` on that is in a hole, or the end of the file."""
        if file.pages is None:
            return offset
        index = file.pages.next_hole(offset >> PAGE_SHIFT)
        return min(max(offset, index << PAGE_SHIFT), file.length)

    def discard(self, file: File) -> None:
        """Release all frames of a file that is gone."""
        self.truncate(file, 0)

    def relocate_banned(self, file: File) -> None:
        """Relocate the pages that are in banned frames (patch 9 of the 2013 series)."""
        banned = self._arena.table.banned
        for start, pfns in file.pages.chunks() if file.pages else ():
            for index, pfn, count in file_extents_of(start, pfns):
                if pfn and banned.overlaps(pfn, count):
                    for at in range(count):
                        if banned.overlaps(pfn + at):
                            pfns[index - start + at] = self._arena.relocate(pfn + at)

    def leave_out_orphan(self, file: File) -> None:
        """Leave the pages of an orphan inode out of saves, so that none fails because of them."""
        for start, pfns in file.pages.chunks() if file.pages else ():
            for _, pfn, count in file_extents_of(start, pfns):
                if pfn:
                    self._arena.leave_out_orphan(pfn, count)

    # --- helpers ---------------------------------------------------------------------------------

    def _write_some(self, pages: PageMap, offset: int, data: memoryview) -> int:
        """Write the first part of `data`, as much as goes in one step; return its size in bytes."""
        if offset & _OFFSET_MASK or len(data) < 2 * PAGE_SIZE:
            done = min(PAGE_SIZE - (offset & _OFFSET_MASK), len(data))
            self._write_page(pages, offset, data[:done])
            return done
        index = offset >> PAGE_SHIFT
        count = min(len(data) >> PAGE_SHIFT, CHUNK_PAGES - index % CHUNK_PAGES)
        _, pfn, alike = next(file_extents_of(0, pages.pfns(index, count)))
        if pfn:
            alike = self._written_alike(pfn, alike)
        part = data[: alike << PAGE_SHIFT]
        if pfn and self._arena.table.writable(pfn):
            self._arena.write(pfn, part)
        else:
            self._put_new(pages, index, part)
        return len(part)

    def _written_alike(self, pfn: int, count: int) -> int:
        """Return how many frames from `pfn` on are written as the first is, in place or to a copy."""
        table = self._arena.table
        if table.uniform(pfn, count):
            return count
        first = table.writable(pfn)
        return next(
            at for at in range(1, count + 1) if at == count or table.writable(pfn + at) != first
        )

    def _put_new(self, pages: PageMap, index: int, data: memoryview) -> None:
        """Write pages of one chunk to new frames, and map these in place of the old ones.

        Writes all of them or none, so that no page is ever mapped past the end of its file.
        """
        arena, count = self._arena, len(data) >> PAGE_SHIFT
        extents = arena.allocate(count, self._space.frames_to_keep_free(count))
        try:
            self._fill(extents, data)
        except BaseException:
            for extent in extents:
                arena.release(extent.pfn, extent.frames)
            raise
        replaced = pages.pfns(index, count)
        before = pages.count
        for extent in extents:
            pages.put(index, extent.pfn, extent.frames)
            index += extent.frames
        self._space.pages += pages.count - before
        for _, pfn, pages_replaced in file_extents_of(0, replaced):
            if pfn:
                arena.release(pfn, pages_replaced)

    def _put_new_page(self, pages: PageMap, index: int, data: bytes | memoryview) -> None:
        """Do the same as `_put_new` for a single page, faster: most files have one."""
        arena = self._arena
        pfn = arena.allocate(1, self._space.frames_to_keep_free(1))[0].pfn
        try:
            arena.write(pfn, data)
        except BaseException:
            arena.release(pfn, 1)
            raise
        replaced = pages.get(index)
        pages.put(index, pfn, 1)
        if replaced:
            arena.release(replaced, 1)
        else:
            self._space.pages += 1

    def _fill(self, extents: list[Extent], data: memoryview) -> None:
        for extent in extents:
            self._arena.write(extent.pfn, data[: extent.frames << PAGE_SHIFT])
            data = data[extent.frames << PAGE_SHIFT :]

    def _write_page(self, pages: PageMap, offset: int, data: bytes | memoryview) -> None:
        """Write one page, or a part of it."""
        index, start = offset >> PAGE_SHIFT, offset & _OFFSET_MASK
        pfn = pages.get(index)
        if pfn and self._arena.table.writable(pfn):
            self._arena.write(pfn, data, start)
            return
        if len(data) < PAGE_SIZE:
            page = bytearray(self._arena.read(pfn) if pfn else PAGE_SIZE)
            page[start : start + len(data)] = data
            data = memoryview(page)
        self._put_new_page(pages, index, data)

    def _clear_tail(self, pages: PageMap, length: int) -> None:
        """Zero the rest of the page that contains `length`."""
        if pages.get(length >> PAGE_SHIFT):
            zeros = bytes(PAGE_SIZE - (length & _OFFSET_MASK))
            self._write_page(pages, length, zeros)
