"""Snapshots of the tree of an image that is not mounted, made with the library."""

from pathlib import Path

from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import stage_tree
from pramfs.storage.extents import extents_of
from pramfs.tree.inodes import File
from pramfs.tree.tree import Tree


def take_snapshot(pram: Pram, name: str, tree: Tree, of: str = "pramfs") -> None:
    """Stage the tree once more, as the snapshot of that name, which shares its frames."""
    stem = f"{of}@{name}"
    stage_tree(pram, stem, tree)
    node = pram.nodes[f"{stem}-data"]
    for inode in tree.inodes.values():
        if isinstance(inode, File) and inode.pages is not None and inode.nlink:
            for _, pfns in inode.pages.chunks():
                for extent in extents_of([pfn for pfn in pfns if pfn]):
                    pram.arena.table.share(*extent)
                    node.owned.append(extent)


def add_snapshot(image: Path, name: str, of: str = "pramfs") -> None:
    """Take a snapshot of a tree of an image."""
    with Pram.open(image) as pram:
        tree = Tree(pram.arena, inodes_max=1 << 20, generation=7)
        load_tree(pram, of, tree)
        take_snapshot(pram, name, tree, of)
        stage_tree(pram, of, tree)
        pram.publish()
