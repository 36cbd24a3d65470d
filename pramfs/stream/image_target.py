"""Receive into an image that is not mounted: pages go to free frames, and a publish makes them a tree."""

import contextlib
from array import array
from collections.abc import Iterator
from pathlib import Path

from pramfs.control.holder import holder_of, refuse_if_mounted
from pramfs.errors import ImageInUse, ImageTooSmall, NoRoomForStream, PramError, SaveFailed
from pramfs.options import MountOptions
from pramfs.pram.links import Entries, link_count
from pramfs.pram.pram import Pram
from pramfs.saves.received import add_tree, frames_for_tree
from pramfs.saves.tree_nodes import has_tree
from pramfs.storage.extents import count_up
from pramfs.storage.frames import Extent
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.stream.format import Header
from pramfs.stream.identity import find_tree
from pramfs.stream.receive import Received

_SPARE = 64  # frames of a new image beside those that a tree needs


@contextlib.contextmanager
def image_target(path: Path, header: Header, frames: int = 0) -> "Iterator[ImageTarget]":
    """Open the image at `path` to receive a stream; a missing or empty one is made.

    It gets so many `frames`, or is as large as a mount would make it, or larger if the stream needs that. If
    the body fails, an image that was made is removed, and another one as long as before. Raises ImageInUse,
    or another PramError.
    """
    with open_image(path, writable=True, create=True) as image:
        if not image.try_lock():
            refuse_if_mounted(image)
            raise ImageInUse(path, f"process {holder_of(image).pid or '?'}")
        size_bytes = image.size_bytes
        try:
            with (
                _open(image, header, frames) as pram,
                contextlib.closing(ImageTarget(pram)) as target,
            ):
                yield target
        except BaseException:
            image.unmake()
            if image.size_bytes > size_bytes and not image.made:
                image.cut(size_bytes)
            raise


class ImageTarget:
    """An open image that receives a stream."""

    def __init__(self, pram: Pram) -> None:
        self.place = pram.image.path
        self._pram = pram
        self._extents: list[Extent] = []  # frames of the pages that came
        self._pfns = array("I")

    def has_tree(self, name: str) -> bool:
        return has_tree(self._pram, name)

    def find_base(self, identity: bytes, entries: int, name: str) -> Entries | None:
        found = find_tree(self._pram.image, identity, entries, name)
        return found.entries if found is not None else None

    def require_room(self, header: Header) -> None:
        needed = header.pages + frames_for_tree(
            self._pram, metadata_bytes=header.metadata_bytes, entries=header.entries
        )
        unused = self._pram.arena.table.unused
        if needed > unused:
            hint = "give the image more with --size"
            raise NoRoomForStream(self.place, needed, unused, hint)

    def take_pages(self, pages: memoryview) -> None:
        arena = self._pram.arena
        extents = arena.allocate(len(pages) >> PAGE_SHIFT)
        self._extents += extents
        with _named(self.place):
            arena.write_extents(extents, pages)
        for pfn, count in extents:
            self._pfns += count_up("I", pfn, count)

    def publish(self, received: Received) -> None:
        pram, entries = self._pram, received.entries(self._pfns)
        try:
            add_tree(
                pram,
                received.name,
                bytes(received.metadata),
                bytes(received.more),
                entries,
                received.marks,
            )
        except OSError as exc:
            raise SaveFailed(exc, pram.current.generation) from exc
        self.close()
        pram.publish()

    def close(self) -> None:
        """Let go of the frames of the pages that came, which only the new tree holds from now on."""
        self._pram.arena.release_extents(self._extents)
        self._extents = []


def _open(image: Image, header: Header, frames: int) -> Pram:
    with _named(image.path):
        if image.size_bytes:
            return Pram.open(image, frames=frames, arena="image")
        try:
            return Pram.create(image, frames or _default_frames(header), arena="image")
        except ImageTooSmall as exc:
            raise PramError(f"{exc}; give the image more with --size") from exc


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise PramError for an OSError, which would not say of what it is."""
    try:
        yield
    except OSError as exc:
        raise PramError(f"{path}: {exc.strerror}") from exc


def _default_frames(header: Header) -> int:
    """Return the frames of a new image: as for a mount, or twice what the stream needs, if that is more."""
    metadata = -(-(header.metadata_bytes + header.more_bytes) // PAGE_SIZE)
    own = metadata + link_count(metadata) + link_count(header.entries) + header.pages
    return max(MountOptions().frames, 2 * own + _SPARE)
