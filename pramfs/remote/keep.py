"""Drop old streams from a place, never what a stream that stays builds on; and what was never finished."""

import time

from pramfs.errors import NotDropped, PramError
from pramfs.remote.listing import Listing, list_streams
from pramfs.remote.manifest import Manifest
from pramfs.remote.place import Place
from pramfs.remote.upload import discard
from pramfs.saves.snapshot_names import tree_of

_UNFINISHED_S = 86400  # an upload that has written nothing for so long is over


def drop_old(place: Place, sent: Manifest, number: int, seconds: int) -> list[Manifest]:
    """Keep `sent`, and of its tree the last `number` streams, or those of the last `seconds`.

    Returns what has gone. Raises NotDropped, when some may have gone.
    """
    try:
        listing = list_streams(place)
        if listing.damaged:
            raise listing.damaged[0]  # nobody knows what that one builds on
        dropped = to_drop(listing, sent, number, seconds, time.time_ns())
        for stream in reversed(dropped):
            discard(place, stream.id, len(stream.pieces))
        remove_unfinished(place, listing)
    except PramError as exc:
        raise NotDropped(place.name, str(exc).removeprefix(f"{place.name}: ")) from exc
    return dropped


def to_drop(
    listing: Listing, sent: Manifest, number: int, seconds: int, now_ns: int
) -> list[Manifest]:
    """Return the streams of the tree of `sent` that may go, the oldest first: neither it nor the last one."""
    tree = tree_of(sent.name)
    mine = [one for one in listing.streams if tree_of(one.name) == tree]
    others = [one for one in listing.streams if tree_of(one.name) != tree]
    # The clock may have been put back since the others were sent.
    kept = [sent, *(mine[-number:] if number else mine[-1:])]
    if seconds:
        kept += [one for one in mine if one.sent_ns >= now_ns - seconds * 10**9]
    needed = set()
    for stream in [*kept, *others]:
        one: Manifest | None = stream
        while one is not None and one.id not in needed:
            needed.add(one.id)
            one = listing.base_of(one)
    return [one for one in mine if one.id not in needed]


def remove_unfinished(place: Place, listing: Listing) -> None:
    """Remove what interrupted uploads have left, if the last piece of one is old. Raises PlaceFailed."""
    for left in listing.unfinished:
        # A folder without pieces is one that somebody has just made, or has begun to remove.
        pieces = place.entries(left.name) if left.is_folder else []
        if all(_is_old(one.modified_s) for one in pieces or [left]):
            for piece in pieces:
                place.remove(f"{left.name}/{piece.name}")
            if left.is_folder:
                place.remove_folder(left.name)
            else:
                place.remove(left.name)


def _is_old(modified_s: float | None) -> bool:
    return modified_s is not None and modified_s < time.time() - _UNFINISHED_S
