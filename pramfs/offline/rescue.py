"""Read a tree out of an image without mounting it: list, cat, extract. No root, no FUSE, nothing is changed.

Every data page is checked before a byte of it leaves here. What is damaged is refused, or with `recover` left
out: a file with a damaged page, and all files behind a damaged link of the tree's data. When the metadata
of a tree is damaged there are no names to rescue anything by.
"""

import contextlib
import errno
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from pramfs.errors import DamagedPage, DamagedTree, PramError, posix_error, words_of
from pramfs.offline.paths import Entry, resolve
from pramfs.offline.scan import Surveyed, file_name, survey
from pramfs.pram.links import Entries
from pramfs.saves import codec
from pramfs.saves.persist import DATA_SUFFIX, META_SUFFIX, tree_names
from pramfs.storage.image import Image
from pramfs.storage.layout import BYTE_STREAM, PAGE_DATA, PAGE_SHIFT, PAGE_SIZE, PAGE_STREAM
from pramfs.system.text import printable
from pramfs.tree.inodes import ROOT_INO, Directory, File, Inode, Special, Symlink

_PIECE_FRAMES = 256
_NS = 10**9
_NAMED_PATHS = 10  # that a refusal lists
_PATH_MAX_BYTES = 4096


class Section(NamedTuple):
    """A part of a listing: its heading, "" for none, and entries with how to call each."""

    heading: str
    entries: list[tuple[Entry, bytes]]


class _Pages(NamedTuple):
    """Which entries of the data stream are a file's; `end` may be past those that could be read."""

    start: int
    end: int


@dataclass(slots=True)
class Extracted:
    """What came of an extraction: names made, what was left out and why, attributes that could not be set."""

    names: int
    left_out: list[str]
    not_set: dict[str, int]  # reason -> how often


class Rescue:
    """One tree of an image, with all names and attributes, and its data on demand."""

    def __init__(self, image: Image, name: str) -> None:
        """Raises PramError when there is no such tree, DamagedTree when its metadata is damaged."""
        self.name = name
        self._image = image
        found = survey(image)
        if name + META_SUFFIX not in found.nodes:
            there_are = ", ".join(tree_names(found.nodes)) or "none"
            damage = f"; {found.damage[0]}" if found.damage else ""
            raise PramError(f"no tree '{printable(name)}'; there are: {there_are}{damage}")
        try:
            metadata = _read_stream(image, found.nodes[name + META_SUFFIX])
            decoded = codec.decode_tree(metadata)
        except (PramError, ValueError) as exc:
            raise DamagedTree(name, exc) from exc
        data = found.nodes.get(name + DATA_SUFFIX)
        is_data = data is not None and data.node.type == PAGE_STREAM
        self._entries = data.chain.entries if data is not None and is_data else Entries()
        root = decoded.inodes[ROOT_INO]
        assert isinstance(root, Directory)
        self._root = root
        self._pages: dict[File, _Pages] = {}
        at = 0
        for file, pages in zip(decoded.files, decoded.pages, strict=True):
            self._pages[file] = _Pages(at, at + pages)
            at += pages
        if at < len(self._entries):
            raise DamagedTree(name, f"{len(self._entries)} data pages are not those of the files")

    def way(self, path: str, *, follow: bool = False) -> list[Entry]:
        """What a path leads through, and at the end what it names, as `paths.resolve` finds it."""
        return resolve(self._root, path, follow=follow)

    def find(self, path: str, *, follow: bool = False) -> Entry:
        """What a path names."""
        return self.way(path, follow=follow)[-1]

    def walk(self, start: Entry) -> Iterator[Entry]:
        """`start` and all that is below it; a directory before what is in it.

        What is in a directory is left out when its path is longer than a path can be: paths of a deep tree
        would take the square of its depth.
        """
        unvisited = [start]
        while unvisited:
            entry = unvisited.pop()
            yield entry
            if len(entry.path) <= _PATH_MAX_BYTES:
                unvisited += reversed(list(children(entry)))

    def frames(self, file: File) -> "array[int]":
        """The pfns of a file's data pages, as far as they are known."""
        start, end = self._pages[file]
        return self._entries.pfns[start:end]

    def contents(self, file: File) -> Iterator[tuple[int, bytes]]:
        """The data of a file as (offset, bytes), in order, without holes, each page checked.

        Raises DamagedPage, or another PramError when pages are missing or cannot be read.
        """
        entries, (start, end) = self._entries, self._pages[file]
        if end > max(start, len(entries)):
            raise PramError("its pages are behind a damaged link")
        for first, count in _pieces(entries, start, end):
            data = self._image.read(entries.pfns[first], count)
            for at in range(count):
                page = data[at << PAGE_SHIFT : (at + 1) << PAGE_SHIFT]
                if crc32c(page) != entries.csums[first + at]:
                    raise DamagedPage(entries.pfns[first + at], "data")
            offset = entries.indices[first] << PAGE_SHIFT
            yield offset, data[: file.length - offset]

    def bytes_of(self, file: File) -> Iterator[bytes]:
        """The data of a file from end to end, holes as zeros. Raises as `contents` does."""
        at = 0
        for offset, data in self.contents(file):
            yield from _zeros(offset - at)
            yield data
            at = offset + len(data)
        yield from _zeros(file.length - at)

    def damage(self, file: File) -> str:
        """What is wrong with the data of a file; "" when nothing is."""
        start, end = self._pages[file]
        indices = self._entries.indices[start:end]
        limit = -(-file.length // PAGE_SIZE)
        if any(a >= b for a, b in pairwise(indices)) or (indices and indices[-1] >= limit):
            return "its pages are not in order"
        if self._entries.flags[start:end].count(PAGE_DATA) != len(indices):
            return "its pages are not data"
        try:
            for _ in self.contents(file):
                pass
        except PramError as exc:
            return str(exc)
        return ""

    def damaged(self, entries: Sequence[Entry]) -> dict[bytes, str]:
        """The paths, among these, of files that are damaged, and what is wrong with each."""
        known: dict[Inode, str] = {}
        for entry in entries:
            if isinstance(entry.inode, File) and entry.inode not in known:
                known[entry.inode] = self.damage(entry.inode)
        return {entry.path: known[entry.inode] for entry in entries if known.get(entry.inode)}


def outlook(image: Image, name: str) -> str:
    """What can be had of a tree that is too damaged to be mounted, in words."""
    try:
        Rescue(image, name)
    except PramError:
        return (
            f"the names of the files of tree '{printable(name)}' are lost: nothing can be recovered"
        )
    return f"the files of tree '{printable(name)}' that are whole can be had with: pramfs extract --recover"


def children(entry: Entry) -> Iterator[Entry]:
    """What is in a directory, sorted by name; nothing for what is none."""
    if isinstance(entry.inode, Directory):
        for name in sorted(entry.inode.entries):
            yield entry.child(name, entry.inode.entries[name])


def listing(rescue: Rescue, paths: Sequence[str]) -> list[Section]:
    """What `ls` shows for the paths (none: the root): files first, then what is in each directory."""
    files: list[tuple[Entry, bytes]] = []
    directories = []
    for path in paths or [""]:
        entry = rescue.find(path)
        if isinstance(entry.inode, Directory):
            inside = [(child, os.path.basename(child.path)) for child in children(entry)]  # noqa: PTH119
            directories.append(Section(f"{printable(path)}:" if len(paths) > 1 else "", inside))
        else:
            files.append((entry, os.fsencode(path)))
    return [Section("", files), *directories] if files else directories


def files(rescue: Rescue, paths: Sequence[str]) -> list[tuple[Entry, File]]:
    """The regular files at the paths. Raises PramError for what is none."""
    found = []
    for path in paths:
        entry = rescue.find(path, follow=True)
        if not isinstance(entry.inode, File):
            raise PramError(f"{printable(path)}: not a regular file")
        found.append((entry, entry.inode))
    return found


def refuse_damaged(rescue: Rescue, damaged: dict[bytes, str]) -> None:
    """Raise DamagedTree, with names, if there are damaged files."""
    if damaged:
        names = ", ".join(file_name(path) for path in list(damaged)[:_NAMED_PATHS])
        raise DamagedTree(rescue.name, f"{len(damaged)} damaged: {names}; see --recover")


def damage_lines(damaged: dict[bytes, str]) -> list[str]:
    """A line for each damaged file."""
    return [f"{file_name(path)}: {why}" for path, why in damaged.items()]


def listing_lines(sections: Sequence[Section]) -> Iterator[str]:
    """The lines of a listing, as `ls -ln` has them."""
    for number, section in enumerate(sections):
        if number:
            yield ""
        if section.heading:
            yield section.heading
        for entry, name in section.entries:
            yield list_line(entry, name)


def list_line(entry: Entry, name: bytes) -> str:
    """The entry as `ls -ln` shows it. Owners are numbers: names are those of another machine."""
    inode = entry.inode
    size = f"{inode.size}"
    if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
        size = f"{os.major(inode.rdev)}, {os.minor(inode.rdev)}"
    target = f" -> {file_name(inode.target)}" if isinstance(inode, Symlink) else ""
    return (
        f"{stat.filemode(inode.mode)} {inode.nlink:>4} {inode.uid:>6} {inode.gid:>6} {size:>14} "
        f"{_when(inode.mtime // _NS)} {file_name(name)}{target}"
    )


def extract(
    rescue: Rescue, paths: Sequence[str], directory: Path, *, recover: bool = False
) -> Extracted:
    """Make the trees at `paths` (none: everything), under the same paths, in a new or empty directory.

    Raises DamagedTree, and makes nothing, when a file in them is damaged, unless it is to `recover`: then
    those are left out. Raises PramError when the directory is not empty or cannot be made.
    """
    chosen = _chosen(rescue, paths)
    damaged = rescue.damaged(chosen)
    refuse_damaged(rescue, {} if recover else damaged)
    _require_empty(directory)
    extractor = _Extractor(rescue, os.fsencode(directory))
    extractor.left_out += damage_lines(damaged)
    for entry in chosen:
        if entry.path not in damaged:
            extractor.make(entry)
    extractor.finish()
    return Extracted(extractor.names, extractor.left_out, extractor.not_set)


class _Extractor:
    """Makes names in a directory that was empty: whatever is there, this made it."""

    def __init__(self, rescue: Rescue, top: bytes) -> None:
        self.names = 0
        self.left_out: list[str] = []
        self.not_set: dict[str, int] = {}
        self._rescue = rescue
        self._top = top
        self._made: dict[Inode, bytes] = {}  # its first path
        self._directories: list[tuple[bytes, Directory]] = []

    def make(self, entry: Entry) -> None:
        path = os.path.join(self._top, entry.path) if entry.path else self._top  # noqa: PTH118 - bytes
        inode = entry.inode
        try:
            if inode in self._made:
                os.link(self._made[inode], path, follow_symlinks=False)
            elif isinstance(inode, Directory):
                if entry.path:
                    os.mkdir(path, 0o700)  # noqa: PTH102 - bytes
                self._directories.append((path, inode))
            else:
                self._make_new(path, inode)
                self._made[inode] = path
        except (OSError, PramError) as exc:
            self.left_out.append(f"{file_name(entry.path)}: {words_of(exc)}")
        else:
            self.names += 1

    def finish(self) -> None:
        """Directories get their attributes last: they may forbid to write, and writing changes times."""
        for path, inode in reversed(self._directories):
            self._set_attributes(path, inode)

    def _make_new(self, path: bytes, inode: Inode) -> None:
        if isinstance(inode, File):
            self._make_file(path, inode)
        elif isinstance(inode, Symlink):
            os.symlink(inode.target, path)  # noqa: PTH211 - bytes
        elif isinstance(inode, Special):
            os.mknod(path, stat.S_IFMT(inode.mode) | 0o600, inode.rdev)
        self._set_attributes(path, inode)

    def _make_file(self, path: bytes, file: File) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(fd, file.length)
            for offset, data in self._rescue.contents(file):
                _write_all(fd, offset, data)
        except BaseException:
            os.unlink(path)  # noqa: PTH108 - bytes
            raise
        finally:
            os.close(fd)

    def _set_attributes(self, path: bytes, inode: Inode) -> None:
        """Owner first, for it takes set-id bits and capabilities away; times last."""
        self._try("owner", lambda: os.chown(path, inode.uid, inode.gid, follow_symlinks=False))
        for name, value in (inode.xattrs or {}).items():
            self._try_xattr(path, name, value)
        if not isinstance(inode, Symlink):
            self._try("mode", lambda: os.chmod(path, stat.S_IMODE(inode.mode)))  # noqa: PTH101 - bytes
        times = (inode.atime, inode.mtime)
        self._try("times", lambda: os.utime(path, ns=times, follow_symlinks=False))

    def _try_xattr(self, path: bytes, name: bytes, value: bytes) -> None:
        label = f"attribute {file_name(name)}"
        self._try(label, lambda: os.setxattr(path, name, value, follow_symlinks=False))

    def _try(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except OSError as exc:
            reason = f"{what}: {exc.strerror}"
            self.not_set[reason] = self.not_set.get(reason, 0) + 1


def _when(seconds: int) -> str:
    """A time as people write it; those that no calendar has as a number, as ls(1) shows them."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _chosen(rescue: Rescue, paths: Sequence[str]) -> list[Entry]:
    """What the paths lead through, and all that is at and below them; each once, parents first.

    So a path through a symbolic link names the same where it has been extracted.
    """
    chosen: dict[bytes, Entry] = {}
    for path in paths or [""]:
        *way, entry = rescue.way(path)
        for part in (*way, *rescue.walk(entry)):
            chosen.setdefault(part.path, part)
    return list(chosen.values())


def _require_empty(directory: Path) -> None:
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        if any(directory.iterdir()):
            raise posix_error(errno.ENOTEMPTY)
    except OSError as exc:
        raise PramError(
            f"{directory}: {exc.strerror}; extract makes a new directory, or fills an empty one"
        ) from exc


def _read_stream(image: Image, surveyed: Surveyed) -> bytes:
    """All bytes of a byte stream. Raises PramError when it is damaged, or none."""
    node, entries = surveyed.node, surveyed.chain.entries
    if surveyed.damage:
        raise PramError(surveyed.damage)
    if node.type != BYTE_STREAM:
        raise PramError(f"node '{printable(node.name)}' is no byte stream")
    pieces = []
    for at, pfn in enumerate(entries.pfns):
        page = image.read(pfn)
        if crc32c(page) != entries.csums[at]:
            raise DamagedPage(pfn, f"node '{printable(node.name)}'")
        pieces.append(page)
    return b"".join(pieces)[: node.data_len]


def _pieces(entries: Entries, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Entries start..end-1 as (first, count) whose frames and indices both follow each other."""
    pfns: array[int] = entries.pfns
    indices: array[int] = entries.indices
    while start < end:
        count = 1
        while (
            start + count < end
            and count < _PIECE_FRAMES
            and pfns[start + count] == pfns[start] + count
            and indices[start + count] == indices[start] + count
        ):
            count += 1
        yield start, count
        start += count


def _zeros(count: int) -> Iterator[bytes]:
    piece = bytes(_PIECE_FRAMES << PAGE_SHIFT)
    while count > 0:
        yield piece[:count]
        count -= len(piece)


def _write_all(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
