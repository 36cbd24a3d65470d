"""Save a tree to its nodes: stage it, then publish it, at once or in the background.

The tree keeps its data frames, and no data page is copied for a save.
"""

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pramfs.errors import (
    FilesIncomplete,
    FramesHeld,
    ImageOverwritten,
    LostFiles,
    LostPages,
    MoveFailed,
    NoRoomForSnapshot,
    NothingSaved,
    PramError,
    SaveCutOff,
    SaveFailed,
    SaveIncomplete,
)
from pramfs.pram.pram import Pram
from pramfs.pram.publish import Move, Publication
from pramfs.saves.file_paths import listed, paths_of
from pramfs.saves.foreign_change import ForeignChanges
from pramfs.saves.pace import Pace
from pramfs.saves.staging import stage_tree
from pramfs.saves.tree_nodes import drop_tree, mark_tree, nodes_of
from pramfs.storage import layout
from pramfs.storage.arena import Progress
from pramfs.storage.frames import FRESH, SAVED
from pramfs.storage.image import Image
from pramfs.tree.inodes import ROOT_INO, File
from pramfs.tree.tree import Tree


class SaveState(enum.Enum):
    """The state of the save that was begun last."""

    PUBLISHED = "published"  # it is in force; or none was begun yet
    STAGING = "staging"  # its nodes are being built, while the tree does not change
    WRITING = "writing"  # its pages and super block are being written, perhaps in a thread
    FAILED = "failed"  # no super block was written: the previous save stands
    IN_DOUBT = "in doubt"  # its super block may be on the medium or not: both saves are kept
    RESOLVING = "resolving"  # the super block is being written once more


_NEXT_STATES = {
    SaveState.PUBLISHED: {SaveState.STAGING},
    SaveState.STAGING: {SaveState.WRITING, SaveState.FAILED, SaveState.IN_DOUBT},
    SaveState.WRITING: {SaveState.PUBLISHED, SaveState.FAILED, SaveState.IN_DOUBT},
    SaveState.FAILED: {SaveState.STAGING},
    SaveState.IN_DOUBT: {SaveState.RESOLVING, SaveState.STAGING},  # the latter for another image
    SaveState.RESOLVING: {SaveState.STAGING, SaveState.IN_DOUBT},
}
UNDER_WAY = {SaveState.STAGING, SaveState.WRITING, SaveState.RESOLVING}


@dataclass(frozen=True, slots=True)
class SaveStatus:
    """The state of the saves of a run, for status, run directory and service manager."""

    state: SaveState
    final: bool  # the save at unmount has begun: the tree does not change any more
    over: bool  # the save at unmount has ended, in force or not
    generation: int  # of the save in force
    error: str  # why the last save is not in force, "" if it is
    incomplete: str  # what the last save lacks, "" if nothing
    suspect: bool  # this run has met an internal error
    pages_done: int  # of the save under way
    pages_total: int  # 0: no save is under way


class Saver:
    """Saves one tree of a Pram, at once or in the background, and owns the state of its saves.

    One save at a time. Only the thread that changes the tree may call it, except `wait` and `status`.
    """

    def __init__(self, pram: Pram, name: str, tree: Tree) -> None:
        self.state = SaveState.PUBLISHED
        self.error: PramError | None = None  # of the last save
        self.incomplete: SaveIncomplete | None = None  # what the last save lacks
        self.cut_off: SaveCutOff | None = None  # what the final save may lack
        self.published = 0  # saves of this run
        self.pace = Pace()  # of the medium
        self._pram = pram
        self._foreign = ForeignChanges(pram)
        self.name = name
        self._tree = tree
        self._suspect = False  # see SaveStatus
        self._complaint = ""  # of the kernel: what it could not hand over, and no save has told yet
        self._told = ""  # the one that the save under way tells
        self._final = self._over = False
        self._progress: Progress = _quiet
        self._pages_done = self._pages_total = 0
        self._running: _BackgroundWrite | None = None
        self._target: Image | None = None  # of the save under way, if it is another image
        self._snapshot = ""  # that the save under way takes: the name of its tree
        self._update_space()

    @property
    def status(self) -> SaveStatus:
        """Return the state of the saves. Thread-safe."""
        under_way = self.state in UNDER_WAY
        return SaveStatus(
            state=self.state,
            final=self._final,
            over=self._over,
            generation=self._pram.current.generation,
            error=str(self.error or ""),
            incomplete="; the ".join(map(str, self.shortcomings)),
            suspect=self._suspect,
            pages_done=self._pages_done if under_way else 0,
            pages_total=self._pages_total if under_way else 0,
        )

    @property
    def shortcomings(self) -> list[SaveIncomplete]:
        """What the last save lacks, or may lack."""
        return [exc for exc in (self.incomplete, self.cut_off) if exc is not None]

    @property
    def pages(self) -> int:
        """Return the number of pages that a save would report to `progress`: pages listed and written."""
        return self._tree.space.pages + self._pram.arena.table.count(FRESH)

    def save(self, *, final: bool, progress: Progress, snapshot: str = "") -> None:
        """Publish the tree as it is now, durably. Raises SaveFailed; the last save then stands.

        A `final` save is the last of a run, at unmount. `snapshot` is as for `start`.
        """
        if final:
            self.begin_final()
        try:
            self.settle()
            publication = self._begin(progress, snapshot=snapshot)
            self._finish(publication, self._write(publication))
        finally:
            self._over = final
        if self.error is not None:
            raise self.error

    def mark_changed(self) -> bool:
        """Record in the image that the tree has changed since the final save of the last run.

        Returns False while that has to wait for a save under way. Raises OSError.
        """
        if self.state in UNDER_WAY:
            return False
        if self.state is not SaveState.IN_DOUBT and self._pram.current.flags & layout.SUPER_FINAL:
            self._pram.mark_changed()
        return True

    def begin_final(self) -> None:
        """Note that only the final save is left to do."""
        self._final = True

    def note_cut_off(self) -> None:
        """Note that the mount was cut off by force: nobody knows what the kernel had not handed over."""
        self.cut_off = SaveCutOff()

    def note_internal_error(self) -> None:
        """Note that this run has met an internal error: each save of it is suspect from now on."""
        self._suspect = True

    def note_complaint(self, complaint: str) -> None:
        """Note what the kernel could not hand over, "" if nothing. It says so once, and so does a save."""
        self._complaint = self._complaint or complaint

    def start(self, progress: Progress, image: Image | None = None, *, snapshot: str = "") -> None:
        """Begin a checkpoint of the tree as it is now, and write it in a thread. `settle` ends it.

        With `image` it is written there, where everything goes on afterwards: see `Pram.begin_move`. With
        `snapshot`, a name from `snapshots.require_new`, it has a snapshot more; if it fails there is none.
        Raises SaveFailed if it cannot begin.
        """
        self.settle()
        publication = self._begin(progress, image, snapshot)
        try:
            self._running = _BackgroundWrite(publication, self._write)
        except RuntimeError:  # no thread could be started
            self._finish(publication, self._write(publication))

    def refuse(self, path: str, why: Exception) -> MoveFailed:
        """Record and return that a save to the image at `path` could not begin."""
        error = self._move_failed(path, why)
        self.error = error
        return error

    def wait(self) -> None:
        """Wait for the thread of a checkpoint, without changing anything. Thread-safe."""
        running = self._running
        if running is not None:
            running.join()

    def settle(self) -> None:
        """Record the outcome of a checkpoint in the background, if it is done, in `error`."""
        if self._running is not None:
            running, self._running = self._running, None
            running.join()
            self._finish(running.publication, running.error)

    def seconds_to_save(self) -> int:
        """Return how long a save would take now, by the pace of the last one; -1 if that is not known."""
        return self.pace.seconds_for(self._pram.arena.table.count(FRESH))

    def foreign_change(self) -> PramError | None:
        """Return why the next save will fail, if others have changed the image or its device is away."""
        if self.state in UNDER_WAY:
            return None  # its super block is being written
        return self._foreign.look()

    def shortfall(self) -> SaveIncomplete | None:
        """Return which data the kernel has taken from programs that is not in the tree, if any."""
        refused = self._tree.data.refused
        files = refused.files()
        if files:
            paths = paths_of(self._tree.inodes[ROOT_INO], list(files))
            return FilesIncomplete(listed(paths), refused.why)
        return SaveIncomplete(self._complaint) if self._complaint else None

    def require_room_for_snapshot(self, *, after_save: bool = False) -> None:
        """Raise NoRoomForSnapshot unless there is room for a snapshot of the tree.

        With `after_save`, raise FramesHeld if there may be after a save.
        """
        space, arena = self._tree.space, self._pram.arena
        needed = space.snapshot_frames() + space.frames_to_keep_free()
        try:
            arena.require_free(needed)
        except OSError as exc:
            if after_save and isinstance(exc, FramesHeld):
                raise
            raise NoRoomForSnapshot(needed, arena.table.unused) from exc

    def _begin(
        self, progress: Progress, image: Image | None = None, snapshot: str = ""
    ) -> Publication | Move:
        self._progress = progress
        self._target = image
        self._snapshot = snapshot
        self._pages_done, self._pages_total = 0, self.pages
        if image is not None:
            self._pages_total += self._pram.arena.table.count(SAVED)
        try:
            if self.state is SaveState.IN_DOUBT and image is None:
                self._enter(SaveState.RESOLVING)
                self._pram.resolve_doubt()
            self._enter(SaveState.STAGING)
            moved: dict[int, int] = {}
            unsaved = stage_tree(self._pram, self.name, self._tree, self._count, snapshot, moved)
            self.incomplete = self.shortfall()
            for name in (self.name, snapshot) if snapshot else (self.name,):
                mark_tree(self._pram, name, self._marks())
            if not isinstance(self.incomplete, FilesIncomplete):
                self._told, self._complaint = self._complaint, ""
            publication = (
                self._pram.begin_publish(self._flags(), unsaved, moved)
                if image is None
                else self._pram.begin_move(self._flags(), image, unsaved, moved)
            )
        except Exception as exc:
            # After any error nothing is published, and the next save stages everything again.
            self._fail(exc)
            assert self.error is not None
            raise self.error from exc
        self._tree.changed = False
        self._enter(SaveState.WRITING)
        return publication

    def _write(self, publication: Publication | Move) -> OSError | PramError | None:
        """Write a publication, and note how fast that was; return the error. Thread-safe."""
        done, start = self._pages_done, time.monotonic()
        error = publication.write(self._count)
        if error is None:
            self.pace.note(self._pages_done - done, time.monotonic() - start)
        return error

    def _finish(self, publication: Publication | Move, error: OSError | PramError | None) -> None:
        error = publication.finish(error)
        if error is None:
            self._enter(SaveState.PUBLISHED)
            self.error = None
            self._told = ""
            self.published += 1
            self._tree.data.reservations.end()
            self._update_space()
            return
        self._tree.changed = True
        self._fail(self._name_files(error) if isinstance(error, LostPages) else error)

    def _fail(self, error: Exception) -> None:
        self._tree.groups.places = None  # what was staged is in no save
        self._told, self._complaint = "", self._told or self._complaint
        in_doubt = self._pram.publisher.in_doubt
        if self._snapshot and (self._target is not None or not in_doubt):
            drop_tree(self._pram, self._snapshot)
            inodes = self._tree.inodes
            self._tree.data.reservations.give_back(lambda file: inodes.get(file.ino) is file)
        else:
            self._tree.data.reservations.end()
        self._enter(SaveState.IN_DOUBT if in_doubt else SaveState.FAILED)
        if isinstance(error, ImageOverwritten) and self._target is None:
            self.error = error
            return
        self.error = (
            SaveFailed(error, self._pram.current.generation)
            if self._target is None
            else self._move_failed(self._target.path, error)
        )

    def _move_failed(self, path: Path | str, why: Exception) -> MoveFailed:
        is_lost = isinstance(self.foreign_change(), ImageOverwritten)
        kind = NothingSaved if is_lost else MoveFailed
        return kind(path, why, self._pram.image.path, self._pram.current.generation)

    def _enter(self, state: SaveState) -> None:
        if state not in _NEXT_STATES[self.state]:
            raise AssertionError(f"a save that is {self.state.value} cannot be {state.value} next")
        self.state = state

    def _flags(self) -> int:
        flags = layout.SUPER_FINAL if self._final else 0
        flags |= layout.SUPER_SUSPECT if self._suspect else 0
        flags |= layout.SUPER_INCOMPLETE if self.incomplete is not None else 0
        return flags | (layout.SUPER_CUT_OFF if self.cut_off is not None else 0)

    def _marks(self) -> int:
        marks = layout.NODE_INCOMPLETE if self.incomplete is not None else 0
        return marks | (layout.NODE_CUT_OFF if self.cut_off is not None else 0)

    def _count(self, pages: int) -> None:
        self._pages_done += pages
        self._progress(pages)

    def _name_files(self, error: LostPages) -> PramError:
        """Return the error with paths of files in place of pfns, unless the files are gone by now."""
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
        """Update the tree's counts of frames for the save in force, and for the next node list."""
        pram, space = self._pram, self._tree.space
        ours = nodes_of(self.name)
        kept = pram.nodes_to_keep(ours)
        space.node_frames = len(pram.nodes) + len(ours - pram.nodes.keys()) - kept
        space.other_nodes = pram.frames_to_move(but_of=ours) + kept
        space.saved_frames = pram.frames_to_come_back(ours)


class _BackgroundWrite(threading.Thread):
    """Writes a publication in a thread of its own."""

    def __init__(
        self,
        publication: Publication | Move,
        write: Callable[[Publication | Move], OSError | PramError | None],
    ) -> None:
        super().__init__(name="pramfs-save")
        self.publication = publication
        self._write = write
        self.error: OSError | PramError | None = None
        self.start()

    def run(self) -> None:
        self.error = self._write(self.publication)


def _quiet(pages: int) -> None:
    """Ignore progress."""
