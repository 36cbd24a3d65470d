"""Snapshots of a tree in the hands of a test, without a mount."""

from pathlib import Path

from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.saves.snapshots import require_new
from tests.support.tree_volume import NAME, Volume, new_tree


def take(volume: Volume, snapshot: str) -> None:
    """Save, and take a snapshot with it."""
    full_name = require_new(volume.pram, NAME, snapshot)
    volume.saver.save(final=False, progress=lambda pages: None, snapshot=full_name)


def take_in(path: Path, snapshot: str) -> None:
    """Take a snapshot in an image that is not mounted."""
    with Pram.open(path) as pram:
        tree = new_tree(pram)
        load_tree(pram, NAME, tree)
        full_name = require_new(pram, NAME, snapshot)
        saver = Saver(pram, NAME, tree)
        saver.save(final=True, progress=lambda pages: None, snapshot=full_name)
