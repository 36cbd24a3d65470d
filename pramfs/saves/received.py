"""Add a tree whose pages are in the image already to the nodes: what `receive` does at the end."""

from collections.abc import Collection

from pramfs.errors import BadTreeName
from pramfs.pram.links import Entries
from pramfs.pram.pram import Pram
from pramfs.saves.snapshot_names import SNAPSHOT_MARK
from pramfs.saves.snapshots import check_name
from pramfs.saves.tree_nodes import (
    DATA_SUFFIX,
    META_SUFFIX,
    MORE_SUFFIX,
    drop_tree,
    mark_tree,
    stem_of,
)
from pramfs.storage.layout import BYTE_STREAM, PAGE_STREAM, TREE_NAME_MAX_BYTES
from pramfs.tree.space import Space


def check_new_tree(name: str) -> None:
    """Raise BadSnapshotName or BadTreeName unless a new tree may have that name."""
    tree, mark, snapshot = name.partition(SNAPSHOT_MARK)
    if mark:
        check_name(tree, snapshot)
    if not tree.isprintable() or "/" in tree or tree.startswith((".", "-")) or not tree:
        raise BadTreeName(tree, "it is empty, has '/', or does not begin as names do")
    if stem_of(tree) != tree:
        raise BadTreeName(tree, "names in -meta, -data and -more are for the nodes of trees")
    size = len(tree.encode())
    if size > TREE_NAME_MAX_BYTES:
        raise BadTreeName(tree, f"it has {size} bytes, at most {TREE_NAME_MAX_BYTES} fit")


def frames_for_tree(pram: Pram, *, metadata_bytes: int, entries: int) -> int:
    """Return how many free frames a new tree needs besides its pages, to be published and mounted."""
    space = Space(pram.arena)
    space.metadata_bytes, space.pages = metadata_bytes, entries
    own = space.snapshot_frames()
    space.other_nodes, space.saved_frames = len(pram.nodes), own
    return own + space.frames_to_keep_free()


def add_tree(
    pram: Pram, name: str, metadata: bytes, more: bytes, entries: Entries, marks: int
) -> None:
    """Add a tree with these records, births, pages and marks (see `mark_tree`); a publish saves it.

    It becomes a holder of its frames beside those that hold them now. Raises NodeExists, NoFrames, OSError or
    another PramError, and adds nothing then.
    """
    try:
        for suffix, data in _byte_streams(metadata, more):
            with pram.prepare_save(name + suffix, BYTE_STREAM) as stream:
                stream.write(data)
        with pram.prepare_save(name + DATA_SUFFIX, PAGE_STREAM) as pages:
            pages.share_pages(entries)
        mark_tree(pram, name, marks)
    except BaseException:
        drop_tree(pram, name)
        raise


def _byte_streams(metadata: bytes, more: bytes) -> Collection[tuple[str, bytes]]:
    streams = [(META_SUFFIX, metadata)]
    return [*streams, (MORE_SUFFIX, more)] if more else streams
