"""A recorded run: random work on a tree with saves, and every step that these made to the image."""

import random
import stat
from typing import NamedTuple

from pramfs.errors import NoRoomForRollback, PramError
from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.saves.snapshots import drop_snapshot, require_new, roll_back
from pramfs.storage.arena import Progress
from pramfs.storage.layout import PAGE_SIZE
from pramfs.storage.regions import Regions
from pramfs.tree.attributes import Changes
from pramfs.tree.inodes import Directory, File
from pramfs.tree.tree import Owner, Tree
from tests.support.load_verdict import NAME, TreeState, tree_state
from tests.support.tree_volume import PatientTree
from tests.support.watched_image import Step, frames_between, new_pram, reopen, watched

OWNER = Owner(0, 0)
FRAMES = 64
NAMES = [b"a", b"b", b"c", b"d", b"e", b"f"]


Trees = dict[str, TreeState]  # the tree and its snapshots, by name


class Published(NamedTuple):
    """A save: the steps start..end made it, and the trees that it holds."""

    start: int
    end: int
    trees: Trees


class History:
    """All steps since the image was `before`, and the saves among them; the first was there already.

    With `snapshots` some of the saves take snapshots or free them, and some are rollbacks.
    """

    def __init__(self, seed: int, *, snapshots: bool = False) -> None:
        self.rng = random.Random(seed)
        self._with_snapshots = snapshots
        self._snapshots: Trees = {}  # in force
        self._freed: set[str] = set()  # and not yet gone from the save in force
        self.steps: list[Step] = []
        self.saves: list[Published] = []
        self._arena = self.rng.choice(["image", "memory"])
        self._pram = new_pram(2 * FRAMES if snapshots else FRAMES, arena=self._arena)
        self._begin_tree()
        root = self._tree.make_root(0o755, OWNER)
        if seed % 2:  # whole pages of metadata, for saves to take over
            file = self._tree.create(root, b"large", stat.S_IFREG | 0o644, OWNER)
            self._tree.setxattr(file, b"user.large", bytes(2 * PAGE_SIZE))
        self._saver.save(final=False, progress=_quiet)
        self.before = watched(self._pram).content()
        self._start_journal()
        self.saves = [Published(0, 0, {NAME: tree_state(self._tree)})]

    def record(self, rounds: int) -> None:
        """Work and save, now and then as another process with other banned regions or more frames."""
        for _ in range(rounds):
            for _ in range(self.rng.randrange(1, 12)):
                self._change()
            saved = self._save()
            if saved and self.rng.random() < 0.4:
                self._reopen()
        self.steps += watched(self._pram).journal
        self._pram.close()
        self._pram.image.close()

    def allowed(self, crash: int) -> list[Trees]:
        """The trees that may be there after a crash before step number `crash`."""
        done = [save.trees for save in self.saves if save.end <= crash]
        return done[-1:] + [save.trees for save in self.saves if save.start <= crash < save.end]

    # --- helpers ---------------------------------------------------------------------------------

    @property
    def _now(self) -> int:
        return len(self.steps) + len(watched(self._pram).journal)

    def note(self, start: int, tree: TreeState, snapshot: str = "") -> None:
        for name in self._freed:
            self._snapshots.pop(name, None)
        self._freed.clear()
        if snapshot:
            self._snapshots[snapshot] = tree
        self.saves.append(Published(start, self._now, {NAME: tree, **self._snapshots}))

    def begin(self) -> int:
        return self._now

    def _begin_tree(self) -> None:
        generation = self.rng.randrange(99)
        self._tree = PatientTree(self._pram.arena, inodes_max=1000, generation=generation)
        self._saver = self._tree.saver = _RecordingSaver(self._pram, self._tree, self)

    def _start_journal(self) -> None:
        watched(self._pram).journal.clear()

    def _save(self) -> bool:
        try:
            final = self.rng.random() < 0.5
            self._saver.save(final=final, progress=_quiet, snapshot=self._changed_snapshots())
        except PramError:
            return False
        return True

    def _changed_snapshots(self) -> str:
        """Free a snapshot, perhaps, and return the full name of another one to take, or ""."""
        if not self._with_snapshots:
            return ""
        there = sorted(self._snapshots.keys() - self._freed)
        if there and self.rng.random() < 0.4:
            gone = self.rng.choice(there)
            drop_snapshot(self._pram, NAME, gone.removeprefix(f"{NAME}@"))
            self._freed.add(gone)
        name = f"s{self.rng.randrange(5)}"
        taken = f"{NAME}@{name}" in self._pram.nodes or f"{NAME}@{name}" in self._snapshots
        return "" if taken or self.rng.random() < 0.4 else require_new(self._pram, NAME, name)

    def _roll_back(self) -> None:
        """Go back to one of the snapshots, as another process, which keeps what is replaced."""
        there = sorted(self._snapshots)
        if not there or self.rng.random() < 0.5:
            return
        self.steps += watched(self._pram).journal
        self._pram = reopen(self._pram)
        start, name = self._now, self.rng.choice(there)
        try:
            replaced = roll_back(self._pram, NAME, name.removeprefix(f"{NAME}@"))
        except NoRoomForRollback:
            return
        self._pram.publish()
        self._snapshots[f"{NAME}@{replaced}"] = self.saves[-1].trees[NAME]
        self.note(start, self._snapshots[name])

    def _reopen(self) -> None:
        self._roll_back()
        self.steps += watched(self._pram).journal
        banned = Regions()
        if self.rng.random() < 0.6:
            first = self.rng.randrange(2, FRAMES - 12)
            banned = frames_between(first, first + self.rng.randrange(8))
        frames = len(self._pram.arena.table) + self.rng.choice((0, 0, 5))
        self._arena = self.rng.choice(["image", "memory"])
        self._pram = reopen(self._pram, arena=self._arena, banned=banned, frames=frames)
        self._begin_tree()
        load_tree(self._pram, NAME, self._tree)

    def _change(self) -> None:
        rng, tree = self.rng, self._tree
        name, other = rng.choice(NAMES), rng.choice(NAMES)
        directories = [inode for inode in tree.inodes.values() if isinstance(inode, Directory)]
        parent, target = rng.choice(directories), rng.choice(directories)
        try:
            match rng.randrange(10):
                case 0 | 1 | 2 | 3:
                    self._write(parent, name)
                case 4:
                    tree.create(parent, name, stat.S_IFDIR | 0o755, OWNER)
                case 5:
                    tree.rename(parent, name, target, other)
                case 6:
                    tree.unlink(parent, name)
                case 7 | 8:
                    self._clone(parent, name, target, other)
                case _:
                    tree.setattr(tree.lookup(parent, name), Changes(size=rng.randrange(40_000)))
        except OSError:
            pass  # no such name, no room: as users have it

    def _write(self, parent: Directory, name: bytes) -> None:
        tree, rng = self._tree, self.rng
        if name not in parent.entries:
            tree.create(parent, name, stat.S_IFREG | 0o644, OWNER)
        file = parent.entries[name]
        if isinstance(file, File):
            tree.write(file, rng.randrange(20_000), rng.randbytes(rng.randrange(6 * PAGE_SIZE)))

    def _clone(self, parent: Directory, name: bytes, target: Directory, other: bytes) -> None:
        tree, rng = self._tree, self.rng
        source = tree.lookup(parent, name)
        if other not in target.entries:
            tree.create(target, other, stat.S_IFREG | 0o644, OWNER)
        to = rng.choice((0, 0, PAGE_SIZE, 100))
        tree.copy_range(source, rng.choice((0, 0, PAGE_SIZE)), target.entries[other], to, 1 << 20)


class _RecordingSaver(Saver):
    """Notes every save that is published, including those that make room."""

    def __init__(self, pram: Pram, tree: Tree, history: History) -> None:
        super().__init__(pram, NAME, tree)
        self._history = history
        self._looked = tree

    def save(self, *, final: bool, progress: Progress, snapshot: str = "") -> None:
        start, tree = self._history.begin(), tree_state(self._looked)
        super().save(final=final, progress=progress, snapshot=snapshot)
        self._history.note(start, tree, snapshot)


def _quiet(frames: int) -> None:
    """Ignore progress."""
