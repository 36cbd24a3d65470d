"""Read a tree of an image without mounting it; needs no root and no FUSE, and changes nothing.

Every data page is verified before its bytes are returned. Damaged files are refused, or left out with
`recover`: files with a damaged page, and all files after a damaged link of the tree's data. If the metadata
of a tree is damaged, there are no names to find anything by.

    with open_tree("/dev/shm/keep.pram") as tree:
        for entry in tree.walk(tree.find("project")):
            print(entry.path, entry.inode.size)
"""

import contextlib
import os
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crc32c import crc32c

from pramfs.errors import DamagedPage, DamagedTree, PramError
from pramfs.offline.paths import Entry, resolve
from pramfs.offline.scan import Scan, ScannedNode, file_name, scan_image
from pramfs.options import DEFAULT_NAME
from pramfs.pram.links import Entries, read_stream
from pramfs.saves import codec
from pramfs.saves.file_paths import NAMED_PATHS_MAX, listed
from pramfs.saves.more import apply_births, decode_more
from pramfs.saves.snapshot_names import SNAPSHOT_MARK, no_such_snapshot, tree_named
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, MORE_SUFFIX, tree_names
from pramfs.storage import superblock
from pramfs.storage.extents import is_ascending
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import BYTE_STREAM, PAGE_DATA, PAGE_SHIFT, PAGE_SIZE, PAGE_STREAM
from pramfs.system.text import printable
from pramfs.tree.inodes import PATH_MAX_BYTES, ROOT_INO, Directory, File, Inode, Special, Symlink

# The public interface, for the API reference; the rest is for the commands.
__all__ = [
    "Directory",
    "Entry",
    "File",
    "Inode",
    "Special",
    "Symlink",
    "TreeReader",
    "children",
    "open_tree",
]

_PIECE_FRAMES = 256


class _Pages(NamedTuple):
    """The range of entries of the data stream that belong to a file; `end` may exceed those readable."""

    start: int
    end: int


@contextlib.contextmanager
def open_tree(path: str | os.PathLike[str], name: str = DEFAULT_NAME) -> Iterator["TreeReader"]:
    """Open the image at `path` to read its tree `name`, as the last save has it.

    A snapshot is named TREE@SNAPSHOT, or @SNAPSHOT or SNAPSHOT if it is one of the default tree. A daemon may
    have the image mounted. Raises NotAnImage, NoSuchSnapshot, or another PramError if the image cannot be
    opened or has no such tree; DamagedTree if the metadata of the tree is damaged; SavedMeanwhile, also after
    the start, if a page could not be read because the daemon has published another save: then start again.
    """
    with open_image(path, writable=False) as image, superblock.steady(image):
        found = scan_image(image)
        reader = TreeReader(image, tree_named(name, tree_names(found.nodes), DEFAULT_NAME), found)
        reader.read_births(found)
        yield reader


class TreeReader:
    """One tree of an image, with all names and attributes, and its data on demand.

    `births_lost` is why no inode has a birth time (`born`) although they were saved, "" unless they are lost.
    """

    def __init__(self, image: Image, name: str, found: Scan | None = None) -> None:
        """Read the metadata, of an image that was scanned already if `found` is given.

        Raises PramError for an unknown tree, DamagedTree if it is damaged.
        """
        self.name = name
        self.births_lost = ""
        self._image = image
        found = found or scan_image(image)
        if name + META_SUFFIX not in found.nodes:
            trees = tree_names(found.nodes)
            if SNAPSHOT_MARK in name and not found.damage:
                raise no_such_snapshot(image.path, name, trees)
            there_are = listed([printable(tree) for tree in trees]) or "none"
            damage = f"; {found.damage[0]}" if found.damage else ""
            told = f"no tree '{printable(name)}'; there are: {there_are}{damage}"
            raise PramError(f"{image.path}: {told}")
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
        self.root = root
        self.inodes = decoded.inodes
        self.next_ino = decoded.next_ino
        self._pages: dict[File, _Pages] = {}
        at = 0
        for file, pages in zip(decoded.files, decoded.pages, strict=True):
            self._pages[file] = _Pages(at, at + pages)
            at += pages
        if at < len(self._entries):
            raise DamagedTree(name, f"{len(self._entries)} data pages are not those of the files")

    def read_births(self, found: Scan) -> None:
        """Read when each inode was born, if the save in `found` says so."""
        node = found.nodes.get(self.name + MORE_SUFFIX)
        if node is None:
            return
        try:
            more = decode_more(_read_stream(self._image, node), found.frames)
        except (PramError, ValueError) as exc:
            self.births_lost = str(exc)
        else:
            apply_births(more, self.inodes)

    def way(self, path: str, *, follow: bool = False) -> list[Entry]:
        """Return the entries on a path from the root, its target last. Raises PramError if there is none.

        A symbolic link at the end is followed if `follow`; one that leads out of the tree is an error.
        """
        return resolve(self.root, path, follow=follow)

    def find(self, path: str, *, follow: bool = False) -> Entry:
        """Return the target of a path, "" for the root. Raises as `way` does."""
        return self.way(path, follow=follow)[-1]

    def walk(self, start: Entry) -> Iterator[Entry]:
        """Yield `start` and everything below it, a directory before its contents.

        Contents whose paths exceed the limit of paths are left out: all paths of a deep tree together would
        take memory proportional to the square of its depth.
        """
        unvisited = [start]
        while unvisited:
            entry = unvisited.pop()
            yield entry
            if len(entry.path) <= PATH_MAX_BYTES:
                unvisited += reversed(list(children(entry)))

    def frames(self, file: File) -> Sequence[int]:
        """Return the pfns of a file's data pages, as far as they are known."""
        start, end = self._pages[file]
        return self._entries.pfns[start:end]

    def entries(self, file: File) -> Entries:
        """Return the entries of a file, whatever they say. Raises PramError if some are not known."""
        start, end = self._pages[file]
        if end > max(start, len(self._entries)):
            raise PramError("its pages are behind a damaged link")
        return self._entries.part(start, end)

    def contents(self, file: File) -> Iterator[tuple[int, bytes]]:
        """Yield the data of a file as (offset, bytes), in order, without holes, each page verified.

        Raises DamagedPage, or another PramError if pages are missing or cannot be read.
        """
        entries = self.entries(file)
        for first, count in _pieces(entries):
            data = self._image.read(entries.pfns[first], count)
            for at in range(count):
                page = data[at << PAGE_SHIFT : (at + 1) << PAGE_SHIFT]
                if crc32c(page) != entries.csums[first + at]:
                    raise DamagedPage(entries.pfns[first + at], "data")
            offset = entries.indices[first] << PAGE_SHIFT
            yield offset, data[: file.length - offset]

    def bytes_of(self, file: File) -> Iterator[bytes]:
        """Yield all data of a file, holes as zeros. Raises as `contents` does."""
        at = 0
        for offset, data in self.contents(file):
            yield from _zeros(offset - at)
            yield data
            at = offset + len(data)
        yield from _zeros(file.length - at)

    def damage(self, file: File) -> str:
        """Return what is wrong with the data of a file, "" if nothing is."""
        try:
            check_entries(file, self.entries(file))
            for _ in self.contents(file):
                pass
        except PramError as exc:
            return str(exc)
        return ""

    def damaged(self, entries: Sequence[Entry]) -> dict[bytes, str]:
        """Return the paths of the damaged files among `entries`, with what is wrong with each."""
        known: dict[Inode, str] = {}
        for entry in entries:
            if isinstance(entry.inode, File) and entry.inode not in known:
                known[entry.inode] = self.damage(entry.inode)
        return {entry.path: known[entry.inode] for entry in entries if known.get(entry.inode)}


def check_entries(file: File, entries: Entries) -> None:
    """Raise PramError unless the entries can be those of the file."""
    indices = entries.indices
    limit = -(-file.length // PAGE_SIZE)
    if not is_ascending(indices) or (indices and indices[-1] >= limit):
        raise PramError("its pages are not in order")
    if entries.flags.count(PAGE_DATA) != len(entries):
        raise PramError("its pages are not data")


def recovery_hint(image: Image, name: str) -> str:
    """Return in words what can be extracted of a tree that is too damaged to be mounted."""
    try:
        TreeReader(image, name)
    except PramError:
        return (
            f"the names of the files of tree '{printable(name)}' are lost: nothing can be recovered"
        )
    return f"the files of tree '{printable(name)}' that are whole can be had with: pramfs extract --recover"


def children(entry: Entry) -> Iterator[Entry]:
    """Yield the contents of a directory, sorted by name; nothing for other kinds of files."""
    if isinstance(entry.inode, Directory):
        for name in sorted(entry.inode.entries):
            yield entry.child(name, entry.inode.entries[name])


def files_at(reader: TreeReader, paths: Sequence[str]) -> list[tuple[Entry, File]]:
    """Return the regular files at the paths. Raises PramError for other kinds of files."""
    found = []
    for path in paths:
        entry = reader.find(path, follow=True)
        if not isinstance(entry.inode, File):
            raise PramError(f"{printable(path)}: not a regular file")
        found.append((entry, entry.inode))
    return found


def refuse_damaged(reader: TreeReader, damaged: dict[bytes, str]) -> None:
    """Raise DamagedTree, naming files, if any are damaged."""
    if damaged:
        names = ", ".join(file_name(path) for path in list(damaged)[:NAMED_PATHS_MAX])
        raise DamagedTree(reader.name, f"{len(damaged)} damaged: {names}; see --recover")


def damage_lines(damaged: dict[bytes, str]) -> list[str]:
    """Return a line for each damaged file."""
    return [f"{file_name(path)}: {why}" for path, why in damaged.items()]


def _read_stream(image: Image, scanned: ScannedNode) -> bytes:
    """Return all bytes of a byte stream. Raises PramError if it is damaged, or another type of node."""
    node, entries = scanned.node, scanned.chain.entries
    if scanned.damage:
        raise PramError(scanned.damage)
    if node.type != BYTE_STREAM:
        raise PramError(f"node '{printable(node.name)}' is no byte stream")
    return read_stream(image.read, entries, node.data_len, f"node '{printable(node.name)}'")


def _pieces(entries: Entries) -> Iterator[tuple[int, int]]:
    """Yield the entries as (first, count) of pieces with consecutive frames and indices."""
    pfns: array[int] = entries.pfns
    indices: array[int] = entries.indices
    start, end = 0, len(entries)
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
