"""Let this machine have an image that another one has marked as mounted: `pramfs takeover`."""

from pathlib import Path

from pramfs.control.holder import holder_of, refuse_if_mounted
from pramfs.errors import ImageInUse, SystemFault
from pramfs.storage import superblock
from pramfs.storage.image import open_image
from pramfs.storage.machine_mark import held_elsewhere, mark_of_this_machine
from pramfs.storage.regions import Regions
from pramfs.storage.superblock import MachineMark


def take_over(path: Path) -> MachineMark | None:
    """Put the mark of this machine in place of another's, which is returned, None if there is none.

    Raises ImageInUse if a process of this machine has the image, NotAnImage, SystemFault, other PramErrors.
    """
    with open_image(path, writable=True) as image:
        if not image.try_lock():
            refuse_if_mounted(image)
            raise ImageInUse(path, f"process {holder_of(image).pid or '?'}")
        image.forget_cached()
        current = superblock.require(image)
        before = held_elsewhere(image, current)
        if before is None:
            return None
        try:
            for block in superblock.publish_pair(image, current, Regions()):
                current = block
            superblock.mark_mounted(image, current, mark_of_this_machine())
        except OSError as exc:
            raise SystemFault(f"{path}: cannot be taken over: {exc.strerror}") from exc
    return before
