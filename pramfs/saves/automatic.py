"""Automatic snapshots: those of the last saves (`keep=`), which go when something else needs room."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from pramfs.errors import FramesHeld, NoRoomForSnapshot
from pramfs.pram.pram import Pram
from pramfs.saves.save import Saver
from pramfs.saves.snapshots import (
    AUTOMATIC_PREFIX,
    Snapshot,
    drop_snapshot,
    have_same_contents,
    new_name,
    require_new,
    saved_ns,
    snapshots_of,
)
from pramfs.saves.tree_nodes import has_tree
from pramfs.storage.frames import FREE_IN_TIME
from pramfs.tree.tree import Tree

# Freeing the oldest writes the node list anew (see `pram.publish`): it waits until one in so many can go.
_SURPLUS_SHARE = 16


@dataclass(frozen=True, slots=True)
class Keep:
    """Which saves are kept: so many, or those of so many seconds; 0: none."""

    saves: int = 0
    seconds: int = 0


class AutomaticSnapshots:
    """The automatic snapshots of one tree. For the thread that changes the tree, between saves."""

    def __init__(self, pram: Pram, saver: Saver, tree: Tree, keep: Keep) -> None:
        self._pram = pram
        self._saver = saver
        self._tree = tree
        self._keep = keep
        kept = self._snapshots()
        # Whether there was a save since the last one that was kept, with something else in it.
        self._saved_since = not kept or (
            self._is_wanted
            and has_tree(pram, saver.name)
            and saved_ns(pram, saver.name) > kept[-1].saved_ns
            and not have_same_contents(pram, saver.name, kept[-1].full_name)
        )
        pram.arena.may_give_up = lambda: bool(self._snapshots())

    def next_one(self) -> str:
        """Return the full name of the snapshot to take with a save now, "" for none; free what is too old.

        There is none if nothing has changed since the last one.
        """
        if not self._is_wanted:
            return ""
        wanted = self._tree.changed or self._saved_since
        kept = self._snapshots()
        first_ns = time.time_ns() - self._keep.seconds * 10**9 if self._keep.seconds else 0
        too_many = len(kept) + wanted - self._keep.saves if self._keep.saves else 0
        surplus = [
            snapshot
            for at, snapshot in enumerate(kept)
            if at < too_many or snapshot.saved_ns < first_ns
        ]
        if len(surplus) * _SURPLUS_SHARE > len(kept):
            for snapshot in surplus:
                self._drop(snapshot)
        if not wanted:
            return ""
        name = new_name(self._saver.name, AUTOMATIC_PREFIX, self._pram.nodes)
        return require_new(self._pram, self._saver.name, name, automatic=True)

    def note_save(self) -> None:
        """Note that a save is about to begin."""
        if self._tree.changed:
            self._saved_since = True

    def note_kept(self) -> None:
        """Note that a save is in force with the snapshot that was to be taken."""
        self._saved_since = False

    def make_room(self) -> Iterator[None]:
        """Make room for a snapshot: a save is to be made whenever this yields.

        Frees automatic snapshots, the oldest first, if a save is not enough. Raises NoRoomForSnapshot.
        """
        saved = False
        while True:
            try:
                self._saver.require_room_for_snapshot(after_save=not saved)
            except FramesHeld:
                saved = True
                yield
            except NoRoomForSnapshot:
                kept = self._snapshots()
                if not kept:
                    raise
                self._drop(kept[0])
                saved = False
            else:
                return

    def give_up(self) -> None:
        """Free as many, the oldest first, as it takes for what the arena lacked last; a save ends that."""
        arena = self._pram.arena
        wanted, arena.wanted = arena.wanted, 0
        for snapshot in self._snapshots():
            if arena.table.count_all(FREE_IN_TIME) >= wanted:
                return
            self._drop(snapshot)

    @property
    def _is_wanted(self) -> bool:
        return bool(self._keep.saves or self._keep.seconds)

    def _snapshots(self) -> list[Snapshot]:
        return snapshots_of(self._pram, self._saver.name, AUTOMATIC_PREFIX)

    def _drop(self, snapshot: Snapshot) -> None:
        drop_snapshot(self._pram, snapshot.tree, snapshot.name)
