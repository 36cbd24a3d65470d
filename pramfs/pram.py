"""PRAM itself, usable as a library: nodes, page streams, byte streams, reserve, publish, free.

Persistent memory is divided into nodes with unique names that are saved and loaded on their own. A
stream fills a node or empties it. What streams do is real only for this process until `publish`
writes the node list and a super block; until then the last published save stands, untouched.

    pram = Pram.open(image)
    with pram.prepare_save("greeting", BYTE_STREAM) as stream:
        stream.write(b"hello")
    pram.publish()

Names, order of checks and error numbers are those of the seeds: prepare_save ENODEV (there is no Pram
without a super block), ENAMETOOLONG, ENOSPC for their ENOMEM, EEXIST; prepare_load ENODEV, ENOENT,
EBUSY, EPERM; a page that fails its checksum EFAULT.
"""

import copy
import os
import time
from array import array
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

from crc32c import crc32c

from pramfs import chains, layout, superblock
from pramfs.arena import Arena, Progress, open_arena
from pramfs.chains import Chain, Entries
from pramfs.errors import (
    CorruptedPage,
    DamagedPage,
    ImageTooSmall,
    InvalidPfn,
    NameTooLong,
    NodeBusy,
    NodeExists,
    NoFrames,
    NoSuchNode,
    PramError,
    ReadOnlyImage,
    ReservationFailed,
    SaveFailed,
    SystemFault,
    WrongStreamType,
)
from pramfs.frames import FREE, FrameTable, Run
from pramfs.image import Image
from pramfs.layout import (
    ACCMODE_LOAD,
    ACCMODE_SAVE,
    BYTE_STREAM,
    NODE,
    NODE_MAGIC,
    PAGE_DATA,
    PAGE_SHIFT,
    PAGE_SIZE,
    PAGE_STREAM,
    STREAM_TYPES,
    NodePage,
    SuperBlock,
)
from pramfs.regions import Regions

_WRITE_FRAMES = 256
_EXTEND_TIMES = 16  # the length that a truncated image may be brought to, in times of its own


@dataclass(slots=True)
class Node:
    """One named thing in persistent memory."""

    name: str
    type: int
    flags: int = 0  # ACCMODE_SAVE or ACCMODE_LOAD while a stream is open
    data_len: int = 0  # bytes, only for byte streams
    link_pfn: int = 0
    links: int = 0
    entries: int = 0
    saved_ns: int = 0
    pfn: int = 0  # of its page in the published list, 0 = not published yet
    owned: list[Run] = field(default_factory=list)  # frames that go when the node goes
    chain: Chain | None = None  # as reserved; dropped by whoever has used it


class Pram:
    """The persistent memory in one open image."""

    def __init__(
        self, image: Image, arena: Arena, current: SuperBlock, nodes: dict[str, Node], run: bytes
    ) -> None:
        self.image = image
        self.arena = arena
        self.current = current
        self.nodes = nodes
        self.run = run
        self._slot = current.other_pfn  # where the next super block goes
        self._node_pages = [Run(node.pfn, 1) for node in nodes.values()]
        self._in_doubt: Publication | None = None

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
        """Find the super block (or take it from frame `pfn`) and reserve all that the save holds.

        The image grows to `frames` if it has fewer. Raises ReservationFailed, and leaves nothing reserved,
        when a chain is damaged; ImageTooSmall when the banned regions leave no place for super blocks.
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
        """Make an empty save in a blank image, and open it. Raises ImageTooSmall, SystemFault."""
        banned = banned or Regions()
        if frames < 3:
            raise ImageTooSmall(image.path, frames, "a pram image has at least 3 frames")
        try:
            superblock.format_image(image, frames, banned, os.urandom(16))
        except OSError as exc:
            raise SystemFault(f"{image.path}: cannot make the image: {exc.strerror}") from exc
        return cls.open(image, banned=banned, arena=arena)

    # --- streams ---------------------------------------------------------------------------------

    def prepare_save(self, name: str, type_: int) -> "SaveStream":
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
        return SaveStream(self, node)

    def prepare_load(self, name: str, type_: int) -> "LoadStream":
        """Start to empty a node. Raises NoSuchNode, NodeBusy, WrongStreamType, in this order."""
        node = self.node(name)
        if node.flags & layout.ACCMODE_MASK:
            raise NodeBusy(name)
        if node.type != type_:
            raise WrongStreamType(name, STREAM_TYPES[node.type], STREAM_TYPES[type_])
        chain = node.chain or self._read_again(node)
        node.flags |= ACCMODE_LOAD
        return LoadStream(self, node, chain)

    def node(self, name: str) -> Node:
        """The node of that name. Raises NoSuchNode."""
        if name not in self.nodes:
            raise NoSuchNode(name)
        return self.nodes[name]

    def free(self, name: str) -> None:
        """Give up a node and its frames. Raises NoSuchNode, NodeBusy."""
        self._require_writable()
        node = self.node(name)
        if node.flags & layout.ACCMODE_MASK:
            raise NodeBusy(name)
        self._drop(node)

    # --- publishing ------------------------------------------------------------------------------

    def publish(self, *, flags: int = layout.SUPER_FINAL, progress: Progress | None = None) -> None:
        """Make all nodes as they are now the save in force, durably.

        Raises NodeBusy, NoFrames, SaveFailed; the save before it then stands.
        """
        try:
            publication = self.begin_publish(flags)
        except OSError as exc:
            raise SaveFailed(exc, self.current.generation) from exc
        error = publication.write(progress or (lambda frames: None))
        publication.finish(error)
        if error is not None:
            raise SaveFailed(error, self.current.generation) from error

    def begin_publish(self, flags: int) -> "Publication":
        """Build the node list and freeze all frames in use.

        Raises NodeBusy, NoFrames, SaveFailed, OSError.
        """
        self._require_writable()
        self.resolve_doubt()
        table, nodes = self.arena.table, list(self.nodes.values())
        busy = next((node for node in nodes if node.flags & ACCMODE_SAVE), None)
        if busy is not None:
            raise NodeBusy(busy.name)
        needed = len(nodes) + self.frames_to_move()
        if table.count(FREE) < needed:
            raise NoFrames(needed, table.count(FREE))
        for node in nodes:
            if any(table.banned.overlaps(*run) for run in node.owned):
                self._leave_banned_frames(node)
        return Publication(self, flags)

    def resolve_doubt(self) -> None:
        """Publish what a failed publish left in doubt; it needs no frames. Raises SaveFailed.

        When the write of a super block fails, nobody knows whether that has reached the medium: the frames
        of two saves are needed until it has.
        """
        if self._in_doubt is None:
            return
        publication = self._in_doubt
        error = publication.write_super_block()
        publication.finish(error)
        if error is not None:
            raise SaveFailed(error, self.current.generation) from error

    def frames_to_come_back(self, replaced: Collection[str]) -> int:
        """Frames that are free after the next publish: those of the node list and of the nodes `replaced`."""
        runs = [run for name in replaced if name in self.nodes for run in self.nodes[name].owned]
        banned = self.arena.table.banned
        return sum(pfn not in banned for pfn in _frames_of([*self._node_pages, *runs]))

    def frames_to_move(self, but_of: Collection[str] = ()) -> int:
        """Frames that the next publish takes to move what nodes have in banned frames (seed 004).

        The nodes `but_of` are left out: they will be new ones by then.
        """
        banned = self.arena.table.banned
        needed = 0
        for name, node in self.nodes.items() if banned else ():
            moving = sum(pfn in banned for pfn in _frames_of(node.owned))
            if moving and name not in but_of:
                needed += moving + node.links
        return needed

    def close(self) -> None:
        """Let go of the memory; the image stays open."""
        self.arena.close()

    # --- helpers ---------------------------------------------------------------------------------

    def _require_writable(self) -> None:
        if not self.image.writable:
            raise ReadOnlyImage()

    def _drop(self, node: Node) -> None:
        del self.nodes[node.name]
        _release(self.arena, node.owned)

    def _leave_banned_frames(self, node: Node) -> None:
        """Copy what a node has in banned frames to others (seed 004), and link its pages anew.

        Raises OSError or PramError, and then has changed nothing.
        """
        arena, banned = self.arena, self.arena.table.banned
        chain = node.chain or self._read_again(node)
        owned = set(_frames_of(node.owned))
        entries = copy.copy(chain.entries)
        entries.pfns = entries.pfns[:]
        moving = [at for at, pfn in enumerate(entries.pfns) if pfn in banned and pfn in owned]
        runs = arena.table.allocate(len(moving) + node.links)
        fresh = _frames_of(runs)
        links = fresh[len(moving) :]
        try:
            for at, pfn in zip(moving, fresh, strict=False):
                arena.write(pfn, arena.read(entries.pfns[at]))
                entries.pfns[at] = pfn
            pages = memoryview(chains.build_links(self.current.uuid, links, entries))
            _write_runs(arena, list(chains.runs_of(links)), pages)
        except BaseException:
            _release(arena, runs)
            raise
        left = {*chain.links, *(chain.entries.pfns[at] for at in moving)}
        _release(arena, chains.runs_of(sorted(left)))
        node.owned = list(chains.runs_of(sorted(owned - left | set(fresh))))
        node.link_pfn = links[0]
        # In place: somebody may be loading the node.
        chain.links, chain.runs = links, list(chains.runs_of(entries.pfns))
        chain.entries.pfns = entries.pfns

    def _read_again(self, node: Node) -> Chain:
        """The chain of a node whose frames are reserved already."""
        scratch = FrameTable(len(self.arena.table))
        return chains.reserve_chain(
            self.arena.read, self.current.uuid, scratch, node.link_pfn, lambda run: None
        )


class SaveStream:
    """Fills one node. As a context manager it finishes the save, or discards it after an exception."""

    def __init__(self, pram: Pram, node: Node) -> None:
        self._pram = pram
        self._node = node
        self._entries = Entries()
        self._tail = bytearray()  # bytes of a byte stream that do not fill a page yet

    def save_page(self, pfn: int, index: int, flags: int = PAGE_DATA) -> int:
        """Save the FRESH frame `pfn` as page `index`; the node owns the frame from now on.

        A frame in a banned region is relocated (seed 004). Returns the frame that holds the page.
        """
        self._require_type(PAGE_STREAM)
        arena = self._pram.arena
        if arena.table.banned.overlaps(pfn):
            pfn = arena.relocate(pfn)
        self._node.owned.append(Run(pfn, 1))
        self._append(Run(pfn, 1), [index], flags)
        return pfn

    def lend_pages(self, pfns: "array[int]", indices: Iterable[int]) -> None:
        """Save frames that stay the caller's, in bulk: a node made of them owns its links only.

        The caller has relocated what is banned.
        """
        self._require_type(PAGE_STREAM)
        entries = self._entries
        for run in chains.runs_of(pfns):
            entries.csums += self._pram.arena.csums(run.pfn, run.frames)
        entries.pfns.extend(pfns)
        entries.indices.extend(indices)
        entries.flags.extend(array("I", (PAGE_DATA,)) * len(pfns))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append to a byte stream; returns the count, always all of `data`. Raises NoFrames."""
        self._require_type(BYTE_STREAM)
        self._tail += data
        whole = len(self._tail) & ~(PAGE_SIZE - 1)
        if whole >= _WRITE_FRAMES << PAGE_SHIFT:
            self._write_pages(memoryview(bytes(self._tail[:whole])))
            del self._tail[:whole]
        self._node.data_len += len(data)
        return len(data)

    def finish_save(self) -> None:
        """The node is complete: a publish will include it. Raises NoFrames, and discards the save."""
        try:
            self._flush_tail()
            self._write_links()
        except BaseException:
            self.discard_save()
            raise
        self._node.flags = 0

    def discard_save(self) -> None:
        """Forget the node; all its frames come back."""
        self._pram._drop(self._node)

    def __enter__(self) -> "SaveStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish_save()
        else:
            self.discard_save()

    def _require_type(self, type_: int) -> None:
        if self._node.type != type_:
            raise WrongStreamType(
                self._node.name, STREAM_TYPES[self._node.type], STREAM_TYPES[type_]
            )

    def _append(self, run: Run, indices: Iterable[int], flags: int) -> None:
        entries = self._entries
        entries.flags.extend(array("I", (flags,)) * run.frames)
        entries.csums += self._pram.arena.csums(run.pfn, run.frames)
        entries.pfns.extend(range(run.pfn, run.pfn + run.frames))
        entries.indices.extend(indices)

    def _flush_tail(self) -> None:
        if self._tail:
            padding = -len(self._tail) % PAGE_SIZE
            self._write_pages(memoryview(bytes(self._tail) + bytes(padding)))
            self._tail.clear()

    def _write_pages(self, data: memoryview) -> None:
        """Put whole pages into new frames of the node."""
        arena = self._pram.arena
        runs = arena.table.allocate(len(data) >> PAGE_SHIFT)
        self._node.owned += runs
        for run in runs:
            part, data = data[: run.frames << PAGE_SHIFT], data[run.frames << PAGE_SHIFT :]
            arena.write(run.pfn, part)
            index = len(self._entries)
            self._append(run, range(index, index + run.frames), PAGE_DATA)

    def _write_links(self) -> None:
        node, arena = self._node, self._pram.arena
        node.entries = len(self._entries)
        node.links = chains.link_count(node.entries)
        runs = arena.table.allocate(node.links)
        node.owned += runs
        pfns = _frames_of(runs)
        pages = memoryview(chains.build_links(self._pram.current.uuid, pfns, self._entries))
        _write_runs(arena, runs, pages)
        node.link_pfn = pfns[0] if pfns else 0


class LoadStream:
    """Empties one node, in the order it was saved."""

    def __init__(self, pram: Pram, node: Node, chain: Chain) -> None:
        self._pram = pram
        self._node = node
        self._chain = chain
        self._next = 0  # entry
        self._unread = memoryview(b"")  # of the page last loaded for `read`
        self._left = node.data_len

    @property
    def chain(self) -> Chain:
        """All links and entries, for who loads in bulk and verifies the pages itself."""
        return self._chain

    def load_page(self) -> tuple[bytes, int, int] | None:
        """The next page as (4,096 bytes, flags, index), None at the end. Raises DamagedPage."""
        if self._node.type != PAGE_STREAM:
            raise WrongStreamType(
                self._node.name, STREAM_TYPES[self._node.type], STREAM_TYPES[PAGE_STREAM]
            )
        return self._next_page()

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of a byte stream; fewer only at its end. Raises DamagedPage."""
        if self._node.type != BYTE_STREAM:
            raise WrongStreamType(
                self._node.name, STREAM_TYPES[self._node.type], STREAM_TYPES[BYTE_STREAM]
            )
        pieces = []
        while count and self._left:
            if not self._unread:
                page = self._next_page()
                if page is None:
                    raise DamagedPage(self._node.pfn, f"node '{self._node.name}' ends too early")
                self._unread = memoryview(page[0])[: self._left]
            piece = self._unread[:count]
            self._unread = self._unread[len(piece) :]
            self._left -= len(piece)
            count -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def finish_load(self) -> None:
        """The node has been loaded: it is consumed, if the image is open for writing."""
        self._node.flags &= ~ACCMODE_LOAD
        if self._pram.image.writable:
            self._pram._drop(self._node)

    def keep(self) -> None:
        """Stop loading and leave the node as it is."""
        self._node.flags &= ~ACCMODE_LOAD

    def _next_page(self) -> tuple[bytes, int, int] | None:
        entries = self._chain.entries
        if self._next >= len(entries):
            return None
        at, self._next = self._next, self._next + 1
        page = self._pram.arena.read(entries.pfns[at])
        if crc32c(page) != entries.csums[at]:
            raise DamagedPage(entries.pfns[at], f"node '{self._node.name}'")
        return page, entries.flags[at], entries.indices[at]


class Publication:
    """One save on its way into the image. `write` may run in another thread; `finish` must not."""

    def __init__(self, pram: Pram, flags: int) -> None:
        self._pram = pram
        self._flags = flags
        self._slot = self._choose_slot()
        self._slot_written = False
        self._block = pram.current
        self._write_node_list()
        self._published = self._describe()
        pram.arena.table.begin_save()

    def write(self, progress: Progress) -> OSError | PramError | None:
        """Write everything and make it durable: first the pages, then the super block.

        Returns the error that prevented it, for `finish`.
        """
        try:
            self._pram.arena.write_back(progress)
            self._pram.image.sync()
        except (OSError, PramError) as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - whatever it was, this save is not in force for certain
            return SystemFault(f"internal error: {exc!r}")
        return self.write_super_block()

    def write_super_block(self) -> OSError | PramError | None:
        """Put the save in force, once its pages are durable. Returns the error that prevented it."""
        image = self._pram.image
        self._slot_written = True
        try:
            self._block = superblock.replace(image, self._pram.current, self._slot, self._published)
            image.sync()
        except (OSError, PramError) as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - as above
            return SystemFault(f"internal error: {exc!r}")
        return None

    def finish(self, error: OSError | PramError | None) -> None:
        """Take note of how the write ended."""
        pram = self._pram
        pram._in_doubt = None
        if error is None:
            pram._slot = pram.current.pfn
            pram.current = self._block
            pram.arena.commit_save()
        elif self._slot_written:
            pram._in_doubt = self
        else:
            self._undo()

    def _choose_slot(self) -> int:
        """The slot whose turn it is, or another one if that has become banned. Raises NoFrames."""
        pram, table = self._pram, self._pram.arena.table
        if pram._slot not in table.banned:
            return pram._slot
        slot = superblock.free_slot(len(table), table.banned, pram.current.pfn)
        if slot is None:
            raise NoFrames(1, 0)
        return slot

    def _write_node_list(self) -> None:
        """Write every node's page anew, linked by pfn in order (seed 000)."""
        pram, arena = self._pram, self._pram.arena
        nodes = list(pram.nodes.values())
        runs = arena.table.allocate(len(nodes))
        pfns = _frames_of(runs)
        pages = bytearray(len(nodes) << PAGE_SHIFT)
        for at, (node, pfn) in enumerate(zip(nodes, pfns, strict=True)):
            node.pfn = pfn
            following = pfns[at + 1] if at + 1 < len(pfns) else 0
            page = memoryview(pages)[at << PAGE_SHIFT : (at + 1) << PAGE_SHIFT]
            NODE.pack_into(page, 0, *_node_page(node, following))
            layout.seal_page(pram.current.uuid, pfn, page)
        try:
            _write_runs(arena, runs, memoryview(pages))
        except BaseException:
            _release(arena, runs)
            raise
        _release(arena, pram._node_pages)
        pram._node_pages = runs

    def _describe(self) -> superblock.Published:
        pram = self._pram
        nodes = pram.nodes.values()
        return superblock.Published(
            node_pfn=next(iter(nodes)).pfn if nodes else 0,
            nodes=len(nodes),
            frames=len(pram.arena.table),
            frames_used=2 + sum(1 + node.links + node.entries for node in nodes),
            flags=self._flags,
            run=pram.run,
        )

    def _undo(self) -> None:
        pram = self._pram
        pram.arena.abort_save()
        # The old node pages are HELD and come back with the next save; ours are fresh and go.
        _release(pram.arena, pram._node_pages)
        pram._node_pages = []


def reserve(image: Image, table: FrameTable, current: SuperBlock) -> dict[str, Node]:
    """Reserve everything that the save of `current` holds, all or nothing (seed 002); returns the nodes.

    Raises ReservationFailed with the cause: InvalidPfn, CorruptedPage or BusyPfn, in this order of checks.
    """
    taken: list[Run] = []
    try:
        for slot in (current.pfn, current.other_pfn):
            if slot >= len(table) or not layout.is_slot(slot):
                raise InvalidPfn(slot, "super block")
        if current.pfn == current.other_pfn:
            raise CorruptedPage(current.pfn, "both super blocks in one frame")
        return {node.name: node for node in _reserve_nodes(image, table, current, taken)}
    except PramError as exc:
        table.unreserve(reversed(taken))
        raise ReservationFailed(exc) from exc


def _reserve_nodes(
    image: Image, table: FrameTable, current: SuperBlock, taken: list[Run]
) -> Iterator[Node]:
    names: set[str] = set()
    links = chains.ReadAhead(image)
    pfn = current.node_pfn
    while pfn:
        node, following = read_node(image, table, current.uuid, pfn)
        table.reserve(pfn, 1, "node")
        taken.append(Run(pfn, 1))
        if node.name in names:
            raise CorruptedPage(pfn, f"a second node '{node.name}'")
        names.add(node.name)
        own = len(taken)
        node.chain = chains.reserve_chain(
            links.read, current.uuid, table, node.link_pfn, taken.append
        )
        check_chain(node, node.chain)
        node.owned = taken[own:]
        yield node
        pfn = following
    if len(names) != current.nodes:
        raise CorruptedPage(current.pfn, f"{len(names)} nodes in the list, not {current.nodes}")


def read_node(image: Image, table: FrameTable, uuid: bytes, pfn: int) -> tuple[Node, int]:
    """The node at `pfn` and the pfn of the next one. Raises InvalidPfn, CorruptedPage."""
    if pfn >= len(table):
        raise InvalidPfn(pfn, "node")
    page = image.read(pfn)
    record = NodePage._make(NODE.unpack_from(page))
    if record.magic != NODE_MAGIC:
        raise CorruptedPage(pfn, "not a node")
    if record.csum != layout.page_csum(uuid, pfn, page):
        raise CorruptedPage(pfn, "node checksum")
    _check_node(pfn, record)
    node = Node(
        os.fsdecode(record.name.rstrip(b"\0")),
        record.type,
        data_len=record.data_len,
        link_pfn=record.link_pfn,
        links=record.links,
        entries=record.entries,
        saved_ns=record.saved_ns,
        pfn=pfn,
    )
    return node, record.node_pfn


def _check_node(pfn: int, record: NodePage) -> None:
    """Raise CorruptedPage for what a published node cannot be."""
    if record.flags & layout.ACCMODE_MASK:
        raise CorruptedPage(pfn, "a node that was being saved or loaded")
    name, _, rest = record.name.partition(b"\0")
    if not name or rest.strip(b"\0") or len(name) >= layout.NAME_MAX:
        raise CorruptedPage(pfn, "name of a node")
    if record.type not in STREAM_TYPES:
        raise CorruptedPage(pfn, f"stream type {record.type}")
    pages = -(-record.data_len // PAGE_SIZE)
    if pages != (record.entries if record.type == BYTE_STREAM else 0):
        raise CorruptedPage(pfn, f"{record.data_len} bytes in {record.entries} pages")


def check_chain(node: Node, chain: Chain) -> None:
    """Raise CorruptedPage if the chain of `node` is not the one that it describes."""
    if (len(chain.links), len(chain.entries)) != (node.links, node.entries):
        raise CorruptedPage(node.pfn, f"the chain of node '{node.name}' is not as long as it says")
    if node.type == BYTE_STREAM and chain.entries.indices != array("Q", range(node.entries)):
        raise CorruptedPage(node.pfn, f"the pages of node '{node.name}' are not in order")


def _node_page(node: Node, following: int) -> NodePage:
    return NodePage(
        magic=NODE_MAGIC,
        csum=0,
        flags=0,
        type=node.type,
        data_len=node.data_len,
        link_pfn=node.link_pfn,
        node_pfn=following,
        name=os.fsencode(node.name),
        links=node.links,
        entries=node.entries,
        saved_ns=node.saved_ns,
    )


def _frames_of(runs: Iterable[Run]) -> list[int]:
    return [pfn for first, count in runs for pfn in range(first, first + count)]


def _release(arena: Arena, runs: Iterable[Run]) -> None:
    for run in runs:
        arena.release(run.pfn, run.frames)


def _check_truncated(image: Image, current: SuperBlock, accept: bool) -> None:
    """Refuse an image that is shorter than its super block says, but for one that recover may still extend.

    That takes memory for every frame, so it must not be the super block alone that says how many.
    """
    there = f"{image.path}: truncated: {image.frames} of {current.frames} frames are there"
    if not accept:
        raise PramError(f"{there}; mount with 'recover' to get at what is left")
    if current.frames > _EXTEND_TIMES * image.frames:
        raise PramError(f"{there}, too few to recover anything")


def _write_runs(arena: Arena, runs: list[Run], pages: memoryview) -> None:
    for run in runs:
        arena.write(run.pfn, pages[: run.frames << PAGE_SHIFT])
        pages = pages[run.frames << PAGE_SHIFT :]
