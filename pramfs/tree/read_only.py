"""A tree that is only read: every operation that would change it raises EROFS."""

import errno
from typing import Any, NoReturn

from pramfs.errors import posix_error
from pramfs.tree.inodes import Inode
from pramfs.tree.tree import Tree


def _refuse(tree: Tree, *arguments: Any, **options: Any) -> NoReturn:
    """Raise EROFS."""
    raise posix_error(errno.EROFS)


class ReadOnlyTree(Tree):
    """A tree whose operations only look."""

    create = create_unnamed = link = unlink = rmdir = rename = _refuse
    setattr = set_times = set_cached_times = setxattr = removexattr = set_flags = _refuse
    write = fallocate = unshare = copy_range = note_change = _refuse

    def touch_atime(self, inode: Inode) -> None:
        """Leave the time of the last access as it is."""
