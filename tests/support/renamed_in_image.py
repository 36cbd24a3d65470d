"""Names in an image that no mount would give."""

from pathlib import Path

from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.tree.tree import Tree


def rename_in_root(image: Path, name: bytes, new_name: bytes) -> None:
    """Rename an entry of the root of the default tree of an image that is not mounted."""
    with Pram.open(image) as pram:
        tree = Tree(pram.arena, inodes_max=1 << 20, generation=7)
        load_tree(pram, "pramfs", tree)
        tree.root.entries[new_name] = tree.root.entries.pop(name)
        tree.note_change(tree.root)
        Saver(pram, "pramfs", tree).save(final=True, progress=lambda pages: None)
