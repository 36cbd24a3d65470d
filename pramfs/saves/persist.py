"""Trees to nodes and nodes to trees: `save_tree` and `load_tree`.

A tree NAME is two nodes, as in patch 13 of the 2013 series: the byte stream NAME-meta with the records of
all inodes, and the page stream NAME-data with the data pages of all regular files, file after file in the
order of the records. The data frames stay where they are and stay the tree's.
"""

import bisect
import contextlib
import itertools
import os
import threading
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from pramfs.errors import DamagedTree, LostFiles, LostPages, NoSuchNode, PramError, SaveFailed
from pramfs.pram.links import Chain
from pramfs.pram.pram import Pram
from pramfs.pram.publish import Publication
from pramfs.pram.verify import Verification
from pramfs.saves import codec
from pramfs.saves.codec import Decoded
from pramfs.storage import layout
from pramfs.storage.arena import Progress
from pramfs.storage.extents import count_up, runs_of
from pramfs.storage.frames import FRESH
from pramfs.storage.layout import BYTE_STREAM, PAGE_DATA, PAGE_STREAM
from pramfs.storage.regions import Regions
from pramfs.tree.inodes import ROOT_INO, Directory, File, Inode
from pramfs.tree.pagemap import CHUNK_PAGES, PageMap
from pramfs.tree.tree import Tree

META_SUFFIX = "-meta"
DATA_SUFFIX = "-data"

_NAMED_PATHS = 10  # that a refusal lists
_PATH_MAX_BYTES = 4096

_Trail = (
    tuple[Any, bytes] | None
)  # the trail to a directory, and a name in it; whole paths take too much


@dataclass(slots=True)
class Recovered:
    """What a load with `recover` had to leave out: the paths of the files."""

    left_out: list[str] = field(default_factory=list)


def tree_names(nodes: Collection[str]) -> list[str]:
    """The names of the trees that these nodes make."""
    stems = [name.removesuffix(META_SUFFIX) for name in nodes if name.endswith(META_SUFFIX)]
    return [stem for stem in stems if stem + DATA_SUFFIX in nodes]


def has_tree(pram: Pram, name: str) -> bool:
    """Whether the image holds a tree of that name, or half of one."""
    return name + META_SUFFIX in pram.nodes or name + DATA_SUFFIX in pram.nodes


# --- saving -------------------------------------------------------------------------------------


def stage_tree(pram: Pram, name: str, tree: Tree, progress: Progress = lambda frames: None) -> None:
    """Replace the nodes of tree `name` by what `tree` is now; a publish then makes it the save.

    `progress` is told of data pages as their checksums are known. Raises NoFrames.
    The nodes are not complete then, and must be staged again before a publish.
    """
    drop_tree(pram, name)
    files = []
    for inode in tree.inodes.values():
        if isinstance(inode, File):
            if inode.nlink:
                files.append(inode)
            else:
                tree.data.excuse(inode)
    if tree.account.relocations:
        for file in files:
            tree.data.relocate_banned(file)
        tree.account.relocations = 0
    with pram.prepare_save(name + META_SUFFIX, BYTE_STREAM) as meta:
        for piece in codec.encode_tree(tree.next_ino, tree.inodes):
            meta.write(piece)
    with pram.prepare_save(name + DATA_SUFFIX, PAGE_STREAM) as data:
        for pfns, indices in _pages_of(files):
            data.lend_pages(pfns, indices)
            progress(len(pfns))


def _pages_of(files: list[File]) -> Iterator[tuple["array[int]", "array[int]"]]:
    """The frames and indices of all pages of all files, in order; those of many small files at once."""
    pfns, indices = array("I"), array("Q")
    for file in files:
        for start, chunk in file.pages.chunks() if file.pages is not None else ():
            if len(chunk) == 1:  # as most files are
                pfns.append(chunk[0])
                indices.append(start)
            elif 0 in chunk:
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


def drop_tree(pram: Pram, name: str) -> None:
    """Give up the nodes of tree `name`, if there are any; until a publish the last save has them still."""
    for suffix in (META_SUFFIX, DATA_SUFFIX):
        if name + suffix in pram.nodes:
            pram.free(name + suffix)


class Saver:
    """Saves one tree of a Pram, at once or in the background; one save at a time."""

    def __init__(self, pram: Pram, name: str, tree: Tree) -> None:
        self.error: PramError | None = None  # of the last save
        self.suspect = False  # this run has met an internal error, and its saves say so
        self._pram = pram
        self._name = name
        self._tree = tree
        self._running: _BackgroundWrite | None = None
        self._account()
        pram.arena.reclaim = self._reclaim

    @property
    def pages(self) -> int:
        """How many pages a save would tell its `progress`: those it lists and those it writes."""
        return self._tree.account.pages + self._pram.arena.table.count(FRESH)

    def save(self, *, final: bool, progress: Progress) -> None:
        """Publish the tree as it is now, durably. Raises SaveFailed; the last save then stands."""
        self.settle()
        publication = self._begin(final, progress)
        self._finish(publication, publication.write(progress))
        if self.error is not None:
            raise self.error

    def start(self, progress: Progress) -> None:
        """Begin a checkpoint of the tree as it is now and write it in a thread. See `settle`.

        Raises SaveFailed when it cannot even begin.
        """
        self.settle()
        publication = self._begin(False, progress)
        try:
            self._running = _BackgroundWrite(publication, progress)
        except RuntimeError:  # no thread can be started
            self._finish(publication, publication.write(progress))

    def wait(self) -> None:
        """Wait for the thread of a checkpoint. Callable from any thread; changes nothing."""
        running = self._running
        if running is not None:
            running.join()

    def settle(self) -> None:
        """Take note of how a checkpoint in the background went, when it is done. See `error`."""
        if self._running is not None:
            running, self._running = self._running, None
            running.join()
            self._finish(running.publication, running.error)

    def _begin(self, final: bool, progress: Progress) -> Publication:
        flags = (layout.SUPER_FINAL if final else 0) | (layout.SUPER_SUSPECT if self.suspect else 0)
        try:
            self._pram.resolve_doubt()
            stage_tree(self._pram, self._name, self._tree, progress)
            publication = self._pram.begin_publish(flags)
        except Exception as exc:
            # Whatever it was: nothing is published, and the next save stages everything anew.
            self.error = SaveFailed(exc, self._pram.current.generation)
            raise self.error from exc
        self._tree.changed = False
        return publication

    def _finish(self, publication: Publication, error: OSError | PramError | None) -> None:
        publication.finish(error)
        self.error = None
        if error is None:
            self._account()
        else:
            self._tree.changed = True
            if isinstance(error, LostPages):
                error = self._name_files(error)
            self.error = SaveFailed(error, self._pram.current.generation)

    def _name_files(self, error: LostPages) -> PramError:
        """The error in the user's words, unless the files have gone in the meantime."""
        lost = set(error.pfns)
        files = [
            inode
            for inode in self._tree.inodes.values()
            if isinstance(inode, File)
            and inode.pages is not None
            and any(not lost.isdisjoint(pfns) for _, pfns in inode.pages.chunks())
        ]
        paths = _paths(self._tree.inodes[ROOT_INO], files)
        return LostFiles(_listed(paths)) if paths else error

    def _account(self) -> None:
        """Tell the tree what the save in force takes besides data, and what the node list will take."""
        pram, account = self._pram, self._tree.account
        ours = {self._name + META_SUFFIX, self._name + DATA_SUFFIX}
        account.node_frames = len(pram.nodes.keys() | ours)
        account.node_moves = pram.frames_to_move(but_of=ours)
        account.saved_frames = pram.frames_to_come_back(ours)

    def _reclaim(self) -> bool:
        """Frames are short: publish a checkpoint, so that those of the last save come free."""
        if self._running is not None:
            self.settle()
        else:
            try:
                self.save(final=False, progress=lambda frames: None)
            except SaveFailed:
                return False
        return self.error is None


class _BackgroundWrite(threading.Thread):
    """Writes a publication in a thread of its own."""

    def __init__(self, publication: Publication, progress: Progress) -> None:
        super().__init__(name="pramfs-save")
        self.publication = publication
        self._progress = progress
        self.error: OSError | PramError | None = None
        self.start()

    def run(self) -> None:
        self.error = self.publication.write(self._progress)


# --- loading ------------------------------------------------------------------------------------


def load_tree(
    pram: Pram,
    name: str,
    tree: Tree,
    *,
    lazy: bool = False,
    recover: Recovered | None = None,
    progress: Progress = lambda frames: None,
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Fill the empty `tree` with the tree `name` of the image; all of it or nothing.

    Every data page is checked first, or with `lazy` when it is read first. Raises NoSuchNode when there is
    no such tree, DamagedTree, with the names of the files, when a page is damaged; with `recover` those
    files are left out and listed there. `meanwhile` is called while other processes have begun to check.
    """
    if not has_tree(pram, name):
        raise NoSuchNode(name)
    with _damage_of(name):
        metadata = _read_metadata(pram, name)
        data = pram.prepare_load(name + DATA_SUFFIX, PAGE_STREAM)
    data.keep()
    chain = data.chain
    with Verification(pram.image, Chain() if lazy else chain, progress) as verification:
        meanwhile()
        with _damage_of(name):
            decoded = codec.decode_tree(metadata)
            _distribute(decoded, chain)
        bad_files = _files_at(verification.damaged(), decoded)
    paths = _paths(decoded.inodes[ROOT_INO], bad_files)
    if paths and recover is None:
        raise DamagedTree(name, f"{len(paths)} damaged: {_listed(paths)}")
    _take_over(pram, name, chain, lazy)
    if recover is not None:
        recover.left_out += paths
        _leave_out(pram, decoded, bad_files)
    pages = sum(file.pages.count for file in decoded.files if file.pages is not None)
    tree.adopt(decoded.inodes, decoded.next_ino, metadata_bytes=len(metadata), pages=pages)
    tree.account.relocations = _banned_pages(chain, pram.arena.table.banned)


@contextlib.contextmanager
def _damage_of(name: str) -> Iterator[None]:
    """What cannot be read of a tree, or makes no sense, is DamagedTree."""
    try:
        yield
    except (PramError, ValueError) as exc:
        raise DamagedTree(name, exc) from exc


def _read_metadata(pram: Pram, name: str) -> bytes:
    stream = pram.prepare_load(name + META_SUFFIX, BYTE_STREAM)
    try:
        return stream.read(pram.node(name + META_SUFFIX).data_len)
    finally:
        stream.keep()


def _distribute(decoded: Decoded, chain: Chain) -> None:
    """Give every file its pages. Raises ValueError when the entries are not those of the files."""
    entries = chain.entries
    if sum(decoded.pages) != len(entries) or entries.flags.count(PAGE_DATA) != len(entries):
        raise ValueError(f"{len(entries)} data pages are not those of the files")
    at = 0
    for file, pages in zip(decoded.files, decoded.pages, strict=True):
        if not pages:
            continue
        end = at + pages
        indices = entries.indices[at:end]
        file.pages = PageMap()
        try:
            file.pages.load(indices, entries.pfns[at:end])
        except ValueError as exc:
            raise ValueError(f"inode {file.ino}: {exc}") from exc
        if indices[-1] >= -(-file.length // layout.PAGE_SIZE):
            raise ValueError(f"inode {file.ino} has pages past its end")
        at = end


def _files_at(positions: list[int], decoded: Decoded) -> list[File]:
    """The files that have the data pages at these positions of the chain, which ascend."""
    ends = list(itertools.accumulate(decoded.pages))
    numbers = (bisect.bisect_right(ends, at) for at in positions)
    return [decoded.files[number] for number, _ in itertools.groupby(numbers)]


def _take_over(pram: Pram, name: str, chain: Chain, lazy: bool) -> None:
    """The tree owns the data frames from now on; the node keeps its links."""
    node = pram.node(name + DATA_SUFFIX)
    node.owned = list(runs_of(chain.links))
    node.chain = pram.node(name + META_SUFFIX).chain = None
    at = 0
    for run in chain.runs:
        pram.arena.set_csums(run.pfn, chain.entries.csums[at : at + run.frames])
        at += run.frames
    if lazy:
        pram.arena.verify_on_first_read(chain.runs)


def _leave_out(pram: Pram, decoded: Decoded, bad_files: list[File]) -> None:
    """Remove damaged files from the tree; the next save frees their frames."""
    bad = set(bad_files)
    for inode in decoded.inodes.values():
        if isinstance(inode, Directory):
            for name in [name for name, child in inode.entries.items() if child in bad]:
                del inode.entries[name]
    for file in bad_files:
        del decoded.inodes[file.ino]
        for run in file.pages.cut(0) if file.pages is not None else ():
            pram.arena.release(run.pfn, run.frames)


def _paths(root: Inode, files: list[File]) -> list[str]:
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
    while trail is not None and size <= _PATH_MAX_BYTES:
        trail, name = trail
        names.append(b"/" + name)
        size += len(name) + 1
    return ("…" if trail is not None else "") + os.fsdecode(b"".join(reversed(names)))


def _listed(paths: list[str]) -> str:
    more = len(paths) - _NAMED_PATHS
    names = ", ".join(
        path.encode(errors="backslashreplace").decode() for path in paths[:_NAMED_PATHS]
    )
    return names + (f" and {more} more" if more > 0 else "")


def _banned_pages(chain: Chain, banned: Regions) -> int:
    """How many data pages lie in banned frames."""
    if not banned:
        return 0
    return sum(
        sum(1 for pfn in range(run.pfn, run.pfn + run.frames) if pfn in banned)
        for run in chain.runs
        if banned.overlaps(run.pfn, run.frames)
    )
