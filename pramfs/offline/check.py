"""Verify all of an image: `pramfs check`. Read-only, and safe while a daemon has it mounted."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pramfs.errors import DamagedTree, LostSave, PramError, ReservationFailed, SavedMeanwhile
from pramfs.pram import sound, verify
from pramfs.pram.nodes import Node
from pramfs.pram.pram import Pram
from pramfs.pram.verify import FramesRead
from pramfs.saves.load import Recovered, load_tree
from pramfs.saves.tree_nodes import DATA_SUFFIX, nodes_of, tree_names, what_it_lacks
from pramfs.storage import superblock
from pramfs.storage.frames import SAVED
from pramfs.storage.image import Image
from pramfs.storage.layout import SuperBlock
from pramfs.tree.tree import Tree

__all__ = ["CheckReport", "check_image", "first_fault"]

Progress = Callable[[str, int], Callable[[int], None]]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of a check. The JSON has these names, in this order (see docs/json.md)."""

    image: str  # its path, as it was given
    clean: bool  # there is no damage
    generation: int  # of the save that was checked
    pages: int  # data pages verified
    damage: tuple[str, ...]  # a line each
    lacks: tuple[str, ...]  # what is, or may be, missing of what programs had written; no damage


@dataclass(slots=True)
class _Findings:
    generation: int
    pages: int = 0
    damage: list[str] = field(default_factory=list)
    lacks: list[str] = field(default_factory=list)


def _untold(label: str, pages: int) -> Callable[[int], None]:
    return lambda pages: None


def check_image(image: Image, progress: Progress = _untold) -> CheckReport:
    """Verify the last published save. Raises SavedMeanwhile, or PramError for a file that is no image.

    `progress` is called with a label and a number of pages to come, and returns what is then called with
    numbers of pages done. Forks if there is much to check. A daemon may publish meanwhile
    and reuse frames: if the generation has changed, apparent damage is checked again.
    """

    def look() -> tuple[_Findings, bool]:
        found = _check_once(image, progress)
        is_steady = not found.damage or superblock.require(image).generation == found.generation
        return found, is_steady

    found, is_steady = superblock.look_until_steady(look)
    if not is_steady:
        raise SavedMeanwhile(image.path)
    return CheckReport(
        image=str(image.path),
        clean=not found.damage,
        generation=found.generation,
        pages=found.pages,
        damage=tuple(found.damage),
        lacks=tuple(found.lacks),
    )


def first_fault(image: Image) -> str:
    """Return what is wrong with the last save, "" if all its pages are there and have their checksums.

    Needs little memory, however large the image is, and so names a page and not the file that it is of.
    Raises PramError for a file that is no image. May fork.
    """
    current = superblock.require(image)
    if image.frames < current.frames:
        return _truncated(image, current)
    slot = superblock.damaged_slot(image, current)
    if slot is not None:
        return str(LostSave(slot, current.generation))
    try:
        sound.require_sound(image, current)
    except PramError as exc:
        return str(exc)
    return ""


def _truncated(image: Image, current: SuperBlock) -> str:
    return f"truncated: {image.frames} of {current.frames} frames are there"


def _check_once(image: Image, progress: Progress) -> _Findings:
    current = superblock.require(image)
    found = _Findings(current.generation)
    found.lacks += [f"the {exc}" for exc in superblock.shortcomings(current)]
    if image.frames < current.frames:
        found.damage.append(_truncated(image, current))
    slot = superblock.damaged_slot(image, current)
    if slot is not None:
        found.damage.append(str(LostSave(slot, current.generation)))
    try:
        pram = Pram.open(image, accept_truncated=True)
    except ReservationFailed as exc:
        found.damage.append(str(exc))
        return found
    with pram:
        _check_accounts(pram, found)
        trees = tree_names(pram.nodes)
        told = [(name, what_it_lacks(pram.nodes, name)) for name in trees]
        found.lacks += [f"tree '{name}' is {lacks}" for name, lacks in told if lacks]
        of_trees = {node for name in trees for node in nodes_of(name)}
        read = FramesRead(len(pram.arena.table)) if pram.arena.table.repeats else None
        for node in list(pram.nodes.values()):
            if node.name not in of_trees:
                _check_node(pram, node, found, progress, read)
        for name in trees:
            _check_tree(pram, name, found, progress, read)
    return found


def _check_accounts(pram: Pram, found: _Findings) -> None:
    table = pram.arena.table
    used = table.count(SAVED) + 2  # super blocks
    if used != pram.current.frames_used:
        found.damage.append(
            f"the super block accounts for {pram.current.frames_used} frames, {used} are in use"
        )


def _check_node(
    pram: Pram, node: Node, found: _Findings, progress: Progress, read: FramesRead | None
) -> None:
    assert node.chain is not None
    entries = node.chain.entries
    counter = progress(f"checking {node.name}", len(entries))
    for at in verify.damaged_entries(pram.image, node.chain, counter, read):
        found.damage.append(f"node '{node.name}': pfn:{entries.pfns[at]:x} corrupted")
    found.pages += len(entries)


def _check_tree(
    pram: Pram, name: str, found: _Findings, progress: Progress, read: FramesRead | None
) -> None:
    pages = pram.node(name + DATA_SUFFIX).entries
    others = (nodes_of(name) - {name + DATA_SUFFIX}) & pram.nodes.keys()
    found.pages += pages + sum(pram.node(node).entries for node in others)
    recovered = Recovered()
    tree = Tree(pram.arena, inodes_max=0, generation=0)
    counter = progress(f"checking {name}", pages)
    try:
        load_tree(pram, name, tree, recover=recovered, read=read, progress=counter)
    except DamagedTree as exc:
        found.damage.append(str(exc))
    for path in recovered.left_out:
        found.damage.append(f"tree '{name}': damaged: {path}")
    if recovered.more_lost:
        found.damage.append(f"tree '{name}': damaged: {recovered.more_lost}")
