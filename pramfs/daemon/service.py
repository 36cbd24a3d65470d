"""The life of a daemon after it has loaded its tree: mount, report readiness, serve, save, report.

The final save comes after the mount is gone, when the tree cannot change any more. A signal never does more
than start an unmount.
"""

import contextlib
import logging
import math
import mmap
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NoReturn

import trio

from pramfs.control.control_xattrs import FLUSH, FREE, RECEIVE, SAVE, SAVE_TO, SNAPSHOT, UNKEPT
from pramfs.control.status import MountStatus
from pramfs.daemon.checkpoints import Checkpoints
from pramfs.daemon.daemonize import ENDING_SIGNALS, WaitingParent
from pramfs.daemon.deduplication import Deduplication
from pramfs.daemon.flusher import Flusher
from pramfs.daemon.flushes import Flushes
from pramfs.daemon.loader import Volume
from pramfs.daemon.long_save import warn_of_long_saves
from pramfs.daemon.sd_notify import ServiceManager
from pramfs.errors import EXIT_INTERNAL, PramError, words_of
from pramfs.fuse.device_mount import DeviceMount
from pramfs.fuse.engine import Behaviour, Engine, Surroundings
from pramfs.fuse.session import Session
from pramfs.options import MountOptions
from pramfs.saves.automatic import Keep
from pramfs.storage.frames import UNPUBLISHED
from pramfs.storage.layout import SUPER_CUT_OFF, SUPER_INCOMPLETE
from pramfs.system import mount_tools, mountinfo
from pramfs.system.namespaces import pid_namespace
from pramfs.system.systemd import DaemonScope

log = logging.getLogger("pramfs")

_CONVENIENCE_S = 10.0
_MEMORY_RESERVE_BYTES = 32 << 20
_WRITE_BACK_PERIOD_S = 1  # of looking whether pages should be written back, while requests come
_IDLE_PERIOD_S = 5  # and without any: others may need memory
_FORCED_UMOUNT_S = 2
_LOOK_AGAIN_S = 0.05
_RESTART_S = 60  # of a task that has failed


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
        # Resolved before there is a mount. If the mountpoint contains the image, the mount hides it, and
        # this process must not access its own mount.
        self._image = volume.image.path.resolve()
        self._mountpoint = Path(os.path.realpath(mountpoint))
        self._options = options
        self._manager = manager
        self._parent = parent
        self._scope = DaemonScope(self._image, self._mountpoint)
        # One that was ignored when this began stays so, as nohup has it; these two always work.
        self._ending_signals = [
            number
            for number in ENDING_SIGNALS
            if number in {signal.SIGTERM, signal.SIGXCPU}
            or signal.getsignal(number) is not signal.SIG_IGN
        ]
        self._device = ""  # MAJOR:MINOR of the file system
        self._connection = 0  # see `mountinfo.connection`
        self._first_request = trio.Event()
        self._session = Session(
            volume.pram.arena.sum_some,
            self._first_request.set,
            volume.saver.note_internal_error,
        )
        self._flushes = Flushes(
            volume.saver,
            volume.tree.data.refused,
            self._place,
            Flusher(self._place, self._mountpoint),
        )
        self._checkpoints = Checkpoints(
            volume, manager, Keep(options.keep_saves, options.keep_seconds), self._flushes
        )
        self._deduplication = Deduplication(
            volume,
            is_idle=lambda: self._session.is_idle,
            flush=lambda: self._flushes.flush(self._engine),
            on_holes=lambda file: self._engine.notices.drop_attributes(file.ino),
        )
        # Address space for the final save, where that is limited. Never touched, so it takes no memory.
        self._memory_reserve = mmap.mmap(
            -1, _MEMORY_RESERVE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        )

    def mount(self) -> None:
        """Mount; a signal means an unmount from now on. Raises PramError when nothing is mounted."""
        # Signals are blocked until a task handles them, and again during the final save, which must not be
        # interrupted half-way. Only the main thread has this mask; a signal to another thread does nothing.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
        for number in self._ending_signals:
            signal.signal(number, lambda number, frame: None)
        volume, options = self._volume, self._options
        self._engine = Engine(
            volume.pram,
            options.name,
            volume.tree,
            Behaviour(
                direct_io=options.direct_io,
                check_open=options.check_open,
                noatime=options.noatime,
                nodiratime=options.nodiratime,
                fsync_publishes=options.fsync == "publish",
            ),
            Surroundings(
                status=self._status,
                dedup_report=self._deduplication.report,
                dedup=self._deduplication.run,
                publish=lambda: self._checkpoints.publish(self._engine),
                orders=self._orders(),
                make_durable=self._checkpoints.make_durable,
                make_room=self._checkpoints.make_room,
                on_change=self._checkpoints.note_change,
                on_internal_error=volume.saver.note_internal_error,
            ),
        )
        flags = ("ro", "noatime", "allow_other")
        words = [*options.mount_flags, *(word for word in flags if getattr(options, word))]
        self._scope.prepare()
        try:
            self._mount = DeviceMount(
                self._engine.operations,
                self._image,
                self._mountpoint,
                ["default_permissions", *words],
            )
        except PramError:
            self._scope.remove()
            raise
        mount = mountinfo.mount_at_resolved(self._mountpoint)
        if mount is None:
            self._mount.close([self._mountpoint])
            raise PramError(f"{self._mountpoint}: cannot mount (it is not in the mount table)")
        self._device = mount.device
        self._checkpoints.mounted_as(mount.device)
        self._flushes.mounted_as(mount.device)
        volume.image.mark_serving()
        self._checkpoints.report()

    def run(self) -> int:
        """Serve the mount until it is unmounted, save, and return the exit code."""
        code = 0
        try:
            trio.run(self._main)
        except Exception:  # noqa: BLE001 - after any error the tree must be saved
            code = self._internal_error()
        return self._end() or code

    def _end(self) -> int:
        """Close the session, save, and return the exit code."""
        self._memory_reserve.close()  # nothing but the save needs memory from here on
        by_kernel = self._mount.is_ended
        places = []
        with contextlib.suppress(OSError):  # /proc may have been unmounted
            places = mountinfo.places_of(self._device)
        self._mount.close(places)
        code = self._checkpoints.save_for_good(lambda: by_kernel and self._is_left_dead())
        self._scope.remove()
        return code

    def _is_left_dead(self) -> bool:
        """Return whether somebody has it mounted or open although the session is over.

        Only umount -f takes a moment more.
        """
        until_s = time.monotonic() + _FORCED_UMOUNT_S
        while self._is_mounted() or self._is_connected():
            if time.monotonic() > until_s:
                return True
            time.sleep(_LOOK_AGAIN_S)
        return False

    def _is_mounted(self) -> bool:
        # Its number may be another's by now, who has another image.
        with contextlib.suppress(OSError):
            return any(
                mount.device == self._device and mount.image == str(self._image)
                for mount in mountinfo.pramfs_mounts()
            )
        return False

    def _is_connected(self) -> bool:
        """Return whether the kernel still has the file system, also where nobody sees it mounted."""
        return bool(self._connection) and mountinfo.connection(self._device) == self._connection

    def _look_up_connection(self) -> None:
        self._connection = mountinfo.connection(self._device)

    def _end_at_once(self) -> NoReturn:
        """Save and end the process at once: out of memory, trio would wait for ever."""
        self._memory_reserve.close()  # the traceback takes some
        code = self._internal_error()
        os._exit(self._end() or code)

    def _internal_error(self) -> int:
        """Log the exception that ended the session, and return the exit code."""
        log.exception("internal error: the session ended")
        self._volume.saver.note_internal_error()
        return EXIT_INTERNAL

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._obey_signals)
            nursery.start_soon(self._announce)
            if not self._volume.read_only:
                nursery.start_soon(
                    self._go_on,
                    warn_of_long_saves,
                    self._volume.saver,
                    self._session.activity,
                )
                nursery.start_soon(self._go_on, self._write_back_as_needed)
            if self._options.dedup:
                nursery.start_soon(self._go_on, self._deduplication.go_on)
            if self._options.checkpoint:
                nursery.start_soon(
                    self._go_on,
                    self._checkpoints.publish_at_intervals,
                    self._engine,
                    self._options.checkpoint,
                )
            try:
                await self._session.run(
                    self._engine.front,
                    self._engine.notices,
                    answers_open=self._engine.answers_open,
                    cached_writes=self._engine.cached_writes,
                )
            except Exception:  # noqa: BLE001 - an error in pyfuse3 itself
                self._end_at_once()
            nursery.cancel_scope.cancel()

    async def _go_on(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run a task that never ends; an unexpected exception in it does not end the mount, either."""
        while True:
            try:
                await task(*arguments)
            except Exception:
                log.exception("internal error in a task: it begins anew in %d seconds", _RESTART_S)
                self._volume.saver.note_internal_error()
                await trio.sleep(_RESTART_S)

    async def _write_back_as_needed(self) -> None:
        """Look now and then; an idle mount from which little could go out takes no time at all."""
        backs = self._volume.write_backs
        while True:
            with trio.move_on_after(_IDLE_PERIOD_S if backs.may_be_needed else math.inf):
                await self._session.activity()
            await trio.sleep(_WRITE_BACK_PERIOD_S)
            while await self._try_write_back():
                pass

    async def _try_write_back(self) -> bool:
        try:
            return await self._checkpoints.write_back()
        except RuntimeError as exc:  # no thread can be started at present
            log.error("nothing written back: %s", exc)
            return False

    async def _announce(self) -> None:
        """Report that the mount is usable, after the first request of the kernel."""
        await self._first_request.wait()
        await self._try(self._look_up_connection)
        await self._try(mount_tools.read_further_ahead, self._device)
        await self._try(mount_tools.record_helper, str(self._image), self._mountpoint)
        await self._try(self._scope.enter, self._device)
        log.info("%s is mounted at %s", self._volume.image.path, self._mountpoint)
        self._manager.tell("READY=1", f"STATUS=serving {self._mountpoint}")
        if self._parent is not None:
            self._parent.report(0)
        if self._volume.run_directory is not None:
            await self._try(self._volume.run_directory.prune)

    async def _try(self, convenience: Callable[..., None], *arguments: object) -> None:
        """Call in a thread what a mount can do without: it may fail, and not delay the rest for long."""
        with trio.move_on_after(_CONVENIENCE_S) as scope:
            try:
                await trio.to_thread.run_sync(convenience, *arguments, abandon_on_cancel=True)
            except (OSError, RuntimeError, PramError) as exc:
                log.info("left out: %s", words_of(exc))
        if scope.cancelled_caught:
            log.info("left out: %s takes too long", convenience.__name__)

    async def _obey_signals(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(*self._ending_signals) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
            task_status.started()
            try:
                number = await anext(signals)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
            log.info("%s: unmounting", signal.Signals(number).name)
            self._manager.tell("STOPPING=1", "STATUS=unmounting")
            # Flushing and unmounting make the kernel send its dirty pages, which must be served meanwhile.
            await self._flushes.flush_for_good(self._engine)
            try:
                await trio.to_thread.run_sync(self._detach)
            except (OSError, RuntimeError) as exc:
                log.error("cannot unmount before the end: %s", words_of(exc))
            self._session.finish()

    def _detach(self) -> None:
        for place in mountinfo.places_of(self._device):
            try:
                mount_tools.unmount(place, "-l")
            except PramError as exc:
                log.info("%s", exc)  # another process has unmounted it
            except OSError:  # umount(8) cannot be started; the mount may cover it
                if not self._mount.detach(place):
                    raise

    def _orders(self) -> dict[bytes, Callable[[int, bytes], Awaitable[None]]]:
        """Return what users may ask for, by the control attribute that they set for it."""
        saves = self._checkpoints

        async def save(pid: int, value: bytes) -> None:
            await saves.publish(self._engine, keep=value != UNKEPT)

        async def save_to(pid: int, request: bytes) -> None:
            await saves.publish_to(self._engine, pid, request)

        async def snapshot(pid: int, name: bytes) -> None:
            await saves.take_snapshot(self._engine, os.fsdecode(name))

        async def free(pid: int, full_name: bytes) -> None:
            await saves.free_snapshot(os.fsdecode(full_name))

        async def flush(pid: int, value: bytes) -> None:
            await self._flushes.flush_for_good(self._engine)

        async def receive(pid: int, offer: bytes) -> None:
            await saves.take_tree(self._engine, offer)

        return {
            SAVE: save,
            SAVE_TO: save_to,
            SNAPSHOT: snapshot,
            FREE: free,
            RECEIVE: receive,
            FLUSH: flush,
        }

    def _place(self) -> Path | None:
        """Return a place where the mount is visible, None if it is detached."""
        return next(iter(mountinfo.places_of(self._device)), None)

    def _status(self) -> MountStatus:
        """Return the values of the control attributes."""
        volume, table = self._volume, self._volume.pram.arena.table
        current, saves, directory = (
            volume.pram.current,
            volume.saver.status,
            volume.run_directory,
        )
        return MountStatus(
            pid=os.getpid(),
            pid_namespace=pid_namespace(),
            identity=volume.image.identity,
            image=str(self._checkpoints.image),
            mountpoint=str(self._mountpoint),
            name=self._options.name,
            options=tuple(self._options.words),
            run=volume.pram.run.hex(),
            read_only=volume.read_only,
            generation=current.generation,
            pfn=f"{current.pfn:x}",
            saved_ns=current.saved_ns,
            changed=volume.tree.changed,
            unpublished_pages=table.count_all(UNPUBLISHED),
            unwritten_pages=table.unwritten,
            save_seconds=volume.saver.seconds_to_save(),
            incomplete=bool(current.flags & SUPER_INCOMPLETE),
            cut_off=bool(current.flags & SUPER_CUT_OFF),
            suspect=saves.suspect,
            error=self._checkpoints.trouble(),
            inodes=len(volume.tree.inodes),
            frames=table.summary(),
            state=str(directory.path / volume.state_name) if directory is not None else "",
            log=str(volume.log_path or ""),
        )
