"""The peers: file systems that a round of a workload runs on, each mounted afresh every time.

Every peer keeps its data in tmpfs; what differs is what stands between it and the program.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks import mounts
from benchmarks.commands import CommandError, remove_tree, run, timed
from benchmarks.figures import PRAMFS

TMPFS = "tmpfs"
PASSTHROUGH = "passthrough_ll"
PASSTHROUGH_XATTR = "passthrough_ll, xattr"
PASSTHROUGH_ALIKE = "passthrough_ll, alike"
PASSTHROUGH_NO_WRITEBACK = "passthrough_ll, no writeback"
BINDFS = "bindfs"
FLOOR = "pyfuse3"
RAW_LOOP = "raw loop"

# The first caches as pramfs does and is the one that targets name. Without `xattr` it has no extended
# attributes, which spares it the kernel's question for security.capability before every write. The third
# leaves the checks of permissions to the kernel, too, and so gets all the requests that pramfs gets.
PASSTHROUGH_OPTIONS = {
    PASSTHROUGH: "cache=always,writeback",
    PASSTHROUGH_XATTR: "cache=always,writeback,xattr",
    PASSTHROUGH_ALIKE: "cache=always,writeback,xattr,default_permissions",
    PASSTHROUGH_NO_WRITEBACK: "cache=always",
}

GONE_TIMEOUT_S = 600.0
CLEAN_UP_S = 5.0

_CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Root:
    """A peer's mounted root. `can_cool`: it is a mount of its own, whose caches can be dropped.

    `pid`: of its daemon, if it has one.
    """

    path: Path
    can_cool: bool
    pid: int | None = None


class Peer(Protocol):
    """One file system under test."""

    @property
    def name(self) -> str:
        """As it is called in the table."""

    def mounted(self) -> AbstractContextManager[Root]:
        """Mount it empty; unmount it and delete its data at the end."""


@contextmanager
def scratch(work: Path) -> Iterator[Path]:
    """Give a new directory below *work*, and delete it afterwards."""
    directory = Path(tempfile.mkdtemp(dir=work))
    try:
        yield directory
    finally:
        remove_tree(directory)


class Tmpfs:
    """A plain directory of the tmpfs that all others store in: the limit."""

    name = TMPFS

    def __init__(self, work: Path) -> None:
        self._work = work

    @contextmanager
    def mounted(self) -> Iterator[Root]:
        with scratch(self._work) as directory:
            yield Root(directory, can_cool=False)


class Foreground:
    """A FUSE file system that stays our child while it is mounted.

    *command* gets the directory to store in and the mountpoint, and returns the words to run.
    """

    def __init__(self, name: str, work: Path, command: Callable[[Path, Path], list[str]]) -> None:
        self.name = name
        self._work = work
        self._command = command

    @contextmanager
    def mounted(self) -> Iterator[Root]:
        with scratch(self._work) as directory:
            store, mountpoint, log = (directory / name for name in ("store", "mnt", "log"))
            store.mkdir()
            mountpoint.mkdir()
            with log.open("w", encoding="utf-8") as output:
                child = self._start(self._command(store, mountpoint), output.fileno())
            try:
                self._wait(mountpoint, child, log)
                yield Root(mountpoint, can_cool=True, pid=child.pid)
            finally:
                self._stop(mountpoint, child)

    def _start(self, words: list[str], output: int) -> subprocess.Popen[bytes]:
        try:
            # A session of its own: Ctrl-C is for the benchmark, which then unmounts in order.
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise CommandError(f"{words[0]} is not installed") from None

    def _wait(self, mountpoint: Path, child: subprocess.Popen[bytes], log: Path) -> None:
        try:
            mounts.wait_for_mount(mountpoint, child.pid)
        except (ChildProcessError, TimeoutError) as error:
            last_words = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise CommandError(f"{error}; {''.join(last_words)}") from None

    def _stop(self, mountpoint: Path, child: subprocess.Popen[bytes]) -> None:
        # Whoever still uses it keeps it no longer than the child lives.
        if mounts.is_mounted(mountpoint):
            mounts.unmount(mountpoint, mounts.MNT_DETACH)
        else:
            child.kill()
        try:
            child.wait(timeout=CLEAN_UP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Pramfs:
    """pramfs as its users run it: `pramfs mount`, a daemon, an image on tmpfs."""

    name = PRAMFS

    def __init__(self, python: str, work: Path, size_bytes: int, *options: str) -> None:
        self.options = (f"size={size_bytes}", *options)
        self._program = (python, "-m", "pramfs")
        self._environment = os.environ | {"PYTHONPATH": str(_CHECKOUT)}
        self._work = work

    @contextmanager
    def mounted(self) -> Iterator[Root]:
        with self.image() as image:
            image.mount()
            yield Root(image.mountpoint, can_cool=True, pid=image.daemon.pid)

    @contextmanager
    def image(self) -> Iterator["Image"]:
        """Give a new image, not mounted; unmount it and delete it at the end."""
        with scratch(self._work) as directory:
            image = Image(self, directory)
            try:
                yield image
            finally:
                image.clean_up()

    def timed(self, *words: str | Path) -> float:
        """Run one pramfs command and return its seconds. Raises CommandError."""
        return timed(*self._program, *words, env=self._environment)

    def output(self, *words: str | Path) -> str:
        """Run one pramfs command and return what it printed. Raises CommandError."""
        return run(*self._program, *words, env=self._environment)


class Image:
    """One image of a pramfs and the mountpoint it goes to."""

    def __init__(self, pramfs: Pramfs, directory: Path) -> None:
        self.path = directory / "image"
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir()
        self.detached_s = 0.0  # that umount2(2) itself took last
        self._daemon: mounts.Daemon | None = None
        self._pramfs = pramfs

    @property
    def daemon(self) -> mounts.Daemon:
        """Its daemon, while it is mounted. Raises CommandError when it is not."""
        if self._daemon is None:
            raise CommandError(f"{self.path} is not mounted")
        return self._daemon

    def mount(self, *options: str) -> float:
        """Mount it and return the seconds until the command says that it is usable."""
        words = ",".join((*self._pramfs.options, *options))
        seconds = self._pramfs.timed("mount", "-o", words, self.path, self.mountpoint)
        if not mounts.is_mounted(self.mountpoint):
            raise CommandError("pramfs mount returned 0 and nothing is mounted")
        pid = next(mounts.holders(self.path), None)
        if pid is None:
            raise CommandError("pramfs mount returned 0 and no process has the image open")
        self._daemon = mounts.Daemon(pid)
        return seconds

    def unmount(self) -> float:
        """Unmount it and return the seconds until its daemon is gone, and so has saved."""
        daemon = self.daemon
        start = time.perf_counter()
        mounts.unmount(self.mountpoint)
        self.detached_s = time.perf_counter() - start
        daemon.wait(GONE_TIMEOUT_S)
        seconds = time.perf_counter() - start
        daemon.close()
        self._daemon = None
        return seconds

    def save(self) -> float:
        """Unmount it after a change, like `unmount`; a daemon that died on the way did not save."""
        generation = self._info()["generation"]
        seconds = self.unmount()
        if self._info()["generation"] <= generation:
            raise CommandError("the daemon is gone and nothing was saved")
        return seconds

    def clean_up(self) -> None:
        """Leave no mount and no daemon, in whatever state they are; nothing is worth saving."""
        if mounts.is_mounted(self.mountpoint):
            mounts.unmount(self.mountpoint, mounts.MNT_DETACH)
        for pid in mounts.holders(self.path):
            with contextlib.suppress(ProcessLookupError):
                mounts.Daemon(pid).end(CLEAN_UP_S)

    def frames_used(self) -> int:
        """How many frames its last save takes, by `pramfs info`."""
        return int(self._info()["frames"]["used"])

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = json.loads(self._pramfs.output("info", "--json", self.path))
        return info


def passthrough(name: str, work: Path, program: Path) -> Foreground:
    """Return the passthrough_ll of libfuse, in C, over tmpfs; *name* says with which options."""

    def command(store: Path, mountpoint: Path) -> list[str]:
        options = f"source={store},{PASSTHROUGH_OPTIONS[name]}"
        return [str(program), "-f", "-o", options, str(mountpoint)]

    return Foreground(name, work, command)


def bindfs(work: Path) -> Foreground:
    """Return Debian's bindfs over tmpfs. Without big_writes it would take 4 KiB at a time."""

    def command(store: Path, mountpoint: Path) -> list[str]:
        program = shutil.which("bindfs") or "bindfs"
        return [program, "-f", "-o", "big_writes", str(store), str(mountpoint)]

    return Foreground(BINDFS, work, command)


def floor(name: str, work: Path, python: str, file_size_bytes: int) -> Foreground:
    """Return the constant-answer file system, in which every file has the same size."""
    program = "raw_loop" if name == RAW_LOOP else "floor"

    def command(store: Path, mountpoint: Path) -> list[str]:
        module = [python, "-m", f"benchmarks.{program}", str(mountpoint), str(file_size_bytes)]
        return ["env", f"PYTHONPATH={_CHECKOUT}", *module]  # which it becomes: env(1) executes it

    return Foreground(name, work, command)
