"""Snapshots of a tree of an image that is not mounted."""

from pathlib import Path

from pramfs.pram.pram import Pram
from pramfs.saves.snapshots import copy_tree


def add_snapshot(image: Path, name: str, of: str = "pramfs") -> None:
    """Take a snapshot of a tree of an image."""
    with Pram.open(image) as pram:
        copy_tree(pram, of, f"{of}@{name}")
        pram.publish()
