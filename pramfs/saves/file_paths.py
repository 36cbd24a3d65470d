"""The paths of files that are lost or damaged, for messages."""

import os
from typing import Any

from pramfs.tree.inodes import PATH_MAX_BYTES, Directory, File, Inode

NAMED_PATHS_MAX = 10  # that a message lists

_Trail = (
    tuple[Any, bytes] | None
)  # the trail to a directory, and a name in it; whole paths take too much


def paths_of(root: Inode, files: list[File]) -> list[str]:
    """The paths, from the `root` of the tree, of all names of `files`, sorted."""
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
    """The path of a name; its end, if it is longer than paths can be: there may be many of those."""
    names: list[bytes] = []
    size = 0
    while trail is not None and size <= PATH_MAX_BYTES:
        trail, name = trail
        names.append(b"/" + name)
        size += len(name) + 1
    return ("…" if trail is not None else "") + os.fsdecode(b"".join(reversed(names)))


def listed(paths: list[str]) -> str:
    """The paths in one line, all or the first of them."""
    more = len(paths) - NAMED_PATHS_MAX
    names = ", ".join(
        path.encode(errors="backslashreplace").decode() for path in paths[:NAMED_PATHS_MAX]
    )
    return names + (f" and {more} more" if more > 0 else "")
