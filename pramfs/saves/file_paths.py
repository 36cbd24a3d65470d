"""Find the paths of lost or damaged files, for messages."""

import os
from typing import Any

from pramfs.tree.inodes import PATH_MAX_BYTES, Directory, File, Inode

NAMED_PATHS_MAX = 10  # that a message lists

# The trail of the parent directory, and a name in it; whole paths take too much memory.
_Trail = tuple[Any, bytes] | None


def paths_of(root: Inode, files: list[File]) -> list[str]:
    """Return the sorted paths, from the `root` of the tree, of all names of `files`."""
    wanted = set(files)
    if not wanted:
        return []
    paths = []
    unvisited: list[tuple[_Trail, Inode]] = [(None, root)]
    while unvisited:
        trail, inode = unvisited.pop()
        if inode in wanted:
            paths.append(_path(trail))
        elif isinstance(inode, Directory):
            unvisited.extend(((trail, name), child) for name, child in inode.entries.items())
    return sorted(paths)


def _path(trail: _Trail) -> str:
    """Return the path of a name, only its end if it exceeds the length of paths: there may be many."""
    names: list[bytes] = []
    size = 0
    while trail is not None and size <= PATH_MAX_BYTES:
        trail, name = trail
        names.append(b"/" + name)
        size += len(name) + 1
    return ("…" if trail is not None else "") + os.fsdecode(b"".join(reversed(names)))


def listed(paths: list[str]) -> str:
    """Return the first paths, or all of them, in one line."""
    more = len(paths) - NAMED_PATHS_MAX
    names = ", ".join(
        path.encode(errors="backslashreplace").decode() for path in paths[:NAMED_PATHS_MAX]
    )
    return names + (f" and {more} more" if more > 0 else "")
