"""Snapshots of a tree in the hands of a test, made without a mount: NAME@SNAPSHOT, with the same frames."""

from pramfs.saves.save import stage_tree
from pramfs.storage.extents import extents_of
from pramfs.tree.inodes import File
from tests.support.tree_volume import NAME, Volume


def take(volume: Volume, snapshot: str, *, tree: str = NAME) -> None:
    """Save the tree, and with it a snapshot that holds every frame of its files, too."""
    table = volume.pram.arena.table
    for inode in volume.tree.inodes.values():
        if isinstance(inode, File) and inode.pages is not None:
            for _, pfns in inode.pages.chunks():
                for extent in extents_of([pfn for pfn in pfns if pfn]):
                    table.share(extent.pfn, extent.frames)
    stage_tree(volume.pram, f"{tree}@{snapshot}", volume.tree)
    volume.save(final=False)
