"""Resolve paths in a tree that is not mounted: as in a mount, but never to anything outside of the tree."""

import os
import stat
from typing import NamedTuple

from pramfs.errors import PramError
from pramfs.system.text import printable
from pramfs.tree.inodes import Directory, Inode, Symlink

_LINKS_MAX = 40  # as in the kernel
_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class Entry(NamedTuple):
    """One name in the tree: its path from the root, without a leading slash, and its inode."""

    path: bytes
    inode: Inode

    def child(self, name: bytes, inode: Inode) -> "Entry":
        """Return the entry of that name in this directory."""
        return Entry(self.path + b"/" + name if self.path else name, inode)


def kind_name(inode: Inode) -> str:
    """Return the kind of file in words, as the output for programs has it."""
    return _KINDS[stat.S_IFMT(inode.mode)]


def resolve(root: Directory, path: str, *, follow: bool) -> list[Entry]:
    """Return the entries on a path: directories and symbolic links from `root` on, its target last.

    A link at the end is followed if `follow`, or if a slash comes after it. Raises PramError.
    """
    walk = _Walk(root, path, follow)
    walk.go()
    return [*walk.way, walk.here[-1]]


class _Walk:
    """Walks along a path and the symbolic links on it."""

    def __init__(self, root: Directory, path: str, follow: bool) -> None:
        self.way = [Entry(b"", root)]
        # The directories from the root down to the present entry, which is the last.
        self.here = [Entry(b"", root)]
        self._path = path
        self._follow = follow
        self._names = _reversed_names(os.fsencode(path))  # still to come
        self._links = 0

    def go(self) -> None:
        while self._names:
            name = self._names.pop()
            directory = self.here[-1].inode
            if not isinstance(directory, Directory):
                raise self._error("not a directory")
            if name == b"..":
                self._ascend()
            elif name not in {b"", b"."}:
                self._enter(name, directory)

    def _ascend(self) -> None:
        self.here.pop()
        if not self.here:
            raise self._error("leads out of the tree")

    def _enter(self, name: bytes, directory: Directory) -> None:
        inode = directory.entries.get(name)
        if inode is None:
            raise self._error("no such file or directory in the tree")
        entry = self.here[-1].child(name, inode)
        self.way.append(entry)
        if isinstance(inode, Symlink) and (self._names or self._follow):
            self._go_on_at(inode.target)
        else:
            self.here.append(entry)

    def _go_on_at(self, target: bytes) -> None:
        self._links += 1
        if self._links > _LINKS_MAX:
            raise self._error("too many levels of symbolic links")
        if target.startswith(b"/"):
            raise self._error(f"leads out of the tree, to {os.fsdecode(target)}")
        self._names += _reversed_names(target)

    def _error(self, why: str) -> PramError:
        return PramError(printable(f"{self._path}: {why}"))


def _reversed_names(path: bytes) -> list[bytes]:
    return path.split(b"/")[::-1]
