"""Say what is in an image or a mount: `pramfs info`. Read-only, and safe while a daemon has it mounted."""

from dataclasses import dataclass, replace
from pathlib import Path

from pramfs.control import client, run_state
from pramfs.control.holder import holder_of
from pramfs.control.last_run import ended_badly
from pramfs.control.served_image import open_target
from pramfs.control.status import MountStatus
from pramfs.pram.nodes import NodeInfo, by_age
from pramfs.pram.reserve import reserve
from pramfs.saves.tree_nodes import marks_of, tree_names
from pramfs.storage import superblock
from pramfs.storage.frames import FrameCounts, FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import (
    PAGE_SIZE,
    SUPER_CUT_OFF,
    SUPER_FINAL,
    SUPER_INCOMPLETE,
    SUPER_SUSPECT,
)
from pramfs.storage.machine_mark import held_elsewhere, words_of_mark
from pramfs.system.text import when

__all__ = ["FrameCounts", "ImageInfo", "MountStatus", "NodeInfo", "image_info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What the last published save holds. The JSON has these names, in this order (see docs/json.md)."""

    image: str  # its path, without symbolic links
    uuid: str  # hexadecimal
    version: int  # of the format
    size: int  # bytes, as the save has it
    frames: FrameCounts  # of the save; of a mount those of now
    generation: int
    pfn: str  # of the super block, hexadecimal
    saved_ns: int  # when it was published, nanoseconds since the epoch
    saved_by: str  # name and version of the program
    final: bool  # published by an unmount, not by a checkpoint
    suspect: bool  # the run that published it had met an internal error
    incomplete: bool  # it lacks data that programs had written
    cut_off: bool  # the mount was cut off by force: it may lack what they had written last
    nodes: tuple[NodeInfo, ...]
    trees: tuple[str, ...]  # their names
    incomplete_trees: tuple[str, ...]  # those of them that lack, or may lack, such data
    last_run: str  # what is known of the process that had the image last, "" if nothing is
    mount: MountStatus | None = (
        None  # None if the target is an image; then the JSON has no such key
    )


def image_info(target: Path) -> ImageInfo:
    """Return what is in the image at `target`, or in the one mounted there.

    Raises NotAnImage, ReservationFailed, SavedMeanwhile or another PramError.
    """
    status = client.status_if_mounted(target)
    with open_target(target, status) as image:
        with superblock.steady(image):
            info = _info_of_save(image)
        info = replace(info, last_run=_last_run(image))
    return info if status is None else replace(info, frames=status.frames, mount=status)


def _info_of_save(image: Image) -> ImageInfo:
    current = superblock.require(image)
    table = FrameTable(min(current.frames, image.frames))
    nodes = by_age(reserve(image, table, current))
    return ImageInfo(
        image=str(image.path.resolve()),
        uuid=current.uuid.hex(),
        version=current.version,
        size=current.frames * PAGE_SIZE,
        frames=table.summary(),
        generation=current.generation,
        pfn=f"{current.pfn:x}",
        saved_ns=current.saved_ns,
        saved_by=current.saved_by.rstrip(b"\0").decode(errors="replace"),
        final=bool(current.flags & SUPER_FINAL),
        suspect=bool(current.flags & SUPER_SUSPECT),
        incomplete=bool(current.flags & SUPER_INCOMPLETE),
        cut_off=bool(current.flags & SUPER_CUT_OFF),
        nodes=tuple(node.info() for node in nodes.values()),
        trees=tuple(tree_names(nodes)),
        incomplete_trees=tuple(name for name in tree_names(nodes) if marks_of(nodes, name)),
        last_run="",
    )


def _last_run(image: Image) -> str:
    """Return what is known of the last run that had the image, "" if nothing is."""
    if image.serving_pid() is not None or not image.try_lock(shared=True):
        return holder_of(image).words
    current = superblock.require(image)
    elsewhere = held_elsewhere(image, current)
    if elsewhere is not None:
        since = when(elsewhere.since_ns)
        return f"{words_of_mark(elsewhere)} has it since {since}, so its mark there says"
    told = ended_badly(image, current)
    state = run_state.last_state(image, current.uuid)
    if told or state is None or state.run != current.run.hex() or state.phase != run_state.SAVED:
        return told
    return f"saved at unmount by process {state.pid}"
