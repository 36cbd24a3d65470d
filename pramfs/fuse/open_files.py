"""Open files: what they count for, and which of them may have written what the kernel keeps.

Most mounts need not know of them, and answer OPEN and CREATE with ENOSYS: then the kernel never asks about an
open nor tells of a close, but for files that it has made with TMPFILE. What keeps an inode is then its lookup
count alone.
"""

import errno
import os

from pramfs.errors import posix_error
from pramfs.fuse.protocol import FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, OPEN_OUT
from pramfs.tree.file_flags import APPEND, IMMUTABLE, refuse
from pramfs.tree.inodes import Inode
from pramfs.tree.tree import Tree


class OpenFiles:
    """Counts the handles of a tree's files. None has a number: each request names the inode.

    `counted`: the kernel tells of them.
    """

    def __init__(self, tree: Tree, *, counted: bool, direct_io: bool) -> None:
        self._tree = tree
        self._counted = counted
        flags = FOPEN_KEEP_CACHE | (FOPEN_DIRECT_IO if direct_io else 0)
        self._answer = OPEN_OUT.pack(0, flags, 0)
        self._writers: dict[int, int] = {}

    def require_counted(self) -> None:
        """Raise ENOSYS if the kernel is not to ask about opens, nor to open what it makes."""
        if not self._counted:
            raise posix_error(errno.ENOSYS)

    def open(self, file: Inode, flags: int) -> bytes:
        """Count a handle, and return what a reply says of it."""
        if not self._counted:
            return self._answer
        file.refs += 1
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._writers[file.ino] = self._writers.get(file.ino, 0) + 1
        return self._answer

    def close(self, file: Inode, flags: int) -> None:
        """Count one handle less. Without writers the kernel has handed over what they wrote."""
        if not self._counted:
            return  # made by TMPFILE
        if flags & os.O_ACCMODE != os.O_RDONLY:
            left = self._writers.pop(file.ino, 1) - 1
            if left:
                self._writers[file.ino] = left
        self._tree.forget(file)

    def has_writers(self, file: Inode) -> bool:
        """Return whether the kernel may have data of the file that the tree has not got."""
        return not self._counted or file.ino in self._writers


def refuse_writers(file: Inode, flags: int) -> None:
    """Raise EPERM if a file may not be opened so, for the flags that chattr(1) has set."""
    if flags & os.O_ACCMODE != os.O_RDONLY:
        may_append = flags & os.O_APPEND and not flags & os.O_TRUNC
        refuse(file, IMMUTABLE if may_append else IMMUTABLE | APPEND)
