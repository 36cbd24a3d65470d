"""Find what is to be sent: a tree or snapshot of an image, or what a mount holds now.

Of a mount a snapshot is taken for as long as it is sent, so that writers wait for a save and no longer.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pramfs.control import client, save_progress
from pramfs.control.served_image import open_served, open_target
from pramfs.control.status import MountStatus
from pramfs.errors import PramError
from pramfs.options import DEFAULT_NAME
from pramfs.saves.snapshot_names import SNAPSHOT_MARK, snapshot_tree, tree_of
from pramfs.saves.snapshots import new_name
from pramfs.storage import superblock
from pramfs.storage.image import Image
from pramfs.stream.identity import WholeTree, read_tree
from pramfs.stream.send import Sending
from pramfs.tree.tree import SNAPSHOTS_NAME

SENDING_PREFIX = "sending-"
# As `new_name` has it.
_TAKEN_BY_SENDER = re.compile(SENDING_PREFIX + r"\d{8}T\d{6}\.\d{3}Z(-\d+)?")


@contextlib.contextmanager
def source_at(target: Path, since: str | None = None, name: str = "") -> Iterator[Sending]:
    """Prepare to send what is at `target`: an image or mountpoint, perhaps with @SNAPSHOT behind it.

    With `since`, a snapshot, only what is not in that. `name` is that of another tree than the default one.
    Raises PramError, SavedMeanwhile if a daemon has reused frames meanwhile.
    """
    path, status, sent = what_is_sent(target, name)
    with contextlib.ExitStack() as stack:
        held = sent
        if status is not None and not status.read_only and sent == status.name:
            held = stack.enter_context(_snapshot_for_now(path, status))
        image = stack.enter_context(open_target(path, status))
        stack.enter_context(superblock.steady(image))
        whole = _read(image, held)
        base = _read(image, snapshot_tree(since, tree_of(sent))) if since else None
        yield Sending(image, whole, base, sent)


def what_is_sent(target: Path, name: str = "") -> tuple[Path, MountStatus | None, str]:
    """Return the image or mount at `target`, the status if it is one, and the full name of the tree.

    Raises PramError.
    """
    path, snapshot = split_target(target)
    status = client.status_if_mounted(path, "not sent")
    tree = name or (status.name if status is not None else DEFAULT_NAME)
    return path, status, snapshot_tree(snapshot, tree_of(tree)) if snapshot else tree


def split_target(target: Path) -> tuple[Path, str]:
    """Return a path that exists and the snapshot named behind it, "" if there is none."""
    text, at = str(target), len(str(target))
    while at > 0:
        if _exists(Path(text[:at])):
            return Path(text[:at]), text[at + 1 :]
        at = text.rfind(SNAPSHOT_MARK, 0, at)
    return target, ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True  # such as a mount of another user, who is named when it is asked


def _read(image: Image, name: str) -> WholeTree:
    return superblock.look_between_saves(image, lambda: read_tree(image, name))


@contextlib.contextmanager
def _snapshot_for_now(mountpoint: Path, status: MountStatus) -> Iterator[str]:
    """Take a snapshot of a mount, yield its full name, and free it, and those of senders that were killed."""
    name = new_name(status.name, SENDING_PREFIX, ())
    full_name = status.name + SNAPSHOT_MARK + name
    with open_served(status) as image:
        image.mark_in_use(full_name)  # first: once it is there, another sender may look
        _free_abandoned(mountpoint, status, image)
        try:
            save_progress.take_snapshot(mountpoint, name, status)
        except PramError:
            # It may be there all the same, of files that lack data, and hold their frames.
            with contextlib.suppress(OSError, PramError):
                save_progress.free_snapshot(mountpoint, full_name, status)
            raise
        try:
            yield full_name
        finally:
            save_progress.free_snapshot(mountpoint, full_name, status)


def _free_abandoned(mountpoint: Path, status: MountStatus, image: Image) -> None:
    """Free the snapshots that senders have taken which are gone; what cannot be freed stays."""
    with contextlib.suppress(OSError, PramError):
        for name in os.listdir(mountpoint / os.fsdecode(SNAPSHOTS_NAME)):
            full_name = status.name + SNAPSHOT_MARK + name
            if _TAKEN_BY_SENDER.fullmatch(name) and not image.is_in_use(full_name):
                save_progress.free_snapshot(mountpoint, full_name, status)
