"""Which streams of a place a receiver needs, in which order, and under what names."""

import contextlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pramfs.control import client
from pramfs.control.served_image import open_target
from pramfs.errors import BaseNowhere, NameTaken, PramError
from pramfs.offline.scan import scan_image
from pramfs.remote.listing import Listing
from pramfs.remote.manifest import Manifest
from pramfs.remote.place import Place
from pramfs.saves.snapshot_names import SNAPSHOT_MARK, tree_of
from pramfs.saves.tree_nodes import tree_names
from pramfs.storage import superblock
from pramfs.storage.image import Image
from pramfs.stream.identity import find_tree
from pramfs.stream.receive import name_for
from pramfs.system.text import printable


@dataclass(frozen=True, slots=True)
class Step:
    """A stream to receive, and the name that its tree gets."""

    stream: Manifest
    name: str


def steps_to(
    place: Place, listing: Listing, stream: Manifest, receiver: Path, new_name: str = ""
) -> list[Step]:
    """Return what to receive, the base first, to have the tree of `stream` as `new_name`.

    Raises BaseNowhere, NameTaken, BadTreeName, BadSnapshotName or another PramError.
    """
    chain = [stream]
    with _trees_at(receiver) as trees:
        name = name_for(stream.name, new_name)
        if name in trees.names:
            raise NameTaken(receiver, name)
        while chain[0].base and not trees.has_base_of(chain[0]):
            base = listing.base_of(chain[0])
            if base is None or base in chain:
                names = printable(chain[0].name), printable(chain[0].base_name)
                raise BaseNowhere(place.name, *names, receiver)
            chain.insert(0, base)
        taken = {*trees.names, name}
    steps = []
    for base in chain[:-1]:
        steps.append(Step(base, _name_of_base(base, taken)))
        taken.add(steps[-1].name)
    return [*steps, Step(stream, name)]


class _Trees:
    """The trees in an image; in none without one."""

    def __init__(self, image: Image | None = None, mounted: str = "") -> None:
        self._image = image
        # This one gives frames back whenever somebody writes, so it is no base.
        self._mounted = mounted
        self.names = {mounted} - {""}
        if image is not None:
            self.names |= set(
                superblock.look_between_saves(
                    image, lambda: tree_names(scan_image(image, only=()).nodes)
                )
            )

    def has_base_of(self, stream: Manifest) -> bool:
        """Return whether what a stream builds on is there."""
        image = self._image
        if image is None:
            return False
        identity, entries = bytes.fromhex(stream.base_identity), stream.base_entries
        found = superblock.look_between_saves(
            image, lambda: find_tree(image, identity, entries, stream.base_name, self._mounted)
        )
        return found is not None


@contextlib.contextmanager
def _trees_at(receiver: Path) -> Iterator[_Trees]:
    status = client.status_if_mounted(receiver, "nothing was received")
    if status is None and _is_to_be_made(receiver):
        yield _Trees()
        return
    with open_target(receiver, status) as image:
        yield _Trees(image, status.name if status is not None else "")


def _is_to_be_made(receiver: Path) -> bool:
    """Return whether there is no image: no file, or an empty one. A device has no size here."""
    try:
        found = receiver.stat()
    except FileNotFoundError:
        return True
    except OSError as exc:
        raise PramError(f"{receiver}: cannot open the image: {exc.strerror}") from exc
    return stat.S_ISREG(found.st_mode) and not found.st_size


def _name_of_base(base: Manifest, taken: set[str]) -> str:
    """Return the name for a tree that nobody has asked for: a snapshot's own, or else the id as one."""
    if SNAPSHOT_MARK in base.name and base.name not in taken:
        return base.name
    return tree_of(base.name) + SNAPSHOT_MARK + base.id
