"""List files of an image as `ls -ln` does, or as values for programs."""

import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pramfs.offline.paths import Entry, kind_name
from pramfs.offline.reader import TreeReader, children
from pramfs.offline.scan import file_name
from pramfs.system.text import printable
from pramfs.tree import file_flags
from pramfs.tree.inodes import Directory, Inode, Symlink

_NS = 10**9


class Section(NamedTuple):
    """A part of a listing: its heading, "" for none, and entries, each with the name to show."""

    heading: str
    entries: list[tuple[Entry, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A file in a listing. The JSON has these names, in this order (see docs/json.md)."""

    path: str  # from the root of the tree
    kind: str  # "file", "directory" and so on
    ino: int
    mode: str  # permissions, octal
    nlink: int
    uid: int
    gid: int
    size: int
    device: str  # MAJOR:MINOR of a device node, else ""
    target: str  # of a symbolic link, else ""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    born_ns: int  # 0: unknown
    flags: str  # of chattr(1), in letters
    damage: str  # what is wrong with its data, as far as that was looked at


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


def listing_lines(sections: Sequence[Section], *, long: bool = False) -> Iterator[str]:
    """Yield the lines of a listing, in the form of `ls -ln`; `long` ones have flags and birth times, too."""
    for number, section in enumerate(sections):
        if number:
            yield ""
        if section.heading:
            yield section.heading
        for entry, name in section.entries:
            yield list_line(entry, name, long=long)


def list_line(entry: Entry, name: bytes, *, long: bool = False) -> str:
    """Return the entry in the form of `ls -ln`. Owners are numbers, as names may be another machine's."""
    inode = entry.inode
    size = _device(inode, ", ") or f"{inode.size}"
    target = f" -> {file_name(inode.target)}" if isinstance(inode, Symlink) else ""
    flags = f" {file_flags.letters(inode.flags, absent='-')}" if long else ""
    born = f" {_when(inode.born // _NS) if inode.born else '-':<19}" if long else ""
    return (
        f"{stat.filemode(inode.mode)}{flags} {inode.nlink:>4} {inode.uid:>6} {inode.gid:>6} {size:>14} "
        f"{_when(inode.mtime // _NS)}{born} {file_name(name)}{target}"
    )


def listed_files(sections: Sequence[Section], damaged: Mapping[bytes, str]) -> Iterator[ListedFile]:
    """Yield the files of a listing for programs."""
    for section in sections:
        for entry, _ in section.entries:
            inode = entry.inode
            yield ListedFile(
                path=os.fsdecode(entry.path),
                kind=kind_name(inode),
                ino=inode.ino,
                mode=f"{stat.S_IMODE(inode.mode):04o}",
                nlink=inode.nlink,
                uid=inode.uid,
                gid=inode.gid,
                size=inode.size,
                device=_device(inode, ":"),
                target=os.fsdecode(inode.target) if isinstance(inode, Symlink) else "",
                atime_ns=inode.atime,
                mtime_ns=inode.mtime,
                ctime_ns=inode.ctime,
                born_ns=inode.born,
                flags=file_flags.letters(inode.flags),
                damage=damaged.get(entry.path, ""),
            )


def _device(inode: Inode, between: str) -> str:
    """Return the numbers of a device node, "" for other kinds of files."""
    if not (stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)):
        return ""
    return f"{os.major(inode.rdev)}{between}{os.minor(inode.rdev)}"


def _when(seconds: int) -> str:
    """Return a time as text; one that no calendar has as a number, as ls(1) does."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)
