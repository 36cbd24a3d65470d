"""Flushes of a mount: what programs have written the kernel hands over, before a save and before the end."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import trio

from pramfs.daemon.flusher import Flusher
from pramfs.errors import words_of
from pramfs.fuse.engine import Engine
from pramfs.fuse.handshake import congestion_threshold
from pramfs.saves.save import Saver
from pramfs.system import mount_tools
from pramfs.system.mount_tools import Flushed
from pramfs.tree.refused_writes import RefusedWrites

log = logging.getLogger("pramfs")

_REPEATED_S = 5
_TOO_FAST = "programs write faster than the kernel hands it over"
# FUSE_DEFAULT_MAX_BACKGROUND: so many reads ahead may be under way, which are not counted.
_BACKGROUND = 12


class _Flush(NamedTuple):
    """What became of one flush.

    `is_congested`: so many requests were under way that the kernel may have left files out.
    `was_short_of_room`: some waited for room; what was written meanwhile to their pages it has left out.
    """

    complaint: str
    is_congested: bool
    was_short_of_room: bool


class Flushes:
    """The flushes of one mount. The saver is told of errors of the kernel that no `refused` writes explain.

    `place` returns a mountpoint of the mount, None if it is detached everywhere; `flusher` is for when no
    program can be started. `left_out` says why the flush before the end may have left files out, "" if it
    has not.
    """

    def __init__(
        self,
        saver: Saver,
        refused: RefusedWrites,
        place: Callable[[], Path | None],
        flusher: Flusher,
    ) -> None:
        self._saver = saver
        self._refused = refused
        self._refusals = 0  # that the kernel's complaints have been about so far
        self._place = place
        self._flusher = flusher
        self._device = ""
        # From how many requests under way on the kernel leaves files out. Asked before there is a mount,
        # which may cover /sys.
        self._congestion = congestion_threshold()
        self.left_out = ""

    def mounted_as(self, device: str) -> None:
        """Be ready to flush the file system with that number, MAJOR:MINOR."""
        self._device = device
        self._flusher.start()

    async def flush(self, engine: Engine) -> str:
        """Have the kernel hand over its dirty pages; return why it may have left files out, "" if it has not.

        Raises OSError, RuntimeError where nothing can be started that would do it.
        """
        complaint = left_out = ""
        explained = self._refusals  # the kernel tells of an error to all who flush meanwhile
        until_s = 0.0
        left, is_repeated_for_room = mount_tools.flushes_needed(), False
        with engine.front.needed():
            while left:
                left -= 1
                done = await self._flush_once(engine)
                complaint = complaint or done.complaint
                until_s = until_s or trio.current_time() + _REPEATED_S
                left_out = _TOO_FAST if done.is_congested else ""
                if done.is_congested and trio.current_time() < until_s:
                    left, is_repeated_for_room = mount_tools.flushes_needed(), False
                if done.was_short_of_room and not is_repeated_for_room:
                    left, is_repeated_for_room = max(left, 1), True
        refusals = self._refused.count
        self._saver.note_complaint(complaint if refusals == explained else "")
        self._refusals = refusals
        if not left_out:
            self.left_out = ""
        return left_out

    async def flush_for_good(self, engine: Engine) -> None:
        """Do that before the session ends. What cannot be done makes the next save incomplete."""
        try:
            self.left_out = await self.flush(engine)
        except (OSError, RuntimeError) as exc:
            log.error("cannot flush before the end: %s", words_of(exc))
            self._saver.note_complaint(words_of(exc))

    async def _flush_once(self, engine: Engine) -> _Flush:
        """Flush once, and wait until what the kernel has handed over is in the tree."""
        front, directories = engine.front, engine.directories
        before, waiting = front.unwaited, front.short_of_room
        others = directories.handles()
        flushed = await self._have_handed_over()
        # Not every kernel waits for the requests that it has queued. Behind them is the RELEASEDIR.
        await directories.closed_by(flushed.pid, but=others)
        under_way = waiting + front.unwaited - before - 1  # without that
        short_of_room = bool(waiting or front.short_of_room)
        # Requests before that have come, but may wait for room: a save without them would lack data.
        await front.settled()
        return _Flush(
            complaint=flushed.complaint,
            is_congested=under_way >= max(1, self._congestion - _BACKGROUND),
            was_short_of_room=short_of_room,
        )

    async def _have_handed_over(self) -> Flushed:
        """Flush by a program, or by the thread for that. Raises OSError, RuntimeError."""
        try:
            # Also for programs that use a detached mount.
            return await trio.to_thread.run_sync(lambda: mount_tools.flush(self._place()))
        except (OSError, RuntimeError):  # no process or thread can be started at present
            flushed = await self._flusher.flush(self._device)
            if flushed is None:
                raise
            return flushed
