"""A mount and a tmpfs directory get the same random calls, and must look alike after each of them.

Remounts, saves, SIGKILL, new banned regions and a growing image come in between. What a daemon takes with it
when it is killed is what was not published: the tmpfs directory then goes back to the last save, too.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import LONG
from tests.mounted.harness import KIB, MIB, PAGE, Volume, run
from tests.mounted.posix.scene import errno_of
from tests.mounted.system import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, renameat2

SIZES = ("32M", "40M", "48M")

paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
offsets = st.one_of(
    st.integers(0, 200 * KIB), st.sampled_from([0, 1, PAGE - 1, PAGE, PAGE + 1, 16 * PAGE])
)
contents = st.builds(
    lambda seed, size: (hashlib.sha256(bytes([seed])).digest() * (size // 32 + 1))[:size],
    st.integers(0, 255),
    offsets,
)
renames = st.sampled_from([
    0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT, RENAME_WHITEOUT | RENAME_NOREPLACE,
])  # fmt: skip
modes = st.sampled_from([0o000, 0o644, 0o755, 0o1777, 0o2755, 0o4711])
regions = st.tuples(st.integers(0, 20), st.integers(1, 6)).map(
    lambda region: f"banned={region[0]}M-{region[0] + region[1]}M"
)


class Twins(RuleBasedStateMachine):
    """`self._roots` are the tmpfs directory and the mount. What is done, is done to both."""

    def __init__(self) -> None:
        super().__init__()
        self._home = Path(tempfile.mkdtemp(prefix="pramfs-test-", dir="/dev/shm"))
        self._published = self._home / "published"
        self._model = self._home / "model"
        self._model.mkdir()
        self._open: list[tuple[int, int]] = []
        self._size = 0
        self._options: tuple[str, ...] = ()

    @initialize(
        arena=st.sampled_from(["image", "memory"]), direct_io=st.sampled_from([(), ("direct_io",)])
    )
    def mount(self, arena: str, direct_io: tuple[str, ...]) -> None:
        self._volume = Volume(self._home, arena, SIZES[0])
        # A whiteout is a device: without `dev` it cannot even be tried to open.
        self._options = ("dev", *direct_io)
        self._volume.mount(*self._options)
        self._roots = (self._model, self._volume.root)
        self._publish()

    def teardown(self) -> None:
        self._close_all()
        if hasattr(self, "_volume"):
            self._volume.finish()
        shutil.rmtree(self._home)

    # --- calls -----------------------------------------------------------------------------------

    @rule(path=paths, offset=offsets, data=contents)
    def write(self, path: str, offset: int, data: bytes) -> None:
        def call(root: Path) -> None:
            fd = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o644)
            with contextlib.closing(os.fdopen(fd, "wb", buffering=0)):
                os.pwrite(fd, data, offset)

        self._both(call)

    @rule(path=paths, data=contents)
    def replace(self, path: str, data: bytes) -> None:
        def call(root: Path) -> None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
            with os.fdopen(os.open(root / path, flags, 0o644), "wb") as file:
                file.write(data)

        self._both(call)

    @rule(path=paths, size=offsets)
    def truncate(self, path: str, size: int) -> None:
        self._both(lambda root: os.truncate(root / path, size))

    @rule(path=paths)
    def mkdir(self, path: str) -> None:
        self._both(lambda root: (root / path).mkdir())

    @rule(path=paths, to=paths)
    def symlink(self, path: str, to: str) -> None:
        self._both(lambda root: (root / path).symlink_to(to))

    @rule(path=paths, kind=st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK]))
    def mknod(self, path: str, kind: int) -> None:
        self._both(lambda root: os.mknod(root / path, kind | 0o640))

    @rule(path=paths, new=paths)
    def link(self, path: str, new: str) -> None:
        self._both(lambda root: os.link(root / path, root / new, follow_symlinks=False))

    @rule(path=paths)
    def unlink(self, path: str) -> None:
        self._both(lambda root: (root / path).unlink())

    @rule(path=paths)
    def rmdir(self, path: str) -> None:
        self._both(lambda root: (root / path).rmdir())

    @rule(path=paths, new=paths, flags=renames)
    def rename(self, path: str, new: str, flags: int) -> None:
        self._both(lambda root: renameat2(root / path, root / new, flags))

    @rule(path=paths, mode=modes)
    def chmod(self, path: str, mode: int) -> None:
        self._both(lambda root: (root / path).chmod(mode))

    @rule(path=paths, uid=st.integers(0, 3), gid=st.integers(0, 3))
    def chown(self, path: str, uid: int, gid: int) -> None:
        self._both(lambda root: os.lchown(root / path, uid, gid))

    @rule(path=paths, name=st.sampled_from(["user.x", "trusted.y"]), value=st.binary(max_size=99))
    def setxattr(self, path: str, name: str, value: bytes) -> None:
        self._both(lambda root: os.setxattr(root / path, name, value, follow_symlinks=False))

    @rule(path=paths, name=st.sampled_from(["user.x", "trusted.y"]))
    def removexattr(self, path: str, name: str) -> None:
        self._both(lambda root: os.removexattr(root / path, name, follow_symlinks=False))

    # --- open files ------------------------------------------------------------------------------

    @precondition(lambda self: len(self._open) < 3)
    @rule(path=paths)
    def open_file(self, path: str) -> None:
        fds: list[int] = []
        flags = os.O_RDWR | os.O_NONBLOCK
        self._both(lambda root: fds.append(_open_file(root / path, flags)))
        if fds:
            self._open.append((fds[0], fds[1]))

    @precondition(lambda self: self._open)
    @rule(offset=offsets, data=contents)
    def write_open(self, offset: int, data: bytes) -> None:
        for fd in self._open[0]:
            os.pwrite(fd, data, offset)

    @precondition(lambda self: self._open)
    @rule(size=offsets)
    def truncate_open(self, size: int) -> None:
        for fd in self._open[-1]:
            os.ftruncate(fd, size)

    @precondition(lambda self: self._open)
    @rule()
    def close(self) -> None:
        for fd in self._open.pop(0):
            os.close(fd)

    # --- saves -----------------------------------------------------------------------------------

    @rule()
    def save(self) -> None:
        os.setxattr(self._volume.root, "user.pramfs.save", b"1")
        self._publish()

    # One rule for all that takes a second.
    @rule(how=st.sampled_from(["remount", "ban", "grow", "kill"]), region=regions)
    def restart(self, how: str, region: str) -> None:
        self._close_all()
        if how == "kill":
            self._kill()
        else:
            self._size = min(self._size + (how == "grow"), len(SIZES) - 1)
            self._remount(*([region] if how == "ban" else []))

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def they_look_alike(self) -> None:
        if hasattr(self, "_roots"):
            model, mount = (_tree(root, ignored=self._ignored) for root in self._roots)
            assert mount == model
            for fds in self._open:
                on_model, on_mount = (_content(fd) for fd in fds)
                assert on_mount == on_model

    # --- helpers ---------------------------------------------------------------------------------

    @property
    def _ignored(self) -> int:
        """Mode bits of files that may differ: see docs/limits.md."""
        return stat.S_ISUID | stat.S_ISGID if "direct_io" in self._options else 0

    def _both(self, call: Callable[[Path], object]) -> None:
        on_model, on_mount = (errno_of(lambda root=root: call(root)) for root in self._roots)  # type: ignore[misc]
        assert on_mount == on_model

    def _remount(self, *options: str) -> None:
        before = _tree(self._volume.root, times=True)
        self._volume.umount()
        self._mount(*options)
        assert _tree(self._volume.root, times=True) == before
        self._publish()

    def _kill(self) -> None:
        assert self._volume.generation == self._generation, "nobody asked for a save"
        self._volume.kill()
        self._mount()
        run("rm", "-rf", self._model).succeeded()
        run("cp", "-a", self._published, self._model).succeeded()

    def _mount(self, *options: str) -> None:
        self._volume.mount(*self._options, f"size={SIZES[self._size]}", *options)

    def _publish(self) -> None:
        """Note that what there is now is what a kill leaves."""
        self._generation = self._volume.generation
        run("rm", "-rf", self._published).succeeded()
        run("cp", "-a", self._model, self._published).succeeded()

    def _close_all(self) -> None:
        while self._open:
            self.close()


def test_a_mount_behaves_as_tmpfs_under_random_operations() -> None:
    phases = [Phase.generate, Phase.shrink] if LONG else [Phase.generate]
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=1000 if LONG else 8,
            stateful_step_count=100 if LONG else 50,
            phases=phases,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def _open_file(path: Path, flags: int) -> int:
    """Open a regular file, and nothing else: a fifo would hold its bytes back from a comparison."""
    fd = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(22, os.strerror(22))
    return fd


def _tree(root: Path, *, times: bool = False, ignored: int = 0) -> dict[str, tuple[object, ...]]:
    """All that can be seen below `root`, by path; but for mode bits of files that are `ignored`."""
    found: dict[str, tuple[object, ...]] = {}
    first_of_inode: dict[int, str] = {}
    unvisited = [root]
    while unvisited:
        directory = unvisited.pop()
        for name in sorted(os.listdir(directory)):
            path = directory / name
            seen = path.lstat()
            where = str(path.relative_to(root))
            body: object = None
            mode = seen.st_mode
            if path.is_symlink():
                body = os.readlink(path)
            elif stat.S_ISDIR(seen.st_mode):
                unvisited.append(path)
            elif stat.S_ISREG(seen.st_mode):
                body = hashlib.sha256(path.read_bytes()).hexdigest()
                mode &= ~ignored
            xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in _xattrs(path)}
            same_as = first_of_inode.setdefault(seen.st_ino, where)
            fields = (mode, seen.st_nlink, seen.st_uid, seen.st_gid, seen.st_size)
            found[where] = (*fields, seen.st_rdev, same_as, sorted(xattrs.items()), body)
            if times:
                found[where] += (seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_blocks)
    return found


def _xattrs(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _content(fd: int) -> tuple[int, int, bytes]:
    seen = os.fstat(fd)
    return seen.st_size, seen.st_nlink, os.pread(fd, 2 * MIB, 0)
