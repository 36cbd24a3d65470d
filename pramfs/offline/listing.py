"""List files of an image as `ls -ln` does."""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pramfs.offline.paths import Entry
from pramfs.offline.reader import TreeReader, children
from pramfs.offline.scan import file_name
from pramfs.system.text import printable
from pramfs.tree.inodes import Directory, Symlink

_NS = 10**9


class Section(NamedTuple):
    """A part of a listing: its heading, "" for none, and entries, each with the name to show."""

    heading: str
    entries: list[tuple[Entry, bytes]]


def listing(reader: TreeReader, paths: Sequence[str]) -> list[Section]:
    """Return what `ls` shows for the paths (none: the root): files first, then each directory."""
    files: list[tuple[Entry, bytes]] = []
    directories = []
    for path in paths or [""]:
        entry = reader.find(path)
        if isinstance(entry.inode, Directory):
            inside = [(child, os.path.basename(child.path)) for child in children(entry)]  # noqa: PTH119
            directories.append(Section(f"{printable(path)}:" if len(paths) > 1 else "", inside))
        else:
            files.append((entry, os.fsencode(path)))
    return [Section("", files), *directories] if files else directories


def listing_lines(sections: Sequence[Section]) -> Iterator[str]:
    """Yield the lines of a listing, in the form of `ls -ln`."""
    for number, section in enumerate(sections):
        if number:
            yield ""
        if section.heading:
            yield section.heading
        for entry, name in section.entries:
            yield list_line(entry, name)


def list_line(entry: Entry, name: bytes) -> str:
    """Return the entry in the form of `ls -ln`. Owners are numbers, as names may be another machine's."""
    inode = entry.inode
    size = f"{inode.size}"
    if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        size = f"{os.major(inode.rdev)}, {os.minor(inode.rdev)}"
    target = f" -> {file_name(inode.target)}" if isinstance(inode, Symlink) else ""
    return (
        f"{stat.filemode(inode.mode)} {inode.nlink:>4} {inode.uid:>6} {inode.gid:>6} {size:>14} "
        f"{_when(inode.mtime // _NS)} {file_name(name)}{target}"
    )


def _when(seconds: int) -> str:
    """Return a time as text; one that no calendar has as a number, as ls(1) does."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)
