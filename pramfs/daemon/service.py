"""The life of a daemon that has loaded its tree: mount, say ready, serve, save, report.

The tree is saved after the mount is gone, when nobody can change it any more. Signals only ever start an
unmount.
"""

import logging
import mmap
import os
import signal
from pathlib import Path
from typing import NoReturn

import pyfuse3
import trio

from pramfs.daemon.checkpoints import Checkpoints
from pramfs.daemon.daemonize import WaitingParent
from pramfs.daemon.loader import Volume
from pramfs.daemon.sd_notify import ServiceManager
from pramfs.errors import EXIT_INTERNAL, PramError
from pramfs.fuse.operations import Operations
from pramfs.fuse.session import Session
from pramfs.options import MountOptions
from pramfs.storage.frames import DROPPED, FRESH, PENDING
from pramfs.system import mount_tools, mountinfo

log = logging.getLogger("pramfs")

_MEMORY_RESERVE_BYTES = 32 << 20
# They mean: unmount, save, exit. SIGHUP is a terminal that is gone, and no reason to lose anything.
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Daemon:
    """Serves one volume at one mountpoint."""

    def __init__(
        self,
        volume: Volume,
        mountpoint: Path,
        options: MountOptions,
        manager: ServiceManager,
        parent: WaitingParent | None,
    ) -> None:
        self._volume = volume
        # Asked for before there is a mount: who mounts over the directory that the image lies in hides it,
        # and this process must not ask itself.
        self._image = volume.image.path.resolve()
        self._mountpoint = Path(os.path.realpath(mountpoint))
        self._options = options
        self._manager = manager
        self._parent = parent
        self._device = ""  # number of the file system
        self._first_request = trio.Event()
        self._session = Session(volume.pram.arena.sum_some, self._first_request.set)
        self._checkpoints = Checkpoints(
            volume, self._image, manager, self._place, self._session.serve_on
        )
        # Room for the last save where memory is limited. It is not touched, so it takes none.
        self._memory_reserve = mmap.mmap(
            -1, _MEMORY_RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )

    def mount(self) -> None:
        """Mount; from now on a signal means an unmount. Raises PramError when nothing is mounted."""
        # Signals wait until somebody is there to obey them, and again while saving: a save must not be
        # stopped half way. The last one would stand, but this one would be lost.
        # The mask is the main thread's; what reaches another thread is taken without notice.
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
        for number in _ENDING_SIGNALS:
            signal.signal(number, lambda number, frame: None)
        volume, options = self._volume, self._options
        self._operations = Operations(
            volume.tree,
            direct_io=options.direct_io,
            noatime=options.noatime,
            nodiratime=options.noatime or options.nodiratime,
            status=self._status,
            publish=lambda: self._checkpoints.publish(self._operations),
            make_room=self._checkpoints.make_room,
            on_internal_error=self._suspect,
        )
        words = {_FsName(self._image), "subtype=pramfs"}
        words |= {"default_permissions", *options.mount_flags}
        words |= {word for word in ("ro", "noatime") if getattr(options, word)}
        words |= {"allow_other"} if options.allow_other else set()
        try:
            pyfuse3.init(self._operations, str(self._mountpoint), words)
        except RuntimeError as exc:
            # libfuse has said why on stderr.
            raise PramError(f"{self._mountpoint}: cannot mount ({exc})") from exc
        self._device = mountinfo.require_mount(self._mountpoint).device
        volume.image.mark_serving()
        self._checkpoints.report()

    def run(self) -> int:
        """Serve the mount until it is unmounted, and save; returns the exit code."""
        code = 0
        try:
            trio.run(self._main)
        except Exception:  # noqa: BLE001 - whatever it was, there is a tree to be saved
            code = self._internal_error()
        return self._end() or code

    def _end(self) -> int:
        """Let go of the mount, and save; returns the exit code."""
        pyfuse3.close(unmount=self._mountpoint in mountinfo.places_of(self._device))
        return self._checkpoints.save_for_good()

    def _end_at_once(self) -> NoReturn:
        """End here and now: without memory trio does not come to its own end, it waits for ever."""
        self._memory_reserve.close()
        code = self._internal_error()
        os._exit(self._end() or code)

    def _internal_error(self) -> int:
        """Take note of the exception that ended the session; returns the exit code."""
        log.exception("internal error: the session ended")
        self._suspect()
        return EXIT_INTERNAL

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._obey_signals)
            nursery.start_soon(self._announce)
            if self._options.checkpoint:
                nursery.start_soon(
                    self._checkpoints.publish_at_intervals,
                    self._operations,
                    self._options.checkpoint,
                )
            try:
                await self._session.run()
            except Exception:  # noqa: BLE001 - what pyfuse3 itself could not bear
                self._end_at_once()
            nursery.cancel_scope.cancel()

    async def _announce(self) -> None:
        """Say that the mount is usable, once the kernel has made contact."""
        await self._first_request.wait()
        await trio.to_thread.run_sync(self._tell_the_system, abandon_on_cancel=True)
        log.info("%s is mounted at %s", self._volume.image.path, self._mountpoint)
        self._manager.tell("READY=1", f"STATUS=serving {self._mountpoint}")
        if self._parent is not None:
            self._parent.report(0)

    def _tell_the_system(self) -> None:
        mount_tools.record_helper(str(self._image), self._mountpoint)
        mount_tools.read_further_ahead(self._device)

    async def _obey_signals(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(*_ENDING_SIGNALS) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING_SIGNALS)
            task_status.started()
            try:
                number = await anext(signals)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING_SIGNALS)
            log.info("%s: unmounting", signal.Signals(number).name)
            self._manager.tell("STOPPING=1", "STATUS=unmounting")
            # What the kernel has cached comes to us while it is flushed and unmounted.
            await self._checkpoints.flush(self._operations)
            if self._volume.saver.incomplete is not None:
                log.error("%s", self._volume.saver.incomplete)
            await trio.to_thread.run_sync(self._detach)
            self._session.finish()

    def _detach(self) -> None:
        for place in mountinfo.places_of(self._device):
            try:
                mount_tools.unmount(place, "-l")
            except PramError as exc:
                log.info("%s", exc)  # somebody was faster

    def _place(self) -> Path | None:
        """A place where the mount is to be seen, None when it is detached."""
        return next(iter(mountinfo.places_of(self._device)), None)

    def _suspect(self) -> None:
        self._volume.saver.suspect = True

    def _status(self) -> dict[str, object]:
        """What the control attributes tell."""
        volume, table = self._volume, self._volume.pram.arena.table
        current, saves = volume.pram.current, volume.saver.status
        return {
            "pid": os.getpid(),
            "image": str(self._image),
            "mountpoint": str(self._mountpoint),
            "name": self._options.name,
            "options": self._options.words,
            "run": volume.pram.run.hex(),
            "read_only": volume.read_only,
            "generation": current.generation,
            "pfn": f"{current.pfn:x}",
            "saved_ns": current.saved_ns,
            "changed": volume.tree.changed,
            "unpublished_pages": sum(table.count(state) for state in (FRESH, PENDING, DROPPED)),
            "suspect": saves.suspect,
            "error": saves.error or saves.incomplete,
            "inodes": len(volume.tree.inodes),
            "frames": table.summary(),
            "state": str(volume.state_path),
            "log": str(volume.log_path or ""),
        }


class _FsName(str):
    r"""The option fsname=PATH as libfuse wants it: commas and backslashes escaped.

    pyfuse3 encodes options as ASCII and nothing else; a path may hold any bytes, so this one encodes itself.
    """

    __slots__ = ()

    def __new__(cls, path: Path) -> "_FsName":
        escaped = str(path).replace("\\", "\\\\").replace(",", "\\,")
        return super().__new__(cls, f"fsname={escaped}")

    def encode(self, encoding: str = "", errors: str = "") -> bytes:
        return os.fsencode(str(self))
