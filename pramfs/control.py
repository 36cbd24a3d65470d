"""Control of a running mount, as extended attributes of its root that no listing shows.

    user.pramfs.status      JSON: everything below, and the state of the arena
    user.pramfs.pid         of the daemon
    user.pramfs.image       the path of the image
    user.pramfs.generation  of the last published save
    user.pramfs.pfn         of its super block, hexadecimal
    user.pramfs.save        set it to publish a checkpoint

They are not listed, so that cp -a and rsync -X leave them be. Nothing here needs FUSE.
"""

import json
import os
from pathlib import Path

from pramfs.errors import PramError

PREFIX = b"user.pramfs."
SAVE = PREFIX + b"save"


def read_status(mountpoint: Path) -> dict[str, object]:
    """The status of the pramfs mounted at `mountpoint`. Raises PramError when none is."""
    try:
        return dict(json.loads(os.getxattr(mountpoint, PREFIX + b"status")))
    except OSError as exc:
        raise PramError(f"{mountpoint}: no pramfs is mounted there ({exc.strerror})") from exc


def request_save(mountpoint: Path) -> None:
    """Publish a checkpoint; returns when it is durable. Raises PramError when it is not."""
    try:
        os.setxattr(mountpoint, SAVE, b"1")
    except OSError as exc:
        raise PramError(f"{mountpoint}: the save failed: {exc.strerror}") from exc
