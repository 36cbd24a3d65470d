"""A tree and its saves against a plain reference: random calls, saves, crashes, bans and growth in any order.

After every step the tree looks like the reference, and every frame has one owner. After every save the frames
of the image are counted from the super block on. A crash may come before any step that a save made.
"""

import contextlib
import copy
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pramfs.errors import (
    FramesHeld,
    NoRoomForRollback,
    NoRoomForSnapshot,
    NoSuchSnapshot,
    PramError,
    SaveFailed,
    SnapshotExists,
)
from pramfs.pram.pram import Pram
from pramfs.pram.publish import Move, Publication
from pramfs.saves import save
from pramfs.saves.automatic import AutomaticSnapshots, Keep
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.saves.snapshots import (
    AUTOMATIC_PREFIX,
    drop_snapshot,
    require_new,
    roll_back,
    snapshots_of,
)
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX
from pramfs.storage.arena import Progress
from pramfs.storage.image import Image
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE
from pramfs.storage.memory_arena import MemoryArena, WriteBack
from pramfs.storage.regions import Region, Regions
from pramfs.tree.attributes import Changes
from pramfs.tree.dedup import Dedup
from pramfs.tree.inodes import Directory, File, Inode, Special, Symlink
from pramfs.tree.tree import Owner
from tests.conftest import LONG
from tests.model.reference_tree import (
    APPEND,
    EXCHANGE,
    IMMUTABLE,
    KEEP_SIZE,
    NOATIME,
    NODUMP,
    NOREPLACE,
    PUNCH_HOLE,
    WHITEOUT,
    ZERO_RANGE,
    Node,
    Reference,
)
from tests.support.image_audit import check_bans, check_owners, check_pram
from tests.support.refusals import refused
from tests.support.tree_volume import NAME, Facts, Volume, new_tree
from tests.support.watched_image import WatchedImage, image_of, kernel_with_pages, new_pram, replay

OTHER = b"another node" * 1000
SAVES_KEPT = 2

Tree = dict[int, Facts]

which = st.integers(0, 30)  # of the inodes there are
names = st.sampled_from([b"a", b"b", b"c", b"d", b"\xff" * 255, b"n" * 256])
modes = st.sampled_from([0o644, 0o755, 0o6755, 0o2775, 0o4600])
sizes = st.sampled_from([0, 1, 100, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 20_000, 60_000])
offsets = st.one_of(st.integers(0, 40_000), st.sampled_from([0, PAGE_SIZE, 3 * PAGE_SIZE]))
owners = st.sampled_from([0, 1, 1000, (1 << 32) - 2])
snapshot_names = st.sampled_from(["s1", "s2", "s3"])
xattrs = st.sampled_from([b"user.a", b"user.b", b"trusted.c"])
KINDS = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR]


class LateWrite:
    """A background write without a thread: it is done when it is waited for, or at once."""

    at_once = False

    def __init__(
        self,
        publication: Publication | Move,
        write: Callable[[Publication | Move], OSError | PramError | None],
    ) -> None:
        self.publication = publication
        self.error: OSError | PramError | None = None
        self._write = write
        self._done = False
        if self.at_once:
            self.join()

    def join(self) -> None:
        if not self._done:
            self._done = True
            self.error = self._write(self.publication)


class NotedSaver(Saver):
    """Notes the trees of every save that begins, those that make room included, by its generation."""

    def __init__(self, machine: "TreeMachine") -> None:
        super().__init__(machine.volume.pram, NAME, machine.volume.tree)
        self._machine = machine

    def _begin(
        self, progress: Progress, image: Image | None = None, snapshot: str = ""
    ) -> Publication | Move:
        machine = self._machine
        machine.end_write_back(late=False)  # the lock of a mount's saves sees to that
        machine._automatic.note_save()
        publication = super()._begin(progress, image, snapshot)
        facts = machine.volume.facts()
        if snapshot:
            machine.taken[snapshot] = without_promises(facts)
        generation = machine.volume.pram.current.generation + 1
        machine.begun.setdefault(generation, []).append((facts, machine.snapshots()))
        return publication


class TreeMachine(RuleBasedStateMachine):
    """`volume` and `model` are the same file system; `begun` holds the trees of saves by generation.

    What a snapshot holds, by its full name, is in `taken`.
    """

    arena = "image"

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[int, list[tuple[Tree, dict[str, Tree]]]] = {}
        self.taken: dict[str, Tree] = {}
        self.opened: list[int] = []
        self.had_orphans = False
        self._back: WriteBack | None = None
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(save, "_BackgroundWrite", LateWrite)

    @initialize(frames=st.sampled_from([72, 100, 400]))
    def begin(self, frames: int) -> None:
        pram = new_pram(frames, arena=self.arena)
        with pram.prepare_save("other", BYTE_STREAM) as stream:
            stream.write(OTHER)
        self.volume = Volume(arena=self.arena, pram=pram)
        self.model = Reference()
        self.volume.saver = NotedSaver(self)
        if frames == 400:
            self._add_metadata()
        self._keep_saves()
        self.volume.save()
        self._start_journal()

    def teardown(self) -> None:
        self._patch.undo()
        if hasattr(self, "volume"):
            self.volume.pram.close()
            self.volume.image.close()

    # --- what users do ---------------------------------------------------------------------------

    @rule(parent=which, name=names, kind=st.sampled_from(KINDS), mode=modes, uid=owners, gid=owners)
    def create(self, parent: int, name: bytes, kind: int, mode: int, uid: int, gid: int) -> None:
        parent = self._directory(parent)
        target = b"to/somewhere" if kind == stat.S_IFLNK else b""
        rdev = 0x103 if kind == stat.S_IFCHR else 0
        self._both(
            lambda: self.model.create(parent, name, kind | mode, uid, gid, rdev, target),
            lambda: self._tree.create(
                self._dir(parent), name, kind | mode, Owner(uid, gid), rdev=rdev, target=target
            ),
        )

    @rule(parent=which, mode=modes, uid=owners, gid=owners)
    def create_unnamed(self, parent: int, mode: int, uid: int, gid: int) -> None:
        parent = self._directory(parent)

        def on_tree() -> None:
            inode = self._tree.create_unnamed(self._dir(parent), mode, Owner(uid, gid))
            inode.refs = 1

        self._both(lambda: self.model.create_unnamed(parent, mode, uid, gid), on_tree)
        if self._tree.next_ino - 1 in self.model.nodes:
            newest = self.model.nodes[self._tree.next_ino - 1]
            if newest.unnamed and newest.ino not in self.opened:
                self.opened.append(newest.ino)
        self._note_orphans()

    @rule(ino=which, offset=offsets, size=sizes, seed=st.integers(1, 255))
    def write(self, ino: int, offset: int, size: int, seed: int) -> None:
        found = self._file(ino)
        if found is None:
            return
        data = bytes((seed, *range(1, 200))) * (size // 200 + 1)
        node = self.model.nodes[found]
        before = bytes(node.data)
        if node.flags & APPEND and seed % 2:
            offset = len(before)
        if _errno_of(lambda: self.model.write(found, offset, data[:size])):
            with refused(errno.EPERM):
                self._tree.write(self._tree.file(found), offset, data[:size])
            return
        try:
            self._tree.write(self._tree.file(found), offset, data[:size])
        except OSError as error:
            pages = range(offset // PAGE_SIZE, -(-(offset + size) // PAGE_SIZE))
            assert not node.promised.issuperset(pages), "no room where room was reserved"
            self._accept_partial_write(found, before, error)

    @rule(
        ino=which,
        mode=st.sampled_from([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE]),
        offset=offsets,
        length=st.integers(1, 40_000),
    )
    def fallocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        found = self._file(ino)
        if found is None:
            return
        node = self.model.nodes[found]
        before, promised = bytes(node.data), set(node.promised)
        if _errno_of(lambda: self.model.fallocate(found, mode, offset, length)):
            with refused(errno.EPERM):
                self._tree.fallocate(self._tree.file(found), mode, offset, length)
            return
        try:
            self._tree.fallocate(self._tree.file(found), mode, offset, length)
        except OSError as error:
            node.promised = promised
            self._accept_partial_write(found, before, error)

    @rule(ino=which, offset=offsets, other=which, at=offsets, length=sizes)
    def copy_range(self, ino: int, offset: int, other: int, at: int, length: int) -> None:
        found, goal = self._file(ino), self._file(other)
        if found is None or goal is None:
            return
        source, copy = self._tree.file(found), self._tree.file(goal)
        before = bytes(self.model.nodes[goal].data)
        expected = _errno_of(lambda: self.model.copy_range(found, offset, goal, at, length))
        if expected:
            with refused(expected):
                self._tree.copy_range(source, offset, copy, at, length)
            return
        length = max(0, min(length, source.length - offset))
        shareable = {found: set(whole_pages(offset, length))}
        shareable[goal] = shareable.get(goal, set()) | set(whole_pages(at, length))
        try:
            while length:
                done = self._tree.copy_range(source, offset, copy, at, length)
                assert done > 0
                offset, at, length = offset + done, at + done, length - done
        except OSError as error:
            self._accept_partial_write(goal, before, error)
        for number, pages in shareable.items():
            self._accept_lost_promises(number, pages)

    @rule(ino=which)
    def seek(self, ino: int) -> None:
        """What is in a hole reads as zeros, and all that is not zeros is found."""
        found = self._file(ino)
        if found is None:
            return
        file, content = self._tree.file(found), self.model.nodes[found].data
        data = bytearray()
        while len(data) < len(content):
            start = len(content)
            with contextlib.suppress(OSError):
                start = self._tree.seek(file, len(data), os.SEEK_DATA)
            data += bytes(start - len(data))
            if start < len(content):
                data += content[start : self._tree.seek(file, start, os.SEEK_HOLE)]
        assert data == content

    @rule(pieces=st.sampled_from([1, 3, 1000]))
    def deduplicate(self, pieces: int) -> None:
        """Have equal pages share frames, in all files or in some: no content changes."""
        dedup = Dedup(self._tree, nodes=self.volume.pram.nodes)
        for _ in itertools.islice(dedup.look_at_all(), pieces):
            pass

    @rule(ino=which, size=st.one_of(offsets, st.just(0)))
    def truncate(self, ino: int, size: int) -> None:
        found = self._file(ino)
        if found is not None:
            self._both(
                lambda: self.model.truncate(found, size),
                lambda: self._tree.setattr(self._tree.get(found), Changes(size=size)),
            )

    @rule(ino=which, parent=which, name=names)
    def link(self, ino: int, parent: int, name: bytes) -> None:
        found, parent = self._any(ino), self._directory(parent)
        self._both(
            lambda: self.model.link(found, parent, name),
            lambda: self._tree.link(self._tree.get(found), self._dir(parent), name),
        )

    @rule(parent=which, name=names)
    def unlink(self, parent: int, name: bytes) -> None:
        parent = self._directory(parent)
        self._both(
            lambda: self.model.unlink(parent, name),
            lambda: self._tree.unlink(self._dir(parent), name),
        )
        self._note_orphans()

    @rule(parent=which, name=names)
    def rmdir(self, parent: int, name: bytes) -> None:
        parent = self._directory(parent)
        self._both(
            lambda: self.model.rmdir(parent, name),
            lambda: self._tree.rmdir(self._dir(parent), name),
        )

    @rule(
        parent=which,
        name=names,
        new_parent=which,
        new_name=names,
        flags=st.sampled_from([0, 0, NOREPLACE, EXCHANGE, WHITEOUT]),
    )
    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        source, goal = self._directory(parent), self._directory(new_parent)
        self._both(
            lambda: self.model.rename(source, name, goal, new_name, flags),
            lambda: self._tree.rename(
                self._dir(source), name, self._dir(goal), new_name, flags, Owner(0, 0)
            ),
        )
        self._note_orphans()

    @rule(ino=which, mode=modes, uid=owners, gid=owners)
    def change_attributes(self, ino: int, mode: int, uid: int, gid: int) -> None:
        inode = self._tree.get(self._any(ino))
        self._both(
            lambda: self.model.chown(inode.ino, uid, gid),
            lambda: self._tree.setattr(inode, Changes(uid=uid, gid=gid)),
        )
        self._both(
            lambda: self.model.chmod(inode.ino, mode),
            lambda: self._tree.setattr(inode, Changes(mode=mode, mtime=uid - gid)),
        )

    @rule(ino=which, flags=st.sampled_from([0, 0, IMMUTABLE, APPEND, NODUMP | NOATIME]))
    def chattr(self, ino: int, flags: int) -> None:
        inode = self._tree.get(self._any(ino))
        if isinstance(inode, (File, Directory)):
            self.model.nodes[inode.ino].flags = flags
            self._tree.set_flags(inode, flags, 0)

    @rule(ino=which, name=xattrs, size=sizes)
    def setxattr(self, ino: int, name: bytes, size: int) -> None:
        inode = self._tree.get(self._any(ino))
        self._both(
            lambda: self.model.setxattr(inode.ino, name, b"v" * size),
            lambda: self._tree.setxattr(inode, name, b"v" * size),
        )

    @rule(ino=which, name=xattrs)
    def removexattr(self, ino: int, name: bytes) -> None:
        inode = self._tree.get(self._any(ino))
        self._both(
            lambda: self.model.removexattr(inode.ino, name),
            lambda: self._tree.removexattr(inode, name),
        )

    @rule(ino=which)
    def open(self, ino: int) -> None:
        found = self._file(ino)
        if found is not None:
            self.model.nodes[found].refs += 1
            self._tree.get(found).refs += 1
            self.opened.append(found)

    @precondition(lambda self: self.opened)
    @rule(at=which)
    def close(self, at: int) -> None:
        ino = self.opened.pop(at % len(self.opened))
        self.model.close(ino)
        self._tree.forget(self._tree.get(ino))

    # --- saves -----------------------------------------------------------------------------------

    @rule(final=st.booleans())
    def save(self, final: bool) -> None:
        self.volume.save(final=final)
        self._check_save()

    @rule(name=snapshot_names, at_once=st.sampled_from([None, False, True]))
    def take_snapshot(self, name: str, at_once: bool | None) -> None:
        """Take a snapshot, with a save or a checkpoint, or find that there is no room for it."""
        volume = self.volume
        volume.saver.settle()
        try:
            full_name = require_new(volume.pram, NAME, name)
            volume.saver.require_room_for_snapshot()
        except (SnapshotExists, NoRoomForSnapshot, FramesHeld):
            return
        if at_once is None:
            volume.saver.save(final=False, progress=lambda pages: None, snapshot=full_name)
            self._check_save()
        else:
            self._patch.setattr(LateWrite, "at_once", at_once)
            volume.saver.start(lambda pages: None, snapshot=full_name)
        for file in self._tree.inodes.values():
            if isinstance(file, File) and file.nlink:
                self._accept_lost_promises(file.ino, pages_of(file))

    @rule(name=snapshot_names)
    def free_snapshot(self, name: str) -> None:
        self.volume.saver.settle()
        with contextlib.suppress(NoSuchSnapshot):
            drop_snapshot(self.volume.pram, NAME, name)

    @rule()
    def save_and_keep(self) -> None:
        """Save as `keep=` does: the last saves are kept, and go when there is no room."""
        volume, automatic = self.volume, self._automatic
        volume.saver.settle()
        name = automatic.next_one()
        try:
            for _ in automatic.make_room() if name else ():
                volume.save(final=False)
        except NoRoomForSnapshot:
            name = ""
        volume.saver.save(final=False, progress=lambda pages: None, snapshot=name)
        self._check_save()
        if name:
            automatic.note_kept()
        kept = snapshots_of(volume.pram, NAME, AUTOMATIC_PREFIX)
        assert len(kept) <= SAVES_KEPT
        assert not name or kept[-1].full_name == name
        for file in self._tree.inodes.values() if name else ():
            if isinstance(file, File) and file.nlink:
                self._accept_lost_promises(file.ino, pages_of(file))

    @rule(at=which, is_kept=st.booleans())
    def roll_back(self, at: int, is_kept: bool) -> None:
        """Unmount, go back to a snapshot as another process does, perhaps free what it was, and mount."""
        volume = self.volume
        volume.save()
        there = self.snapshots()
        before = without_promises(volume.facts())
        image = volume.image.reopen()
        with contextlib.closing(Pram.open(image, arena=self.arena)) as pram:
            if there:
                chosen = list(there)[at % len(there)]
                with contextlib.suppress(NoRoomForRollback):
                    replaced = roll_back(pram, NAME, chosen.removeprefix(f"{NAME}@"))
                    self.taken[f"{NAME}@{replaced}"] = before
                    there[f"{NAME}@{replaced}"] = before
                    before = there[chosen]
                    pram.publish()
                    if not is_kept:
                        drop_snapshot(pram, NAME, replaced)
                        pram.publish()
                        del there[f"{NAME}@{replaced}"]
        self._load(image.reopen(), Regions(), 0, lazy=False)
        image.close()
        assert without_promises(self.volume.facts()) == before
        assert self.snapshots_loaded() == there
        self.model = reference_of(self.volume)

    @rule(at_once=st.booleans())
    def start_checkpoint(self, at_once: bool) -> None:
        self._patch.setattr(LateWrite, "at_once", at_once)
        self.volume.start()

    @rule()
    def settle_checkpoint(self) -> None:
        if self.volume.saver._running is None:
            return
        self.volume.saver.wait()
        self.volume.saver.settle()
        assert self.volume.saver.error is None
        self._check_save()

    @precondition(lambda self: self.arena == "memory")
    @rule(frames=st.integers(1, 100), step=st.sampled_from([None, 0, 1, 99]))
    def begin_write_back(self, frames: int, step: int | None) -> None:
        """Write pages back, at once or late; what is done before the end happens while they are on their way.

        A step that is reached fails.
        """
        self.end_write_back(late=False)
        if self.volume.saver._running is not None:
            return
        arena = self.volume.pram.arena
        assert isinstance(arena, MemoryArena)
        self._back = arena.begin_write_back(frames)
        if step is not None:
            with self.volume.image.failing(step, torn_bytes=512):
                self._back.write()

    @rule(late=st.booleans())
    def end_write_back(self, late: bool) -> None:
        """End it, and fail it if it was not begun and is not `late`."""
        if self._back is not None:
            if late:
                self._back.write()
            back, self._back = self._back, None
            back.finish()

    @rule(step=st.integers(0, 8), torn_bytes=st.sampled_from([0, 512, 1 << 30]))
    def save_to_a_failing_medium(self, step: int, torn_bytes: int) -> None:
        self.volume.saver.settle()
        with self.volume.image.failing(step, torn_bytes=torn_bytes):
            try:
                self.volume.save()
            except SaveFailed:
                return
        self._check_save()

    @rule(
        lazy=st.booleans(),
        grow=st.sampled_from([0, 0, 10]),
        banned=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 10)), max_size=2),
    )
    def save_and_load(self, lazy: bool, grow: int, banned: list[tuple[int, int]]) -> None:
        """Unmount and mount again, with other regions banned and perhaps more frames."""
        self.volume.save()
        before = self.volume.facts()
        regions = Regions(Region(first, first + more) for first, more in banned)
        frames = len(self.volume.pram.arena.table) + grow
        snapshots = self.snapshots()
        self._load(self.volume.image.reopen(), regions, frames, lazy=lazy)
        assert self.volume.facts() == before
        assert self.snapshots_loaded() == snapshots

    @rule(where=st.floats(0, 1))
    def crash(self, where: float) -> None:
        """Be killed before one of the steps that were made since the last load."""
        self.volume.saver.wait()
        journal = self.volume.image.journal
        steps = journal[: round(where * len(journal))]
        current = self.volume.pram.current.generation
        self._back = None
        self._load(image_of(bytes(replay(self._content, steps))), Regions(), 0, lazy=False)
        generation = self.volume.pram.current.generation
        assert generation >= self._first_generation
        assert where < 1 or generation >= current, "a save that was published is lost"
        assert (self.volume.facts(), self.snapshots_loaded()) in self.begun[generation]
        self.model = reference_of(self.volume)

    # --- what is always true ---------------------------------------------------------------------

    @invariant()
    def tree_is_like_the_reference(self) -> None:
        if not hasattr(self, "volume"):
            return
        assert self._tree.inodes.keys() == self.model.nodes.keys()
        for ino, node in self.model.nodes.items():
            assert node_of(self.volume, self._tree.inodes[ino]) == node
        assert self._tree.next_ino == self.model.next_ino
        check_owners(self.volume.pram, self._tree)

    # --- helpers ---------------------------------------------------------------------------------

    @property
    def _tree(self):  # type: ignore[no-untyped-def]
        return self.volume.tree

    def snapshots(self) -> dict[str, Tree]:
        """What the snapshots hold that there are, also in a save under way."""
        names = [snapshot.full_name for snapshot in snapshots_of(self.volume.pram, NAME)]
        return {name: self.taken[name] for name in names}

    def snapshots_loaded(self) -> dict[str, Tree]:
        """What another process finds of the snapshots in the image."""
        image = self.volume.image.reopen()
        with contextlib.closing(image), contextlib.closing(Pram.open(image)) as pram:
            found = {}
            for snapshot in snapshots_of(pram, NAME):
                other = Volume(pram=pram)
                other.tree = new_tree(pram)
                load_tree(pram, snapshot.full_name, other.tree)
                found[snapshot.full_name] = without_promises(other.facts())
        return found

    def _add_metadata(self) -> None:
        """Have whole pages of metadata, in several groups of inodes, for saves to take over."""
        for at, name in enumerate((b"a", b"b", b"c"), 1):
            self.create(0, name, stat.S_IFREG, 0o644, 0, 0)
            self.setxattr(at, b"user.a", 20_000)

    def _dir(self, ino: int) -> Directory:
        return self._tree.directory(ino)  # type: ignore[no-any-return]

    def _directory(self, at: int) -> int:
        found = self.model.directories()
        return found[at % len(found)]

    def _any(self, at: int) -> int:
        return list(self.model.nodes)[at % len(self.model.nodes)]

    def _file(self, at: int) -> int | None:
        found = self.model.files()
        return found[at % len(found)] if found else None

    def _both(self, on_model: Callable[[], object], on_tree: Callable[[], object]) -> None:
        """Do it to both: they agree on the error, but the model never runs out of space."""
        before = copy.deepcopy(self.model)
        expected = _errno_of(on_model)
        found = _errno_of(on_tree)
        if found == errno.ENOSPC and expected == 0:
            self.model = before
        else:
            assert found == expected, f"{os.strerror(found)} instead of {os.strerror(expected)}"

    def _accept_partial_write(self, ino: int, before: bytes, error: OSError) -> None:
        """A write that finds no space may have been done in part, from its beginning on."""
        if error.errno != errno.ENOSPC:
            raise error
        node = self.model.nodes[ino]
        content = self._content_of(ino)
        wanted = bytes(node.data)
        assert len(before) <= len(content) <= len(wanted)
        old = before.ljust(len(wanted), b"\0")
        assert all(
            byte in pair for byte, pair in zip(content, zip(old, wanted, strict=True), strict=False)
        )
        node.data[:] = content

    def _accept_lost_promises(self, ino: int, pages: Iterable[int]) -> None:
        """Pages that are shared now are promised no room any more; all others still are."""
        promised = self.model.nodes[ino].promised
        file = self._tree.file(ino)
        lost = {page for page in promised if file.reserved is None or page not in file.reserved}
        assert lost <= set(pages), "a page has lost its room and is not shared"
        promised -= lost

    def _content_of(self, ino: int) -> bytes:
        file = self._tree.file(ino)
        return bytes(self._tree.data.read(file, 0, file.length))

    def _note_orphans(self) -> None:
        self.had_orphans |= any(not node.nlink for node in self.model.nodes.values())

    def _start_journal(self) -> None:
        image = self.volume.image
        image.journal.clear()
        self._content = image.content()
        self._first_generation = self.volume.pram.current.generation
        self.begun = {self._first_generation: [(self.volume.facts(), self.snapshots())]}

    def _load(self, image: WatchedImage, banned: Regions, frames: int, *, lazy: bool) -> None:
        """Go on in another process, with what is in `image`."""
        volume = self.volume
        volume.saver.settle()
        volume.pram.close()
        volume.image.close()
        pram = open_with_room(image, self.arena, banned, frames)
        volume.pram, volume.tree = pram, new_tree(pram)
        load_tree(pram, NAME, volume.tree, lazy=lazy)
        volume.saver = NotedSaver(self)
        self._keep_saves()
        self.model = forget_the_open(self.model)
        self.opened, self.had_orphans = [], False
        other = pram.prepare_load("other", BYTE_STREAM)
        assert other.read(1 << 20) == OTHER
        other.keep()
        self._start_journal()

    def _keep_saves(self) -> None:
        volume, keep = self.volume, Keep(saves=SAVES_KEPT)
        self._automatic = AutomaticSnapshots(volume.pram, volume.saver, volume.tree, keep)
        volume.tree.give_up = self._automatic.give_up

    def _check_save(self) -> None:
        volume = self.volume
        check_pram(volume.pram, volume.tree, orphans=self.had_orphans)
        if volume.image.journal:
            check_bans(volume.pram, ["other", NAME + META_SUFFIX, NAME + DATA_SUFFIX])


def open_with_room(image: WatchedImage, arena: str, banned: Regions, frames: int) -> Pram:
    """Open the image as a mount does, without the banned regions if that leaves too little room."""
    with contextlib.suppress(PramError):
        pram = Pram.open(image, arena=arena, banned=banned, frames=frames)
        tree = new_tree(pram)
        load_tree(pram, NAME, tree)
        Saver(pram, NAME, tree)
        needed = tree.space.frames_to_keep_free()
        pram.close()
        if pram.arena.table.unused >= needed:
            return Pram.open(image, arena=arena, banned=banned, frames=frames)
    return Pram.open(image, arena=arena, frames=frames)


def without_promises(tree: Tree) -> Tree:
    """What a snapshot of the tree holds."""
    return {ino: facts._replace(reserved=[]) for ino, facts in tree.items()}


def pages_of(file: File) -> Iterator[int]:
    """The pages of a file that are no holes."""
    for start, pfns in file.pages.chunks() if file.pages is not None else ():
        yield from (start + at for at, pfn in enumerate(pfns) if pfn)


def whole_pages(start: int, length: int) -> range:
    """The pages that lie in a range of bytes, and the last one, of which the file may have no more."""
    return range(-(-start // PAGE_SIZE), -(-(start + length) // PAGE_SIZE))


def node_of(volume: Volume, inode: Inode) -> Node:
    """An inode of the tree as the reference would have it."""
    node = Node(inode.ino, inode.mode, inode.uid, inode.gid, inode.nlink, inode.refs)
    node.xattrs, node.flags = dict(inode.xattrs or {}), inode.flags
    node.unnamed = inode in volume.tree._unnamed
    if isinstance(inode, File):
        node.data = bytearray(volume.tree.data.read(inode, 0, inode.length))
        node.promised = {page for pages in inode.reserved or () for page in range(*pages)}
    elif isinstance(inode, Directory):
        node.entries = {name: child.ino for name, child in inode.entries.items()}
        node.parent = inode.parent.ino
    elif isinstance(inode, Symlink):
        node.target = inode.target
    elif isinstance(inode, Special):
        node.rdev = inode.rdev
    return node


def reference_of(volume: Volume) -> Reference:
    """The reference of a tree that has just been loaded."""
    model = Reference()
    model.nodes = {ino: node_of(volume, inode) for ino, inode in volume.tree.inodes.items()}
    model.next_ino = volume.tree.next_ino
    return model


def forget_the_open(model: Reference) -> Reference:
    """Another process has no files open, and those without a name are gone."""
    model.nodes = {ino: node for ino, node in model.nodes.items() if node.nlink}
    for node in model.nodes.values():
        node.refs = 0
    return model


def _errno_of(operation: Callable[[], object]) -> int:
    try:
        operation()
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.parametrize("page_kib", [4, 16, 64])
@pytest.mark.parametrize("arena", ["image", "memory"])
def test_a_tree_is_like_the_reference_whatever_is_done(
    arena: str, page_kib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TreeMachine, "arena", arena)
    with kernel_with_pages(page_kib << 10):
        run_state_machine_as_test(
            TreeMachine,
            settings=settings(
                max_examples=(1000 if LONG else 40) if page_kib == 4 else (300 if LONG else 15),
                stateful_step_count=80 if LONG else 50,
                suppress_health_check=list(HealthCheck),
            ),
        )
