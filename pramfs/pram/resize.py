"""Make an image as short as what it holds, and as long as it was again.

Shortening bans all frames above and saves, so that the pages there move down. A chain moves as a whole, as
each link names the next one, so its new links need room beside the old ones. Where many share pages, links
are a large part of an image: then they are moved up first, out of the way.
"""

import contextlib

from pramfs.errors import PramError
from pramfs.pram.pram import Pram
from pramfs.pram.relocate import renew_links
from pramfs.pram.reserve import require_slots
from pramfs.storage import layout, superblock
from pramfs.storage.frames import FREE, SAVED, Extent
from pramfs.storage.image import Image
from pramfs.storage.regions import Region, Regions


def shorten(image: Image) -> None:
    """Cut off what the image, a locked file, has beyond its save, and the room to move it: see `_shortest`.

    Raises OSError or PramError; then the image holds what it held, and is as long as it was. Meanwhile it may
    be longer, but takes no more memory than for its links and for the pages that move.
    """
    before = image.frames
    with Pram.open(image) as pram:
        frames = len(pram.arena.table)
        wanted = min(_shortest(pram), frames)
        longer = _frames_for_links_above(pram, wanted) if wanted < frames else 0
    # The file is longer than its save says if an earlier call was killed before it could cut it.
    if wanted >= image.frames:
        return
    try:
        if longer:
            _move_links_up(image, wanted, longer)
        _move_down(image, wanted)
    except BaseException:
        _make_as_long_as_before(image, before)
        raise


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
    """Return how many frames the image is to have.

    They hold the save and beside it new links and a new node list; but no more than 1.05 times the frames
    in use, unless slots of a small image are more than that.
    """
    used = pram.arena.table.count(SAVED)
    most = (used + 2) * 21 // 20  # with super blocks
    return min(_with_slots(used + _moving(pram)), max(_with_slots(used), most))


def _frames_for_links_above(pram: Pram, wanted: int) -> int:
    """Return how long the image must be for links and nodes to be above `wanted`, 0 if they need not be."""
    table, moving = pram.arena.table, _moving(pram)
    if wanted >= _with_slots(table.count(SAVED) + moving):
        return 0
    frames = len(table)
    above = table.extents(FREE, first=wanted, count=frames - wanted)
    missing = max(0, moving - sum(extent.frames for extent in above))
    return max(frames, _with_slots(frames - layout.slots_below(frames) + missing))


def _moving(pram: Pram) -> int:
    """Return how many frames hold links and nodes, all of which are written anew when they move."""
    nodes = pram.nodes.values()
    return sum(node.links for node in nodes) + len(nodes)


def _with_slots(needed: int) -> int:
    """Return the length of an image that has so many frames besides slots."""
    frames = needed
    while frames - layout.slots_below(frames) < needed:
        frames = needed + layout.slots_below(frames)
    return frames


def _move_links_up(image: Image, first: int, frames: int) -> None:
    """Move all links and nodes to frames from `first` on, in an image that gets so many."""
    with Pram.open(image, frames=frames) as pram:
        pram.arena.table.leave_out(Extent(0, first))
        for node in pram.nodes.values():
            renew_links(pram.arena, pram.pins, pram.current.uuid, node)
            pram.publisher.note_change(node)
        pram.publish()


def _move_down(image: Image, frames: int) -> None:
    """Move all pages below `frames`, and cut off the rest."""
    above = Regions([Region(frames, max(image.frames, superblock.require(image).frames) - 1)])
    with Pram.open(image, banned=above) as pram:
        pram.publisher.frames = frames
        # Twice, because each super block tells the length: an older one in force again would be truncated.
        for _ in range(2):
            pram.publish()
    image.cut(frames << layout.PAGE_SHIFT)


def _make_as_long_as_before(image: Image, frames: int) -> None:
    """Undo the growth of an image that could not be made shorter, as far as that can be done now."""
    if image.frames <= frames:
        return
    with contextlib.suppress(OSError, PramError):
        if superblock.require(image).frames > frames:
            _move_down(image, frames)
        else:
            image.cut(frames << layout.PAGE_SHIFT)
