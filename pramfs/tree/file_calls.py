"""The calls on regular files beyond reading and writing: fallocate, copy_file_range, lseek for holes.

Errors are OSErrors with the errno that the system call has on tmpfs, or on ext4 where tmpfs has not got it.
"""

import errno
import os

from pramfs.errors import ShortWrite, posix_error
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.tree.attributes import InodeOperations
from pramfs.tree.file_flags import FIXED, IMMUTABLE, refuse
from pramfs.tree.inodes import FILE_MAX_BYTES, Directory, File, Inode, now_ns

# Modes of fallocate(2), as in linux/falloc.h.
KEEP_SIZE = 1
PUNCH_HOLE = 2
ZERO_RANGE = 16

# What one call of `copy_range` copies at most, so that other calls come in between. Holes do not count, and
# pages that are shared count for as much less as that takes less time, plus what each step takes.
COPY_BYTES = 1 << 22
_PIECE_BYTES = 1 << 18  # read and written at a time: more would not stay in the processor's cache
_SHARING_IS_FASTER = 64
_STEP_BYTES = 1 << 15
_UNSHARED_PAGES = COPY_BYTES >> PAGE_SHIFT  # copied by one call of `unshare`

_FALLOCATE_MODES = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)


class FileOperations(InodeOperations):
    """The operations of a tree on a regular file that has been looked up."""

    def fallocate(
        self, inode: Inode, mode: int, offset: int, length: int, *, set_times: bool = True
    ) -> None:
        """Reserve room for a range of a file, punch a hole there, or make it zeros with room reserved.

        Raises EINVAL, EOPNOTSUPP, EISDIR, ENODEV, EFBIG, EPERM, ENOSPC, FramesHeld. With a write-back
        cache the kernel sets the times by `setattr`: then `set_times` is false.
        """
        end = offset + length
        file = _checked(inode, mode, offset, end)
        refuse(file, IMMUTABLE if not mode & ~KEEP_SIZE else FIXED)
        first, behind = offset >> PAGE_SHIFT, (end + PAGE_SIZE - 1) >> PAGE_SHIFT
        self.note_change(file)  # also if there is an error half-way
        if not mode & PUNCH_HOLE:
            self.data.unshare(file, first, behind)
            self.data.reservations.add(file, first, behind)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            self.data.clear(file, offset, end)
        if mode & PUNCH_HOLE:
            first, behind = (offset + PAGE_SIZE - 1) >> PAGE_SHIFT, end >> PAGE_SHIFT
            self.data.reservations.remove(file, first, max(first, behind))
        if not mode & KEEP_SIZE:
            file.length = max(file.length, end)
        if set_times:
            file.mtime = file.ctime = now_ns()

    def unshare(self, inode: Inode, mode: int, offset: int, length: int) -> int:
        """Copy shared pages at the start of a range, if `fallocate` in this mode would; at most 4 MiB.

        Returns how many bytes of the range are done, `length` if all: `fallocate` copies what is left at
        once, and others would have to wait. Raises what `fallocate` raises.
        """
        file = _checked(inode, mode, offset, offset + length)
        if mode & PUNCH_HOLE:
            return length
        refuse(file, IMMUTABLE if not mode & ~KEEP_SIZE else FIXED)
        self.note_change(file)
        first, behind = offset >> PAGE_SHIFT, (offset + length + PAGE_SIZE - 1) >> PAGE_SHIFT
        reached = self.data.unshare(file, first, behind, _UNSHARED_PAGES)
        return min(length, (reached << PAGE_SHIFT) - offset)

    def copy_range(
        self,
        source: Inode,
        offset: int,
        target: Inode,
        target_offset: int,
        length: int,
        *,
        set_times: bool = True,
    ) -> int:
        """Copy from one file to another or the same as copy_file_range(2) does; return the number of bytes.

        There may be fewer than asked for, but there is one unless `offset` is at the end of the source: the
        caller calls again for the rest. Whole pages are not copied but shared, and holes stay holes. Raises
        EISDIR, EINVAL, EPERM, EFBIG; ENOSPC or FramesHeld if nothing was copied.
        """
        file = _regular(source)
        copy = _regular(target)
        refuse(copy, FIXED)
        if min(offset, target_offset, length) < 0:
            raise posix_error(errno.EINVAL)
        length = min(length, file.length - offset)
        if length <= 0:
            return 0
        if target_offset + length > FILE_MAX_BYTES:
            raise posix_error(errno.EFBIG)
        if file is copy and abs(offset - target_offset) < length:
            raise posix_error(errno.EINVAL)
        self.touch_atime(file)
        self.note_change(copy)
        copied = self._copy(file, offset, copy, target_offset, length)
        if set_times:
            copy.mtime = copy.ctime = now_ns()
        return copied

    def seek(self, file: File, offset: int, whence: int) -> int:
        """Return the offset that lseek(2) with SEEK_DATA or SEEK_HOLE finds. Raises ENXIO, EINVAL.

        A page is data once it was written, whatever it contains. There is a hole at the end of the file.
        """
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise posix_error(errno.EINVAL)
        if not 0 <= offset < file.length:
            raise posix_error(errno.ENXIO)
        if whence == os.SEEK_HOLE:
            return self.data.next_hole(file, offset)
        found = self.data.next_data(file, offset)
        if found is None:
            raise posix_error(errno.ENXIO)
        return found

    # --- helpers ---------------------------------------------------------------------------------

    def _copy(self, file: File, offset: int, copy: File, target_offset: int, length: int) -> int:
        """Copy what COPY_BYTES allow, and the holes before, between and after that."""
        copied, left = 0, COPY_BYTES
        while copied < length:
            at, to = offset + copied, target_offset + copied
            found = self.data.next_data(file, at)
            try:
                if found == at:
                    if left <= 0:
                        break
                    size, cost = self._copy_data(file, at, copy, to, length - copied, left)
                    left -= cost
                else:
                    size = length - copied if found is None else min(found - at, length - copied)
                    self.data.clear(copy, to, to + size)
                    copy.length = max(copy.length, to + size)
            except OSError as error:
                copied += error.written if isinstance(error, ShortWrite) else 0
                if not copied:
                    raise
                break
            copied += size
        return copied

    def _copy_data(
        self, file: File, at: int, copy: File, to: int, size: int, left: int
    ) -> tuple[int, int]:
        """Copy or share the start of `size` bytes of data; return its bytes, and what they count for."""
        offset = at % PAGE_SIZE
        may_share = offset == to % PAGE_SIZE
        size = min(size, left * _SHARING_IS_FASTER if may_share and not offset else left)
        size = min(size, self.data.next_hole(file, at, at + size) - at)
        if may_share and not offset:
            pages = size >> PAGE_SHIFT
            if not pages and at + size == file.length and to + size >= copy.length:
                pages = 1  # there are zeros after the end of both
            if pages:
                self.data.share(file, at >> PAGE_SHIFT, copy, to >> PAGE_SHIFT, pages)
                size = min(size, pages << PAGE_SHIFT)
                copy.length = max(copy.length, to + size)
                return size, size // _SHARING_IS_FASTER + _STEP_BYTES
        # What follows an offset in a page may be shared.
        size = min(size, PAGE_SIZE - offset if may_share else _PIECE_BYTES)
        self.data.write(copy, to, self.data.copy_of(file, at, size))
        return size, size


def _regular(inode: Inode) -> File:
    """Return a file that can be copied from and to. Raises EISDIR, EINVAL."""
    if isinstance(inode, File):
        return inode
    raise posix_error(errno.EISDIR if isinstance(inode, Directory) else errno.EINVAL)


def _checked(inode: Inode, mode: int, offset: int, end: int) -> File:
    """Return the file that fallocate(2) changes. Raises EINVAL, EOPNOTSUPP, EISDIR, ENODEV, EFBIG."""
    if offset < 0 or end <= offset:
        raise posix_error(errno.EINVAL)
    if mode not in _FALLOCATE_MODES:
        raise posix_error(errno.EOPNOTSUPP)
    if isinstance(inode, Directory):
        raise posix_error(errno.EISDIR)
    if not isinstance(inode, File):
        raise posix_error(errno.ENODEV)
    if end > FILE_MAX_BYTES:
        raise posix_error(errno.EFBIG)
    return inode
