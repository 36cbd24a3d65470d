"""Snapshots: a snapshot S of the tree NAME is another tree of the image, called NAME@S.

It has metadata and links of its own, and the same frames as the tree for every page that neither has changed
since (see `storage.holders`). Files without a name are not in it, nor what fallocate(2) has promised.
"""

import os
import time
from collections.abc import Collection
from dataclasses import dataclass

from pramfs.errors import (
    BadSnapshotName,
    NoNameForReplaced,
    NoRoomForRollback,
    SaveFailed,
    SnapshotExists,
)
from pramfs.pram.links import Entries
from pramfs.pram.nodes import Node
from pramfs.pram.pram import Pram
from pramfs.pram.reserve import chain_of
from pramfs.saves.snapshot_names import SNAPSHOT_MARK, no_such_snapshot
from pramfs.saves.tree_nodes import (
    DATA_SUFFIX,
    META_SUFFIX,
    MORE_SUFFIX,
    drop_tree,
    has_tree,
    mark_tree,
    marks_of,
    tree_names,
)
from pramfs.storage.layout import BYTE_STREAM, PAGE_STREAM, TREE_NAME_MAX_BYTES
from pramfs.tree.space import Space

AUTOMATIC_PREFIX = "auto-"
REPLACED_PREFIX = "replaced-"  # by a rollback
NAME_MAX_BYTES = 128


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot of a tree. `saved_ns` is when it was taken, in nanoseconds since the epoch."""

    tree: str
    name: str
    saved_ns: int

    @property
    def full_name(self) -> str:
        """The name of the tree that it is in the image."""
        return self.tree + SNAPSHOT_MARK + self.name


def check_name(tree: str, name: str, *, automatic: bool = False) -> str:
    """Return the full name of a new snapshot. Raises BadSnapshotName."""
    size = len(os.fsencode(name))
    if not 0 < size <= NAME_MAX_BYTES:
        raise BadSnapshotName(name, f"it has {size} bytes, 1 to {NAME_MAX_BYTES} are allowed")
    if any(char in f"{SNAPSHOT_MARK}/" or ord(char) < 32 or ord(char) == 127 for char in name):
        raise BadSnapshotName(name, "it must not contain '@', '/' or control characters")
    if name.startswith((".", "-")):
        raise BadSnapshotName(name, "it must not begin with '.' or '-'")
    if name.startswith(AUTOMATIC_PREFIX) != automatic:
        raise BadSnapshotName(name, f"names in '{AUTOMATIC_PREFIX}' are for automatic ones")
    full_name = tree + SNAPSHOT_MARK + name
    size = len(os.fsencode(full_name))
    if size > TREE_NAME_MAX_BYTES:
        raise BadSnapshotName(
            name, f"'{full_name}' has {size} bytes, at most {TREE_NAME_MAX_BYTES} fit"
        )
    return full_name


def new_name(tree: str, prefix: str, taken: Collection[str]) -> str:
    """Return the prefix and the present time (UTC) as the name of a snapshot that is not `taken` yet."""
    now_s, now_ms = divmod(time.time_ns() // 10**6, 1000)
    stem = prefix + time.strftime("%Y%m%dT%H%M%S", time.gmtime(now_s)) + f".{now_ms:03}Z"
    name, number = stem, 1
    while tree + SNAPSHOT_MARK + name + META_SUFFIX in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def snapshots_of(pram: Pram, tree: str, prefix: str = "") -> list[Snapshot]:
    """Return the snapshots of a tree, the oldest first, also those that are not published yet.

    `prefix`: only those whose names begin with it.
    """
    before, nodes = tree + SNAPSHOT_MARK, pram.nodes
    stems = [
        node.removesuffix(META_SUFFIX)
        for node in nodes
        if node.startswith(before + prefix) and node.endswith(META_SUFFIX)
    ]
    found = [
        Snapshot(tree, stem.removeprefix(before), nodes[stem + META_SUFFIX].saved_ns)
        for stem in stems
        if stem + DATA_SUFFIX in nodes
    ]
    return sorted(found, key=lambda snapshot: snapshot.saved_ns)


def saved_ns(pram: Pram, name: str) -> int:
    """Return when a tree was saved, in nanoseconds since the epoch."""
    return pram.node(name + META_SUFFIX).saved_ns


def require_new(pram: Pram, tree: str, name: str, *, automatic: bool = False) -> str:
    """Return the full name of a snapshot to be taken. Raises BadSnapshotName, SnapshotExists."""
    full_name = check_name(tree, name, automatic=automatic)
    if has_tree(pram, full_name):
        raise SnapshotExists(full_name)
    return full_name


def drop_snapshot(pram: Pram, tree: str, name: str) -> None:
    """Free a snapshot; the last save keeps it until a publish. Raises NoSuchSnapshot."""
    full_name = tree + SNAPSHOT_MARK + name
    _require_snapshot(pram, full_name)
    drop_tree(pram, full_name)


def have_same_contents(pram: Pram, name: str, other: str) -> bool:
    """Return whether the last save has the same in two trees."""
    ours, theirs = (_entries_of(pram, pram.node(tree + DATA_SUFFIX)) for tree in (name, other))
    if (ours.pfns, ours.indices) != (theirs.pfns, theirs.indices):
        return False
    ours, theirs = (_entries_of(pram, pram.node(tree + META_SUFFIX)) for tree in (name, other))
    return ours.csums == theirs.csums


def copy_tree(pram: Pram, name: str, new_name: str) -> None:
    """Add a tree with the same contents and the same frames; a publish saves it.

    It has what the nodes of `name` hold now. Raises NoSuchNode, NodeExists, NoFrames, DamagedPage or another
    PramError, and adds nothing then.
    """
    try:
        for suffix in (META_SUFFIX, MORE_SUFFIX):
            if suffix == META_SUFFIX or name + suffix in pram.nodes:
                _copy_bytes(pram, name + suffix, new_name + suffix)
        with pram.prepare_save(new_name + DATA_SUFFIX, PAGE_STREAM) as data:
            data.share_pages(_entries_of(pram, pram.node(name + DATA_SUFFIX)))
        mark_tree(pram, new_name, marks_of(pram.nodes, name))
    except BaseException:
        drop_tree(pram, new_name)
        raise


def rename_tree(pram: Pram, name: str, new_name: str) -> None:
    """Give a tree another name, which no tree has yet; a publish saves that."""
    for suffix in (META_SUFFIX, DATA_SUFFIX, MORE_SUFFIX):
        if name + suffix in pram.nodes:
            pram.rename(name + suffix, new_name + suffix)


def roll_back(pram: Pram, tree: str, snapshot: str) -> str:
    """Make the tree a copy of its snapshot, and of what it was a snapshot, whose name is returned.

    That is "" if there was no such tree any more. A publish saves it. Raises NoSuchSnapshot,
    NoNameForReplaced, NoRoomForRollback, DamagedPage, SaveFailed or another PramError, and has changed
    nothing then.
    """
    full_name = tree + SNAPSHOT_MARK + snapshot
    _require_snapshot(pram, full_name)
    _require_room_to_roll_back(pram, full_name)
    replaced = ""
    if has_tree(pram, tree):
        replaced = new_name(tree, REPLACED_PREFIX, pram.nodes)
        try:
            rename_tree(pram, tree, check_name(tree, replaced))
        except BadSnapshotName as exc:
            raise NoNameForReplaced(pram.image.path, tree) from exc
    try:
        copy_tree(pram, full_name, tree)
    except BaseException as exc:
        if replaced:
            rename_tree(pram, tree + SNAPSHOT_MARK + replaced, tree)
        if isinstance(exc, OSError):
            raise SaveFailed(exc, pram.current.generation) from exc
        raise
    return replaced


def _require_room_to_roll_back(pram: Pram, snapshot: str) -> None:
    """Raise NoRoomForRollback unless there is room for a tree like the snapshot, and then to mount that."""
    space = Space(pram.arena)
    space.metadata_bytes = pram.node(snapshot + META_SUFFIX).data_len
    space.pages = pram.node(snapshot + DATA_SUFFIX).entries
    copy = space.snapshot_frames()
    space.other_nodes, space.saved_frames = len(pram.nodes), copy
    needed, unused = copy + space.frames_to_keep_free(), pram.arena.table.unused
    if unused < needed:
        raise NoRoomForRollback(needed, unused)


def _require_snapshot(pram: Pram, full_name: str) -> None:
    if not {full_name + META_SUFFIX, full_name + DATA_SUFFIX} <= pram.nodes.keys():
        raise no_such_snapshot(pram.image.path, full_name, tree_names(pram.nodes))


def _copy_bytes(pram: Pram, node: str, new_node: str) -> None:
    with pram.prepare_load(node, BYTE_STREAM) as source:
        data = source.read(pram.node(node).data_len)
    with pram.prepare_save(new_node, BYTE_STREAM) as copy:
        copy.write(data)


def _entries_of(pram: Pram, node: Node) -> Entries:
    return chain_of(pram.arena, pram.current.uuid, node).entries
