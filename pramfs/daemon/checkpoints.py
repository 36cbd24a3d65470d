"""The saves of a running mount: checkpoints while requests are served, and the final save at the end.

Their state belongs to the saver. This module reports it to the run directory and the service manager.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from pramfs.control import run_state
from pramfs.control.run_state import RunDirectory, State
from pramfs.control.save_target import SaveTarget, give_back, parse_target, take_over
from pramfs.control.tree_offer import NEW_PAGES, TreeOffer, parse_offer
from pramfs.daemon.flushes import Flushes
from pramfs.daemon.loader import Volume
from pramfs.daemon.long_save import LongSave
from pramfs.daemon.sd_notify import EXTEND_PERIOD_S, ServiceManager
from pramfs.errors import (
    EXIT_FAILED,
    FramesHeld,
    ImageOverwritten,
    NoRoomForSnapshot,
    NotUnderItsName,
    PramError,
    ReadOnlyImage,
    SaveFailed,
    SaveIncomplete,
    posix_error,
    words_of,
)
from pramfs.fuse.engine import Engine
from pramfs.saves.automatic import AutomaticSnapshots, Keep
from pramfs.saves.reception import Parts, Reception
from pramfs.saves.save import SaveStatus
from pramfs.saves.snapshot_names import SNAPSHOT_MARK
from pramfs.saves.snapshots import drop_snapshot, require_new
from pramfs.storage.image import Image
from pramfs.storage.image_name import ImageName
from pramfs.system.progress import Bar, Heartbeat
from pramfs.tree.inodes import File

log = logging.getLogger("pramfs")

_NOT_KEPT = "this save is not kept: %s"
_STATE_PERIOD_S = 0.2
_LOOK_PERIOD_S = 1  # at a save at unmount, whether to log its progress


class Checkpoints:
    """Saves one volume, one save at a time."""

    def __init__(
        self,
        volume: Volume,
        manager: ServiceManager,
        keep: Keep,
        flushes: Flushes,
    ) -> None:
        self._volume = volume
        self._flushes = flushes
        self._saver = volume.saver
        self._automatic = AutomaticSnapshots(volume.pram, volume.saver, volume.tree, keep)
        self._name = ImageName(volume.image)
        self._logged: list[str] = []
        self._logged_errno: int | None = None  # why the state cannot be written
        self._manager = manager
        self._saving = trio.Lock()
        self._begun = 0  # saves so far
        self._last_failure = ""  # of those that were made for fsync(2)

    @property
    def image(self) -> Path:
        """The path of the image, without symbolic links."""
        return self._name.path

    def mounted_as(self, device: str) -> None:
        """Note the number of the file system, MAJOR:MINOR."""
        self._name.own_device = device

    # --- while the mount is served ---------------------------------------------------------------

    async def publish(self, engine: Engine, *, keep: bool = True) -> None:
        """Make everything written so far durable; does nothing for a read-only mount.

        Unless `keep`, the save does not count for the option of that name.

        Raises SaveFailed; SaveIncomplete or NotUnderItsName if the save was published all the same.
        """
        if self._volume.read_only:
            return
        left_out = await self._flushes.flush(engine)
        async with self._saving:
            checkpoint = self._checkpoint_to_keep if keep else self._checkpoint
            await checkpoint(left_out=left_out)
        for shortcoming in self.shortcomings():
            raise shortcoming

    async def publish_to(self, engine: Engine, pid: int, request: bytes) -> None:
        """Save to the image that process `pid` asks for (see save_target), and go on there.

        Raises OSError(EINVAL) for a request that is none, and SaveFailed: the mount goes on where it was.
        """
        try:
            target = parse_target(request)
        except ValueError:
            raise posix_error(errno.EINVAL) from None
        if self._volume.read_only:
            raise ReadOnlyImage
        frames = len(self._volume.pram.arena.table)
        left_out = await self._flushes.flush(engine)
        async with self._saving:
            # A save that has begun ends in one image or the other, even if the mount ends meanwhile.
            with trio.CancelScope(shield=True):
                await self._move(target, pid, frames, left_out)
        for shortcoming in self.shortcomings():
            raise shortcoming

    async def take_snapshot(self, engine: Engine, name: str) -> None:
        """Save, and keep what is saved as a snapshot.

        Raises OSError for what was not tried: EINVAL for a bad name, EEXIST, ENOSPC; SaveFailed, and there is
        no snapshot then; SaveIncomplete or NotUnderItsName if there is one all the same.
        """
        self._require_writable()
        left_out = await self._flushes.flush(engine)
        async with self._saving:
            with _refusals():
                full_name = require_new(self._volume.pram, self._saver.name, name)
                await self._make_room_for_snapshot()
            await self._checkpoint(snapshot=full_name, left_out=left_out)
        for shortcoming in self.shortcomings():
            raise shortcoming

    async def _make_room_for_snapshot(self) -> None:
        """Save, or free automatic ones, if a snapshot needs room. Raises NoRoomForSnapshot, SaveFailed."""
        for _ in self._automatic.make_room():
            await self._checkpoint()

    async def _checkpoint_to_keep(self, *, left_out: str) -> None:
        """Publish a checkpoint, and keep it if that is asked for; the caller must hold the lock.

        Raises SaveFailed.
        """
        snapshot = self._automatic.next_one()
        try:
            if snapshot:
                await self._make_room_for_snapshot()
        except NoRoomForSnapshot as exc:
            log.warning(_NOT_KEPT, exc)
            snapshot = ""
        await self._checkpoint(snapshot=snapshot, left_out=left_out)
        if snapshot:
            self._automatic.note_kept()

    async def free_snapshot(self, full_name: str) -> None:
        """Free a snapshot, and save so that it is gone.

        Raises OSError(ENOENT), SaveFailed; NotUnderItsName if it is gone, but not from the image's name.
        """
        self._require_writable()
        async with self._saving:
            with _refusals():
                tree, _, name = full_name.partition(SNAPSHOT_MARK)
                drop_snapshot(self._volume.pram, tree, name)
            await self._checkpoint()
        lost = self._name.lost()
        if lost is not None:
            raise lost

    async def take_tree(self, engine: Engine, request: bytes) -> None:
        """Add a tree that lies in a file without a name, as a client offers it, and save.

        Raises OSError for what was not tried: EINVAL for what is no tree, EEXIST, ENOENT if the base is gone,
        ENOSPC; SaveFailed, and there is no such tree then.
        """
        self._require_writable()
        left_out = await self._flushes.flush(engine)
        with self._offered(request) as (offer, file):
            with _refusals():
                try:
                    reception = self._reception(offer, file)
                    await trio.to_thread.run_sync(reception.check_metadata)
                except ValueError:
                    raise posix_error(errno.EINVAL) from None
            for _ in reception.sum_pages():
                await trio.lowlevel.checkpoint()
            async with self._saving:
                await self._make_room_for(reception)
                with _refusals():
                    reception.add(offer.name, offer.marks)
                try:
                    await self._checkpoint(left_out=left_out)
                except SaveFailed:
                    reception.take_back(offer.name)
                    raise
        for shortcoming in self.shortcomings():
            raise shortcoming

    @contextlib.contextmanager
    def _offered(self, request: bytes) -> Iterator[tuple[TreeOffer, File]]:
        """Hold the file without a name that a client offers, which may be killed. Raises OSError(EINVAL)."""
        tree = self._volume.tree
        try:
            offer = parse_offer(request)
        except ValueError:
            raise posix_error(errno.EINVAL) from None
        file = tree.inodes.get(offer.inode)
        # Of the mounted tree's own nodes some frames may be anybody's by now.
        if not isinstance(file, File) or file.nlink or offer.base == self._saver.name:
            raise posix_error(errno.EINVAL)
        file.refs += 1
        try:
            yield offer, file
        finally:
            tree.forget(file)

    def _reception(self, offer: TreeOffer, file: File) -> Reception:
        """Return what takes the tree in that file."""
        volume = self._volume
        parts = Parts(
            pages=offer.pages,
            metadata_bytes=offer.metadata_bytes,
            more_bytes=offer.more_bytes,
            runs_bytes=offer.runs_bytes,
            new_pages=NEW_PAGES,
        )
        return Reception(volume.pram, volume.tree, file, parts, offer.base)

    async def _make_room_for(self, reception: Reception) -> None:
        """Save if that makes room; the caller must hold the lock. Raises OSError(ENOSPC), SaveFailed."""
        try:
            reception.require_room()
        except FramesHeld:
            self._automatic.give_up()
            await self._checkpoint()
            reception.require_room()

    def _require_writable(self) -> None:
        if self._volume.read_only:
            raise posix_error(errno.EROFS)

    async def _move(self, target: SaveTarget, pid: int, frames: int, left_out: str) -> None:
        try:
            image = await trio.to_thread.run_sync(take_over, target, pid, frames)
        except (OSError, RuntimeError, PramError) as exc:
            raise self._saver.refuse(target.path, exc) from exc
        try:
            snapshot = self._snapshot_to_move()
            await self._checkpoint(image, snapshot=snapshot, left_out=left_out)
        except BaseException:
            await trio.to_thread.run_sync(give_back, image, target)
            raise
        if snapshot:
            self._automatic.note_kept()
        self._go_on_in(image)

    def _snapshot_to_move(self) -> str:
        """Return the name of the snapshot to take with a save to another image, "" for none.

        Where there is too little room for one no save makes some: the old image may be what fails.
        """
        snapshot = self._automatic.next_one()
        try:
            if snapshot:
                self._saver.require_room_for_snapshot()
        except NoRoomForSnapshot as exc:
            log.warning(_NOT_KEPT, exc)
            return ""
        return snapshot

    def _go_on_in(self, image: Image) -> None:
        """Say wherever it is said that the mount is of another image now, and close the old one."""
        old, device = self._name, self._name.own_device
        self._name = ImageName(image)
        self._name.own_device = device
        image.mark_serving()
        self.report()
        log.info("going on in %s, generation %d", image.path, self._volume.pram.current.generation)
        self._leave_word(old.image)
        old.image.close()
        old.close()

    async def publish_at_intervals(self, engine: Engine, period_s: float) -> None:
        """Publish a checkpoint every `period_s` seconds if something has changed. Failures are logged."""
        while True:
            await trio.sleep(period_s)
            try:
                left_out = await self._flushes.flush(engine)
                if self._volume.tree.changed:
                    async with self._saving:
                        await self._checkpoint_to_keep(left_out=left_out)
                self._log_shortcomings()
            except SaveFailed as exc:
                log.error("%s", exc)
            except (OSError, RuntimeError) as exc:  # no process or thread can be started at present
                log.error("no checkpoint: %s", words_of(exc))

    async def make_durable(self) -> None:
        """Wait until a save that began after this call is in force; all who wait at a time share one.

        It has what the tree has by now: the kernel hands over the data of a file before its fsync(2). Raises
        ENOSPC, EIO.
        """
        if self._volume.read_only:
            return
        saver, begun = self._saver, self._begun
        async with self._saving:
            if self._begun == begun and (self._volume.tree.changed or saver.error is not None):
                with contextlib.suppress(SaveFailed):
                    await self._checkpoint()
            failure = saver.error or self._name.lost()
        if failure is None:
            self._last_failure = ""
            return
        if str(failure) != self._last_failure:  # once: programs try again and again
            self._last_failure = str(failure)
            log.error("%s", failure)
        full = getattr(failure.args[0], "errno", None) == errno.ENOSPC
        raise posix_error(errno.ENOSPC if full else errno.EIO)

    async def make_room(self) -> bool:
        """Wait for a save that frees what the last one held, or for memory; return whether that was had.

        A save that is already running will do, because it may free enough.
        """
        published = self._saver.published
        if self._volume.write_backs.memory_is_short:
            return await self._make_memory()
        async with self._saving:
            if self._saver.published == published:
                self._automatic.give_up()
                try:
                    await self._checkpoint()
                except SaveFailed:
                    return False  # the status has the reason
        return True

    async def write_back(self, *, for_memory: bool = False) -> bool:
        """Write some pages back, if that is needed (see WriteBacks); return whether that was done.

        Not beside a save: that writes the same frames, and a sync tells of an error only once.
        """
        backs = self._volume.write_backs
        async with self._saving:
            pages = backs.pages_wanted(for_memory=for_memory)
            if not pages:
                return False
            back = backs.begin(pages)
            try:
                await trio.to_thread.run_sync(backs.write, back)
            finally:
                error = backs.settle()
        if error is not None:
            log.warning("cannot write pages back to the image before a save: %s", words_of(error))
        return error is None

    async def _make_memory(self) -> bool:
        """Write pages back until there is memory for those who wait; return whether there is."""
        while await self.write_back(for_memory=True):
            pass
        return not self._volume.write_backs.memory_is_short

    async def _checkpoint(
        self, image: Image | None = None, *, snapshot: str = "", left_out: str = ""
    ) -> None:
        """Publish a checkpoint, in another image if one is given; the caller must hold the lock.

        With `snapshot` it has one more, whose full name that is. `left_out` is what a flush has returned.

        Raises SaveFailed.
        """
        saver = self._saver
        self._begun += 1
        saver.note_complaint(left_out)
        self._automatic.note_save()
        bar = Bar("saving", saver.pages)
        with Heartbeat(_STATE_PERIOD_S, self.report):
            saver.start(bar, image, snapshot=snapshot)
            # Where no thread can be started all others wait: what has begun comes to an end all the same.
            with contextlib.suppress(RuntimeError):
                await trio.to_thread.run_sync(saver.wait)
        saver.settle()
        self.report()
        if saver.error is not None:
            raise saver.error

    # --- when it is gone -------------------------------------------------------------------------

    def save_for_good(self, was_cut_off: Callable[[], bool]) -> int:
        """Publish the tree after the unmount, when it cannot change any more; return the exit code.

        `was_cut_off` returns whether there was no unmount: the mount is there, and a dead one now.
        """
        volume, saver = self._volume, self._saver
        self._manager.tell("STOPPING=1")
        if volume.read_only:
            return 0
        bar = Bar("saving", saver.pages)
        volume.write_backs.settle()  # one may be under way when the session ends by an error
        saver.note_complaint(self._flushes.left_out)
        saver.begin_final()
        self.report()
        volume.image.unmark_serving()
        with (
            bar,
            Heartbeat(_STATE_PERIOD_S, self.report),
            Heartbeat(_LOOK_PERIOD_S, LongSave(self._name.path, saver).log_progress),
            Heartbeat(
                EXTEND_PERIOD_S,
                lambda: self._manager.extend_timeout("saving", bar.done, bar.total),
            ),
        ):
            if was_cut_off():
                saver.note_cut_off()
            error = self._save(bar)
        self.report()
        if error is not None:
            log.error("%s", error)
            self._manager.tell(f"STATUS={error}")
            return EXIT_FAILED
        shortcomings = self.shortcomings()
        if not any(isinstance(shortcoming, NotUnderItsName) for shortcoming in shortcomings):
            told = f"saved: generation {volume.pram.current.generation}"
            log.info("%s", told)
            self._manager.tell(f"STATUS={told}")
        for shortcoming in shortcomings:
            log.error("the %s", shortcoming)
            self._manager.tell(f"STATUS=the {shortcoming}")
        return EXIT_FAILED if shortcomings else 0

    def _save(self, bar: Bar) -> SaveFailed | None:
        try:
            self._saver.save(final=True, progress=bar, snapshot=self._snapshot_at_end(bar))
        except SaveFailed as exc:
            if not isinstance(exc.__cause__, OSError | PramError | None):
                log.error("internal error while saving", exc_info=exc.__cause__)
            return exc
        return None

    def _snapshot_at_end(self, bar: Bar) -> str:
        """Return the name of the snapshot to take with the last save, "" for none. Raises SaveFailed."""
        snapshot = self._automatic.next_one()
        try:
            for _ in self._automatic.make_room() if snapshot else ():
                self._saver.save(final=False, progress=bar)
        except NoRoomForSnapshot as exc:
            log.warning(_NOT_KEPT, exc)
            return ""
        return snapshot

    # --- for others ------------------------------------------------------------------------------

    def note_change(self) -> bool:
        """Record in the image, for the next mount, that the tree has changed; False: ask again later."""
        try:
            return self._saver.mark_changed()
        except (OSError, PramError) as exc:
            log.warning("cannot record in the image that there are changes: %s", words_of(exc))
            return True

    def shortcomings(self) -> list[SaveIncomplete | NotUnderItsName]:
        """Return what is wrong with the last save, although it was published."""
        lost = self._name.lost()
        return [*([lost] if lost is not None else []), *self._saver.shortcomings]

    def trouble(self) -> str:
        """Return all that is wrong with the saves by now, "" if nothing. Not while one is staged."""
        saver = self._saver
        known = [
            None if self._volume.read_only else saver.foreign_change(),
            saver.error if not isinstance(saver.error, ImageOverwritten) else None,
            saver.incomplete or saver.shortfall(),
            self._name.lost(),
        ]
        return "; the ".join(str(exc) for exc in known if exc is not None)

    def _log_shortcomings(self) -> None:
        """Log each of them once."""
        told = [str(shortcoming) for shortcoming in self.shortcomings()]
        for text in told:
            if text not in self._logged:
                log.error("the %s", text)
        self._logged = told

    def report(self) -> None:
        """Write the state for the umount helper, the next mount, and `pramfs info`. Thread-safe."""
        if self._volume.read_only or self._volume.run_directory is None:
            return
        status = self._saver.status
        state = self._state(
            phase=_phase(status),
            generation=status.generation,
            error=status.error,
            pages_done=status.pages_done,
            pages_total=status.pages_total,
            incomplete=status.incomplete,
            misplaced=str(self._name.lost() or "") if status.over else "",
        )
        self._write_state(self._volume.run_directory, self._volume.image, state)

    def _leave_word(self, old: Image) -> None:
        """Write to the state of the image that this run has left where it is now."""
        if self._volume.run_directory is not None:
            state = self._state(
                phase=run_state.MOVED,
                generation=self._volume.pram.current.generation - 1,
                moved_to=str(self._name.path),
            )
            self._write_state(self._volume.run_directory, old, replace(state, image=str(old.path)))

    def _state(self, **values: Any) -> State:
        run, path = self._volume.pram.run.hex(), str(self._name.path)
        return State(run=run, image=path, pid=os.getpid(), **values)

    def _write_state(self, directory: RunDirectory, image: Image, state: State) -> None:
        uuid = self._volume.pram.current.uuid
        try:
            directory.write_state(run_state.state_name(image, uuid), state)
            self._logged_errno = None
        except OSError as exc:
            if self._logged_errno != exc.errno:  # once, and not five times a second
                log.warning("%s: cannot leave the state: %s", directory.path, exc.strerror)
            self._logged_errno = exc.errno


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Answer who asked for something that was not tried, by errno; a save that failed is something else."""
    try:
        yield
    except SaveFailed:
        raise
    except PramError as exc:
        raise posix_error(exc.errno) from exc


def _phase(status: SaveStatus) -> str:
    if not status.final:
        return run_state.SERVING
    if not status.over:
        return run_state.SAVING
    return run_state.FAILED if status.error else run_state.SAVED
