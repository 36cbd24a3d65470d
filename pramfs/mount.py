"""The life of a daemon: load, mount, say ready, serve, save, report.

The tree is loaded before there is a mount, so nothing is ever to be seen half loaded; it is saved after the
mount is gone, when nobody can change it any more. Signals only ever start an unmount.
"""

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from pramfs import mounts, notify, persist, rundir, superblock
from pramfs.errors import (
    EXIT_FAILED,
    EXIT_INTERNAL,
    ImageInUse,
    ImageTooSmall,
    NotAnImage,
    PramError,
    SaveFailed,
)
from pramfs.frames import BANNED, FREE
from pramfs.fusefs import Operations
from pramfs.image import Image, open_image
from pramfs.options import MountOptions
from pramfs.persist import Recovered, Saver
from pramfs.pram import Pram
from pramfs.progress import Bar
from pramfs.session import Session
from pramfs.tree import Owner, Tree

log = logging.getLogger("pramfs")

_SAVE_TIMEOUT_USEC = 3600 * 10**6  # that a service manager is asked to grant a save


@dataclass(slots=True)
class Volume:
    """An image with a tree of it loaded."""

    image: Image
    pram: Pram
    tree: Tree
    saver: Saver
    read_only: bool


def serve(
    image_path: Path, mountpoint: Path, options: MountOptions, report: Callable[[int], None]
) -> int:
    """Mount the image and serve it until it is unmounted; returns the exit code.

    `report` is called with 0 as soon as the mount is usable.
    """
    try:
        _check_mountpoint(mountpoint)
        volume = _load(image_path, options)
    except PramError as exc:
        log.error("%s", exc)
        return exc.exit_code
    return _Daemon(volume, mountpoint, options, report).run()


# --- load ---------------------------------------------------------------------------------------


def _check_mountpoint(mountpoint: Path) -> None:
    if mounts.is_dead(mountpoint):
        raise PramError(
            f"{mountpoint}: holds a dead mount, its daemon is gone; clear it with: umount -l {mountpoint}"
        )
    if not mountpoint.exists():
        raise PramError(f"{mountpoint}: the mountpoint does not exist")
    if not mountpoint.is_dir():
        raise PramError(f"{mountpoint}: the mountpoint is not a directory")


def _load(image_path: Path, options: MountOptions) -> Volume:
    image = open_image(image_path, writable=not options.ro, create=not options.ro)
    try:
        if not options.ro:
            _lock(image)
        pram = _open_pram(image, options)
        tree = _load_tree(pram, options)
    except BaseException:
        image.close()
        raise
    return Volume(image, pram, tree, Saver(pram, options.name, tree), options.ro)


def _lock(image: Image) -> None:
    if image.try_lock():
        return
    pid = image.serving_pid()
    if pid is not None:
        where = [str(m.mountpoint) for m in mounts.pramfs_mounts() if _same_image(m.image, image)]
        raise ImageInUse(
            image.path, f"process {pid}" + (f", mounted at {where[-1]}" if where else "")
        )
    log.warning("%s: the last daemon still saves; waiting for it", image.path)
    image.wait_for_lock()


def _same_image(name: str, image: Image) -> bool:
    with contextlib.suppress(OSError):
        return Path(name).samefile(image.path)
    return False


def _open_pram(image: Image, options: MountOptions) -> Pram:
    # With recover nothing of a damaged save may be overwritten before the next is published.
    arena = "memory" if options.recover else options.arena
    if _is_new(image, options):
        pram = Pram.create(image, _new_frames(image, options), banned=options.banned, arena=arena)
    else:
        pram = Pram.open(
            image,
            frames=options.frames if options.size_bytes is not None else 0,
            banned=options.banned,
            arena=arena,
            pfn=options.pram,
            accept_truncated=options.recover,
        )
    _log_to_file(rundir.log_path(pram.current.uuid))
    for line in options.banned.table():
        log.info("%s", line)
    return pram


def _log_to_file(path: Path) -> None:
    """A daemon has no terminal: what it has to say is in its run directory."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)


def _is_new(image: Image, options: MountOptions) -> bool:
    """Whether the image is empty, or zeros from end to end, and may become a pram image."""
    if options.ro or options.pram is not None:
        return False
    if not image.size_bytes:
        return True
    try:
        superblock.require(image)
    except NotAnImage:
        return image.is_blank()
    return False


def _new_frames(image: Image, options: MountOptions) -> int:
    """How many frames a blank image gets: what size= says, else all there are, else the default."""
    if options.size_bytes is None and image.frames:
        return image.frames
    return options.frames


def _load_tree(pram: Pram, options: MountOptions) -> Tree:
    tree = Tree(
        pram.arena,
        inodes_max=options.nr_inodes or len(pram.arena.table),
        generation=int.from_bytes(os.urandom(4), "little"),
    )
    if options.noload or not persist.has_tree(pram, options.name):
        tree.make_root(options.mode, Owner(options.uid, options.gid))
    else:
        recovered = Recovered() if options.recover else None
        lazy = options.verify == "lazy"
        pages = pram.node(options.name + persist.DATA_SUFFIX).entries if not lazy else 0
        with Bar("verifying", pages) as bar:
            persist.load_tree(pram, options.name, tree, lazy=lazy, recover=recovered, progress=bar)
        for path in recovered.left_out if recovered is not None else ():
            log.warning("left out, damaged: %s", path)
    if not options.ro and pram.arena.table.count(FREE) < tree.frames_for_save():
        raise ImageTooSmall(
            pram.image.path,
            len(pram.arena.table),
            f"a save needs {tree.frames_for_save()} free ones, {pram.arena.table.count(FREE)} are "
            f"left beside {pram.arena.table.count(BANNED)} banned ones",
        )
    return tree


# --- serve --------------------------------------------------------------------------------------


class _Daemon:
    """Serves one volume at one mountpoint."""

    def __init__(
        self,
        volume: Volume,
        mountpoint: Path,
        options: MountOptions,
        report: Callable[[int], None],
    ) -> None:
        self._volume = volume
        self._mountpoint = Path(os.path.realpath(mountpoint))
        self._options = options
        self._report = report
        self._session = Session(volume.pram.arena.sum_some, self._ready)
        self._publishing = trio.Lock()
        self._verdict_path = rundir.verdict_path(volume.pram.current.uuid)

    def run(self) -> int:
        try:
            self._mount()
        except PramError as exc:
            log.error("%s", exc)
            return exc.exit_code
        code = 0
        try:
            trio.run(self._main)
        except Exception:
            log.exception("internal error: the session ended")
            self._volume.saver.suspect = True
            code = EXIT_INTERNAL
        _ignore_signals()
        pyfuse3.close(unmount=True)
        return self._save() or code

    def _mount(self) -> None:
        volume, options = self._volume, self._options
        operations = Operations(
            volume.tree,
            direct_io=options.direct_io,
            status=self._status,
            publish=self._publish,
            on_internal_error=self._suspect,
        )
        words = {f"fsname={_escape(str(volume.image.path.resolve()))}", "subtype=pramfs"}
        words |= {"default_permissions", *options.mount_flags}
        words |= {"ro"} if options.ro else set()
        words |= {"allow_other"} if options.allow_other else set()
        try:
            pyfuse3.init(operations, str(self._mountpoint), words)
        except RuntimeError as exc:
            # libfuse has said why on stderr.
            raise PramError(f"{self._mountpoint}: cannot mount ({exc})") from exc
        if not volume.read_only:
            volume.image.mark_serving()

    def _ready(self) -> None:
        """The kernel has made contact: the mount is usable."""
        log.info("%s is mounted at %s", self._volume.image.path, self._mountpoint)
        notify.notify("READY=1", f"STATUS=serving {self._mountpoint}", f"MAINPID={os.getpid()}")
        self._report(0)

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._obey_signals)
            if self._options.checkpoint:
                nursery.start_soon(self._publish_at_intervals)
            await self._session.run()
            nursery.cancel_scope.cancel()

    async def _obey_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("%s: unmounting", signal.Signals(number).name)
                notify.notify("STOPPING=1")
                # What the kernel has cached comes to us while it is flushed and unmounted.
                await trio.to_thread.run_sync(self._flush_and_detach)
                self._session.terminate()
                return

    def _flush_and_detach(self) -> None:
        _flush_kernel_cache(self._mountpoint)
        detach = ["umount", "-i", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
        subprocess.run([*detach, str(self._mountpoint)], check=False, capture_output=True)

    async def _publish_at_intervals(self) -> None:
        while True:
            await trio.sleep(self._options.checkpoint)
            await trio.to_thread.run_sync(_flush_kernel_cache, self._mountpoint)
            if not self._volume.tree.changed:
                continue
            try:
                await self._checkpoint()
            except SaveFailed as exc:
                log.error("%s", exc)

    async def _publish(self) -> None:
        """Make all that was written so far durable. Raises SaveFailed."""
        if self._volume.read_only:
            raise PramError("the mount is read-only: there is nothing to save")
        self._session.serve_on()
        await trio.to_thread.run_sync(_flush_kernel_cache, self._mountpoint)
        await self._checkpoint()

    async def _checkpoint(self) -> None:
        saver = self._volume.saver
        async with self._publishing:
            saver.start()
            await trio.to_thread.run_sync(saver.wait)
            saver.settle()
            if saver.error is not None:
                raise saver.error

    def _suspect(self) -> None:
        self._volume.saver.suspect = True

    def _status(self) -> dict[str, object]:
        """What the control attributes tell."""
        volume, table = self._volume, self._volume.pram.arena.table
        current = volume.pram.current
        return {
            "pid": os.getpid(),
            "image": str(volume.image.path.resolve()),
            "mountpoint": str(self._mountpoint),
            "name": self._options.name,
            "run": volume.pram.run.hex(),
            "read_only": volume.read_only,
            "generation": current.generation,
            "pfn": f"{current.pfn:x}",
            "saved_ns": current.saved_ns,
            "changed": volume.tree.changed,
            "suspect": volume.saver.suspect,
            "error": str(volume.saver.error or ""),
            "inodes": len(volume.tree.inodes),
            "frames": table.summary(),
            "verdict": str(self._verdict_path),
        }

    # --- save ------------------------------------------------------------------------------------

    def _save(self) -> int:
        """Publish the tree for good; returns the exit code."""
        volume = self._volume
        if volume.read_only:
            return 0
        volume.image.unmark_serving()
        notify.notify("STOPPING=1", "STATUS=saving", f"EXTEND_TIMEOUT_USEC={_SAVE_TIMEOUT_USEC}")
        error = ""
        try:
            with Bar("saving", volume.tree.data.pages) as bar:
                volume.saver.save(final=True, progress=bar)
            log.info("saved: generation %d", volume.pram.current.generation)
        except SaveFailed as exc:
            error = str(exc)
            log.error("%s", exc)
        self._leave_verdict(error)
        return EXIT_FAILED if error else 0

    def _leave_verdict(self, error: str) -> None:
        pram = self._volume.pram
        verdict = rundir.Verdict(
            pram.run.hex(), os.getpid(), not error, pram.current.generation, error
        )
        try:
            rundir.write_verdict(self._verdict_path, verdict)
        except OSError as exc:
            log.warning("%s: cannot leave the verdict: %s", self._verdict_path, exc.strerror)


def _flush_kernel_cache(mountpoint: Path) -> None:
    """Let the kernel hand over what programs have written. Not to be called from the main thread."""
    subprocess.run(["sync", "-f", str(mountpoint)], check=False, capture_output=True)


def _ignore_signals() -> None:
    """A save must not be stopped half way; the last one would stand, but this one would be lost."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _escape(path: str) -> str:
    r"""A path as libfuse wants it in an option: commas and backslashes escaped."""
    return path.replace("\\", "\\\\").replace(",", "\\,")
