"""The nodes of a tree, and which of them an image holds.

A tree NAME is two nodes, as in patch 13 of the 2013 series: the byte stream NAME-meta with the records of
all inodes, and the page stream NAME-data with the data pages of all regular files, file after file in the
order of the records. A byte stream NAME-more may hold what a reader may do without (see `more`).
A tree whose name contains an @ is a snapshot of the one named before it (see `snapshots`,
`snapshot_names`).
"""

from collections.abc import Collection, Mapping

from pramfs.pram.nodes import Node
from pramfs.pram.pram import Pram
from pramfs.storage import superblock
from pramfs.storage.layout import NODE_CUT_OFF, NODE_INCOMPLETE

META_SUFFIX = "-meta"
DATA_SUFFIX = "-data"
MORE_SUFFIX = "-more"

TREE_MARKS = NODE_INCOMPLETE | NODE_CUT_OFF


def tree_names(nodes: Collection[str]) -> list[str]:
    """Return the names of the trees that these nodes form."""
    stems = [name.removesuffix(META_SUFFIX) for name in nodes if name.endswith(META_SUFFIX)]
    return [stem for stem in stems if stem + DATA_SUFFIX in nodes]


def nodes_of(name: str) -> set[str]:
    """Return the names of the nodes that the tree `name` may have."""
    return {name + META_SUFFIX, name + DATA_SUFFIX, name + MORE_SUFFIX}


def stem_of(node: str) -> str:
    """Return the name of the tree that a node of this name belongs to, or `node` if its name is no such."""
    for suffix in (META_SUFFIX, DATA_SUFFIX, MORE_SUFFIX):
        if node.endswith(suffix):
            return node.removesuffix(suffix)
    return node


def has_tree(pram: Pram, name: str) -> bool:
    """Return whether the image holds a tree of that name, or one of its two nodes."""
    return name + META_SUFFIX in pram.nodes or name + DATA_SUFFIX in pram.nodes


def mark_tree(pram: Pram, name: str, marks: int) -> None:
    """Note of a tree that is not published yet what it lacks: NODE_INCOMPLETE, NODE_CUT_OFF, both or 0."""
    pram.node(name + META_SUFFIX).marks = marks


def marks_of(nodes: Mapping[str, Node], name: str) -> int:
    """Return what is known that a tree lacks, see `mark_tree`."""
    node = nodes.get(name + META_SUFFIX)
    return node.marks & TREE_MARKS if node is not None else 0


def what_it_lacks(nodes: Mapping[str, Node], name: str) -> str:
    """Return what to say of a tree that lacks what programs had written, or may lack it; "" if not."""
    return lack_of(marks_of(nodes, name))


def lack_of(marks: int) -> str:
    """Return what to say of a tree with these marks, "" if they are 0."""
    return superblock.what_it_lacks(
        incomplete=bool(marks & NODE_INCOMPLETE), cut_off=bool(marks & NODE_CUT_OFF)
    )


def drop_tree(pram: Pram, name: str) -> None:
    """Free the nodes of tree `name`, if there are any; the last save keeps them until a publish."""
    for node in nodes_of(name) & pram.nodes.keys():
        pram.free(node)
