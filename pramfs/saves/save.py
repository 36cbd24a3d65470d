"""A tree to its nodes: stage it, publish it, at once or in the background.

The data frames stay where they are and stay the tree's.
"""

import threading
from array import array
from collections.abc import Iterator

from pramfs.errors import LostFiles, LostPages, PramError, SaveFailed
from pramfs.pram.pram import Pram
from pramfs.pram.publish import Publication
from pramfs.saves import codec
from pramfs.saves.file_paths import listed, paths_of
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, drop_tree
from pramfs.storage import layout
from pramfs.storage.arena import Progress
from pramfs.storage.extents import count_up
from pramfs.storage.frames import FRESH
from pramfs.storage.layout import BYTE_STREAM, PAGE_STREAM
from pramfs.tree.inodes import ROOT_INO, File
from pramfs.tree.pagemap import CHUNK_PAGES
from pramfs.tree.tree import Tree


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
                tree.data.leave_out_orphan(inode)
    if tree.space.relocations:
        for file in files:
            tree.data.relocate_banned(file)
        tree.space.relocations = 0
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


class Saver:
    """Saves one tree of a Pram, at once or in the background; one save at a time."""

    def __init__(self, pram: Pram, name: str, tree: Tree) -> None:
        self.error: PramError | None = None  # of the last save
        self.suspect = False  # this run has met an internal error, and its saves say so
        self._pram = pram
        self._name = name
        self._tree = tree
        self._running: _BackgroundWrite | None = None
        self._update_space()
        pram.arena.reclaim = self._reclaim

    @property
    def pages(self) -> int:
        """How many pages a save would tell its `progress`: those it lists and those it writes."""
        return self._tree.space.pages + self._pram.arena.table.count(FRESH)

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
            self._update_space()
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
        paths = paths_of(self._tree.inodes[ROOT_INO], files)
        return LostFiles(listed(paths)) if paths else error

    def _update_space(self) -> None:
        """Tell the tree what the save in force takes besides data, and what the node list will take."""
        pram, space = self._pram, self._tree.space
        ours = {self._name + META_SUFFIX, self._name + DATA_SUFFIX}
        space.node_frames = len(pram.nodes.keys() | ours)
        space.node_moves = pram.frames_to_move(but_of=ours)
        space.saved_frames = pram.frames_to_come_back(ours)

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
