"""Stage a tree: fill its nodes with its present state, so that a publish saves it.

Inodes are encoded by groups (see `saved_groups`). Where little has changed since the last save, most groups
are copied from the nodes of that one, which takes a fraction of the time. What is staged is the same either
way: how a save was made cannot be seen in the image.
"""

import contextlib
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pramfs.errors import DamagedPage, PramError
from pramfs.pram.links import Entries, ReadAhead, read_entries, read_stream
from pramfs.pram.nodes import Node
from pramfs.pram.pram import Pram
from pramfs.pram.streams import SaveStream
from pramfs.saves.codec import encode_header, encode_inodes
from pramfs.saves.more import More, decode_more, encode_changed, encode_more
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, MORE_SUFFIX, drop_tree, nodes_of
from pramfs.storage.arena import Progress
from pramfs.storage.extents import count_up
from pramfs.storage.image import Image
from pramfs.storage.layout import BYTE_STREAM, PAGE_SHIFT, PAGE_STREAM, TREE_HEADER
from pramfs.tree.inodes import File, Inode
from pramfs.tree.pagemap import CHUNK_PAGES, count_holes
from pramfs.tree.saved_groups import GROUP_SHIFT, GroupPlaces
from pramfs.tree.tree import Tree

# Groups are copied if there are at least this many for each one that is encoded anew.
_WORTH_COPYING = 4
_PIECE_PAGES = 256


def stage_tree(
    pram: Pram,
    name: str,
    tree: Tree,
    progress: Progress = lambda frames: None,
    snapshot: str = "",
    moved: dict[int, int] | None = None,
) -> Callable[[], int]:
    """Replace the nodes of tree `name` by the present state of `tree`, so that a publish saves it.

    With `snapshot`, a tree of that name is added that shares all data pages; what was promised to these ends
    if the caller says so, see `Reservations.begin_to_end`.

    Returns what counts the holders of shared frames, besides the first of each, that are not in the save.
    `moved` takes where shared frames have gone that had become banned; the publish that follows needs both.
    `progress` is called with numbers of data pages whose checksums are known. Raises NoFrames; the nodes are
    incomplete then, and must be staged again before a publish, but there is no tree `snapshot`.
    """
    orphans = [inode for inode in tree.orphans if isinstance(inode, File)]
    for orphan in orphans:
        tree.data.leave_out_orphan(orphan)
    _relocate_banned(tree, {} if moved is None else moved)
    if snapshot and tree.space.promised_ranges:
        for file in _files(tree.inodes.values()):
            tree.data.end_promises(file)
    last = _last_save(pram, name, tree)
    drop_tree(pram, name)
    tree.groups.places = None
    names = [name, snapshot] if snapshot else [name]
    try:
        try:
            places = _stage_nodes(pram, names, tree, last, progress)
        except DamagedPage:  # in the metadata of the last save
            places = _stage_nodes(pram, names, tree, None, progress)
    except BaseException:
        if snapshot:
            drop_tree(pram, snapshot)
        raise
    tree.groups.changed = set()
    tree.groups.places = places if places.are_in_order else None
    return lambda: tree.data.repeats_of(orphans, pram.pins.kept_pfns())


def _relocate_banned(tree: Tree, moved: dict[int, int]) -> None:
    if tree.space.relocations:
        for file in _files(tree.inodes.values()):
            tree.data.relocate_banned(file, moved)
        tree.space.relocations = 0
        tree.groups.places = None


# --- what to copy, and what to encode -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _LastSave:
    """The nodes of the last save, which stay readable until the next one is in force."""

    image: Image
    places: GroupPlaces
    metadata: Entries  # of the metadata stream: its pages
    pages: Entries
    more: More

    def records(self, first: int, behind: int) -> Iterator[memoryview]:
        """Yield the records of the groups at these positions, verified, in pieces. Raises DamagedPage."""
        start, end = self.places.records[first], self.places.records[behind]
        while start < end:
            page = start >> PAGE_SHIFT
            behind_page = min(((end - 1) >> PAGE_SHIFT) + 1, page + _PIECE_PAGES)
            some = self.metadata.part(page, behind_page)
            read = ReadAhead(self.image).read
            piece = memoryview(read_stream(read, some, len(some) << PAGE_SHIFT, "metadata"))
            until = min(end, behind_page << PAGE_SHIFT)
            yield piece[start - (page << PAGE_SHIFT) : until - (page << PAGE_SHIFT)]
            start = until


@dataclass(frozen=True, slots=True)
class _Copied:
    """Groups that are taken from the last save: those at these positions there."""

    first: int
    behind: int
    pages: int


class _Encoded:
    """A group that is encoded anew: its inodes that have names."""

    __slots__ = ("files", "inodes", "number", "pages")

    def __init__(self, number: int, inodes: list[Inode]) -> None:
        self.number = number
        self.inodes = inodes
        self.files = [inode for inode in inodes if type(inode) is File and inode.pages is not None]
        self.pages = sum([file.pages.count for file in self.files if file.pages is not None])


def _last_save(pram: Pram, name: str, tree: Tree) -> _LastSave | None:
    """Return what a save may copy from the last one, None if it is to encode all.

    Not from a disk, which may have to be read for it; nor where the save in force lies in frames that are
    banned by now; nor with damage in it: then this save makes it good.
    """
    places = tree.groups.places
    if places is None or pram.arena.table.banned or not _is_fast(pram.image):
        return None
    if len(tree.groups.changed) * _WORTH_COPYING > len(places.numbers):
        return None
    if tree.space.promised_ranges or not (nodes_of(name) <= pram.nodes.keys()):
        return None
    metadata, pages, more = (
        pram.nodes[name + suffix] for suffix in (META_SUFFIX, DATA_SUFFIX, MORE_SUFFIX)
    )
    if metadata.data_len != places.records[-1] or pages.entries != places.pages[-1]:
        return None
    with contextlib.suppress(PramError, OSError, ValueError):
        read = ReadAhead(pram.image).read
        data = read_stream(read, _entries(pram, more), more.data_len, "births")
        return _LastSave(
            pram.image,
            places,
            metadata=_entries(pram, metadata),
            pages=_entries(pram, pages),
            more=decode_more(data, len(pram.arena.table)),
        )
    return None


def _is_fast(image: Image) -> bool:
    return image.in_memory()


def _entries(pram: Pram, node: Node) -> Entries:
    read, frames = ReadAhead(pram.image).read, len(pram.arena.table)
    return read_entries(read, pram.current.uuid, frames, node.link_pfn, node.entries)


def _plan(tree: Tree, last: _LastSave | None) -> list[_Copied | _Encoded]:
    """Return what a save consists of, in the order of its streams."""
    if last is None:
        return list(_all_groups(tree.inodes.values()))
    parts: list[_Copied | _Encoded] = []
    places, at = last.places, 0
    for number in sorted(tree.groups.changed):
        position = places.position(number)
        if position > at:
            parts.append(_Copied(at, position, places.pages[position] - places.pages[at]))
        there = position < len(places.numbers) and places.numbers[position] == number
        at = position + there
        members = map(tree.inodes.get, range(number << GROUP_SHIFT, (number + 1) << GROUP_SHIFT))
        inodes = [inode for inode in members if inode is not None and inode.nlink]
        if inodes:
            parts.append(_Encoded(number, inodes))
    if at < len(places.numbers):
        pages = places.pages[-1] - places.pages[at]
        parts.append(_Copied(at, len(places.numbers), pages))
    return parts


def _all_groups(inodes: Iterable[Inode]) -> Iterator[_Encoded]:
    number, members = -1, list[Inode]()
    for inode in inodes:
        if inode.nlink:
            if inode.ino >> GROUP_SHIFT != number:
                if members:
                    yield _Encoded(number, members)
                number, members = inode.ino >> GROUP_SHIFT, []
            members.append(inode)
    if members:
        yield _Encoded(number, members)


# --- filling the nodes ----------------------------------------------------------------------------


def _stage_nodes(
    pram: Pram,
    names: list[str],
    tree: Tree,
    last: _LastSave | None,
    progress: Progress,
) -> GroupPlaces:
    """Fill the nodes of the trees `names`: the first, whose frames `tree` owns, and a snapshot of it.

    Returns where all groups are in them. Raises DamagedPage, before there are nodes, if the last save is
    damaged.
    """
    parts, places = _plan(tree, last), GroupPlaces()
    with _streams(pram, names, META_SUFFIX, BYTE_STREAM) as streams:
        for piece in _metadata(tree, parts, last, places):
            for stream in streams:
                stream.write(piece)
    has_promises = tree.space.promised_ranges > 0
    more = (
        encode_more(tree.next_ino, tree.inodes, with_reserved=has_promises)
        if last is None
        else encode_changed(last.more, tree.next_ino, tree.inodes, tree.groups.changed)
    )
    for name in names:
        if more:
            with pram.prepare_save(name + MORE_SUFFIX, BYTE_STREAM) as stream:
                stream.write(more)
        if has_promises:  # which are not those of a snapshot
            more = encode_more(tree.next_ino, tree.inodes, with_reserved=False)
    with _streams(pram, names, DATA_SUFFIX, PAGE_STREAM) as (data, *snapshots):
        _lend_pages(data, parts, last, progress)
        for stream in snapshots:
            stream.share_pages(data.entries)
    return places


@contextlib.contextmanager
def _streams(pram: Pram, names: list[str], suffix: str, type_: int) -> Iterator[list[SaveStream]]:
    """Open a stream for a node of each of these trees."""
    with contextlib.ExitStack() as streams:
        yield [streams.enter_context(pram.prepare_save(name + suffix, type_)) for name in names]


def _metadata(
    tree: Tree, parts: list[_Copied | _Encoded], last: _LastSave | None, places: GroupPlaces
) -> Iterator[bytes | memoryview]:
    """Yield the metadata stream in pieces, and note where each group begins."""
    pages = sum(part.pages for part in parts)
    yield encode_header(tree.next_ino, tree.named_inodes(), pages)
    record, page = TREE_HEADER.size, 0
    for part in parts:
        if isinstance(part, _Copied):
            assert last is not None
            places.take(last.places, part.first, part.behind, record, page)
            pieces: Iterator[bytes | memoryview] = last.records(part.first, part.behind)
        else:
            places.begin(part.number, record, page)
            pieces = encode_inodes(part.inodes)
        for piece in pieces:
            yield piece
            record += len(piece)
        page += part.pages
    places.end(record, page)


def _lend_pages(
    data: SaveStream,
    parts: list[_Copied | _Encoded],
    last: _LastSave | None,
    progress: Progress,
) -> None:
    """Fill the page stream."""
    for is_copied, some in itertools.groupby(parts, lambda part: isinstance(part, _Copied)):
        if not is_copied:
            files = (file for part in some if isinstance(part, _Encoded) for file in part.files)
            for pfns, indices in _pages_of(files):
                data.lend_pages(pfns, indices)
                progress(len(pfns))
            continue
        for part in some:
            assert last is not None
            assert isinstance(part, _Copied)
            first = last.places.pages[part.first]
            data.lend_entries(last.pages.part(first, first + part.pages))
            progress(part.pages)


def _files(inodes: Iterable[Inode]) -> Iterator[File]:
    """Yield the files among inodes that have names."""
    return (inode for inode in inodes if isinstance(inode, File) and inode.nlink)


def _pages_of(files: Iterable[File]) -> Iterator[tuple["array[int]", "array[int]"]]:
    """Yield the frames and indices of all pages of all files, in order, many small files at a time."""
    pfns, indices = array("I"), array("Q")
    for file in files:
        for start, chunk in file.pages.chunks() if file.pages is not None else ():
            if len(chunk) == 1:  # the common case
                pfns.append(chunk[0])
                indices.append(start)
            elif count_holes(chunk):
                pfns.extend(filter(None, chunk))
                indices.extend(start + at for at, pfn in enumerate(chunk) if pfn)
            else:
                pfns += chunk
                indices += count_up("Q", start, len(chunk))
            if len(pfns) >= CHUNK_PAGES:
                yield pfns, indices
                pfns, indices = array("I"), array("Q")
    if pfns:
        yield pfns, indices
