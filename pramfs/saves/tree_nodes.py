"""The two nodes of a tree, and which of them an image holds.

A tree NAME is two nodes, as in patch 13 of the 2013 series: the byte stream NAME-meta with the records of
all inodes, and the page stream NAME-data with the data pages of all regular files, file after file in the
order of the records.
"""

from collections.abc import Collection

from pramfs.pram.pram import Pram

META_SUFFIX = "-meta"
DATA_SUFFIX = "-data"


def tree_names(nodes: Collection[str]) -> list[str]:
    """Return the names of the trees that these nodes form."""
    stems = [name.removesuffix(META_SUFFIX) for name in nodes if name.endswith(META_SUFFIX)]
    return [stem for stem in stems if stem + DATA_SUFFIX in nodes]


def has_tree(pram: Pram, name: str) -> bool:
    """Return whether the image holds a tree of that name, or one of its two nodes."""
    return name + META_SUFFIX in pram.nodes or name + DATA_SUFFIX in pram.nodes


def drop_tree(pram: Pram, name: str) -> None:
    """Free the nodes of tree `name`, if there are any; the last save keeps them until a publish."""
    for suffix in (META_SUFFIX, DATA_SUFFIX):
        if name + suffix in pram.nodes:
            pram.free(name + suffix)
