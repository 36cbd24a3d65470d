"""Say what differs between two snapshots of a tree, or a snapshot and the tree itself: `pramfs diff`.

Safe while a daemon has the image mounted: only what saves hold is read.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pramfs.errors import PramError
from pramfs.offline.paths import kind_name
from pramfs.offline.reader import TreeReader
from pramfs.offline.scan import scan_image
from pramfs.offline.tree_diff import Comparison, Paths
from pramfs.saves.tree_nodes import nodes_of
from pramfs.storage import superblock
from pramfs.storage.image import Image

__all__ = ["Change", "Totals", "TreeDiff", "diff_trees"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What differs at one name. The JSON has these names, in this order (see docs/json.md)."""

    change: str  # "added", "removed", "renamed", "changed" or, if nothing else is, "attributes"
    kind: str  # of file
    path: str  # in the new tree; of what was removed, in the old one
    old_path: str  # of what was renamed, else ""
    pages: int  # that differ
    old_size: int  # bytes of a regular file, else 0
    new_size: int
    what: tuple[str, ...]  # else differs: "target", "device", "mode", "owner", "xattrs", "flags"


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """How many names there are of each kind of change, and the pages that differ, each once."""

    added: int
    removed: int
    renamed: int
    changed: int
    attributes: int
    pages: int


class TreeDiff:
    """The differences between the trees `old` and `new` of an image, as the save of `generation` has them."""

    def __init__(self, image: Image, old: TreeReader, new: TreeReader, generation: int) -> None:
        """Compare them. Raises PramError, naming the file, for one that is damaged."""
        self.old = old.name
        self.new = new.name
        self.generation = generation
        self._trees = old, new
        self._names = Comparison(image, old, new).names()
        counts = Counter(name.change for name in self._names)
        # Of a file with several names the pages count once.
        pages = {(name.old, name.new): name.content.pages for name in self._names}
        self.totals = Totals(
            added=counts["added"],
            removed=counts["removed"],
            renamed=counts["renamed"],
            changed=counts["changed"],
            attributes=counts["attributes"],
            pages=sum(pages.values()),
        )

    def changes(self) -> Iterator[Change]:
        """Yield every change, in the order of names; reads nothing of the image."""
        if not self._names:
            return
        # Not made before: all paths of a deep tree take memory proportional to the square of its depth.
        old, new = (Paths(tree.inodes) for tree in self._trees)
        for name in self._names:
            inode = name.new or name.old
            assert inode is not None
            content = name.content
            yield Change(
                change=name.change,
                kind=kind_name(inode),
                path=old.path(name.old_place) if name.new is None else new.path(name.new_place),
                old_path=old.path(name.old_place) if name.is_renamed else "",
                pages=content.pages,
                old_size=content.old_size,
                new_size=content.new_size,
                what=content.what + content.attributes,
            )


def diff_trees(image: Image, old: str, new: str) -> TreeDiff:
    """Return the differences between two trees of an image.

    Raises NotAnImage, or another PramError if the image lacks a tree or is damaged; SavedMeanwhile if a
    daemon published each time that it was read.
    """
    return superblock.look_between_saves(image, lambda: _look(image, old, new))


def _look(image: Image, old: str, new: str) -> TreeDiff:
    # There may be many other snapshots, whose chains need not be read.
    found = scan_image(image, only=nodes_of(old) | nodes_of(new))
    trees = TreeReader(image, old, found), TreeReader(image, new, found)
    if found.damage:
        raise PramError(f"{image.path}: {found.damage[0]}")
    return TreeDiff(image, *trees, found.current.generation)
