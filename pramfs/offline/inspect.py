"""Inspect an image: info and check. Read-only, and safe while a daemon has it mounted."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pramfs.errors import DamagedTree, ReservationFailed, SavedMeanwhile
from pramfs.pram import verify
from pramfs.pram.nodes import Node
from pramfs.pram.pram import Pram
from pramfs.pram.reserve import reserve
from pramfs.saves.load import Recovered, load_tree
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, tree_names
from pramfs.storage import superblock
from pramfs.storage.frames import SAVED, FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import (
    PAGE_SIZE,
    STREAM_TYPES,
    SUPER_FINAL,
    SUPER_INCOMPLETE,
    SUPER_SUSPECT,
)
from pramfs.tree.tree import Tree

Progress = Callable[[str, int], Callable[[int], None]]


@dataclass(slots=True)
class Check:
    """The result of a check; the image is clean if there is no damage."""

    generation: int
    pages: int = 0  # data pages verified
    damage: list[str] = field(default_factory=list)


def image_info(image: Image) -> dict[str, object]:
    """Return a description of the last published save. Raises PramError."""
    current = superblock.require(image)
    table = FrameTable(min(current.frames, image.frames))
    nodes = reserve(image, table, current)
    return {
        "image": str(image.path.resolve()),
        "uuid": current.uuid.hex(),
        "version": current.version,
        "size": current.frames * PAGE_SIZE,
        "frames": table.summary(),
        "generation": current.generation,
        "pfn": f"{current.pfn:x}",
        "saved_ns": current.saved_ns,
        "saved_by": current.saved_by.rstrip(b"\0").decode(errors="replace"),
        "final": bool(current.flags & SUPER_FINAL),
        "suspect": bool(current.flags & SUPER_SUSPECT),
        "incomplete": bool(current.flags & SUPER_INCOMPLETE),
        "nodes": [node_info(node) for node in nodes.values()],
        "trees": tree_names(nodes),
    }


def node_info(node: Node) -> dict[str, object]:
    """Return a description of a node."""
    size = node.data_len or node.entries * PAGE_SIZE
    return {
        "name": node.name,
        "type": STREAM_TYPES[node.type],
        "size": size,
        "pfn": f"{node.pfn:x}",
        "links": node.links,
        "pages": node.entries,
        "saved_ns": node.saved_ns,
    }


def check_image(image: Image, progress: Progress) -> Check:
    """Verify the last published save. Raises SavedMeanwhile, or PramError for a file that is no image.

    `progress` returns a progress counter for a label and a number of pages. A daemon may publish meanwhile
    and reuse frames: if the generation has changed, apparent damage is checked again.
    """

    def look() -> tuple[Check, bool]:
        check = _check_once(image, progress)
        is_steady = not check.damage or superblock.require(image).generation == check.generation
        return check, is_steady

    check, is_steady = superblock.look_until_steady(look)
    if not is_steady:
        raise SavedMeanwhile(image.path)
    return check


def _check_once(image: Image, progress: Progress) -> Check:
    current = superblock.require(image)
    check = Check(current.generation)
    if image.frames < current.frames:
        check.damage.append(f"truncated: {image.frames} of {current.frames} frames are there")
    try:
        pram = Pram.open(image, accept_truncated=True)
    except ReservationFailed as exc:
        check.damage.append(str(exc))
        return check
    with pram:
        _check_accounts(pram, check)
        trees = tree_names(pram.nodes)
        of_trees = {stem + suffix for stem in trees for suffix in (META_SUFFIX, DATA_SUFFIX)}
        for node in list(pram.nodes.values()):
            if node.name not in of_trees:
                _check_node(pram, node, check, progress)
        for name in trees:
            _check_tree(pram, name, check, progress)
    return check


def _check_accounts(pram: Pram, check: Check) -> None:
    table = pram.arena.table
    used = table.count(SAVED) + 2  # super blocks
    if used != pram.current.frames_used:
        check.damage.append(
            f"the super block accounts for {pram.current.frames_used} frames, {used} are in use"
        )


def _check_node(pram: Pram, node: Node, check: Check, progress: Progress) -> None:
    assert node.chain is not None
    entries = node.chain.entries
    counter = progress(f"checking {node.name}", len(entries))
    for at in verify.damaged_entries(pram.image, node.chain, counter):
        check.damage.append(f"node '{node.name}': pfn:{entries.pfns[at]:x} corrupted")
    check.pages += len(entries)


def _check_tree(pram: Pram, name: str, check: Check, progress: Progress) -> None:
    pages = pram.node(name + DATA_SUFFIX).entries
    check.pages += pages + pram.node(name + META_SUFFIX).entries
    recovered = Recovered()
    tree = Tree(pram.arena, inodes_max=0, generation=0)
    counter = progress(f"checking {name}", pages)
    try:
        load_tree(pram, name, tree, recover=recovered, progress=counter)
    except DamagedTree as exc:
        check.damage.append(str(exc))
    for path in recovered.left_out:
        check.damage.append(f"tree '{name}': damaged: {path}")
