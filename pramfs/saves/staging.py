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

from pramfs.errors import DamagedPage
from pramfs.pram.pram import Pram
from pramfs.pram.streams import SaveStream
from pramfs.saves.codec import encode_header, encode_inodes
from pramfs.saves.last_save import LastSave, find_last_save
from pramfs.saves.more import encode_changed, encode_more
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, MORE_SUFFIX, drop_tree
from pramfs.storage.arena import Progress
from pramfs.storage.extents import count_up
from pramfs.storage.layout import BYTE_STREAM, PAGE_SHIFT, PAGE_STREAM
from pramfs.tree.inodes import File, Inode
from pramfs.tree.pagemap import CHUNK_PAGES, count_holes
from pramfs.tree.saved_groups import GROUP_SHIFT, GroupPlaces, SavedBirths
from pramfs.tree.tree import Tree


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
    last = find_last_save(pram, name, tree, renew_births=bool(snapshot))
    if last is None:
        drop_tree(pram, name)
    else:
        last.drop()
    tree.groups.places = None
    names = [name, snapshot] if snapshot else [name]
    try:
        places = _stage_copying(pram, names, tree, last, progress)
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


def _plan(tree: Tree, last: LastSave | None) -> list[_Copied | _Encoded]:
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


def _stage_copying(
    pram: Pram,
    names: list[str],
    tree: Tree,
    last: LastSave | None,
    progress: Progress,
) -> GroupPlaces:
    """Fill the nodes of the trees `names`: the first, whose frames `tree` owns, and a snapshot of it.

    Returns where all groups are in them.
    """
    if last is not None:
        try:
            return _stage_nodes(pram, names, tree, last, progress)
        except DamagedPage:  # in the metadata of the last save
            drop_tree(pram, names[0])
        finally:
            last.release()
    return _stage_nodes(pram, names, tree, None, progress)


def _stage_nodes(
    pram: Pram,
    names: list[str],
    tree: Tree,
    last: LastSave | None,
    progress: Progress,
) -> GroupPlaces:
    """Do the same. Raises DamagedPage, before there are nodes, if the last save is damaged."""
    parts, places = _plan(tree, last), GroupPlaces()
    with _streams(pram, names, META_SUFFIX, BYTE_STREAM) as streams:
        _write_metadata(streams, tree, parts, last, places)
    _stage_more(pram, names, tree, last)
    with _streams(pram, names, DATA_SUFFIX, PAGE_STREAM) as (data, *snapshots):
        _lend_pages(data, parts, last, progress)
        for stream in snapshots:
            stream.share_pages(data.entries)
    return places


def _stage_more(pram: Pram, names: list[str], tree: Tree, last: LastSave | None) -> None:
    """Fill the nodes with what a reader may do without, unless the last one is kept."""
    births = tree.groups.births
    changed = births.changed | tree.groups.changed
    if last is not None and last.births is None:
        births.changed = changed
        return
    has_promises = tree.space.promised_ranges > 0
    more = (
        encode_more(tree.next_ino, tree.inodes, with_reserved=has_promises)
        if last is None or last.births is None
        else encode_changed(last.births, tree.next_ino, tree.inodes, changed)
    )
    for name in names:
        if more:
            with pram.prepare_save(name + MORE_SUFFIX, BYTE_STREAM) as stream:
                stream.write(more)
        if has_promises:  # which are not those of a snapshot
            more = encode_more(tree.next_ino, tree.inodes, with_reserved=False)
    tree.groups.births = SavedBirths(tree.next_ino, tree.orphans)


@contextlib.contextmanager
def _streams(pram: Pram, names: list[str], suffix: str, type_: int) -> Iterator[list[SaveStream]]:
    """Open a stream for a node of each of these trees."""
    with contextlib.ExitStack() as streams:
        yield [streams.enter_context(pram.prepare_save(name + suffix, type_)) for name in names]


def _write_metadata(
    streams: list[SaveStream],
    tree: Tree,
    parts: list[_Copied | _Encoded],
    last: LastSave | None,
    places: GroupPlaces,
) -> None:
    """Fill the streams with the metadata, and note where each group begins."""
    pages = sum(part.pages for part in parts)
    header = encode_header(tree.next_ino, tree.named_inodes(), pages)
    record = _write_all(streams, [header])
    page = 0
    for part in parts:
        if isinstance(part, _Copied):
            assert last is not None
            places.take(last.places, part.first, part.behind, record, page)
            record += _copy_records(streams, last, part, record)
        else:
            places.begin(part.number, record, page)
            record += _write_all(streams, encode_inodes(part.inodes))
        page += part.pages
    places.end(record, page)


def _copy_records(streams: list[SaveStream], last: LastSave, part: _Copied, record: int) -> int:
    """Write the records of these groups to byte `record`; return how many bytes they have.

    Whole pages that are at the same place in the last save are not copied, but their frames taken.
    """
    start, end = last.places.records[part.first], last.places.records[part.behind]
    first, behind = -(-start >> PAGE_SHIFT), end >> PAGE_SHIFT
    if start != record or first >= behind:
        return _write_all(streams, last.records(start, end))
    taking, *copying = streams
    _write_all(streams, last.records(start, first << PAGE_SHIFT))
    taking.take_pages(last.take(first, behind))
    if copying:
        _write_all(copying, last.records(first << PAGE_SHIFT, behind << PAGE_SHIFT))
    _write_all(streams, last.records(behind << PAGE_SHIFT, end))
    return end - start


def _write_all(streams: list[SaveStream], pieces: Iterable[bytes | memoryview]) -> int:
    """Write the same to all streams; return the number of bytes."""
    written = 0
    for piece in pieces:
        for stream in streams:
            stream.write(piece)
        written += len(piece)
    return written


def _lend_pages(
    data: SaveStream,
    parts: list[_Copied | _Encoded],
    last: LastSave | None,
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
            data.lend_packed(last.pages(first, first + part.pages))
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
