"""Snapshots below `.snapshots`: found, read when needed, kept for who reads them, and let go."""

import errno
import os
import stat
import threading
from array import array
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
import trio

from pramfs.errors import DamagedTree
from pramfs.fuse.protocol import (
    ATTR_OUT,
    BATCH_FORGET_IN,
    COPY_FILE_RANGE_IN,
    ENTRY_OUT,
    FORGET_ONE,
    GETATTR_IN,
    GETXATTR_IN,
    NOTIFY_INVAL_ENTRY,
    OPEN_IN,
    READ_IN,
    WRITE_CACHE,
    WRITE_IN,
    Opcode,
)
from pramfs.fuse.snapshot_view import FIRST_INO
from pramfs.saves.save import Saver
from pramfs.saves.snapshot_trees import SnapshotTree
from pramfs.saves.snapshots import drop_snapshot
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.inodes import File
from pramfs.tree.read_only import ReadOnlyTree
from pramfs.tree.tree import SNAPSHOTS_NAME, Owner, Tree
from tests.support.image_audit import check_pram
from tests.support.watched_image import new_pram, watched
from tests.unit.test_front import Mount

NAME = "pramfs"
CONTENT = bytes(range(256)) * 16 * 20
USER = Owner(1000, 1000)

# What only looks. Whatever else a tree can do must be refused by one that is only read.
LOOKS = {
    *(
        "adopt",
        "make_root",
        "forget",
        "named_inodes",
        "get",
        "find",
        "find_name",
        "directory",
        "file",
    ),
    *("lookup", "getxattr", "readlink", "seek", "touch_atime"),
}


class Found(NamedTuple):
    """A name that was looked up, or why not."""

    nodeid: int
    error: int
    name_valid_s: int


class Viewer(Mount):
    """A mount with a saver, whose tasks are run at once."""

    def __init__(self) -> None:
        super().__init__(512)
        self.saver = Saver(self.pram, NAME, self.tree)
        self._tasks: list[Callable[[], Awaitable[None]]] = []
        seam: Any = self.kernel
        self.engine.front.open(seam, self._spawn)
        self.engine.notices.open(seam, self._spawn)
        assert isinstance(self.file, File)
        self.tree.write(self.file, 0, CONTENT)
        self.take("one")

    def _spawn(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        self._tasks.append(lambda: task(*args))

    def damage(self, pfn: int) -> None:
        image = watched(self.pram)
        image.guarded = False
        image.write(pfn * PAGE_SIZE, b"damage")
        image.guarded = True

    def take(self, name: str) -> None:
        self.saver.save(final=False, progress=lambda pages: None, snapshot=f"{NAME}@{name}")

    def free(self, name: str) -> None:
        drop_snapshot(self.pram, NAME, name)
        self.save()

    def save(self) -> None:
        self.saver.save(final=False, progress=lambda pages: None)

    def run_tasks(self) -> None:
        while self._tasks:
            trio.run(self._tasks.pop(0))

    def ask(self, opcode: int, nodeid: int, body: bytes = b"") -> tuple[int, bytes]:
        """Return the errno and the reply."""
        self.kernel.replies.clear()
        self.serve(opcode, body, nodeid)
        self.run_tasks()
        replies = [reply for reply in self.kernel.replies if reply[0]]
        ((_, error, payload),) = replies
        return error, payload

    def lookup(self, nodeid: int, name: bytes) -> Found:
        error, payload = self.ask(Opcode.LOOKUP, nodeid, name + b"\0")
        if error:
            return Found(0, error, 0)
        fields = ENTRY_OUT.unpack_from(payload)
        return Found(fields[0], 0, fields[2])

    def way(self, *names: bytes) -> int:
        """The number of the inode at the end of these names."""
        nodeid = 1
        for name in names:
            found = self.lookup(nodeid, name)
            assert not found.error, name
            nodeid = found.nodeid
        return nodeid

    def read(self, nodeid: int) -> bytes:
        error, payload = self.ask(
            Opcode.READ, nodeid, READ_IN.pack(0, 0, 2 * len(CONTENT), 0, 0, 0, 0)
        )
        assert not error, os.strerror(error)
        return payload

    def forget(self, *nodeids: int) -> None:
        body = b"".join(FORGET_ONE.pack(nodeid, 1) for nodeid in nodeids)
        self.serve(Opcode.BATCH_FORGET, BATCH_FORGET_IN.pack(len(nodeids), 0) + body, 0)


@pytest.fixture
def viewer() -> Viewer:
    return Viewer()


def test_the_root_is_answered_for_without_reading_the_tree(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ls -l .snapshots` of a thousand snapshots must not have them all read."""
    monkeypatch.setattr(SnapshotTree, "read", lambda tree: pytest.fail("was read"))
    root = viewer.way(SNAPSHOTS_NAME, b"one")
    error, payload = viewer.ask(Opcode.GETATTR, root, GETATTR_IN.pack(0, 0, 0))
    assert not error
    mode = ATTR_OUT.unpack(payload)[12]
    assert stat.S_ISDIR(mode)
    for name in (b"system.posix_acl_access", b"security.capability"):
        error, _ = viewer.ask(Opcode.GETXATTR, root, GETXATTR_IN.pack(100, 0) + name + b"\0")
        assert error == errno.ENODATA


def test_a_snapshot_is_read_in_another_thread(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    read = SnapshotTree.read

    def noted(tree: SnapshotTree) -> list[Any]:
        threads.append(threading.current_thread())
        return read(tree)

    monkeypatch.setattr(SnapshotTree, "read", noted)
    assert viewer.read(viewer.way(SNAPSHOTS_NAME, b"one", b"file")) == CONTENT
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_names_that_come_and_go_are_not_kept(viewer: Viewer) -> None:
    directory = viewer.lookup(1, SNAPSHOTS_NAME)
    assert directory.nodeid == FIRST_INO
    assert directory.name_valid_s == 0
    assert viewer.lookup(FIRST_INO, b"one").name_valid_s == 0
    assert viewer.lookup(FIRST_INO, b"two").error == errno.ENOENT  # which the kernel does not keep
    viewer.take("two")
    assert viewer.lookup(FIRST_INO, b"two").nodeid
    viewer.free("two")
    assert viewer.lookup(FIRST_INO, b"two").error == errno.ENOENT
    assert viewer.lookup(viewer.way(SNAPSHOTS_NAME, b"one"), b"file").name_valid_s > 0


def test_a_reader_has_the_right_bytes_while_the_snapshot_is_freed(viewer: Viewer) -> None:
    file = viewer.way(SNAPSHOTS_NAME, b"one", b"file")
    assert isinstance(viewer.file, File)
    viewer.tree.write(viewer.file, 0, b"new" * len(CONTENT))
    viewer.free("one")
    for number in range(20):  # takes every frame that has come free
        other = viewer.tree.create(viewer.tree.root, b"%d" % number, stat.S_IFREG | 0o600, USER)
        assert isinstance(other, File)
        viewer.tree.write(other, 0, b"other" * 900)
        viewer.save()
        assert viewer.read(file) == CONTENT
    held = viewer.pram.arena.table.summary().used
    viewer.forget(FIRST_INO, (file >> 40) << 40, file)
    assert viewer.pram.arena.table.summary().used <= held - len(CONTENT) // PAGE_SIZE
    assert viewer.ask(Opcode.GETATTR, file, GETATTR_IN.pack(0, 0, 0))[0] == errno.ESTALE
    viewer.save()
    check_pram(viewer.pram, viewer.tree)


def test_a_root_that_was_not_read_yet_can_be_read_after_a_free(viewer: Viewer) -> None:
    root = viewer.way(SNAPSHOTS_NAME, b"one")
    viewer.free("one")
    assert isinstance(viewer.file, File)
    viewer.tree.write(viewer.file, 0, b"new" * 20000)
    viewer.save()
    assert viewer.read(viewer.lookup(root, b"file").nodeid) == CONTENT


def test_the_kernel_is_told_of_a_snapshot_that_is_freed(viewer: Viewer) -> None:
    viewer.way(SNAPSHOTS_NAME, b"one")
    viewer.kernel.replies.clear()
    viewer.free("one")
    viewer.run_tasks()
    ((unique, error, payload),) = viewer.kernel.replies
    assert (unique, -error) == (0, NOTIFY_INVAL_ENTRY)
    assert payload.endswith(b"one\0")


def test_one_that_is_taken_anew_under_a_name_is_another(viewer: Viewer) -> None:
    file = viewer.way(SNAPSHOTS_NAME, b"one", b"file")
    viewer.free("one")
    assert isinstance(viewer.file, File)
    viewer.tree.write(viewer.file, 0, b"anew")
    viewer.take("one")
    anew = viewer.way(SNAPSHOTS_NAME, b"one", b"file")
    assert anew != file
    assert viewer.read(anew)[:4] == b"anew"
    assert viewer.read(file) == CONTENT


def test_a_clone_of_a_file_in_a_snapshot_shares_its_frames(viewer: Viewer) -> None:
    source = viewer.way(SNAPSHOTS_NAME, b"one", b"file")
    target = viewer.tree.create(viewer.tree.root, b"clone", stat.S_IFREG | 0o600, USER)
    used = viewer.pram.arena.table.summary().used
    body = COPY_FILE_RANGE_IN.pack(0, 0, target.ino, 0, 0, len(CONTENT), 0)
    error, _ = viewer.ask(Opcode.COPY_FILE_RANGE, source, body)
    assert not error
    assert viewer.pram.arena.table.summary().used == used
    assert viewer.read(target.ino) == CONTENT
    viewer.free("one")
    viewer.save()
    assert viewer.read(target.ino) == CONTENT
    body = COPY_FILE_RANGE_IN.pack(0, 0, source, 0, 0, 1, 0)
    assert viewer.ask(Opcode.COPY_FILE_RANGE, target.ino, body)[0] == errno.EROFS


def test_a_damaged_page_is_an_error_and_no_other_bytes(viewer: Viewer) -> None:
    assert isinstance(viewer.file, File)
    assert viewer.file.pages is not None
    victim = viewer.file.pages.get(3)
    viewer.tree.write(viewer.file, 0, b"new" * 30000)
    viewer.save()
    viewer.pram.arena.set_csums(victim, array("I", [0]))  # as in a run that has not written it
    viewer.damage(victim)
    file = viewer.way(SNAPSHOTS_NAME, b"one", b"file")
    error, _ = viewer.ask(Opcode.READ, file, READ_IN.pack(0, 0, len(CONTENT), 0, 0, 0, 0))
    assert error == errno.EIO


def test_damaged_metadata_is_an_error_of_the_one_snapshot(viewer: Viewer) -> None:
    viewer.take("two")
    node = viewer.pram.nodes[f"{NAME}@two-meta"]
    viewer.damage(node.link_pfn)
    viewer.way(SNAPSHOTS_NAME)
    assert viewer.lookup(FIRST_INO, b"two").error == errno.EIO
    assert viewer.read(viewer.way(SNAPSHOTS_NAME, b"one", b"file")) == CONTENT
    assert not viewer.internal_errors


def test_one_who_is_interrupted_leaves_nothing_behind(viewer: Viewer) -> None:
    root = viewer.way(SNAPSHOTS_NAME, b"one")
    viewer.kernel.replies.clear()
    viewer.serve(Opcode.LOOKUP, b"file\0", root, unique=8)
    viewer.serve(Opcode.INTERRUPT, (8).to_bytes(8, "little"), 0, unique=9)
    viewer.run_tasks()
    assert [reply[:2] for reply in viewer.kernel.replies] == [(8, errno.EINTR)]
    viewer.forget(root)
    assert viewer.ask(Opcode.GETATTR, root, GETATTR_IN.pack(0, 0, 0))[0] == errno.ESTALE


def test_what_the_page_cache_hands_over_is_refused_and_no_save_suffers(viewer: Viewer) -> None:
    file = viewer.way(SNAPSHOTS_NAME, b"one", b"file")
    body = WRITE_IN.pack(0, 0, 4, WRITE_CACHE, 0, 0, 0) + b"data"
    before = viewer.tree.data.refused.count
    assert viewer.ask(Opcode.WRITE, file, body)[0] == errno.EROFS
    assert viewer.tree.data.refused.count == before + 1
    assert viewer.saver.shortfall() is None
    assert viewer.read(file) == CONTENT


def test_a_listing_has_names_and_reads_nothing(
    viewer: Viewer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotTree, "read", lambda tree: pytest.fail("was read"))
    viewer.take("two")
    directory = viewer.way(SNAPSHOTS_NAME)
    _, opened = viewer.ask(Opcode.OPENDIR, directory, OPEN_IN.pack(0, 0))
    handle = int.from_bytes(opened[:8], "little")

    def listed(start: int) -> bytes:
        body = READ_IN.pack(handle, start, 4096, 0, 0, 0, 0)
        return viewer.ask(Opcode.READDIRPLUS, directory, body)[1]

    assert b"one" in listed(0)
    assert b"two" in listed(0)
    viewer.free("one")
    assert b"two" in listed(3)  # whose position has not changed
    assert listed(4) == b""


def test_the_mounted_tree_can_make_no_number_of_a_snapshot(viewer: Viewer) -> None:
    viewer.tree.next_ino = FIRST_INO
    with pytest.raises(OSError, match="No space left"):
        viewer.tree.create(viewer.tree.root, b"last", stat.S_IFREG | 0o600, USER)


def test_a_snapshot_of_a_hostile_name_is_no_entry(viewer: Viewer) -> None:
    names = [f"{NAME}@{name}" for name in ("a/b", "..", "", "x@y")]
    for name in names:
        for suffix in ("-meta", "-data", "-more"):
            node = viewer.pram.nodes.get(f"{NAME}@one{suffix}")
            if node is not None:
                viewer.pram.nodes[name + suffix] = node
    assert [entry[0] for entry in viewer.engine.snapshots.listing(1)] == [b"one"]
    viewer.way(SNAPSHOTS_NAME)
    for hostile in (b"a/b", b"", b"x@y"):
        assert viewer.lookup(FIRST_INO, hostile).error == errno.ENOENT


def test_a_directory_of_that_name_stays_and_hides_the_snapshots(viewer: Viewer) -> None:
    root = viewer.tree.root
    own = viewer.tree.create(root, b"other", stat.S_IFDIR | 0o755, USER)
    root.entries[SNAPSHOTS_NAME] = root.entries.pop(b"other")  # as another program has made it
    assert viewer.lookup(1, SNAPSHOTS_NAME).nodeid == own.ino
    viewer.tree.rename(root, SNAPSHOTS_NAME, root, b"moved")
    assert viewer.lookup(1, SNAPSHOTS_NAME).nodeid == FIRST_INO


def test_a_tree_that_is_only_read_refuses_whatever_changes_it() -> None:
    tree = ReadOnlyTree(new_pram(64).arena, inodes_max=1, generation=1)
    for name in sorted(name for name in dir(Tree) if not name.startswith("_")):
        if name in LOOKS or not callable(getattr(Tree, name)):
            continue
        with pytest.raises(OSError, match="Read-only"):
            getattr(tree, name)()


def test_a_damaged_tree_says_which(viewer: Viewer) -> None:
    node = viewer.pram.nodes[f"{NAME}@one-meta"]
    viewer.damage(node.link_pfn)
    with pytest.raises(DamagedTree, match="pramfs@one"):
        viewer.engine.snapshots.snapshot(b"one")
