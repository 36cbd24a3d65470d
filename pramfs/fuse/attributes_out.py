"""Inodes as the kernel is told of them: struct fuse_attr, and what contains it."""

import os

from pramfs.fuse.protocol import (
    ATTR_OUT,
    DIRENT,
    ENTRY_OUT,
    STATX_BASIC_STATS,
    STATX_BTIME,
    STATX_OUT,
)
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.inodes import Inode

# Only the daemon changes the tree, so the kernel may cache names and attributes for ever.
FOREVER_S = 1 << 30
# But for names of snapshots, which come and go without the kernel.
NOT_KEPT = 0

_NS = 10**9
_DIRENT_ALIGNMENT = 8

# Lets the kernel cache that a name does not exist.
NO_ENTRY = ENTRY_OUT.pack(0, 0, FOREVER_S, *[0] * 19)
_NOTHING_TOLD = bytes(ENTRY_OUT.size)


def attributes(inode: Inode) -> bytes:
    """Return the reply to GETATTR."""
    atime, atime_ns = divmod(inode.atime, _NS)
    ctime, ctime_ns = mtime, mtime_ns = divmod(inode.mtime, _NS)
    if inode.ctime != inode.mtime:
        ctime, ctime_ns = divmod(inode.ctime, _NS)
    return ATTR_OUT.pack(
        FOREVER_S, 0, 0,
        inode.ino, inode.size, inode.blocks,
        atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, PAGE_SIZE, 0,
    )  # fmt: skip


def birth(inode: Inode) -> bytes:
    """Return the reply to STATX: the attributes, and when the inode was born."""
    times = [divmod(time, _NS) for time in (inode.atime, inode.born, inode.ctime, inode.mtime)]
    return STATX_OUT.pack(
        FOREVER_S, 0, 0,
        STATX_BASIC_STATS | (STATX_BTIME if inode.born else 0), PAGE_SIZE, 0,
        inode.nlink, inode.uid, inode.gid, inode.mode, 0,
        inode.ino, inode.size, inode.blocks, 0,
        *(field for seconds, ns in times for field in (seconds, ns, 0)),
        os.major(inode.rdev), os.minor(inode.rdev), 0, 0,
    )  # fmt: skip


def entry(inode: Inode, name_valid_s: int = FOREVER_S) -> bytes:
    """Return what says that a name means this inode, for so long, with its attributes."""
    atime, atime_ns = divmod(inode.atime, _NS)
    ctime, ctime_ns = mtime, mtime_ns = divmod(inode.mtime, _NS)
    if inode.ctime != inode.mtime:
        ctime, ctime_ns = divmod(inode.ctime, _NS)
    ino = inode.ino
    return ENTRY_OUT.pack(
        ino, inode.generation, name_valid_s, FOREVER_S, 0, 0,
        ino, inode.size, inode.blocks,
        atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns,
        inode.mode, inode.nlink, inode.uid, inode.gid, inode.rdev, PAGE_SIZE, 0,
    )  # fmt: skip


def listed_entry(name: bytes, inode: Inode, position: int) -> bytes:
    """Return one entry of the reply to READDIRPLUS; reading goes on behind its position."""
    dirent = DIRENT.pack(inode.ino, position, len(name), inode.mode >> 12)
    return entry(inode) + dirent + name + bytes(-len(name) % _DIRENT_ALIGNMENT)


def listed_name(name: bytes, ino: int, mode: int, next_position: int) -> bytes:
    """Return one entry that tells no more than readdir(3) does: the kernel looks the name up to use it."""
    dirent = DIRENT.pack(ino, next_position, len(name), mode >> 12)
    return _NOTHING_TOLD + dirent + name + bytes(-len(name) % _DIRENT_ALIGNMENT)
