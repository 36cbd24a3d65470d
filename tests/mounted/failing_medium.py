"""A medium that fails on demand: one file, `image`, on a file system of the test's own.

It runs as a process of its own (`python -m tests.mounted.failing_medium MOUNTPOINT`) and keeps the file in
memory. What is to fail is said in extended attributes of its root; `Medium` is the test's end of it.
Requests are counted by kind. The kernel hands over each write and each sync as it was made; reads it asks
for in pieces of its own, and page by page where a piece fails.

    user.fail.KIND    "N ERRNO": of that kind request number N from now on, and all after it, fail
    user.hold.KIND    "N": they get no answer before the attribute is removed
    user.held         how many requests wait so
    user.count.KIND   how many requests there were, those that failed among them
    user.bad          "PFN PFN...": these pages cannot be read
"""

import contextlib
import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields

from tests.mounted.harness import PAGE, detach, mounts_below, wait_until
from tests.support.checkout import CHECKOUT

READ, WRITE, SYNC, RESIZE = KINDS = ("read", "write", "sync", "resize")

_IMAGE_INO = pyfuse3.ROOT_INODE + 1


class Medium:
    """The medium as a test has it in its hands."""

    def __init__(self, root: Path, process: "subprocess.Popen[bytes]") -> None:
        self.root = root
        self.image = root / "image"
        self._process = process

    @contextlib.contextmanager
    def failing(self, kind: str, at: int = 0, error: int = errno.EIO) -> Iterator[None]:
        """Let request number `at` of that kind, and all after it, fail inside the block."""
        os.setxattr(self.root, f"user.fail.{kind}", b"%d %d" % (at, error))
        try:
            yield
        finally:
            os.removexattr(self.root, f"user.fail.{kind}")

    @contextlib.contextmanager
    def unreadable(self, *pfns: int) -> Iterator[None]:
        """Let every read of these pages fail with EIO inside the block."""
        os.setxattr(self.root, "user.bad", b" ".join(b"%d" % pfn for pfn in pfns))
        try:
            yield
        finally:
            os.removexattr(self.root, "user.bad")

    @contextlib.contextmanager
    def holding(self, kind: str, at: int = 0) -> Iterator[None]:
        """Answer request number `at` of that kind, and all after it, only when the block is over."""
        os.setxattr(self.root, f"user.hold.{kind}", b"%d" % at)
        try:
            yield
        finally:
            os.removexattr(self.root, f"user.hold.{kind}")

    def wait_until_held(self) -> None:
        """Wait until a request is held."""
        wait_until(lambda: int(os.getxattr(self.root, "user.held")), "a request that is held")

    def vanish(self) -> None:
        """Be gone for good: every request fails with ENOTCONN."""
        self._process.kill()
        self._process.wait()

    def count(self, kind: str) -> int:
        """How many requests of that kind there have been."""
        return int(os.getxattr(self.root, f"user.count.{kind}"))


@contextlib.contextmanager
def new_medium(root: Path) -> Iterator[Medium]:
    """A medium that works, at the directory `root`, which is made; gone at the end with what is on it."""
    root.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.mounted.failing_medium", root],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
    )
    assert process.stdin is not None
    try:
        wait_until(lambda: mounts_below(root) or process.poll() is not None, "the medium")
        yield Medium(root, process)
    finally:
        for point in mounts_below(root):
            detach(point)
        process.kill()
        process.wait()
        process.stdin.close()


class _Faults:
    """Which requests fail or wait, and how many there were."""

    def __init__(self) -> None:
        self.held = 0
        self._counts = dict.fromkeys(KINDS, 0)
        self._fail: dict[str, tuple[int, int]] = {}
        self._hold: dict[str, tuple[int, trio.Event]] = {}
        self._bad: set[int] = set()

    async def meet(self, kind: str) -> None:
        """Count a request; raise what it must fail with."""
        number = self._counts[kind]
        self._counts[kind] += 1
        if kind in self._hold and number >= self._hold[kind][0]:
            self.held += 1
            await self._hold[kind][1].wait()
            self.held -= 1
        if kind in self._fail and number >= self._fail[kind][0]:
            raise FUSEError(self._fail[kind][1])

    def meet_bad_page(self, offset: int, size: int) -> None:
        """Raise EIO for a read that touches a page that cannot be read."""
        if not self._bad.isdisjoint(range(offset // PAGE, -(-(offset + size) // PAGE))):
            raise FUSEError(errno.EIO)

    def get(self, name: str) -> int:
        """The value of an attribute. Raises KeyError."""
        if name == "user.held":
            return self.held
        return self._counts[name.removeprefix("user.count.")]

    def set(self, name: str, value: str) -> None:
        """Obey an attribute that is set."""
        if name == "user.bad":
            self._bad = {int(pfn) for pfn in value.split()}
            return
        _, action, kind = name.split(".")
        at, *error = map(int, value.split())
        if action == "fail":
            self._fail[kind] = (self._counts[kind] + at, error[0])
        else:
            self._hold[kind] = (self._counts[kind] + at, trio.Event())

    def remove(self, name: str) -> None:
        """Obey an attribute that is removed."""
        if name == "user.bad":
            self._bad = set()
            return
        _, action, kind = name.split(".")
        if action == "fail":
            del self._fail[kind]
        else:
            self._hold.pop(kind)[1].set()


class _FileSystem(pyfuse3.Operations):
    """A root directory with one file in it."""

    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._content = bytearray()
        self._exists = False
        self._faults = _Faults()

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if name != b"image" or not self._exists:
            raise FUSEError(errno.ENOENT)
        return self._attributes(_IMAGE_INO)

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(inode)

    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        if fields.update_size:
            await self._faults.meet(RESIZE)
            del self._content[attr.st_size :]
            self._content.extend(bytes(attr.st_size - len(self._content)))
        return self._attributes(inode)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        if name != b"image":
            raise FUSEError(errno.EPERM)
        self._exists = True
        return FileInfo(fh=_IMAGE_INO), self._attributes(_IMAGE_INO)

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        await self._faults.meet(READ)
        self._faults.meet_bad_page(off, size)
        return bytes(self._content[off : off + size])

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        await self._faults.meet(WRITE)
        self._content.extend(bytes(max(0, off + len(buf) - len(self._content))))
        self._content[off : off + len(buf)] = buf
        return len(buf)

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._faults.meet(SYNC)

    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._exists = False
        self._content.clear()

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        pass

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        try:
            return b"%d" % self._faults.get(name.decode())
        except KeyError:
            raise FUSEError(errno.ENODATA) from None

    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return ()

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._faults.set(name.decode(), value.decode())
        if name in (b"user.fail.read", b"user.hold.read", b"user.bad"):
            pyfuse3.invalidate_inode(_IMAGE_INO)  # what the kernel has cached would be read still

    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self._faults.remove(name.decode())

    def _attributes(self, inode: int) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = inode
        is_root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = stat.S_IFDIR | 0o755 if is_root else stat.S_IFREG | 0o600
        entry.st_nlink = 1
        entry.st_size = 0 if is_root else len(self._content)
        entry.st_blksize = PAGE
        entry.st_blocks = entry.st_size // 512
        return entry


def _serve(root: str) -> None:
    pyfuse3.init(_FileSystem(), root, {"fsname=medium"})
    try:
        trio.run(_main)
    finally:
        pyfuse3.close(unmount=False)


async def _main() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with_the_test)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


async def _end_with_the_test() -> None:
    """Let requests go on when the test has been killed: its end of the pipe is closed then."""
    await trio.lowlevel.wait_readable(sys.stdin.fileno())
    os._exit(1)


if __name__ == "__main__":
    _serve(sys.argv[1])
