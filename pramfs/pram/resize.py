"""Make an image as short as what it holds, and as long as it was again.

Shortening bans all frames above and saves, so that the pages there move down.
"""

from pramfs.errors import PramError
from pramfs.pram.pram import Pram
from pramfs.pram.reserve import require_slots
from pramfs.storage import layout, superblock
from pramfs.storage.frames import SAVED
from pramfs.storage.image import Image
from pramfs.storage.regions import Region, Regions


def shorten(image: Image) -> None:
    """Cut off what the image, a locked file, has beyond its save and the room for one more node list.

    Raises PramError; then the save in force is as it was, and the length too.
    """
    with Pram.open(image) as pram:
        frames, wanted = len(pram.arena.table), _shortest(pram)
    if wanted >= frames:
        return
    above = Regions([Region(wanted, frames - 1)])
    with Pram.open(image, banned=above) as pram:
        pram.publisher.frames = wanted
        # Twice, because each super block tells the length: an older one in force again would be truncated.
        for _ in range(2):
            pram.publish()
    image.cut(wanted << layout.PAGE_SHIFT)


def lengthen(image: Image, frames: int) -> None:
    """Give the image `frames` frames again, if it has fewer or its save says so. Raises OSError, PramError.

    Reads only super blocks, so it takes no memory, and does not see other damage.
    """
    current = superblock.require(image)
    if min(image.frames, current.frames) >= frames:
        return
    if image.frames < current.frames:
        raise PramError(f"{image.path}: truncated: {image.frames} of {current.frames} frames")
    require_slots(current, current.frames)
    image.grow(frames)
    superblock.publish_longer(image, current, frames)


def _shortest(pram: Pram) -> int:
    """Return the number of frames that hold the save, and beside it new links and a new node list."""
    nodes = pram.nodes.values()
    needed = pram.arena.table.count(SAVED) + sum(node.links for node in nodes) + len(nodes)
    frames = needed
    while frames - layout.slots_below(frames) < needed:
        frames = needed + layout.slots_below(frames)
    return frames
