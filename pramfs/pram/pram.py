"""PRAM as a library: nodes, page streams and byte streams; reserve, publish, free.

Persistent memory is divided into nodes with unique names, which are saved and loaded independently. A
stream fills a node or empties it. Only this process sees what streams do until `publish` writes the node
list and a super block; until then the last published save stays in force and unchanged.

    with Pram.open("/dev/shm/keep.pram") as pram:
        with pram.prepare_save("greeting", BYTE_STREAM) as stream:
            stream.write(b"hello")
        pram.publish()

Names, order of checks and error numbers are those of the 2013 series (docs/history.md). prepare_save:
ENODEV (here from `open`, which needs a super block), ENAMETOOLONG, ENOSPC in place of ENOMEM, EEXIST.
prepare_load: ENODEV, ENOENT, EBUSY, EPERM. A page that fails its checksum: EFAULT.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator
from typing import Self

from pramfs.errors import (
    ImageInUse,
    ImageTooSmall,
    NameTooLong,
    NodeBusy,
    NodeError,
    NodeExists,
    NoFrames,
    NoSuchNode,
    NotBlank,
    PramError,
    ReadOnlyImage,
    SaveFailed,
    SystemFault,
)
from pramfs.pram.nodes import Node, by_age
from pramfs.pram.pins import Pins
from pramfs.pram.publish import Move, Publication, Publisher
from pramfs.pram.relocate import frames_to_move
from pramfs.pram.reserve import chain_of, reserve
from pramfs.pram.streams import LoadStream, SaveStream, require_type
from pramfs.storage import layout, superblock
from pramfs.storage.arena import Arena, Progress
from pramfs.storage.arenas import open_arena
from pramfs.storage.frames import FREE, FrameTable
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import ACCMODE_LOAD, ACCMODE_SAVE, SuperBlock
from pramfs.storage.machine_mark import refuse_if_elsewhere
from pramfs.storage.regions import Regions

TRUNCATED_TIMES_MAX = 16  # a truncated image may be taken for that many times its length


class Pram:
    """The persistent memory in one open image. As a context manager, closes it.

    `open` and `create` take a path, which they open and lock for this process, or an `Image`, which stays
    the caller's to lock and to close. `nodes` has the nodes by name, also those that are not published yet;
    `image` is the open image, and `arena` its frames as memory.
    """

    def __init__(
        self, image: Image, arena: Arena, current: SuperBlock, nodes: dict[str, Node], run: bytes
    ) -> None:
        self.arena = arena
        self.nodes = by_age(nodes)
        self.run = run
        self.publisher = Publisher(image, arena, current, self.nodes, run, list(nodes.values()))
        self._owns_image = False
        self._closed = False

    @property
    def image(self) -> Image:
        """The open image."""
        return self.publisher.image

    @property
    def pins(self) -> Pins:
        """What keeps frames of nodes as they are for readers."""
        return self.publisher.pins

    @property
    def current(self) -> SuperBlock:
        """The super block in force."""
        return self.publisher.current

    @classmethod
    def open(
        cls,
        image: Image | str | os.PathLike[str],
        *,
        writable: bool = True,
        frames: int = 0,
        banned: Regions | None = None,
        arena: str = "auto",
        pfn: int | None = None,
        accept_truncated: bool = False,
    ) -> Self:
        """Find the super block (or take it from frame `pfn`) and reserve all frames of the save.

        `writable` is for a path: False opens it to read only, together with others who do. The image grows
        to `frames` (of 4 KiB each) if it has fewer. Nothing is written to the `banned` frames. `arena` says
        where unpublished pages are: "image" or "memory", or "auto" to choose by the kind of image.
        `accept_truncated` opens an image that is shorter than its super block says.

        Raises NotAnImage; ImageInUse when another process has the path; ReservationFailed, with nothing
        reserved, when a chain is damaged; TooMuchBanned when the banned regions leave no slots for super
        blocks; HeldByMachine when another machine has it mounted; other PramErrors when the image cannot be
        opened or is truncated.
        """
        if not isinstance(image, Image):
            with _taken(image, writable=writable) as taken:
                return cls.open(
                    taken,
                    frames=frames,
                    banned=banned,
                    arena=arena,
                    pfn=pfn,
                    accept_truncated=accept_truncated,
                )._owning_image()
        current = superblock.require(image, pfn)
        if image.writable:
            image.forget_cached()
            refuse_if_elsewhere(image, current)
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
        cls,
        image: Image | str | os.PathLike[str],
        frames: int,
        *,
        banned: Regions | None = None,
        arena: str = "auto",
    ) -> Self:
        """Write an empty save into a blank image of `frames` frames (of 4 KiB each), and open it.

        A path may name a new file, which is removed again if this fails, or one that holds nothing but
        zeros. Raises NotBlank, ImageInUse, ImageTooSmall, TooMuchBanned; SystemFault, when the image cannot
        be written; other PramErrors when it cannot be opened.
        """
        if not isinstance(image, Image):
            with _taken(image, writable=True, create=True) as taken:
                if not taken.is_blank():
                    raise NotBlank(taken.path)
                return cls.create(taken, frames, banned=banned, arena=arena)._owning_image()
        banned = banned or Regions()
        if frames < 3:
            raise ImageTooSmall(image.path, f"{frames} of at least 3 frames of 4 KiB")
        try:
            superblock.format_image(image, frames, banned, os.urandom(16))
        except OSError as exc:
            raise SystemFault(f"{image.path}: cannot make the image: {exc.strerror}") from exc
        return cls.open(image, banned=banned, arena=arena)

    def close(self) -> None:
        """Unmap the memory, and close the image if it was opened here. What was not published is lost."""
        if self._closed:
            return
        self._closed = True
        self.arena.close()
        if self._owns_image:
            self.image.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- streams ---------------------------------------------------------------------------------

    def prepare_save(self, name: str, type_: int) -> SaveStream:
        """Start to fill a new node. Raises NameTooLong, NoFrames, NodeExists, in this order."""
        self._require_writable()
        if not name or "\0" in name:
            raise NodeError("a node needs a name, without NUL")
        size = len(os.fsencode(name))
        if size >= layout.NAME_MAX:
            raise NameTooLong(name, size, layout.NAME_MAX - 1)
        if not self.arena.table.count(FREE):
            raise NoFrames(1, 0)
        if name in self.nodes:
            raise NodeExists(name)
        node = Node(name, type_, ACCMODE_SAVE, saved_ns=time.time_ns())
        self.nodes[name] = node
        self.publisher.note_change(node)
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

    def rename(self, name: str, new_name: str) -> None:
        """Give a node another name. Raises NoSuchNode, NodeBusy, NodeExists."""
        self._require_writable()
        node = self.node(name)
        if node.flags & layout.ACCMODE_MASK:
            raise NodeBusy(name)
        if new_name in self.nodes:
            raise NodeExists(new_name)
        del self.nodes[name]
        self.publisher.note_change(node)
        node.name = new_name
        self.nodes[new_name] = node

    def free(self, name: str) -> None:
        """Free a node and its frames. Raises NoSuchNode, NodeBusy."""
        self._require_writable()
        node = self.node(name)
        if node.flags & layout.ACCMODE_MASK:
            raise NodeBusy(name)
        self._drop(node)

    # --- publishing ------------------------------------------------------------------------------

    @property
    def lasting_flags(self) -> int:
        """What is to be known of the save in force after a tool has published another one."""
        return superblock.lasting_flags(self.image, self.current)

    def publish(self, *, flags: int | None = None, progress: Progress | None = None) -> None:
        """Publish all nodes as they are now: durably, they become the save in force.

        `flags` are those of the super block, by default `lasting_flags`. Raises NodeBusy, NoFrames or
        SaveFailed; then the previous save stands.
        """
        if flags is None:
            flags = self.lasting_flags
        try:
            publication = self.begin_publish(flags)
        except OSError as exc:
            raise SaveFailed(exc, self.current.generation) from exc
        error = publication.write(progress or (lambda frames: None))
        publication.finish(error)
        if error is not None:
            raise SaveFailed(error, self.current.generation) from error

    def begin_publish(
        self,
        flags: int,
        unsaved_repeats: Callable[[], int] = lambda: 0,
        moved: dict[int, int] | None = None,
    ) -> Publication:
        """Build the node list and freeze all frames in use.

        `unsaved_repeats` counts the holders, besides the first of each frame, that are not in the save; it is
        called when nothing is in banned frames any more. `moved` is where shared frames have gone for that.
        Raises NodeBusy, NoFrames, SaveFailed, OSError.
        """
        self._require_writable()
        return self.publisher.begin(flags, unsaved_repeats, {} if moved is None else moved)

    def begin_move(
        self,
        flags: int,
        image: Image,
        unsaved_repeats: Callable[[], int] = lambda: 0,
        moved: dict[int, int] | None = None,
    ) -> Move:
        """Begin to publish in another image, which is blank, locked and long enough, and to go on there.

        Every frame keeps its number. The old image stays the caller's to close. Raises as `begin_publish`.
        """
        self._require_writable()
        moved = {} if moved is None else moved
        return self.publisher.begin_move(flags, unsaved_repeats, moved, image)

    def mark_changed(self) -> None:
        """Record in the image that this run has changes which are not saved. Raises OSError.

        Not while a publish is running or in doubt: it uses the same slot.
        """
        try:
            self.publisher.mark_changed()
        except OSError:
            self.arena.mark_writeback_failed()
            raise

    def resolve_doubt(self) -> None:
        """Publish again what a failed publish left in doubt; needs no frames. Raises SaveFailed."""
        self.publisher.resolve_doubt()

    def frames_to_come_back(self, replaced: Collection[str]) -> int:
        """Count the frames that the next publish frees: of the node list, and of the nodes `replaced`."""
        return self.publisher.frames_to_come_back(replaced)

    def nodes_to_keep(self, replaced: Collection[str] = ()) -> int:
        """Count the nodes whose pages in the node list the next publish does not write.

        The nodes `replaced` will be others by then.
        """
        return self.publisher.nodes_to_keep(replaced)

    def frames_to_move(self, but_of: Collection[str] = ()) -> int:
        """Count the frames that the next publish takes to move nodes out of banned frames.

        The nodes `but_of` are not counted, because they will have been replaced by then.
        """
        return frames_to_move(self.nodes.values(), self.arena.table.banned, but_of)

    # --- helpers ---------------------------------------------------------------------------------

    def _owning_image(self) -> Self:
        self._owns_image = True
        return self

    def _require_writable(self) -> None:
        if not self.image.writable:
            raise ReadOnlyImage()

    def _drop(self, node: Node) -> None:
        del self.nodes[node.name]
        self.publisher.note_change(node)
        self.pins.free(node)

    def _consume(self, node: Node) -> None:
        """Free a node that has been loaded, unless the image is read-only."""
        if self.image.writable:
            self._drop(node)


@contextlib.contextmanager
def _taken(
    path: str | os.PathLike[str], *, writable: bool, create: bool = False
) -> Iterator[Image]:
    """Open and lock the image at `path`; if the body fails, close it, and remove it if it was made."""
    image = open_image(path, writable=writable, create=create)
    try:
        if not image.try_lock(shared=not writable):
            raise ImageInUse(image.path, f"process {image.lock_holder() or '?'}")
        try:
            yield image
        except BaseException:
            image.unmake()
            raise
    except BaseException:
        image.close()
        raise


def _check_truncated(image: Image, current: SuperBlock, accept: bool) -> None:
    """Refuse an image that is shorter than its super block says, unless `accept` allows extending it.

    Extending takes memory for every frame, so the length that a super block claims must have a limit.
    """
    there = f"{image.path}: truncated: {image.frames} of {current.frames} frames are there"
    if not accept:
        raise PramError(f"{there}; mount with 'recover' to get at what is left")
    if current.frames > TRUNCATED_TIMES_MAX * image.frames:
        raise PramError(f"{there}, too few to recover anything")
