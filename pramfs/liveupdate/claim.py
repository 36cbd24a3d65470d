"""Put the images that the last kernel has handed over back under their names, and keep those that cannot be.

A session can be retrieved once. So a keeper retrieves it, has all images from then on, and does what commands
ask for on a socket: a command that is killed takes nothing with it. The keeper ends when it has none left.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pramfs.control import kept
from pramfs.control.kept import KeptImage, State
from pramfs.errors import LiveUpdateRefused, PramError, SystemFault, words_of
from pramfs.liveupdate import descriptor_store, keeper, manifest
from pramfs.liveupdate.handover import SESSION
from pramfs.liveupdate.keeper import Line
from pramfs.liveupdate.manifest import Carried
from pramfs.liveupdate.transfer import Transfer
from pramfs.offline.check import check_image
from pramfs.pram import resize
from pramfs.storage.image import Image
from pramfs.system import luo
from pramfs.system.mountinfo import filesystem_type

_SOCKET = "socket"
# What a session that cannot be retrieved says, and will say again.
_FOR_GOOD = (errno.EINVAL, errno.EIO)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the images that a command has asked for."""

    placed: tuple[str, ...]  # a line each
    damaged: tuple[str, ...]  # a line each: they are in their places
    kept: tuple[str, ...]  # a line each


def claim(path: Path | None, to: Path | None) -> Outcome:
    """Put all images back, or the one that was at `path`, there or at `to`. Raises PramError.

    Does nothing if the last kernel has handed nothing over.
    """
    if not kept.is_kept() and not _retrieve():
        return Outcome((), (), ())
    line = _line_to_keeper()
    try:
        line.say([os.path.realpath(path) if path else None, str(to.absolute()) if to else None])
        placed, damaged, left = line.answer()
        return Outcome(tuple(placed), tuple(damaged), tuple(left))
    finally:
        line.close()


def listed() -> list[KeptImage]:
    """Return the images that the last kernel has handed over and that are not in their places."""
    state = kept.read_state()
    if state is None:
        return [KeptImage(path, 0, "not claimed yet") for path in kept.unclaimed()]
    return [] if state.outgoing or not kept.is_kept() else list(state.images)


def _retrieve() -> bool:
    """Start the keeper that retrieves the session; return False if there is none. Raises PramError."""
    expected = kept.unclaimed()
    try:
        if not expected and not luo.DEVICE.exists():
            return False
        given = descriptor_store.take()
        session = luo.retrieve_session(SESSION) if given is None else given
    except LiveUpdateRefused as exc:
        cause = exc.__cause__
        if descriptor_store.is_kept():
            unit = descriptor_store.UNIT
            raise PramError(
                f"systemd has the images of the last kernel; first: systemctl restart {unit}"
            ) from exc
        if isinstance(cause, OSError) and cause.errno not in _FOR_GOOD:
            raise
        raise _lost(expected, str(exc)) from exc
    if session is None:
        if not expected:
            return False
        raise _lost(expected, "nothing came over from the last kernel")
    line = keeper.start(lambda line: _keep(session, line))
    os.close(session)
    try:
        line.answer()
        if given is not None:
            descriptor_store.remove()  # this process is in the unit's control group, the keeper no longer
    finally:
        line.close()
    return True


def _lost(paths: Sequence[str], reason: str) -> PramError:
    """Return the error about images that have not come over, and let their paths be used again."""
    lock = kept.try_to_lock() if paths else None
    if lock is not None:
        kept.write_state(State(os.getpid(), outgoing=False, images=()))
        os.close(lock)
    return PramError(f"{reason}; lost: {', '.join(paths)}" if paths else reason)


def _line_to_keeper() -> Line:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.connect(str(kept.DIRECTORY / _SOCKET))
    except OSError as exc:
        end.close()
        state = kept.read_state()
        if state is not None and state.outgoing:
            raise PramError("images are handed over to the next kernel, not from the last") from exc
        raise SystemFault(f"cannot ask the process that keeps the images: {exc.strerror}") from exc
    return Line(end)


# --- the keeper -----------------------------------------------------------------------------------


class Claim:
    """The images of a session of the last kernel, and where they go."""

    def __init__(self, session: int) -> None:
        """Retrieve all. Raises PramError if there is no manifest."""
        described = luo.retrieve(session, manifest.TOKEN)
        try:
            carried = manifest.read(described).images
        except ValueError as exc:
            raise PramError(f"cannot read what is said of the images: {exc}") from exc
        finally:
            os.close(described)
        self.items = [_Item(image, session) for image in carried]
        luo.finish(session)
        os.close(session)

    def place(self, path: str | None, to: str | None) -> Outcome:
        """Put the images back, or the one that was at `path`, there or at `to`."""
        asked = [item for item in self.items if path in (None, item.carried.path)]
        if not asked:
            raise PramError(f"{path}: no image of that path is kept; see: pramfs claim --list")
        placed: list[str] = []
        damaged: list[str] = []
        left: list[str] = []
        for item in asked:
            target = Path(to or item.carried.path)
            try:
                damage = item.place(target, elsewhere=to is not None)
            except Exception as exc:  # noqa: BLE001 - this process must not end as long as it has images
                item.reason = words_of(exc)
                left.append(f"{item.carried.path}: kept, because {item.reason}")
                continue
            self.items.remove(item)
            (damaged if damage else placed).append(
                f"{target}: {f'damaged: {damage}' if damage else 'clean'}"
            )
        return Outcome(tuple(placed), tuple(damaged), tuple(left))


class _Item:
    """An image in a file without a name."""

    def __init__(self, carried: Carried, session: int) -> None:
        self.carried = carried
        self.reason = ""
        self._file: int | None = None
        try:
            self._file = luo.retrieve(session, carried.token)
        except PramError as exc:
            self.reason = str(exc)

    def place(self, target: Path, *, elsewhere: bool) -> str:
        """Give the image this name, where none is yet; return what is damaged in it.

        Raises OSError or PramError, and still has it then. An image returns only to a tmpfs, unless it is to
        be elsewhere: its own may not be mounted yet.
        """
        if self._file is None:
            raise PramError(self.reason)
        if os.path.lexists(target):
            raise PramError(f"{target} is there already")
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not elsewhere and filesystem_type(os.fstat(directory).st_dev) != "tmpfs":
                raise PramError(f"{target.parent} is not a tmpfs")
            if os.fstat(self._file).st_dev != os.fstat(directory).st_dev:
                self._move_into(directory, target)
            with Image(target, self._file, writable=True) as image:
                self._file = None
                return self._give_name(image, directory)
        finally:
            os.close(directory)

    def _move_into(self, directory: int, target: Path) -> None:
        """Move the image into a file without a name in this directory."""
        assert self._file is not None
        room = os.fstatvfs(directory)
        free_bytes = room.f_bavail * room.f_bsize
        if room.f_blocks and free_bytes < self.carried.size_bytes:
            raise PramError(
                f"its file system has {free_bytes >> 20} MiB free, of the {-(-self.carried.size_bytes >> 20)}"
                f" that it takes; make it larger, as with: mount -o remount,size=… {target.parent}"
            )
        flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
        new = os.open(".", flags, 0o600, dir_fd=directory)
        way = Transfer(self._file, new, self.carried.size_bytes, moving=True)
        try:
            way.run()
            manifest.set_attributes(new, self.carried)
        except BaseException:
            way.undo()
            os.close(new)
            raise
        os.close(self._file)
        self._file = new

    def _give_name(self, image: Image, directory: int) -> str:
        """Verify the image, give it its name and the length that it had; return what is damaged in it."""
        damage = _damage_of(image)
        image.try_lock()  # so that a mount waits until it has its length
        try:
            os.link(
                f"/proc/self/fd/{image.fileno()}",
                image.path.name,
                dst_dir_fd=directory,
                follow_symlinks=True,
            )
        except OSError:
            self._file = os.dup(image.fileno())
            raise
        with contextlib.suppress(PramError):  # too damaged to be saved: it stays short
            resize.lengthen(image, self.carried.frames)
        return damage


def _damage_of(image: Image) -> str:
    try:
        report = check_image(image)
    except PramError as exc:
        return str(exc)
    return report.damage[0] if report.damage else ""


def _keep(session: int, line: Line) -> None:
    """Be the keeper: retrieve all, then do what commands ask for until no image is left."""
    lock = kept.try_to_lock()
    if lock is None:
        raise PramError("another process is claiming the images")
    claim = Claim(session)
    _leave_state(claim)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    address = kept.DIRECTORY / _SOCKET
    address.unlink(missing_ok=True)
    mask = os.umask(0o177)
    listener.bind(str(address))
    os.umask(mask)
    listener.listen()
    line.say("ready")
    line.close()
    while claim.items:
        end, _ = listener.accept()
        _serve(claim, Line(end), lock)


def _serve(claim: Claim, asking: Line, lock: int) -> None:
    try:
        request: Any = asking.hear()
        if request is None:
            return
        outcome = claim.place(*request)
    except Exception as exc:  # noqa: BLE001 - as above
        asking.say_refusal(exc)
    else:
        _leave_state(claim)
        if not claim.items:
            os.close(lock)  # before anybody is told
        asking.say([outcome.placed, outcome.damaged, outcome.kept])
    asking.close()


def _leave_state(claim: Claim) -> None:
    images = tuple(
        KeptImage(item.carried.path, item.carried.size_bytes, item.reason) for item in claim.items
    )
    with contextlib.suppress(OSError):
        kept.write_state(State(os.getpid(), outgoing=False, images=images))
