"""Snapshots of a tree in the hands of a test, made without a mount: NAME@SNAPSHOT, with the same frames."""

from pathlib import Path

from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver, stage_tree
from pramfs.storage.extents import extents_of
from pramfs.tree.inodes import File
from pramfs.tree.tree import Tree
from tests.support.tree_volume import NAME, Volume, new_tree


def take(volume: Volume, snapshot: str, *, tree: str = NAME) -> None:
    """Save the tree, and with it a snapshot that holds every frame of its files, too."""
    stage_snapshot(volume.pram, volume.tree, f"{tree}@{snapshot}")
    volume.save(final=False)


def take_in(path: Path, snapshot: str) -> None:
    """Take a snapshot in an image that is not mounted."""
    with Pram.open(path) as pram:
        tree = new_tree(pram)
        load_tree(pram, NAME, tree)
        stage_snapshot(pram, tree, f"{NAME}@{snapshot}")
        Saver(pram, NAME, tree).save(final=True, progress=lambda frames: None)


def stage_snapshot(pram: Pram, tree: Tree, name: str) -> None:
    """Have the next save hold the tree under that name, too."""
    for inode in tree.inodes.values():
        if isinstance(inode, File) and inode.pages is not None:
            for _, pfns in inode.pages.chunks():
                for extent in extents_of([pfn for pfn in pfns if pfn]):
                    pram.arena.table.share(extent.pfn, extent.frames)
    stage_tree(pram, name, tree)
