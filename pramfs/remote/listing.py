"""Find streams in a place: all of them, one by name, and what one builds on."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pramfs.errors import DamagedInPlace, NoSuchStream
from pramfs.remote.manifest import Manifest, decode, id_of, is_id, manifest_name, place_of
from pramfs.remote.place import Place, no_place
from pramfs.remote.store import PART_SUFFIX, Entry
from pramfs.saves.snapshot_names import SNAPSHOT_MARK
from pramfs.system.text import printable

_PARALLEL = 8


@dataclass(frozen=True, slots=True)
class Listing:
    """The streams in a place, the oldest first, and the manifests there that are damaged."""

    streams: tuple[Manifest, ...]
    damaged: tuple[DamagedInPlace, ...] = ()
    folders: frozenset[str] = frozenset()  # in which there are pieces
    unfinished: tuple[Entry, ...] = ()  # pieces and files that are of no stream, at least not yet
    _by_id: dict[str, Manifest] = field(init=False, compare=False, repr=False)
    _by_identity: dict[str, Manifest] = field(init=False, compare=False, repr=False)  # the newest

    def __post_init__(self) -> None:
        # A chain of increments may have a thousand links, each of which is looked for.
        object.__setattr__(self, "_by_id", {one.id: one for one in self.streams})
        object.__setattr__(self, "_by_identity", {one.identity: one for one in self.streams})

    @property
    def newest_ns(self) -> int:
        """When the newest stream was sent; 0 without one."""
        return self.streams[-1].sent_ns if self.streams else 0

    def whole_of_identity(self, identity: str) -> Manifest | None:
        """Return the newest stream of the tree with that identity that can be received from here."""
        streams = (one for one in reversed(self.streams) if one.identity == identity)
        return next((one for one in streams if self.is_whole(one)), None)

    def is_whole(self, stream: Manifest) -> bool:
        """Return whether a stream can be received from here alone."""
        return not self.missing_for(stream)

    def missing_for(self, stream: Manifest) -> str:
        """Return the id of what is not here and a receiver needs: `stream`, or what it builds on.

        "" if there are pieces of all of them, so that the stream can be received from here alone.
        """
        seen = set()
        one = stream
        while one.id in self.folders and one.id not in seen:
            if not one.base:
                return ""
            seen.add(one.id)
            base = self.base_of(one)
            if base is None:
                return one.base
            one = base
        return one.id

    def base_of(self, stream: Manifest) -> Manifest | None:
        """Return the stream that has what `stream` builds on, None if there is none or it needs none."""
        if not stream.base:
            return None
        by_id = self._by_id.get(stream.base)
        if by_id is not None and by_id.identity == stream.base_identity:
            return by_id
        return self._by_identity.get(stream.base_identity)


def list_streams(place: Place) -> Listing:
    """Return all streams of a place. Raises NotAPlace, PlaceFailed."""
    entries = place.entries()
    ids = set(filter(None, (id_of(entry.name) for entry in entries)))
    if not ids and place_of(place.name) is not None:
        raise no_place(place.name)
    with ThreadPoolExecutor(_PARALLEL, "pramfs-list") as pool:
        found = list(pool.map(lambda stream: _look(place, stream), ids))
    streams = [one for one in found if isinstance(one, Manifest)]
    return Listing(
        tuple(sorted(streams, key=lambda one: (one.sent_ns, one.id))),
        tuple(one for one in found if isinstance(one, DamagedInPlace)),
        frozenset(entry.name for entry in entries if entry.is_folder),
        tuple(entry for entry in entries if _is_unfinished(entry, ids)),
    )


def find_stream(place: Place, name: str) -> tuple[Manifest, Listing]:
    """Return the stream with that id, or the newest of that snapshot or tree, or of all if it is "".

    And the list it was found in: a place that cannot list what it has is asked for the id alone.
    Raises PlaceFailed, NoSuchStream, DamagedInPlace.
    """
    if is_id(name):
        listing = chain_by_ids(place, name)
        return listing.streams[-1], listing
    listing = list_streams(place)
    streams = [one for one in listing.streams if _is_named(one, name)]
    if streams:
        return streams[-1], listing
    if listing.damaged:
        raise listing.damaged[0]
    asked = f" '{printable(name)}'" if name else ""
    raise NoSuchStream(place.name, asked, names_in(listing.streams))


def chain_by_ids(place: Place, name: str) -> Listing:
    """Return a stream by its id, and those that it builds on, without a list of all."""
    found: dict[str, Manifest] = {}
    while name and name not in found:
        stream = _look(place, name)
        if isinstance(stream, DamagedInPlace):
            raise stream
        if stream is None:
            break
        found[name] = stream
        name = stream.base
    if not found:
        raise NoSuchStream(place.name, f" '{name}'", "")
    return Listing(tuple(reversed(found.values())))


def names_in(streams: Iterable[Manifest]) -> str:
    """Return the names of streams for a message, each once, the newest first."""
    names = dict.fromkeys(printable(one.name) for one in reversed(tuple(streams)))
    told = ", ".join(list(names)[:10])
    return f"; there are: {told}" if told else "; there are none"


def _look(place: Place, stream: str) -> Manifest | DamagedInPlace | None:
    """Return a manifest, None if it is gone, or what is wrong with it."""
    data = place.get_if_there(manifest_name(stream))
    if data is None:
        return None
    try:
        return decode(data, stream)
    except ValueError as exc:
        return DamagedInPlace(place.name, manifest_name(stream), str(exc))


def _is_unfinished(entry: Entry, ids: set[str]) -> bool:
    if entry.is_folder:
        return is_id(entry.name) and entry.name not in ids
    name, mark, rest = entry.name.removeprefix(".").rpartition(PART_SUFFIX)
    return bool(mark) and not rest and id_of(name) is not None


def _is_named(stream: Manifest, name: str) -> bool:
    _, _, snapshot = stream.name.partition(SNAPSHOT_MARK)
    return not name or name in {stream.name, snapshot}
