"""Publish a save: a node list and a super block put all nodes, as they are, in force.

Until the super block is durable, the last published save stays in force and unchanged. A publish that fails
before it writes the super block changes nothing. If writing the super block fails, nobody knows whether it
has reached the medium; the next publish has to resolve this doubt first.

In the list each node names the next one, so the end of it that does not change keeps its pages: new nodes
come first, and a publish writes no page for those behind the last one that has changed or is gone.
"""

import contextlib
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from pramfs.errors import (
    DeviceGone,
    ImageOverwritten,
    NodeBusy,
    NoFrames,
    PramError,
    SaveFailed,
    SystemFault,
    fault_of,
)
from pramfs.pram.nodes import Node, build_nodes
from pramfs.pram.pins import Pins
from pramfs.pram.relocate import frames_to_move, leave_banned_frames
from pramfs.storage import superblock
from pramfs.storage.arena import Arena, Progress
from pramfs.storage.extents import extents_of, pfns_of
from pramfs.storage.frames import FREE, PENDING, SAVED, WRITTEN_PENDING
from pramfs.storage.image import Image
from pramfs.storage.layout import (
    ACCMODE_SAVE,
    PAGE_SHIFT,
    PAGE_SIZE,
    SHARED,
    SUPER_FINAL,
    SUPER_PAIR,
    SuperBlock,
)
from pramfs.storage.machine_mark import change_of
from pramfs.storage.superblock import NOBODY, MachineMark, Published

_NODES_AT_ONCE = 1024  # whose pages are built in memory


class _Listed(NamedTuple):
    """A node in the list, the frame of its page, and how many frames it and those behind it have."""

    node: Node
    pfn: int
    frames: int


class Publisher:
    """Publishes the nodes of one image, save after save; one at a time.

    `current` is the super block in force, `frames` the length of the image that the next one tells. `listed`
    are the nodes in the order of the list in force, `nodes` those to publish by name.
    """

    def __init__(
        self,
        image: Image,
        arena: Arena,
        current: SuperBlock,
        nodes: dict[str, Node],
        run: bytes,
        listed: Sequence[Node],
    ) -> None:
        self.current = current
        self.image = image
        self.arena = arena
        self.frames = len(arena.table)
        self._nodes = nodes
        self._listed: list[_Listed] = []  # the list written last
        self._put_in_list(listed, 0)
        self._unlisted: dict[
            int, Node
        ] = {}  # by id(): new, or not as in the list; some are gone again
        self._unchanged = len(listed)  # nodes at the end of it that are there, and as they were
        self._pages_written = 0  # of it, by the last publish: the first ones
        self._run = run
        self.pins = Pins(arena)
        self._slot = current.other_pfn  # where the next super block goes
        self._in_doubt: Publication | None = None
        self._mark = NOBODY  # of this machine, if this run has mounted the image
        # What is in both slots, as this run has read or written it last: else another program was there.
        self._seen: dict[int, bytes] = {}
        self._read_slots(current.pfn, current.other_pfn)

    def require_untouched(self) -> None:
        """Raise ImageOverwritten if another program has changed the image, as far as its super blocks show.

        Not while a super block is written. Raises OSError or SystemFault if that cannot be seen. Thread-safe.
        """
        image, banned = self.image, self.arena.table.banned
        length = image.length_now()
        if not length and image.is_block_device:
            raise DeviceGone(image.path)
        if length < self.current.frames << PAGE_SHIFT:
            raise ImageOverwritten(image.path, "cut short")
        for pfn, page in list(self._seen.items()):
            if pfn not in banned and not image.still_holds(pfn, page):
                raise change_of(image, self.current, self._mark, pfn)

    def begin(
        self, flags: int, unsaved_repeats: Callable[[], int], moved: dict[int, int]
    ) -> "Publication":
        """Build the node list and freeze all frames in use.

        `unsaved_repeats` counts the holders, besides the first of each frame, that are not in the save.
        `moved` is where shared frames have gone that had become banned; other holders of them follow. Raises
        NodeBusy, NoFrames, SaveFailed, OSError.
        """
        self.resolve_doubt()
        return Publication(self, *self._stage(self.image, flags, unsaved_repeats, moved))

    def begin_move(
        self,
        flags: int,
        unsaved_repeats: Callable[[], int],
        moved: dict[int, int],
        image: Image,
    ) -> "Move":
        """Build the node list and freeze all frames in use, for a save in another, blank image.

        It must be open, locked and long enough. A save that is in doubt stays so until the move succeeds.
        Raises as `begin`.
        """
        return Move(self, image, *self._stage(image, flags, unsaved_repeats, moved))

    def mark_changed(self) -> None:
        """Record in the image that this run has changes which are not saved. Raises OSError, PramError."""
        mark = self._mark if self.image.is_shared else NOBODY
        self._write_mark(lambda: superblock.mark_changed(self.image, self.current, self._run, mark))

    def mark_mounted(self, mark: MachineMark, *, now: bool = True) -> None:
        """Record in an image that other machines can reach who has it mounted; NOBODY: nobody any more.

        The mark of a change and the saves of this run tell it, too, except a final one; unless `now`, they do
        so first. Raises OSError, PramError.
        """
        self._mark = mark
        if now and self.image.is_shared:
            self._write_mark(lambda: superblock.mark_mounted(self.image, self.current, mark))

    def _write_mark(self, write: Callable[[], SuperBlock | None]) -> None:
        self.require_untouched()
        try:
            for block in superblock.publish_pair(self.image, self.current, self.arena.table.banned):
                self._note_in_force(block)
                self._slot = block.other_pfn
            marked = write()
        except OSError:
            self._seen.pop(self.current.other_pfn, None)  # it may be there or not
            raise
        if marked is not None:
            self._seen[marked.pfn] = bytes(superblock.page_of(marked))

    def resolve_doubt(self) -> None:
        """Write again the super block that a failed publish left in doubt; needs no frames.

        Until it is known to be on the medium, the frames of both saves are kept. Raises SaveFailed, also if
        another program has put something there meanwhile.
        """
        if self._in_doubt is None:
            return
        publication = self._in_doubt
        with contextlib.suppress(OSError, SystemFault):  # of which the write tells
            self.require_untouched()
        error = publication.write_super_block()
        publication.finish(error)
        if error is not None:
            raise SaveFailed(error, self.current.generation) from error
        # Its own pages were durable before. Later writes may be lost, as the super block may have been.
        self.arena.mark_writeback_failed()

    def move_to(self, image: Image, block: SuperBlock) -> None:
        """Go on in another image, where the save of `block` is durable.

        Raises OSError or PramError, and has then changed nothing.
        """
        self.arena.move_to(image)
        self.image = image
        self._seen = {}
        self._read_slots(block.other_pfn)
        self.put_in_force(block)

    def put_in_force(self, block: SuperBlock) -> None:
        """Note that the super block is durable, and free what only the previous save held."""
        self._in_doubt = None
        self._slot = self.current.pfn
        self._note_in_force(block)
        self.arena.commit_save()

    def leave_in_doubt(self, publication: "Publication") -> None:
        """Note that the super block may or may not be on the medium, and keep the frames of both saves."""
        self._in_doubt = publication
        self._seen.pop(self._slot, None)  # it may be there or not
        self.arena.mark_writeback_failed()

    @property
    def in_doubt(self) -> bool:
        """Whether the super block of a save may or may not be on the medium."""
        return self._in_doubt is not None

    def give_up(self) -> None:
        """Note that no super block was written: the previous save stands."""
        self.arena.abort_save()
        # The pages that were replaced are HELD, and freed with the next save; the new ones are fresh: free
        # them now.
        written = self._listed[: self._pages_written]
        self.arena.release_extents(extents_of([entry.pfn for entry in written]))
        del self._listed[: self._pages_written]
        for entry in written:
            self.note_change(entry.node)
        self._unchanged = min(self._unchanged, len(self._listed))
        self._pages_written = 0

    def note_change(self, node: Node) -> None:
        """Note that a node is new or gone, or is not what its page in the list says."""
        self._unlisted[id(node)] = node
        if node.place:
            self._unchanged = min(self._unchanged, node.place - 1)
        node.pfn = node.place = 0

    @property
    def node_pages(self) -> list[int]:
        """The frames of the node list written last, in order."""
        return [entry.pfn for entry in self._listed]

    def nodes_to_keep(self, replaced: Collection[str] = ()) -> int:
        """Count the nodes that keep their pages in the list with the next publish: the last ones of it.

        The nodes `replaced` will be others by then.
        """
        others = [self._nodes[name] for name in replaced if name in self._nodes]
        kept = min([self._unchanged, *(node.place - 1 for node in others if node.place)])
        banned = self.arena.table.banned
        if not banned:
            return kept
        last_pages = (entry.pfn for entry in itertools.islice(reversed(self._listed), kept))
        return next((at for at, pfn in enumerate(last_pages) if pfn in banned), kept)

    def frames_to_come_back(self, replaced: Collection[str]) -> int:
        """Count the frames that the next publish frees: of the node list, and of the nodes `replaced`."""
        nodes = [self._nodes[name] for name in replaced if name in self._nodes]
        owned = pfns_of(extent for node in nodes for extent in node.owned)
        gone = self._listed[: len(self._listed) - self.nodes_to_keep(replaced)]
        banned = self.arena.table.banned
        if not banned:
            return len(owned) + len(gone)
        return sum(pfn not in banned for pfn in [*owned, *(entry.pfn for entry in gone)])

    def _note_in_force(self, block: SuperBlock) -> None:
        """Note that this run has written the super block, and that it is in force.

        It is not read back: what another program has put there meanwhile would be taken for it.
        """
        self.current = block
        self._seen[block.pfn] = bytes(superblock.page_of(block))
        for pfn in self._seen.keys() - {block.pfn, block.other_pfn}:
            del self._seen[pfn]  # abandoned

    def _read_slots(self, *slots: int) -> None:
        """Remember what is in slots that this run has not written."""
        for pfn in slots:
            if pfn < self.image.frames and pfn not in self.arena.table.banned:
                with contextlib.suppress(PramError):
                    self._seen[pfn] = self.image.read_anew(pfn << PAGE_SHIFT, PAGE_SIZE)

    def _stage(
        self,
        image: Image,
        flags: int,
        unsaved_repeats: Callable[[], int],
        moved: dict[int, int],
    ) -> tuple[int, Published]:
        """Write the node list, freeze all frames in use, and return the next super block and its slot."""
        self._require_complete()
        self._require_frames()
        for node in self._nodes.values() if self.arena.table.banned else ():
            leave_banned_frames(self.arena, self.pins, self.current.uuid, node, moved)
            if not node.pfn:
                self.note_change(node)
        slot = self._choose_slot()
        self._write_node_list()
        self.arena.table.begin_save()
        published = self._describe(flags, self.arena.table.repeats - unsaved_repeats())
        is_held = image.is_shared and not flags & SUPER_FINAL
        return slot, published._replace(mark=self._mark if is_held else NOBODY)

    def _require_complete(self) -> None:
        busy = next((node for node in self._new_nodes() if node.flags & ACCMODE_SAVE), None)
        if busy is not None:
            raise NodeBusy(busy.name)

    def _require_frames(self) -> None:
        table = self.arena.table
        moving = frames_to_move(self._nodes.values(), table.banned)
        # A node that moves gets a page of its own again, and so do those before it in the list.
        needed = len(self._nodes) + moving - (0 if moving else self.nodes_to_keep())
        if table.count(FREE) < needed:
            raise NoFrames(needed, table.count(FREE))

    def _choose_slot(self) -> int:
        """Return the slot whose turn it is, or another if that one has become banned. Raises NoFrames."""
        table = self.arena.table
        if self._slot not in table.banned:
            return self._slot
        slot = superblock.free_slot(len(table), table.banned, self.current.pfn)
        if slot is None:
            raise NoFrames(1, 0)
        return slot

    def _write_node_list(self) -> None:
        """Write the pages of nodes that have changed, and of those before them in the list, to new frames.

        Nodes are linked by pfn (patch 5 of the 2013 series).
        """
        arena, listed = self.arena, self._listed
        replaced = listed[: len(listed) - self.nodes_to_keep()]
        following = listed[len(replaced)].pfn if len(replaced) < len(listed) else 0
        nodes = self._new_nodes()
        nodes += [entry.node for entry in replaced if entry.node.pfn]
        extents = arena.table.allocate(len(nodes))
        pfns = pfns_of(extents)
        try:
            for at in range(0, len(nodes), _NODES_AT_ONCE):
                end = at + _NODES_AT_ONCE
                behind = pfns[end] if end < len(pfns) else following
                pages = build_nodes(self.current.uuid, pfns[at:end], nodes[at:end], behind)
                arena.write_extents(list(extents_of(pfns[at:end])), memoryview(pages))
        except BaseException:
            arena.release_extents(extents)
            raise
        for node, pfn in zip(nodes, pfns, strict=True):
            node.pfn = pfn
        arena.release_extents(extents_of([entry.pfn for entry in replaced]))
        self._put_in_list(nodes, len(replaced))
        self._unlisted = {}
        self._unchanged = len(self._listed)
        self._pages_written = len(nodes)

    def _new_nodes(self) -> list[Node]:
        """Return the nodes that are not in the list as they are."""
        return [node for node in self._unlisted.values() if self._nodes.get(node.name) is node]

    def _put_in_list(self, nodes: Sequence[Node], replaced: int) -> None:
        """Let nodes take the places of so many at the front of the list."""
        kept = self._listed[replaced] if replaced < len(self._listed) else None
        place, frames = (kept.node.place, kept.frames) if kept is not None else (0, 0)
        entries = []
        for node in reversed(nodes):
            place += 1
            frames += 1 + node.links + node.entries
            node.place = place
            entries.append(_Listed(node, node.pfn, frames))
        self._listed[:replaced] = reversed(entries)

    def _describe(self, flags: int, repeats: int) -> Published:
        return Published(
            node_pfn=self._listed[0].pfn if self._listed else 0,
            nodes=len(self._listed),
            frames=self.frames,
            frames_used=2 + (self._listed[0].frames if self._listed else 0) - repeats,
            flags=flags | (0 if self.current.pfn in self.arena.table.banned else SUPER_PAIR),
            run=self._run,
            incompatible=SHARED if repeats else 0,
        )


class Publication:
    """A save that is being published. `write` may run in another thread; `finish` must not."""

    def __init__(self, publisher: Publisher, slot: int, published: Published) -> None:
        self._publisher = publisher
        self._slot = slot
        self._published = published
        self._slot_written = False
        self._block = publisher.current

    def write(self, progress: Progress) -> OSError | PramError | None:
        """Write everything and make it durable: first the pages, then the super block.

        Returns the error that prevented this, to be passed to `finish`. What another program has put into the
        image is not touched.
        """
        try:
            self._publisher.require_untouched()
            self._publisher.arena.write_back(progress)
            self._publisher.image.sync()
            self._publisher.require_untouched()
        except Exception as exc:  # noqa: BLE001 - after any error this save is certainly not in force
            return fault_of(exc)
        return self.write_super_block()

    def write_super_block(self) -> OSError | PramError | None:
        """Put the save in force, after its pages are durable. Returns the error that prevented this."""
        image, current = self._publisher.image, self._publisher.current
        self._slot_written = True
        try:
            self._block = superblock.replace(image, current, self._slot, self._published)
            image.sync()
        except Exception as exc:  # noqa: BLE001 - as above
            return fault_of(exc)
        return None

    def finish(self, error: OSError | PramError | None) -> OSError | PramError | None:
        """Record how the write ended; return the error."""
        if error is None:
            self._publisher.put_in_force(self._block)
        elif self._slot_written:
            self._publisher.leave_in_doubt(self)
        else:
            if isinstance(error, ImageOverwritten):
                self._publisher.arena.leave_image_alone()
            self._publisher.give_up()
        return error


class Move:
    """A save that is being published in another image, in which everything goes on afterwards.

    The old image is only read. `write` may run in another thread; `finish` must not.
    """

    def __init__(self, publisher: Publisher, image: Image, slot: int, published: Published) -> None:
        self._publisher = publisher
        self._image = image
        self._slot = slot
        self._published = published
        self._block = publisher.current
        # Also those of inodes that have no name any more, and are open.
        self._extents = list(publisher.arena.table.extents(SAVED, PENDING, WRITTEN_PENDING))

    def write(self, progress: Progress) -> OSError | PramError | None:
        """Write everything to the other image and make it durable: first the pages, then the super block.

        Returns the error that prevented this, to be passed to `finish`.
        """
        image, publisher = self._image, self._publisher
        try:
            publisher.arena.copy_to(image, self._extents, progress)
            image.sync()
            self._block = superblock.replace(image, publisher.current, self._slot, self._published)
            image.sync()
        except Exception as exc:  # noqa: BLE001 - after any error the old image is the one in use
            return fault_of(exc)
        return None

    def finish(self, error: OSError | PramError | None) -> OSError | PramError | None:
        """Go on in the other image unless there was an error, or is one now; return it."""
        try:
            if error is None:
                self._publisher.move_to(self._image, self._block)
                return None
        except (OSError, PramError) as exc:
            error = exc
        self._wipe()
        self._publisher.give_up()
        return error

    def _wipe(self) -> None:
        """Leave nothing in the other image that could be taken for a save."""
        with contextlib.suppress(OSError):
            self._image.write(self._slot << PAGE_SHIFT, bytes(PAGE_SIZE))
            self._image.sync()
