"""Who makes a request: what the kernel says of a process, and what /proc adds."""

import stat

from pramfs.tree.inodes import Inode


def in_group(uid: int, gid: int, pid: int, inode: Inode) -> bool:
    """Return whether a process is in the group of a set-gid file, or root; True for all other files."""
    if not inode.mode & stat.S_ISGID or uid == 0 or gid == inode.gid:
        return True
    try:
        return inode.gid in _supplementary_groups(pid)
    except OSError:
        return False  # the process is gone, or in another namespace


def _supplementary_groups(pid: int) -> list[int]:
    with open(f"/proc/{pid}/status", "rb") as status:  # noqa: PTH123 - a path object is slow
        for line in status:
            if line.startswith(b"Groups:"):
                return [int(word) for word in line.split()[1:]]
    return []
