"""Relocate pages of nodes out of frames that have become banned, before they are published again.

The rule is that of patch 9 of the 2013 series. Pages of files belong to the tree: `file_data` moves them.
"""

import copy
from collections.abc import Collection, Iterable

from pramfs.pram.links import build_links
from pramfs.pram.nodes import Node
from pramfs.pram.pins import Pins
from pramfs.pram.reserve import chain_of
from pramfs.storage.arena import Arena
from pramfs.storage.extents import extents_of, pfns_of
from pramfs.storage.regions import Region, Regions


def frames_to_move(nodes: Iterable[Node], banned: Regions, but_of: Collection[str] = ()) -> int:
    """Count the frames that `leave_banned_frames` takes for all `nodes` except those named in `but_of`."""
    needed = 0
    for node in nodes if banned else ():
        moving = sum(pfn in banned for pfn in pfns_of(node.owned))
        if moving and node.name not in but_of:
            needed += moving + node.links
    return needed


def leave_banned_frames(arena: Arena, pins: Pins, uuid: bytes, node: Node) -> None:
    """Copy the pages that `node` has in banned frames to others, and write new links.

    Raises OSError or PramError, and has then changed nothing.
    """
    banned = arena.table.banned
    if not any(banned.overlaps(*extent) for extent in node.owned):
        return
    chain = chain_of(arena, uuid, node)
    owned = _regions(node.owned)
    entries = copy.copy(chain.entries)
    entries.pfns = entries.pfns[:]
    moving = [at for at, pfn in enumerate(entries.pfns) if pfn in banned and pfn in owned]
    extents = arena.table.allocate(len(moving) + node.links)
    fresh = pfns_of(extents)
    links = fresh[len(moving) :]
    try:
        for at, pfn in zip(moving, fresh, strict=False):
            arena.write(pfn, arena.read(entries.pfns[at]))
            entries.pfns[at] = pfn
        pages = memoryview(build_links(uuid, links, entries))
        arena.write_extents(extents_of(links), pages)
    except BaseException:
        arena.release_extents(extents)
        raise
    left = list(extents_of(sorted([*chain.links, *(chain.entries.pfns[at] for at in moving)])))
    pins.give_up(node, left)
    gone = _regions(left)
    stayed = (pfn for pfn in pfns_of(node.owned) if pfn not in gone)
    node.owned = list(extents_of(sorted([*stayed, *fresh])))
    node.link_pfn = links[0]
    node.pfn = 0  # its page in the list is of the past
    # In place, because a stream may be loading the node.
    chain.links, chain.extents = links, list(extents_of(entries.pfns))
    chain.entries.pfns = entries.pfns


def _regions(extents: Iterable[tuple[int, int]]) -> Regions:
    """Return the extents as a set to look pfns up in.

    A Python set would be open to hash flooding: an image could choose pfns that collide.
    """
    return Regions(Region(pfn, pfn + frames - 1) for pfn, frames in sorted(extents))
