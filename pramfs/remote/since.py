"""What an increment can build on: a snapshot that is here, and of which a place has a stream."""

from pathlib import Path

from pramfs.control.served_image import open_target
from pramfs.errors import NoBaseInPlace
from pramfs.offline.scan import scan_image
from pramfs.remote.listing import Listing
from pramfs.remote.manifest import Manifest
from pramfs.remote.place import Place
from pramfs.saves.snapshot_names import SNAPSHOT_MARK, tree_of
from pramfs.saves.tree_nodes import DATA_SUFFIX, tree_names
from pramfs.storage import superblock
from pramfs.storage.image import Image
from pramfs.stream.identity import read_tree
from pramfs.stream.send import Sending
from pramfs.stream.source import SENDING_PREFIX, what_is_sent


def base_in(place: Place, listing: Listing, sending: Sending) -> Manifest | None:
    """Return the stream that has the base of an increment, None for a complete one.

    Raises NoBaseInPlace.
    """
    if not sending.base_name:
        return None
    base = listing.whole_of_identity(sending.header.base_identity.hex())
    if base is None:
        raise NoBaseInPlace(place.name, sending.base_name)
    return base


def newest_same(listing: Listing, sending: Sending, *, may_build: bool) -> Manifest | None:
    """Return the newest whole stream of what is sent, under its name; an increment only if it `may_build`."""
    identity = sending.header.identity.hex()
    for one in reversed(listing.streams):
        is_same = (one.identity, one.name) == (identity, sending.name)
        if is_same and (may_build or not one.base) and listing.is_whole(one):
            return one
    return None


def newest_common(listing: Listing, target: Path, name: str = "") -> str | None:
    """Return the snapshot at `target` that the newest possible stream is of, None if there is none.

    It is one of the tree that is sent from `target`, as for `source_at`. Raises PramError.
    """
    path, status, sent = what_is_sent(target, name)
    with open_target(path, status) as image:
        return superblock.look_between_saves(image, lambda: _newest(image, listing, sent))


def _newest(image: Image, listing: Listing, sent: str) -> str | None:
    nodes = scan_image(image, only=()).nodes
    entries = {
        tree: nodes[tree + DATA_SUFFIX].node.entries
        for tree in tree_names(nodes)
        if _may_be_base(tree, sent)
    }
    known: dict[str, str] = {}
    for stream in reversed(listing.streams):
        alike = [tree for tree, count in entries.items() if count == stream.entries]
        for tree in sorted(alike, key=lambda tree: tree != stream.name):
            if tree not in known:
                known[tree] = read_tree(image, tree).identity.hex()
            if known[tree] == stream.identity and listing.is_whole(stream):
                return tree
    return None


def _may_be_base(tree: str, sent: str) -> bool:
    before, mark, snapshot = tree.partition(SNAPSHOT_MARK)
    is_lasting = bool(mark) and not snapshot.startswith(SENDING_PREFIX)
    return before == tree_of(sent) and tree != sent and is_lasting
