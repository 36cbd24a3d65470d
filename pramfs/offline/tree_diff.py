"""Pair the names of two trees, and compare what belongs together: the work of `diff`, without words.

Inode numbers are never used again, so a file or directory is found under any name: what has another path is
renamed. What is new under an old name is compared with what was there. Times are not compared.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pramfs.errors import PramError
from pramfs.offline.page_diff import changed_pages
from pramfs.offline.reader import TreeReader, check_entries
from pramfs.storage.image import Image
from pramfs.system.text import printable
from pramfs.tree.inodes import PATH_MAX_BYTES, Directory, File, Inode, Symlink

ADDED = "added"
REMOVED = "removed"
RENAMED = "renamed"
CHANGED = "changed"
ATTRIBUTES = "attributes"

_CUT = "…".encode()  # in place of the beginning of a path that is too long


class Place(NamedTuple):
    """A name in a directory of one of the trees."""

    directory: Directory
    name: bytes


class Content(NamedTuple):
    """What differs in two files, or what there is in one."""

    pages: int = 0
    old_size: int = 0
    new_size: int = 0
    what: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


class Name(NamedTuple):
    """A file of the old tree, of the new one, or of both, with its name in each."""

    old: Inode | None
    new: Inode | None
    old_place: Place | None
    new_place: Place | None
    content: Content = Content()
    is_renamed: bool = False

    @property
    def change(self) -> str:
        """Return the kind of change, "" if there is none."""
        if self.new is None or self.old is None:
            return REMOVED if self.new is None else ADDED
        if self.is_renamed:
            return RENAMED
        content = self.content
        if content.pages or content.what or content.old_size != content.new_size:
            return CHANGED
        return ATTRIBUTES if content.attributes else ""


class Paths:
    """The paths of one tree. Of one that is longer than system calls accept, the end is told."""

    def __init__(self, inodes: Mapping[int, Inode]) -> None:
        self._names: dict[Inode, bytes] = {
            child: name
            for directory in inodes.values()
            if isinstance(directory, Directory)
            for name, child in directory.entries.items()
            if isinstance(child, Directory)
        }

    def path(self, place: Place | None) -> str:
        """Return the path of a place, "." for the root, which is at none."""
        if place is None:
            return "."
        directory, names = place.directory, [place.name]
        left = PATH_MAX_BYTES - len(place.name)
        while directory.parent is not directory:
            name = self._names[directory]
            left -= len(name) + 1
            if left < 0:
                names.append(_CUT)
                break
            names.append(name)
            directory = directory.parent
        return os.fsdecode(b"/".join(reversed(names)))


class Comparison:
    """Compares two trees: pairs their names, compares files with the same one, and then finds renames."""

    def __init__(self, image: Image, old: TreeReader, new: TreeReader) -> None:
        self._image = image
        self._old = old
        self._new = new
        self._compared: dict[tuple[Inode, Inode], Content] = {}  # files that have several names

    def names(self) -> list[Name]:
        """Return all names at which the trees differ, in order, a directory before its contents."""
        names = [name for name in self._names() if name.change]
        return self._with_renames(names)

    # --- what belongs together -------------------------------------------------------------------

    def _names(self) -> Iterator[Name]:
        """Yield every name of both trees."""
        old_root, new_root = self._old.root, self._new.root
        yield Name(old_root, new_root, None, None, self._content(old_root, new_root, None))
        unvisited = [_side_by_side(old_root, new_root)]
        while unvisited:
            name = next(unvisited[-1], None)
            if name is None:
                unvisited.pop()
                continue
            old, new = name.old, name.new
            if old is not None and new is not None and self._is_kept(old, new):
                yield name._replace(content=self._content(old, new, name.new_place))
                unvisited.append(_side_by_side(old, new))
                continue
            if old is not None:
                yield Name(old, None, name.old_place, None, Content(old_size=_length(old)))
                if _same(old, self._new.inodes) is None:
                    unvisited.append(_side_by_side(old, None))
            if new is not None:
                yield Name(None, new, None, name.new_place, Content(new_size=_length(new)))
                unvisited.append(_side_by_side(_same(new, self._old.inodes), new))

    def _is_kept(self, old: Inode, new: Inode) -> bool:
        """Return whether one name means the same file, or a new one in place of one that is gone."""
        now, once = _same(old, self._new.inodes), _same(new, self._old.inodes)
        return now is new or (now is None and once is None and kind_of(old) == kind_of(new))

    def _with_renames(self, names: list[Name]) -> list[Name]:
        """Make one of each name that a file has lost and another one that it has got."""
        lost: defaultdict[Inode, list[int]] = defaultdict(list)
        for at in reversed(range(len(names))):
            old = names[at].old
            if old is not None and names[at].new is None:
                lost[old].append(at)
        found: set[int] = set()
        for at, name in enumerate(names):
            if name.new is None or name.old is not None:
                continue
            old = _same(name.new, self._old.inodes)
            if old is not None and lost[old]:
                found.add(lost[old][-1])
                old_place = names[lost[old].pop()].old_place
                content = self._content(old, name.new, name.new_place)
                names[at] = Name(old, name.new, old_place, name.new_place, content, is_renamed=True)
        return [name for at, name in enumerate(names) if at not in found]

    # --- what differs ----------------------------------------------------------------------------

    def _content(self, old: Inode, new: Inode, place: Place | None) -> Content:
        """Compare two files of the same kind. Raises DamagedTree, naming the file."""
        if not isinstance(old, File) or not isinstance(new, File):
            return Content(what=_other_contents(old, new), attributes=_attributes(old, new))
        known = self._compared.get((old, new))
        if known is not None:
            return known
        try:
            pages = self._changed_pages(old, new)
        except PramError as exc:
            path = Paths(self._new.inodes).path(place)
            raise PramError(printable(f"{self._image.path}: {path}: {exc}")) from exc
        content = Content(pages, old.length, new.length, attributes=_attributes(old, new))
        if new.nlink > 1:
            self._compared[old, new] = content
        return content

    def _changed_pages(self, old: File, new: File) -> int:
        entries, others = self._old.entries(old), self._new.entries(new)
        if entries == others:
            return 0
        check_entries(old, entries)
        check_entries(new, others)
        return changed_pages(self._image, entries, others)


def _side_by_side(old: Inode | None, new: Inode | None) -> Iterator[Name]:
    """Yield the names in a directory, in both trees or in one; none for other kinds of files."""
    olds = old.entries if isinstance(old, Directory) else {}
    news = new.entries if isinstance(new, Directory) else {}
    for name in sorted({*olds, *news}):
        yield Name(
            olds.get(name),
            news.get(name),
            Place(old, name) if isinstance(old, Directory) and name in olds else None,
            Place(new, name) if isinstance(new, Directory) and name in news else None,
        )


def _same(inode: Inode, others: Mapping[int, Inode]) -> Inode | None:
    """Return the inode that has the same number and generation in another tree, if there is one."""
    other = others.get(inode.ino)
    if other is None or other.generation != inode.generation or kind_of(other) != kind_of(inode):
        return None
    return other


def kind_of(inode: Inode) -> int:
    """Return the kind of file, as in st_mode."""
    return stat.S_IFMT(inode.mode)


def _length(inode: Inode) -> int:
    return inode.length if isinstance(inode, File) else 0


def _other_contents(old: Inode, new: Inode) -> tuple[str, ...]:
    """Return what differs in the contents of files that have no pages."""
    if isinstance(old, Symlink) and isinstance(new, Symlink) and old.target != new.target:
        return ("target",)
    return ("device",) if old.rdev != new.rdev else ()


def _attributes(old: Inode, new: Inode) -> tuple[str, ...]:
    """Return the names of the attributes that differ."""
    differs = {
        "mode": old.mode != new.mode,
        "owner": (old.uid, old.gid) != (new.uid, new.gid),
        "xattrs": (old.xattrs or {}) != (new.xattrs or {}),
        "flags": old.flags != new.flags,
    }
    return tuple(name for name, is_so in differs.items() if is_so)
