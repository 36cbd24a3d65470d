"""Relocate pages of nodes out of frames that have become banned, before they are published again.

The rule is that of patch 9 of the 2013 series. Pages of files belong to the tree: `file_data` moves them.
"""

import copy
from array import array
from collections.abc import Collection, Iterable
from itertools import groupby

from pramfs.pram.links import Chain, build_links
from pramfs.pram.nodes import Node
from pramfs.pram.pins import Pins
from pramfs.pram.reserve import chain_of
from pramfs.storage.arena import Arena
from pramfs.storage.extents import extents_of, pfns_of
from pramfs.storage.regions import Region, Regions


def frames_to_move(nodes: Iterable[Node], banned: Regions, but_of: Collection[str] = ()) -> int:
    """Count the frames that `leave_banned_frames` takes for all `nodes` except those named in `but_of`.

    A frame that several share is moved once. If a chain was dropped, its old links are counted, too.
    """
    links = 0
    moving = array("I")
    for node in nodes if banned else ():
        inside = [pfn for pfn in pfns_of(node.owned) if pfn in banned]
        if inside and node.name not in but_of:
            moving.extend(inside)
            left = node.chain.links if node.chain is not None else ()
            links += node.links - sum(pfn in banned for pfn in left)
    # Sorted, not a set: an image could choose pfns that collide in one.
    return links + sum(1 for _ in groupby(sorted(moving)))


def leave_banned_frames(
    arena: Arena, pins: Pins, uuid: bytes, node: Node, moved: dict[int, int]
) -> None:
    """Move the pages that `node` has in banned frames to others, and write new links.

    `moved` is where frames that are shared have gone, see `Arena.relocate`: they are shared there again.
    Raises OSError or PramError, and has then changed nothing.
    """
    banned = arena.table.banned
    if not any(banned.overlaps(*extent) for extent in node.owned):
        return
    chain = chain_of(arena, uuid, node)
    owned = _regions(node.owned)
    moving = [at for at, pfn in enumerate(chain.entries.pfns) if pfn in banned and pfn in owned]
    _write_anew(arena, pins, uuid, node, moved, chain=chain, moving=moving)


def renew_links(arena: Arena, pins: Pins, uuid: bytes, node: Node) -> None:
    """Write the links of `node` to other frames; its data stays where it is. Raises OSError, PramError."""
    if not node.links:  # a stream without pages
        return
    _write_anew(arena, pins, uuid, node, {}, chain=chain_of(arena, uuid, node), moving=[])


def _write_anew(
    arena: Arena,
    pins: Pins,
    uuid: bytes,
    node: Node,
    moved: dict[int, int],
    *,
    chain: Chain,
    moving: list[int],
) -> None:
    """Move the pages at the positions `moving` of the chain of `node`, and write new links."""
    entries = copy.copy(chain.entries)
    entries.pfns = entries.pfns[:]
    extents = arena.table.allocate(node.links)
    links, fresh = pfns_of(extents), array("I")
    now_at: dict[int, int] = {}
    try:
        for at in moving:
            fresh.append(_new_place(arena, entries.pfns[at], moved, now_at))
            entries.pfns[at] = fresh[-1]
        arena.write_extents(extents, memoryview(build_links(uuid, links, entries.pack())))
    except BaseException:
        arena.release_extents([*extents, *extents_of(fresh)])
        raise
    moved.update(now_at)
    left = list(extents_of(sorted([*chain.links, *(chain.entries.pfns[at] for at in moving)])))
    pins.give_up(node, left)
    gone = _regions(left)
    stayed = (pfn for pfn in pfns_of(node.owned) if pfn not in gone)
    node.owned = list(extents_of(sorted([*stayed, *links, *fresh])))
    node.link_pfn = links[0]
    node.pfn = 0  # its page in the list is of the past
    # In place, because a stream may be loading the node.
    chain.links, chain.extents = links, list(extents_of(entries.pfns))
    chain.entries.pfns = entries.pfns


def _new_place(arena: Arena, pfn: int, moved: dict[int, int], now_at: dict[int, int]) -> int:
    """Return a frame with the contents of frame `pfn`, which `moved` or `now_at` may have already.

    Where frames that are shared have gone is noted in `now_at`. Raises OSError or PramError.
    """
    place = moved.get(pfn) or now_at.get(pfn)
    if place is not None:
        arena.table.share(place, 1)
        return place
    place = arena.table.allocate(1)[0].pfn
    try:
        arena.write(place, arena.read(pfn))
    except BaseException:
        arena.release(place, 1)
        raise
    if arena.table.is_shared(pfn):
        now_at[pfn] = place
    return place


def _regions(extents: Iterable[tuple[int, int]]) -> Regions:
    """Return the extents as a set to look pfns up in.

    A Python set would be open to hash flooding: an image could choose pfns that collide.
    """
    return Regions(Region(pfn, pfn + frames - 1) for pfn, frames in sorted(extents))
