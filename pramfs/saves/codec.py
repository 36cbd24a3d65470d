"""Encode the metadata of a tree as bytes, and decode it. Streams and frames are of no concern here.

A header is followed by the records of all inodes, in any order; directory entries refer to inodes by number.
Everything from an image is checked before it is used: bounds, kinds, names, numbers, link counts, and that
the inodes form one tree. Anything else raises ValueError with the reason.
"""

import stat
from array import array
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from pramfs.storage import layout
from pramfs.storage.extents import is_ascending
from pramfs.storage.layout import DIRENT, INODE, PAGE_SIZE, TREE_HEADER, XATTR, TreeHeader
from pramfs.tree import file_flags
from pramfs.tree.hardened_dict import room_for
from pramfs.tree.inodes import (
    DIRENT_SIZE,
    FILE_MAX_BYTES,
    INO_MAX,
    KINDS,
    NAME_MAX_BYTES,
    ROOT_INO,
    SYMLINK_MAX_BYTES,
    XATTR_VALUE_MAX_BYTES,
    Directory,
    File,
    Inode,
    Special,
    Symlink,
)
from pramfs.tree.saved_groups import GROUP_SHIFT, GroupPlaces

_NS = 10**9
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Decoded:
    """The inodes of a metadata stream; `pages[n]` is the number of data pages of `files[n]`.

    `places` is where the stream has which inodes, None if they are not in order.
    """

    next_ino: int
    inodes: MutableMapping[int, Inode]
    files: list[File]
    pages: "array[int]"
    places: GroupPlaces | None

    def check_indices(self, indices: "array[int]") -> None:
        """Raise ValueError unless entries with these indices can be those of the files."""
        if sum(self.pages) != len(indices):
            raise ValueError(f"{len(indices)} data pages are not those of the files")
        at = 0
        for file, pages in zip(self.files, self.pages, strict=True):
            part = indices[at : at + pages]
            at += pages
            if pages and (not is_ascending(part) or part[-1] >= -(-file.length // PAGE_SIZE)):
                raise ValueError(f"the pages of inode {file.ino} are not in order")


def encode_tree(next_ino: int, inodes: Mapping[int, Inode]) -> Iterator[bytes]:
    """Yield the metadata stream of all inodes that have a name, in pieces of about a MiB."""
    saved = [inode for inode in inodes.values() if inode.nlink]
    pages = sum(inode.pages.count for inode in saved if isinstance(inode, File) and inode.pages)
    yield encode_header(next_ino, len(saved), pages)
    yield from encode_inodes(saved)


def encode_header(next_ino: int, inodes: int, pages: int) -> bytes:
    """Return the start of a metadata stream with the records of so many inodes, which have so many pages."""
    return TREE_HEADER.pack(layout.TREE_MAGIC, layout.TREE_VERSION, 0, next_ino, inodes, pages)


def encode_inodes(inodes: Iterable[Inode]) -> Iterator[bytes]:
    """Yield the records of inodes, in pieces of at most about a MiB."""
    pieces, size = [], 0
    for inode in inodes:
        record = _encode_inode(inode)
        pieces.append(record)
        size += len(record)
        if size >= _PIECE_BYTES:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join(pieces)


def decode_tree(data: bytes) -> Decoded:
    """Decode the metadata stream `data`. Raises ValueError."""
    if len(data) < TREE_HEADER.size:
        raise ValueError("the metadata has no header")
    header = TreeHeader._make(TREE_HEADER.unpack_from(data))
    if header.magic != layout.TREE_MAGIC:
        raise ValueError("the metadata is not a tree's")
    if header.version != layout.TREE_VERSION:
        raise ValueError(
            f"the metadata has version {header.version}, this pramfs reads {layout.TREE_VERSION}"
        )
    if header.flags:
        raise ValueError(f"the metadata has flags {header.flags:#x} that this pramfs does not know")
    if header.inodes * INODE.size > len(data):
        raise ValueError(f"{header.inodes} inodes cannot be in {len(data)} bytes")
    if header.next_ino > INO_MAX + 1:
        raise ValueError(f"next inode {header.next_ino} is out of range")
    decoder = _Decoder(data, header)
    for _ in range(header.inodes):
        decoder.take_inode()
    return decoder.finish()


class UnreadRoot(Directory):
    """The root directory of a tree of which nothing else has been read: its attributes."""

    __slots__ = ("has_xattrs", "names")

    def __init__(
        self, generation: int, mode: int, uid: int, gid: int, *, names: int, has_xattrs: bool
    ) -> None:
        super().__init__(ROOT_INO, generation, mode, uid, gid, 0)
        self.names = names
        self.has_xattrs = has_xattrs

    @property
    def size(self) -> int:
        return (self.names + 2) * DIRENT_SIZE


def decode_root(data: bytes) -> UnreadRoot:
    """Decode the root in the first page of a metadata stream, where it always is. Raises ValueError."""
    if len(data) < TREE_HEADER.size + INODE.size:
        raise ValueError("the metadata ends within a record")
    ino, generation, mode, uid, gid, nlink, *times, size, _, xattrs, flags = INODE.unpack_from(
        data, TREE_HEADER.size
    )
    if ino != ROOT_INO or not stat.S_ISDIR(mode) or mode >> 16:
        raise ValueError("the first inode is not the root")
    root = UnreadRoot(generation, mode, uid, gid, names=size, has_xattrs=bool(xattrs))
    root.nlink = nlink
    root.flags = flags & file_flags.ALL
    _set_times(root, times)
    return root


def _encode_inode(inode: Inode) -> bytes:
    kind = type(inode)
    size, pages, body = 0, 0, b""
    if kind is File:
        assert isinstance(inode, File)
        size = inode.length
        pages = inode.pages.count if inode.pages is not None else 0
    elif kind is Directory:
        assert isinstance(inode, Directory)
        size = len(inode.entries)
        body = _encode_entries(inode.entries)
    elif kind is Symlink:
        assert isinstance(inode, Symlink)
        size, body = len(inode.target), inode.target
    else:
        size = inode.rdev
    if inode.xattrs:
        body += _encode_xattrs(inode.xattrs)
    # The three times are often equal.
    mtime = divmod(inode.mtime, _NS)
    ctime = mtime if inode.ctime == inode.mtime else divmod(inode.ctime, _NS)
    atime = mtime if inode.atime == inode.mtime else divmod(inode.atime, _NS)
    return (
        INODE.pack(
            inode.ino,
            inode.generation,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.nlink,
            atime[1],
            mtime[1],
            ctime[1],
            atime[0],
            mtime[0],
            ctime[0],
            size,
            pages,
            len(inode.xattrs or ()),
            inode.flags,
        )
        + body
    )


def _encode_entries(entries: dict[bytes, Inode]) -> bytes:
    pack = DIRENT.pack
    pieces = []
    for name, inode in entries.items():
        pieces.append(pack(inode.ino, len(name)))
        pieces.append(name)
    return b"".join(pieces)


def _encode_xattrs(xattrs: dict[bytes, bytes]) -> bytes:
    return b"".join(
        XATTR.pack(len(name), len(value)) + name + value for name, value in xattrs.items()
    )


class _Decoder:
    """Reads the inodes of a metadata stream one by one, then links them into a tree."""

    def __init__(self, data: bytes, header: TreeHeader) -> None:
        self._data = data
        self._header = header
        self._next_ino = header.next_ino
        self._at = TREE_HEADER.size
        # None for a number that has room but has not occurred yet.
        self._inodes: MutableMapping[int, Any] = room_for(header.inodes, header.next_ino)
        self._files: list[File] = []
        self._pages = array("Q")
        self._pages_before = 0  # of all files so far
        self._places = GroupPlaces()
        self._group = -1
        self._directories: list[Directory] = []
        self._alike = (0, 0, 0, 0)

    def take_inode(self) -> None:
        # Variables, not a named tuple: there may be millions of records.
        record = self._at
        self._at += INODE.size
        if self._at > len(self._data):
            raise ValueError("the metadata ends within a record")
        ino, generation, mode, uid, gid, nlink, *times, size, pages, xattrs, flags = (
            INODE.unpack_from(self._data, record)
        )
        kind = KINDS.get(stat.S_IFMT(mode))
        if kind is None or mode >> 16:
            raise ValueError(f"inode {ino} has mode {mode:o}")
        if ino >> GROUP_SHIFT != self._group:
            self._group = ino >> GROUP_SHIFT
            self._places.begin(self._group, record, self._pages_before)
        if not 0 < ino < self._next_ino:
            raise ValueError(f"inode {ino} is not below the next one, {self._next_ino}")
        if self._inodes.get(ino) is not None:
            raise ValueError(f"inode {ino} twice")
        # Share equal numbers with the previous record: each int object takes 32 bytes.
        alike = generation, mode, uid, gid
        if alike != self._alike:
            self._alike = alike
        inode = kind(ino, *self._alike, 0)
        inode.nlink = nlink
        if flags:
            inode.flags = flags & file_flags.ALL
        _set_times(inode, times)
        self._inodes[ino] = inode
        self._take_body(inode, size, pages)
        if xattrs:
            inode.xattrs = self._take_xattrs(ino, xattrs)

    def finish(self) -> Decoded:
        """Check the references between records, and build the tree."""
        header = self._header
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes follow the last inode")
        self._places.end(self._at, self._pages_before)
        if self._pages_before != header.pages:
            raise self._wrong_pages()
        self._take_numbers()
        self._link_entries()
        places = self._places if self._places.are_in_order else None
        return Decoded(header.next_ino, self._inodes, self._files, self._pages, places)

    def _wrong_pages(self) -> ValueError:
        return ValueError(f"the files have not {self._header.pages} pages in all")

    def _take(self, size: int) -> bytes:
        at, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise ValueError("the metadata ends within a record")
        return self._data[at : self._at]

    def _take_body(self, inode: Inode, size: int, pages: int) -> None:
        if isinstance(inode, File):
            if size > FILE_MAX_BYTES:
                raise ValueError(f"inode {inode.ino} has {size} bytes")
            inode.length = size
            self._files.append(inode)
            self._take_pages(pages)
            return
        if pages:
            raise ValueError(f"inode {inode.ino} is no file and has pages")
        if isinstance(inode, Directory):
            self._take_entries(inode, size)
            self._directories.append(inode)
        elif isinstance(inode, Symlink):
            if not 0 < size <= SYMLINK_MAX_BYTES:
                raise ValueError(f"inode {inode.ino} has a target of {size} bytes")
            inode.target = self._take(size)
            if b"\0" in inode.target:
                raise ValueError(f"inode {inode.ino} has an impossible target")
        elif isinstance(inode, Special):
            if size >> 32:
                raise ValueError(f"inode {inode.ino} has device number {size}")
            inode.rdev = size

    def _take_pages(self, count: int) -> None:
        self._pages.append(count)
        self._pages_before += count
        if self._pages_before > self._header.pages:
            raise self._wrong_pages()

    def _take_entries(self, directory: Directory, count: int) -> None:
        """Fill the directory with inode numbers at first, because their records may come later."""
        entries: dict[bytes, Any] = directory.entries
        data, unpack, head = self._data, DIRENT.unpack_from, DIRENT.size
        at, end = self._at, len(self._data)
        for _ in range(count):
            if at + head > end:
                raise ValueError("the metadata ends within a directory")
            ino, name_len = unpack(data, at)
            name = data[at + head : at + head + name_len]
            at += head + name_len
            if at > end or not 0 < name_len <= NAME_MAX_BYTES or b"/" in name or b"\0" in name:
                raise ValueError(f"directory {directory.ino} has an impossible name")
            entries[name] = ino
        if len(entries) != count or b"." in entries or b".." in entries:
            raise ValueError(f"directory {directory.ino} has an impossible name")
        self._at = at

    def _take_xattrs(self, ino: int, count: int) -> dict[bytes, bytes]:
        xattrs = {}
        for _ in range(count):
            name_len, value_len = XATTR.unpack(self._take(XATTR.size))
            if not 0 < name_len <= NAME_MAX_BYTES or value_len > XATTR_VALUE_MAX_BYTES:
                raise ValueError(f"inode {ino} has an impossible extended attribute")
            name = self._take(name_len)
            if b"\0" in name or name in xattrs:
                raise ValueError(f"inode {ino} has an impossible extended attribute")
            xattrs[name] = self._take(value_len)
        return xattrs

    def _take_numbers(self) -> None:
        """Drop unused keys from the map, and let each inode share the int object of its key."""
        if not isinstance(self._inodes, dict):
            return
        unused = []
        for ino, inode in self._inodes.items():
            if inode is None:
                unused.append(ino)
            else:
                inode.ino = ino
        for ino in unused:
            del self._inodes[ino]

    def _link_entries(self) -> None:
        """Replace inode numbers by inodes, and check that they form one tree."""
        inodes = self._inodes
        root = inodes.get(1)
        if not isinstance(root, Directory):
            raise ValueError("there is no root directory")
        for directory in self._directories:
            entries: dict[bytes, Any] = directory.entries
            subdirectories = 0
            for name, ino in entries.items():
                inode = inodes.get(ino)
                if inode is None:
                    raise ValueError(f"directory {directory.ino} has an impossible entry")
                entries[name] = inode
                inode.refs += 1
                if type(inode) is Directory:
                    inode.parent = directory
                    subdirectories += 1
            if directory.nlink != subdirectories + 2:
                raise ValueError(
                    f"directory {directory.ino} has link count {directory.nlink}, "
                    f"not {subdirectories + 2}"
                )
        self._check_names(root)
        self._check_reachable(root)

    def _check_names(self, root: Directory) -> None:
        """Check that every inode has as many names as `nlink` says; `refs` has counted them."""
        for inode in self._inodes.values():
            names, inode.refs = inode.refs, 0
            if type(inode) is Directory:
                if names != (inode is not root):
                    raise ValueError(f"directory {inode.ino} has {names} names")
            elif names != inode.nlink or not names:
                raise ValueError(f"inode {inode.ino} has link count {inode.nlink}, not {names}")

    def _check_reachable(self, root: Directory) -> None:
        """Check that every directory is reached from the root: a cycle, too, has one name for each."""
        reached, unvisited = 1, [root]
        while unvisited:
            for inode in unvisited.pop().entries.values():
                if type(inode) is Directory:
                    reached += 1
                    unvisited.append(inode)
        if reached != len(self._directories):
            raise ValueError(f"{len(self._directories) - reached} directories hang in the air")


def _set_times(inode: Inode, times: list[int]) -> None:
    atime_nsec, mtime_nsec, ctime_nsec, atime, mtime, ctime = times
    if max(atime_nsec, mtime_nsec, ctime_nsec) >= _NS:
        raise ValueError(f"inode {inode.ino} has a time of more than 999,999,999 nanoseconds")
    inode.mtime = mtime * _NS + mtime_nsec
    # The three times are often equal, and one int object for all takes a third of the memory.
    same = ctime == mtime and ctime_nsec == mtime_nsec
    inode.ctime = inode.mtime if same else ctime * _NS + ctime_nsec
    same = atime == mtime and atime_nsec == mtime_nsec
    inode.atime = inode.mtime if same else atime * _NS + atime_nsec
