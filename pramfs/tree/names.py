"""Which names there can be in a directory, and where they may move. Refusals are OSErrors."""

import errno

from pramfs.errors import posix_error
from pramfs.tree.inodes import NAME_MAX_BYTES, SYMLINK_MAX_BYTES, Directory, Inode


def check_new_name(parent: Directory, name: bytes) -> None:
    """Raise EINVAL, EEXIST, ENOENT or ENAMETOOLONG if `parent` cannot get a file of that name."""
    if not name or b"/" in name or b"\0" in name:
        raise posix_error(errno.EINVAL)
    if name in parent.entries or name in (b".", b".."):
        raise posix_error(errno.EEXIST)
    if not parent.nlink:
        raise posix_error(errno.ENOENT)  # removed, and somebody's working directory
    if len(name) > NAME_MAX_BYTES:
        raise posix_error(errno.ENAMETOOLONG)


def check_target(target: bytes) -> None:
    """Raise ENOENT, EINVAL or ENAMETOOLONG for what no symbolic link can have as its target."""
    if not target:
        raise posix_error(errno.ENOENT)
    if b"\0" in target:
        raise posix_error(errno.EINVAL)
    if len(target) > SYMLINK_MAX_BYTES:
        raise posix_error(errno.ENAMETOOLONG)


def check_replaceable(inode: Inode, target: Inode) -> None:
    """Raise the error of a rename of `inode` over `target` if that cannot be."""
    if isinstance(target, Directory):
        if not isinstance(inode, Directory):
            raise posix_error(errno.EISDIR)
        if target.entries:
            raise posix_error(errno.ENOTEMPTY)
    elif isinstance(inode, Directory):
        raise posix_error(errno.ENOTDIR)


def refuse_loop(inode: Inode, directory: Directory) -> None:
    """Raise EINVAL if `directory` is `inode` or below it."""
    if not isinstance(inode, Directory):
        return
    while directory is not inode:
        if directory is directory.parent:
            return
        directory = directory.parent
    raise posix_error(errno.EINVAL)
