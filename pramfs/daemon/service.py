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

from pramfs.control import run_state
from pramfs.daemon.daemonize import WaitingParent
from pramfs.daemon.loader import Volume
from pramfs.daemon.sd_notify import EXTEND_PERIOD_S, ServiceManager
from pramfs.errors import EXIT_FAILED, EXIT_INTERNAL, PramError, SaveFailed, SaveIncomplete
from pramfs.fuse.operations import Operations
from pramfs.fuse.session import Session
from pramfs.options import MountOptions
from pramfs.storage.frames import DROPPED, FRESH, PENDING
from pramfs.system import mount_tools, mountinfo
from pramfs.system.progress import Bar, Heartbeat

log = logging.getLogger("pramfs")

_STATE_PERIOD_S = 0.2
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
        self._publishing = trio.Lock()
        # Room for the last save where memory is limited. It is not touched, so it takes none.
        self._memory_reserve = mmap.mmap(
            -1, _MEMORY_RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )
        self._incomplete: SaveIncomplete | None = None  # what the last flush could not bring

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
            publish=self._publish,
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
        if not volume.read_only:
            self._note(run_state.SERVING)

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
        return self._save()

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
                nursery.start_soon(self._publish_at_intervals)
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
            incomplete = await self._flush()
            if incomplete is not None:
                log.error("%s", incomplete)
            await trio.to_thread.run_sync(self._detach)
            self._session.finish()

    def _detach(self) -> None:
        for place in mountinfo.places_of(self._device):
            try:
                mount_tools.unmount(place, "-l")
            except PramError as exc:
                log.info("%s", exc)  # somebody was faster

    async def _publish_at_intervals(self) -> None:
        while True:
            await trio.sleep(self._options.checkpoint)
            try:
                incomplete = await self._flush()
                if incomplete is not None:
                    log.error("%s", incomplete)
                if self._volume.tree.changed:
                    await self._checkpoint()
            except SaveFailed as exc:
                log.error("%s", exc)
            except (OSError, RuntimeError) as exc:  # no process or thread can be started, for now
                log.error("no checkpoint: %s", exc)

    async def _publish(self) -> None:
        """Make all that was written so far durable; that is nothing when only read.

        Raises SaveFailed, or SaveIncomplete when what was taken has been saved.
        """
        if self._volume.read_only:
            return
        self._session.serve_on()
        incomplete = await self._flush()
        await self._checkpoint()
        if incomplete is not None:
            raise incomplete

    async def _flush(self) -> SaveIncomplete | None:
        """Let the kernel hand over what programs have written; returns what to say unless all was taken."""
        complaint = ""
        for _ in range(mount_tools.flushes_needed()):
            others = self._operations.open_directories()
            flushed = await trio.to_thread.run_sync(self._hand_over)
            # Not every kernel waits for what it has queued for us. A close is queued behind that.
            await self._operations.closed_by(flushed.pid, but=others)
            complaint = complaint or flushed.complaint
        self._incomplete = SaveIncomplete(complaint) if complaint else None
        return self._incomplete

    def _hand_over(self) -> mount_tools.Flushed:
        """Flush, for programs too that use what is detached."""
        return mount_tools.flush(next(iter(mountinfo.places_of(self._device)), None))

    async def _checkpoint(self) -> None:
        saver = self._volume.saver
        async with self._publishing:
            bar = Bar("saving", saver.pages)
            with Heartbeat(_STATE_PERIOD_S, lambda: self._note(run_state.SERVING, bar)):
                saver.start(bar)
                await trio.to_thread.run_sync(saver.wait)
            saver.settle()
            self._note(run_state.SERVING)
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
            "suspect": volume.saver.suspect,
            "error": str(volume.saver.error or self._incomplete or ""),
            "inodes": len(volume.tree.inodes),
            "frames": table.summary(),
            "state": str(volume.state_path),
            "log": str(volume.log_path or ""),
        }

    # --- save ------------------------------------------------------------------------------------

    def _save(self) -> int:
        """Publish the tree for good; returns the exit code."""
        volume = self._volume
        self._manager.tell("STOPPING=1")
        if volume.read_only:
            return 0
        bar = Bar("saving", volume.saver.pages)
        self._note(run_state.SAVING, bar)
        volume.image.unmark_serving()
        with (
            bar,
            Heartbeat(_STATE_PERIOD_S, lambda: self._note(run_state.SAVING, bar)),
            Heartbeat(
                EXTEND_PERIOD_S,
                lambda: self._manager.extend_timeout("saving", bar.done, bar.total),
            ),
        ):
            error = self._publish_finally(bar)
        if error:
            log.error("%s", error)
            self._note(run_state.FAILED, error=error)
            return EXIT_FAILED
        log.info("saved: generation %d", volume.pram.current.generation)
        self._note(run_state.SAVED)
        return 0

    def _publish_finally(self, bar: Bar) -> str:
        """Publish the last save of this run; returns why it failed, "" if it did not."""
        saver = self._volume.saver
        try:
            saver.save(final=True, progress=bar)
        except SaveFailed as exc:
            return str(exc)
        except Exception as exc:
            log.exception("internal error while saving")
            return str(SaveFailed(f"internal error: {exc}", self._volume.pram.current.generation))
        return ""

    def _note(self, phase: str, bar: Bar | None = None, error: str = "") -> None:
        """Leave a word for the umount helper, the next mount, and `pramfs info`."""
        volume = self._volume
        state = run_state.State(
            run=volume.pram.run.hex(),
            image=str(self._image),
            pid=os.getpid(),
            phase=phase,
            generation=volume.pram.current.generation,
            error=error or str(volume.saver.error or ""),
            pages_done=bar.done if bar else 0,
            pages_total=bar.total if bar else 0,
        )
        try:
            run_state.write_state(volume.state_path, state)
        except OSError as exc:
            log.warning("%s: cannot leave the state: %s", volume.state_path, exc.strerror)


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
