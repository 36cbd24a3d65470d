"""The calls on regular files beyond reading and writing: fallocate(2), and lseek(2) for data and holes.

Errors are OSErrors with the errno that the system call has on tmpfs, or on ext4 where tmpfs has not got it.
"""

import errno
import os

from pramfs.errors import posix_error
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.tree.attributes import InodeOperations
from pramfs.tree.file_flags import FIXED, IMMUTABLE, refuse
from pramfs.tree.inodes import FILE_MAX_BYTES, Directory, File, Inode, now_ns

# Modes of fallocate(2), as in linux/falloc.h.
KEEP_SIZE = 1
PUNCH_HOLE = 2
ZERO_RANGE = 16

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
        if not mode & PUNCH_HOLE:
            self.data.reservations.add(file, first, behind)
        self.changed = True
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            self.data.clear(file, offset, end)
        if mode & PUNCH_HOLE:
            first, behind = (offset + PAGE_SIZE - 1) >> PAGE_SHIFT, end >> PAGE_SHIFT
            self.data.reservations.remove(file, first, max(first, behind))
        if not mode & KEEP_SIZE:
            file.length = max(file.length, end)
        if set_times:
            file.mtime = file.ctime = now_ns()

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
