"""PRAM as a library: nodes, page streams and byte streams; reserve, publish, free.

Persistent memory is divided into nodes with unique names, which are saved and loaded independently. A
stream fills a node or empties it. Only this process sees what streams do until `publish` writes the node
list and a super block; until then the last published save stays in force and unchanged.

    pram = Pram.open(image)
    with pram.prepare_save("greeting", BYTE_STREAM) as stream:
        stream.write(b"hello")
    pram.publish()

Names, order of checks and error numbers are those of the 2013 series (docs/history.md). prepare_save:
ENODEV (here from `open`, which needs a super block), ENAMETOOLONG, ENOSPC in place of ENOMEM, EEXIST.
prepare_load: ENODEV, ENOENT, EBUSY, EPERM. A page that fails its checksum: EFAULT.
"""

import os
import time
from collections.abc import Collection

from pramfs.errors import (
    ImageTooSmall,
    NameTooLong,
    NodeBusy,
    NodeExists,
    NoFrames,
    NoSuchNode,
    PramError,
    ReadOnlyImage,
    SaveFailed,
    SystemFault,
)
from pramfs.pram.nodes import Node
from pramfs.pram.publish import Publication, Publisher
from pramfs.pram.relocate import frames_to_move
from pramfs.pram.reserve import chain_of, reserve
from pramfs.pram.streams import LoadStream, SaveStream, require_type
from pramfs.storage import layout, superblock
from pramfs.storage.arena import Arena, Progress, open_arena
from pramfs.storage.frames import FREE, FrameTable
from pramfs.storage.image import Image
from pramfs.storage.layout import ACCMODE_LOAD, ACCMODE_SAVE, SuperBlock
from pramfs.storage.regions import Regions

_EXTEND_TIMES = 16  # a truncated image may be extended to that many times its length


class Pram:
    """The persistent memory in one open image."""

    def __init__(
        self, image: Image, arena: Arena, current: SuperBlock, nodes: dict[str, Node], run: bytes
    ) -> None:
        self.image = image
        self.arena = arena
        self.nodes = nodes
        self.run = run
        self.publisher = Publisher(image, arena, current, nodes, run)

    @property
    def current(self) -> SuperBlock:
        """The super block in force."""
        return self.publisher.current

    @classmethod
    def open(
        cls,
        image: Image,
        *,
        frames: int = 0,
        banned: Regions | None = None,
        arena: str = "auto",
        pfn: int | None = None,
        accept_truncated: bool = False,
    ) -> "Pram":
        """Find the super block (or take it from frame `pfn`) and reserve all frames of the save.

        The image grows to `frames` if it has fewer. Raises ReservationFailed, with nothing reserved, when a
        chain is damaged, and TooMuchBanned when the banned regions leave no slots for super blocks.
        """
        current = superblock.require(image, pfn)
        if image.frames < current.frames:
            _check_truncated(image, current, accept_truncated)
        frames = max(frames, current.frames)
        if image.writable:
            image.grow(frames)
        table = FrameTable(min(frames, image.frames))
        nodes = reserve(image, table, current)
        if banned:
            if image.writable:
                superblock.two_slots(image, len(table), banned)
            table.ban(banned)
        kind = arena if image.writable else "image"
        return cls(image, open_arena(kind, image, table), current, nodes, os.urandom(16))

    @classmethod
    def create(
        cls, image: Image, frames: int, *, banned: Regions | None = None, arena: str = "auto"
    ) -> "Pram":
        """Write an empty save into a blank image, and open it. Raises ImageTooSmall, SystemFault."""
        banned = banned or Regions()
        if frames < 3:
            raise ImageTooSmall(image.path, f"{frames} of at least 3 frames of 4 KiB")
        try:
            superblock.format_image(image, frames, banned, os.urandom(16))
        except OSError as exc:
            raise SystemFault(f"{image.path}: cannot make the image: {exc.strerror}") from exc
        return cls.open(image, banned=banned, arena=arena)

    # --- streams ---------------------------------------------------------------------------------

    def prepare_save(self, name: str, type_: int) -> SaveStream:
        """Start to fill a new node. Raises NameTooLong, NoFrames, NodeExists, in this order."""
        self._require_writable()
        if not name or "\0" in name:
            raise PramError("a node needs a name, without NUL")
        size = len(os.fsencode(name))
        if size >= layout.NAME_MAX:
            raise NameTooLong(name, size, layout.NAME_MAX - 1)
        if not self.arena.table.count(FREE):
            raise NoFrames(1, 0)
        if name in self.nodes:
            raise NodeExists(name)
        node = Node(name, type_, ACCMODE_SAVE, saved_ns=time.time_ns())
        self.nodes[name] = node
        return SaveStream(self.arena, self.current.uuid, node, self._drop)

    def prepare_load(self, name: str, type_: int) -> LoadStream:
        """Start to empty a node. Raises NoSuchNode, NodeBusy, WrongStreamType, in this order."""
        node = self.node(name)
        if node.flags & layout.ACCMODE_MASK:
            raise NodeBusy(name)
        require_type(node, type_)
        chain = chain_of(self.arena, self.current.uuid, node)
        node.flags |= ACCMODE_LOAD
        return LoadStream(self.arena, node, chain, self._consume)

    def node(self, name: str) -> Node:
        """Return the node of that name. Raises NoSuchNode."""
        if name not in self.nodes:
            raise NoSuchNode(name)
        return self.nodes[name]

    def free(self, name: str) -> None:
        """Free a node and its frames. Raises NoSuchNode, NodeBusy."""
        self._require_writable()
        node = self.node(name)
        if node.flags & layout.ACCMODE_MASK:
            raise NodeBusy(name)
        self._drop(node)

    # --- publishing ------------------------------------------------------------------------------

    def publish(self, *, flags: int = layout.SUPER_FINAL, progress: Progress | None = None) -> None:
        """Publish all nodes as they are now: durably, they become the save in force.

        Raises NodeBusy, NoFrames or SaveFailed; then the previous save stands.
        """
        try:
            publication = self.begin_publish(flags)
        except OSError as exc:
            raise SaveFailed(exc, self.current.generation) from exc
        error = publication.write(progress or (lambda frames: None))
        publication.finish(error)
        if error is not None:
            raise SaveFailed(error, self.current.generation) from error

    def begin_publish(self, flags: int) -> Publication:
        """Build the node list and freeze all frames in use.

        Raises NodeBusy, NoFrames, SaveFailed, OSError.
        """
        self._require_writable()
        return self.publisher.begin(flags)

    def resolve_doubt(self) -> None:
        """Publish again what a failed publish left in doubt; needs no frames. Raises SaveFailed."""
        self.publisher.resolve_doubt()

    def frames_to_come_back(self, replaced: Collection[str]) -> int:
        """Count the frames that the next publish frees: the node list, and the nodes `replaced`."""
        return self.publisher.frames_to_come_back(replaced)

    def frames_to_move(self, but_of: Collection[str] = ()) -> int:
        """Count the frames that the next publish takes to move nodes out of banned frames.

        The nodes `but_of` are not counted, because they will have been replaced by then.
        """
        return frames_to_move(self.nodes.values(), self.arena.table.banned, but_of)

    def close(self) -> None:
        """Unmap the memory; the image stays open."""
        self.arena.close()

    # --- helpers ---------------------------------------------------------------------------------

    def _require_writable(self) -> None:
        if not self.image.writable:
            raise ReadOnlyImage()

    def _drop(self, node: Node) -> None:
        del self.nodes[node.name]
        self.arena.release_extents(node.owned)

    def _consume(self, node: Node) -> None:
        """Free a node that has been loaded, unless the image is read-only."""
        if self.image.writable:
            self._drop(node)


def _check_truncated(image: Image, current: SuperBlock, accept: bool) -> None:
    """Refuse an image that is shorter than its super block says, unless `accept` allows extending it.

    Extending takes memory for every frame, so the length that a super block claims must have a limit.
    """
    there = f"{image.path}: truncated: {image.frames} of {current.frames} frames are there"
    if not accept:
        raise PramError(f"{there}; mount with 'recover' to get at what is left")
    if current.frames > _EXTEND_TIMES * image.frames:
        raise PramError(f"{there}, too few to recover anything")
