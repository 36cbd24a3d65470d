"""A tree in an image, in the hands of a test: paths instead of inodes, saves, reopened at will."""

import contextlib
import errno
import stat
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from pramfs.errors import FramesHeld, SaveFailed, posix_error
from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.storage.layout import PAGE_SIZE
from pramfs.storage.piped import Piped
from pramfs.storage.regions import Regions
from pramfs.tree.attributes import Changes
from pramfs.tree.inodes import Directory, File, Inode, Special, Symlink
from pramfs.tree.tree import Owner, Tree
from tests.support.image_audit import Walk, check_pram
from tests.support.watched_image import WatchedImage, new_pram, reopen, watched

R = TypeVar("R")

NAME = "pramfs"
USER = Owner(1000, 1001)


class Facts(NamedTuple):
    """Everything that a save keeps of an inode."""

    generation: int
    mode: int
    uid: int
    gid: int
    nlink: int
    times: tuple[int, int, int, int]
    size: int
    rdev: int
    content: bytes  # of a file, its pages; of a symbolic link, its target
    entries: dict[bytes, int]
    xattrs: dict[bytes, bytes]
    flags: int
    reserved: list[tuple[int, int]]


class PatientTree(Tree):
    """A tree whose callers wait for room, as those of a mount do: calls go on after a save."""

    saver: Saver
    give_up: Callable[[], None] = staticmethod(lambda: None)  # what only `keep=` keeps

    def write(
        self, file: File, offset: int, data: bytes | memoryview | Piped, *, set_times: bool = True
    ) -> int:
        assert not isinstance(data, Piped)
        written = 0

        def write_on() -> int:
            nonlocal written
            try:
                super(PatientTree, self).write(
                    file, offset + written, memoryview(data)[written:], set_times=set_times
                )
            except FramesHeld as held:
                written += held.written
                raise
            return len(data)

        return self._wait_for_room(write_on)

    def fallocate(self, *args: Any, **kwargs: Any) -> None:
        self._wait_for_room(lambda: super(PatientTree, self).fallocate(*args, **kwargs))

    def copy_range(self, *args: Any, **kwargs: Any) -> int:
        return self._wait_for_room(lambda: super(PatientTree, self).copy_range(*args, **kwargs))

    def create(self, *args: Any, **kwargs: Any) -> Inode:
        return self._wait_for_room(lambda: super(PatientTree, self).create(*args, **kwargs))

    def create_unnamed(self, *args: Any) -> Inode:
        return self._wait_for_room(lambda: super(PatientTree, self).create_unnamed(*args))

    def link(self, *args: Any) -> None:
        self._wait_for_room(lambda: super(PatientTree, self).link(*args))

    def rename(self, *args: Any) -> None:
        self._wait_for_room(lambda: super(PatientTree, self).rename(*args))

    def setattr(self, *args: Any) -> None:
        self._wait_for_room(lambda: super(PatientTree, self).setattr(*args))

    def setxattr(self, *args: Any, **kwargs: Any) -> None:
        self._wait_for_room(lambda: super(PatientTree, self).setxattr(*args, **kwargs))

    def _wait_for_room(self, operation: Callable[[], R]) -> R:
        for _ in range(4):
            try:
                return operation()
            except FramesHeld:
                if not self._make_room():
                    break
        raise posix_error(errno.ENOSPC)

    def _make_room(self) -> bool:
        saver = self.saver
        self.give_up()
        if saver._running is not None:
            saver.settle()
        else:
            with contextlib.suppress(SaveFailed):
                saver.save(final=False, progress=lambda pages: None)
        return saver.error is None


class Volume:
    """A tree NAME in a Pram, with the saver of it."""

    tree: PatientTree

    def __init__(
        self, frames: int = 256, *, arena: str = "image", pram: Pram | None = None
    ) -> None:
        self.arena = arena
        self.pram = pram or new_pram(frames, arena=arena)
        self.tree = new_tree(self.pram)
        self.tree.make_root(0o755, Owner(0, 0))
        self.saver = Saver(self.pram, NAME, self.tree)

    @property
    def saver(self) -> Saver:
        return self.tree.saver

    @saver.setter
    def saver(self, saver: Saver) -> None:
        self.tree.saver = saver

    @property
    def image(self) -> WatchedImage:
        return watched(self.pram)

    def save(self, *, final: bool = True) -> None:
        self.saver.save(final=final, progress=lambda frames: None)

    def start(self) -> None:
        self.saver.start(lambda frames: None)

    def reopen(
        self, *, banned: Regions | None = None, frames: int = 0, lazy: bool = False
    ) -> "Volume":
        """Load the tree in the next process. What was not published is lost."""
        self.saver.settle()
        self.pram = reopen(self.pram, arena=self.arena, banned=banned, frames=frames)
        self.tree = new_tree(self.pram)
        load_tree(self.pram, NAME, self.tree, lazy=lazy)
        self.saver = Saver(self.pram, NAME, self.tree)
        return self

    def check(self, *, orphans: bool = False) -> Walk:
        return check_pram(self.pram, self.tree, orphans=orphans)

    # --- by path ---------------------------------------------------------------------------------

    def inode(self, path: str) -> Inode:
        inode: Inode = self.tree.root
        for name in path.encode().split(b"/"):
            if name:
                assert isinstance(inode, Directory)
                inode = self.tree.lookup(inode, name)
        return inode

    def directory(self, path: str) -> Directory:
        inode = self.inode(path)
        assert isinstance(inode, Directory)
        return inode

    def file(self, path: str) -> File:
        inode = self.inode(path)
        assert isinstance(inode, File)
        return inode

    def create(self, path: str, content: bytes = b"", mode: int = 0o644) -> File:
        parent, name = self.parent(path)
        file = self.tree.create(parent, name, stat.S_IFREG | mode, USER)
        assert isinstance(file, File)
        if content:
            self.tree.write(file, 0, content)
        return file

    def mkdir(self, path: str, mode: int = 0o755) -> Directory:
        parent, name = self.parent(path)
        directory = self.tree.create(parent, name, stat.S_IFDIR | mode, USER)
        assert isinstance(directory, Directory)
        return directory

    def symlink(self, path: str, target: bytes) -> Inode:
        parent, name = self.parent(path)
        return self.tree.create(parent, name, stat.S_IFLNK | 0o777, USER, target=target)

    def mknod(self, path: str, mode: int, rdev: int = 0) -> Inode:
        parent, name = self.parent(path)
        return self.tree.create(parent, name, mode, USER, rdev=rdev)

    def link(self, path: str, new_path: str) -> None:
        parent, name = self.parent(new_path)
        self.tree.link(self.inode(path), parent, name)

    def unlink(self, path: str) -> None:
        self.tree.unlink(*self.parent(path))

    def rmdir(self, path: str) -> None:
        self.tree.rmdir(*self.parent(path))

    def rename(self, path: str, new_path: str, flags: int = 0) -> None:
        self.tree.rename(*self.parent(path), *self.parent(new_path), flags, USER)

    def read(self, path: str) -> bytes:
        file = self.file(path)
        return bytes(self.tree.data.read(file, 0, file.length))

    def truncate(self, path: str, size: int) -> None:
        self.tree.setattr(self.inode(path), Changes(size=size))

    def parent(self, path: str) -> tuple[Directory, bytes]:
        above, _, name = path.rpartition("/")
        return self.directory(above), name.encode()

    def facts(self) -> dict[int, Facts]:
        """What a save must bring back, by inode number."""
        return {
            ino: self._facts_of(inode) for ino, inode in self.tree.inodes.items() if inode.nlink
        }

    def _facts_of(self, inode: Inode) -> Facts:
        content, entries = b"", {}
        if isinstance(inode, File):
            content = self._content_of(inode)
        elif isinstance(inode, Symlink):
            content = inode.target
        elif isinstance(inode, Directory):
            entries = {name: child.ino for name, child in inode.entries.items()}
            assert inode.parent.entries or inode.parent is inode
        return Facts(
            inode.generation,
            inode.mode,
            inode.uid,
            inode.gid,
            inode.nlink,
            (inode.atime, inode.mtime, inode.ctime, inode.born),
            inode.size,
            inode.rdev if isinstance(inode, Special) else 0,
            content,
            entries,
            dict(inode.xattrs or {}),
            inode.flags,
            list(inode.reserved or ()) if isinstance(inode, File) else [],
        )

    def _content_of(self, file: File) -> bytes:
        """All pages that are not zeros, each after its index: files may be sparse and huge."""
        pieces = []
        for start, pfns in file.pages.chunks() if file.pages is not None else ():
            for index in (start + at for at, pfn in enumerate(pfns) if pfn):
                page = bytes(self.tree.data.read(file, index * PAGE_SIZE, PAGE_SIZE))
                if page.strip(b"\0"):
                    pieces += [index.to_bytes(8, "little"), page]
        return b"".join(pieces)


def new_tree(pram: Pram) -> PatientTree:
    return PatientTree(
        pram.arena, inodes_max=len(pram.arena.table), generation=pram.current.generation
    )
