"""The flags of inodes that chattr(1) sets, and what they forbid.

The kernel checks none of them for a FUSE file system, so the tree does where it is asked for changes.
"""

import errno

from pramfs.errors import posix_error
from pramfs.tree.inodes import Inode

# As in linux/fs.h: FS_IMMUTABLE_FL and so on, the letters of chattr(1) behind them.
IMMUTABLE = 0x10  # i: nothing may be changed
APPEND = 0x20  # a: data may only be appended
NODUMP = 0x40  # d
NOATIME = 0x80  # A: reading leaves atime alone
ALL = IMMUTABLE | APPEND | NODUMP | NOATIME

INHERITED = NODUMP | NOATIME  # by what is made in a directory
FIXED = IMMUTABLE | APPEND  # names, permissions and the rest of what is there stay

_LETTERS = {IMMUTABLE: "i", APPEND: "a", NODUMP: "d", NOATIME: "A"}  # in the order of lsattr(1)

# The same flags in struct fsxattr: FS_XFLAG_IMMUTABLE and so on.
_XFLAGS = {IMMUTABLE: 0x08, APPEND: 0x10, NODUMP: 0x80, NOATIME: 0x40}


def letters(flags: int, absent: str = "") -> str:
    """Return the letters of flags, in the order of lsattr(1), and `absent` for each that is not set."""
    return "".join(letter if flags & flag else absent for flag, letter in _LETTERS.items())


def to_xflags(flags: int) -> int:
    """Return flags as FS_IOC_FSGETXATTR gives them."""
    return sum(xflag for flag, xflag in _XFLAGS.items() if flags & flag)


def from_xflags(xflags: int) -> int:
    """Return flags as FS_IOC_FSSETXATTR takes them. Raises EOPNOTSUPP for those that are not known."""
    flags = sum(flag for flag, xflag in _XFLAGS.items() if xflags & xflag)
    if to_xflags(flags) != xflags:
        raise posix_error(errno.EOPNOTSUPP)
    return flags


def refuse(inode: Inode, flags: int) -> None:
    """Raise EPERM if the inode has any of these flags."""
    if inode.flags & flags:
        raise posix_error(errno.EPERM)
