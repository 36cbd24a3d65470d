"""The calls on regular files beyond reading and writing: lseek(2) for data and holes.

Errors are OSErrors with the errno that the system call has on tmpfs, or on ext4 where tmpfs has not got it.
"""

import errno
import os

from pramfs.errors import posix_error
from pramfs.tree.attributes import InodeOperations
from pramfs.tree.inodes import File


class FileOperations(InodeOperations):
    """The operations of a tree on a regular file that has been looked up."""

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
