"""The names of snapshots: a snapshot S of the tree NAME is the tree NAME@S, and people may say less."""

import os
from collections.abc import Collection, Sequence

from pramfs.errors import NoSuchSnapshot
from pramfs.system.text import printable

SNAPSHOT_MARK = "@"
_NAMED_MAX = 10  # that a message lists


def tree_of(name: str) -> str:
    """Return the name of the tree that `name` is a snapshot of, or `name` if it is none."""
    return name.partition(SNAPSHOT_MARK)[0]


def snapshot_tree(snapshot: str, tree: str) -> str:
    """Return NAME@S of a snapshot that is given as that, or as @S or S if it is one of `tree`."""
    before, mark, name = snapshot.partition(SNAPSHOT_MARK)
    return (before or tree) + mark + name if mark else tree + SNAPSHOT_MARK + snapshot


def tree_named(name: str, trees: Collection[str], default: str) -> str:
    """Return which of the trees a name means: a tree, or a snapshot as for `snapshot_tree`, of `default`.

    A tree goes before a snapshot of that name. A name that none of them has is returned in full.
    """
    if name in trees:
        return name
    snapshot = snapshot_tree(name, default)
    return snapshot if snapshot in trees or SNAPSHOT_MARK in name else name


def no_such_snapshot(
    place: str | os.PathLike[str], name: str, trees: Sequence[str]
) -> NoSuchSnapshot:
    """Return the error for a snapshot NAME@S that is not among the trees at `place`, which names those."""
    tree, _, snapshot = name.partition(SNAPSHOT_MARK)
    there_are = [other for other in trees if other.startswith(tree + SNAPSHOT_MARK)]
    short = [printable(other.removeprefix(tree + SNAPSHOT_MARK)) for other in there_are]
    more = len(short) - _NAMED_MAX
    told = ", ".join(short[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
    return NoSuchSnapshot(place, snapshot, tree, told or "none")
