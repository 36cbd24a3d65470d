"""List the snapshots of an image, and what each holds: `pramfs snapshots`. Safe beside a daemon."""

import contextlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pramfs.control import client
from pramfs.control.served_image import open_served, open_target
from pramfs.control.status import MountStatus
from pramfs.errors import PramError
from pramfs.pram.nodes import Node, node_names
from pramfs.pram.reserve import reserve
from pramfs.saves.snapshot_names import SNAPSHOT_MARK, no_such_snapshot
from pramfs.saves.snapshots import AUTOMATIC_PREFIX
from pramfs.saves.tree_nodes import (
    DATA_SUFFIX,
    META_SUFFIX,
    marks_of,
    nodes_of,
    tree_names,
)
from pramfs.storage import superblock
from pramfs.storage.frames import SAVED, Extent, FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import NODE_CUT_OFF, NODE_INCOMPLETE

__all__ = ["ImageSnapshots", "SnapshotInfo", "image_snapshots"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """One snapshot. The JSON has these names, in this order (see docs/json.md)."""

    tree: str  # the name of the tree that it is of
    name: str
    saved_ns: int  # when it was taken, nanoseconds since the epoch
    automatic: bool  # pramfs took it, and may free it
    alone: int  # frames that only it holds: so many come free with it
    shared: int  # frames that others hold, too
    incomplete: bool  # it lacks data that programs had written
    cut_off: bool  # the mount was cut off by force: it may lack what they had written last


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSnapshots:
    """The snapshots of all trees of an image, the oldest first, as the save of `generation` has them."""

    image: str  # its path, without symbolic links
    generation: int
    snapshots: tuple[SnapshotInfo, ...]


def image_snapshots(target: Path) -> ImageSnapshots:
    """Return the snapshots in the image at `target`, or in the one mounted there.

    Raises NotAnImage, ReservationFailed, SavedMeanwhile or another PramError.
    """
    status = client.status_if_mounted(target, "not listed")
    with open_target(target, status) as image:
        return superblock.look_between_saves(image, lambda: _look(image))


def trees_in_force(status: MountStatus) -> list[str]:
    """Return the names of the trees in the image of a mount; none if they cannot be read."""
    with contextlib.suppress(PramError), open_served(status) as image:
        return superblock.look_between_saves(image, lambda: tree_names(node_names(image)))
    return []


def require_snapshots(mountpoint: Path, names: Collection[str], status: MountStatus) -> None:
    """Raise NoSuchSnapshot unless the image of a mount has all these trees TREE@SNAPSHOT."""
    with open_served(status) as image:
        trees = superblock.look_between_saves(image, lambda: tree_names(node_names(image)))
    for name in names:
        if SNAPSHOT_MARK in name and name not in trees:
            raise no_such_snapshot(mountpoint, name, trees)


def _look(image: Image) -> ImageSnapshots:
    current = superblock.require(image)
    table = FrameTable(min(current.frames, image.frames))
    nodes = reserve(image, table, current)
    return ImageSnapshots(
        image=str(image.path.resolve()),
        generation=current.generation,
        snapshots=tuple(sorted(_infos(nodes, table), key=lambda info: info.saved_ns)),
    )


def _infos(nodes: dict[str, Node], table: FrameTable) -> Iterator[SnapshotInfo]:
    own = FrameTable(len(table))
    for full_name in tree_names(nodes):
        tree, mark, name = full_name.partition(SNAPSHOT_MARK)
        if not mark:
            continue
        mine = [nodes[node] for node in nodes_of(full_name) & nodes.keys()]
        data = nodes[full_name + DATA_SUFFIX].chain
        assert data is not None
        alone, pages = _count_alone(data.extents, table, own)
        # Everything else of it is its own: the pages of the list, links, and metadata.
        others = sum(1 + node.links for node in mine)
        others += sum(node.entries for node in mine if node.name != full_name + DATA_SUFFIX)
        marks = marks_of(nodes, full_name)
        yield SnapshotInfo(
            tree=tree,
            name=name,
            saved_ns=nodes[full_name + META_SUFFIX].saved_ns,
            automatic=name.startswith(AUTOMATIC_PREFIX),
            alone=alone + others,
            shared=pages - alone,
            incomplete=bool(marks & NODE_INCOMPLETE),
            cut_off=bool(marks & NODE_CUT_OFF),
        )


def _count_alone(extents: list[Extent], table: FrameTable, own: FrameTable) -> tuple[int, int]:
    """Return how many of these frames nobody else holds, and how many there are, each once.

    They may occur several times, as in clones. `own` is a table of the same length, and is left empty.
    """
    for extent in extents:
        own.reserve(extent.pfn, extent.frames, "data page", shared=True)
    once: Iterable[Extent] = own.extents(SAVED) if own.repeats else extents
    alone = pages = 0
    for extent in once:
        pages += extent.frames
        alone += table.held_alike(own, *extent)
    own.unreserve(extents)
    return alone, pages
