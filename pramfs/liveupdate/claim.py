"""Put the images that the last kernel has handed over back under their names, and keep those that cannot be.

A session can be retrieved once. So a keeper retrieves it, has all images from then on, and does what commands
ask for on a socket: a command that is killed takes nothing with it, and neither does one that comes at the
same time. The keeper ends when it has no image left, and nothing else that it meets may end it.
"""

import contextlib
import errno
import itertools
import os
import socket
import time
from collections.abc import Iterator, Sequence
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
from pramfs.offline.check import check_image, first_fault
from pramfs.pram import resize
from pramfs.storage.image import Image
from pramfs.system import luo
from pramfs.system.memory_left import memory_left
from pramfs.system.mountinfo import filesystem_type

_SOCKET = "socket"
_PAUSE_S = 0.1
# Only trees say which file a damaged page is of: a small file takes 1 KiB in memory, and a page in the image.
_TREES_SHARE = 4
# What a keeper says to the command that has started it.
_READY = "ready"
_ANOTHER = "there is another"
_NOTHING = "nothing has come over"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the images that a command has asked for."""

    placed: tuple[str, ...]  # a line each
    damaged: tuple[str, ...]  # a line each: they are in their places
    kept: tuple[str, ...]  # a line each, also for those that the kernel could not give back


def claim(path: Path | None, to: Path | None) -> Outcome:
    """Put all images back, or the one that was at `path`, there or at `to`. Raises PramError.

    All of none is none: nothing is done if the last kernel has handed nothing over.
    """
    request = [os.path.realpath(path) if path else None, str(to.absolute()) if to else None]
    while kept.is_kept() or _start_keeper():
        line = _line_to_keeper()
        if line is None:
            continue  # it has ended meanwhile
        try:
            line.say(request)
            placed, damaged, left = line.answer()
        except SystemFault:
            if not kept.is_kept() and _expected():
                raise
            continue  # it had put everything back for another command
        finally:
            line.close()
        return Outcome(tuple(placed), tuple(damaged), tuple(left))
    if path is not None:
        raise _not_kept(str(path))
    return Outcome((), (), ())


def _not_kept(path: str) -> PramError:
    return PramError(f"{path}: no image of that path is kept; see: pramfs claim --list")


def listed() -> list[KeptImage]:
    """Return the images that the last kernel has handed over and that are not in their places."""
    state = kept.read_state()
    if state is None:
        return [KeptImage(path, 0, "not claimed yet") for path in kept.unclaimed()]
    return [] if state.outgoing or not kept.is_kept() else list(state.images)


def _start_keeper() -> bool:
    """Start the keeper that retrieves the session; return False if there is none. Raises PramError."""
    if not _expected() and not luo.DEVICE.exists():
        return False
    given = descriptor_store.take()
    line = keeper.start(lambda line: _keep(given, line))
    try:
        told = line.answer()
        if told == _READY and given is not None:
            # This process is in the unit's control group, the keeper no longer.
            descriptor_store.remove()
        return bool(told != _NOTHING)
    finally:
        line.close()
        if given is not None:
            os.close(given)


def _expected() -> list[str]:
    """Return the paths of images that should be there, with nobody having them."""
    state = kept.read_state()
    if state is None:
        return kept.unclaimed()
    return [] if state.outgoing else [image.path for image in state.images]


def _line_to_keeper() -> Line | None:
    """Return a line to the keeper that has the images, which may just have started; None if it has ended."""
    while True:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.connect(str(kept.DIRECTORY / _SOCKET))
        except OSError as exc:
            end.close()
            state = kept.read_state()
            if not kept.is_kept():
                return None
            if state is not None and state.outgoing:
                raise PramError(
                    "images are handed over to the next kernel, not from the last"
                ) from exc
            if exc.errno not in (errno.ENOENT, errno.ECONNREFUSED):
                told = f"cannot ask the process that keeps the images: {exc.strerror}"
                raise SystemFault(told) from exc
            time.sleep(_PAUSE_S)
        else:
            return Line(end)


# --- the keeper -----------------------------------------------------------------------------------


class Claim:
    """The images of a session of the last kernel, and where they go."""

    def __init__(self, session: int, expected: Sequence[str] = ()) -> None:
        """Retrieve all that the kernel gives back. `expected`: their paths, if the manifest is damaged."""
        self.items = _items(session, expected)
        with contextlib.suppress(PramError):  # closing it does the same
            luo.finish(session)
        os.close(session)

    def place(self, path: str | None, to: str | None) -> Outcome:
        """Put the images back, or the one that was at `path`, there or at `to`."""
        asked = [item for item in self.items if path in (None, item.carried.path)]
        if not asked:
            raise _not_kept(str(path))
        placed: list[str] = []
        damaged: list[str] = []
        left: list[str] = []
        for item in asked:
            target = Path(to or item.carried.path)
            try:
                told, is_clean = item.place(target, elsewhere=to is not None)
            except LiveUpdateRefused as exc:  # the kernel has freed it
                self.items.remove(item)
                left.append(f"{item.carried.path}: lost: {exc}")
            except Exception as exc:  # noqa: BLE001 - this process must not end as long as it has images
                item.reason = words_of(exc)
                left.append(f"{item.carried.path}: kept, because {item.reason}")
            else:
                self.items.remove(item)
                (placed if is_clean else damaged).append(f"{target}: {told}")
        return Outcome(tuple(placed), tuple(damaged), tuple(left))


class _Item:
    """An image in a file without a name, or the reason why the kernel has not given it back."""

    def __init__(
        self, carried: Carried, file: int | LiveUpdateRefused, *, is_known: bool = True
    ) -> None:
        self.carried = carried
        self.reason = ""
        self._file = file
        self._is_known = is_known  # what the image had beside its contents
        self._way: Transfer | None = None  # that could not be undone yet

    def place(self, target: Path, *, elsewhere: bool) -> tuple[str, bool]:
        """Give the image this name, where none is yet; return what is to be said, and whether it is clean.

        Raises LiveUpdateRefused if the kernel has not given it back. After another exception it is still
        here. An image returns only to a tmpfs, unless it is to be elsewhere: its own may not be mounted yet.
        """
        if isinstance(self._file, LiveUpdateRefused):
            raise self._file
        if os.path.lexists(target):
            raise PramError(f"{target} is there already")
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not elsewhere and filesystem_type(os.fstat(directory).st_dev) != "tmpfs":
                raise PramError(f"{target.parent} is not a tmpfs")
            if os.fstat(self._file).st_dev != os.fstat(directory).st_dev:
                self._file = self._moved(self._file, directory, target)
            with Image(target, os.dup(self._file), writable=True) as image:
                told = self._give_name(image, directory)
        finally:
            os.close(directory)
        os.close(self._file)
        return told

    def _moved(self, file: int, directory: int, target: Path) -> int:
        """Move the image into a file without a name in this directory, and return its descriptor."""
        self._undo()
        room = os.fstatvfs(directory)
        free_bytes = room.f_bavail * room.f_bsize
        if room.f_blocks and free_bytes < self.carried.size_bytes:
            raise PramError(
                f"its file system has {free_bytes >> 20} MiB free, of the {-(-self.carried.size_bytes >> 20)}"
                f" that it takes; make it larger, as with: mount -o remount,size=… {target.parent}"
            )
        flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
        try:
            new = os.open(".", flags, 0o600, dir_fd=directory)
        except OSError as exc:
            if exc.errno in (errno.EOPNOTSUPP, errno.EISDIR):
                told = f"the file system of {target.parent} has no files without a name (O_TMPFILE)"
                raise PramError(told) from exc
            raise
        self._way = Transfer(file, new, self.carried.size_bytes, moving=True)
        try:
            self._way.run()
            manifest.set_attributes(new, self.carried)
            os.fsync(new)
        except BaseException:
            self._undo()
            raise
        self._way = None
        os.close(file)
        return new

    def _undo(self) -> None:
        """Move back what was moved. Raises OSError; may be called again then."""
        if self._way is not None:
            self._way.undo()
            self._way = None

    def _give_name(self, image: Image, directory: int) -> tuple[str, bool]:
        """Verify the image, give it its name and the length that it had; return as `place`."""
        damage = _damage_of(image)
        image.try_lock()  # so that a mount waits until it has its length
        os.link(
            f"/proc/self/fd/{image.fileno()}",
            image.path.name,
            dst_dir_fd=directory,
            follow_symlinks=True,
        )
        told = f"damaged: {damage}" if damage else "clean"
        try:
            os.fsync(directory)
            resize.lengthen(image, self.carried.frames)
        except Exception as exc:  # noqa: BLE001 - it has its name: who mounts it can make it longer
            if not damage:  # else it is that
                told = f"clean, but no longer than what it holds: {words_of(exc)}"
        if not self._is_known:
            told = f"{told}; its owner, mode, attributes and length were damaged: it is root's now"
        return told, not damage and self._is_known


def _items(session: int, expected: Sequence[str]) -> list[_Item]:
    try:
        described = luo.retrieve(session, manifest.TOKEN)
        try:
            carried = manifest.read(described).images
        finally:
            os.close(described)
    except (PramError, ValueError):
        return list(_items_without_manifest(session, expected))
    return [_Item(image, _retrieved(session, image.token)) for image in carried]


def _items_without_manifest(session: int, expected: Sequence[str]) -> Iterator[_Item]:
    """Yield the images of a session whose manifest is damaged: all that there are, by their numbers."""
    for token in itertools.count(manifest.TOKEN + 1):
        file = _retrieved(session, token)
        if isinstance(file, LiveUpdateRefused) and luo.errno_of(file) == errno.ENOENT:
            return
        number = token - manifest.TOKEN
        path = f"/dev/shm/pramfs-image-{number}" if number > len(expected) else expected[number - 1]
        known = manifest.describe_unknown(file if isinstance(file, int) else None, token, path)
        yield _Item(known, file, is_known=False)


def _retrieved(session: int, token: int) -> int | LiveUpdateRefused:
    try:
        return luo.retrieve(session, token)
    except LiveUpdateRefused as exc:
        return exc


def _damage_of(image: Image) -> str:
    try:
        fault = first_fault(image)
        if not fault:
            return ""
        if memory_left().free_bytes < image.size_bytes // _TREES_SHARE:
            return f"{fault}; pramfs check says what that is of"
        report = check_image(image)
    except PramError as exc:
        return str(exc)
    # A page that was damaged a moment ago is not trusted because it is not now.
    return report.damage[0] if report.damage else fault


def _keep(given: int | None, line: Line) -> None:
    """Be the keeper: retrieve all, then do what commands ask for until no image is left.

    All that can fail is done before the session is retrieved.
    """
    lock = kept.try_to_lock()
    if lock is None:
        line.say(_ANOTHER)
        return
    before, expected = kept.read_state(), _expected()
    listener = _listener()
    kept.write_state(_state([KeptImage(path, 0) for path in expected]))
    try:
        session = luo.retrieve_session(SESSION) if given is None else given
    except LiveUpdateRefused as exc:
        # There is no live update, or it could not read what came over.
        if luo.errno_of(exc) in (None, errno.EIO):
            raise _lost(expected, str(exc)) from exc
        kept.restore_state(before)
        if descriptor_store.is_kept():
            unit = descriptor_store.UNIT
            told = f"systemd has the images of the last kernel; first: systemctl restart {unit}"
            raise PramError(told) from exc
        raise
    if session is None:
        if expected:
            raise _lost(expected, "nothing came over from the last kernel")
        kept.restore_state(before)
        line.say(_NOTHING)
        return
    claim = Claim(session, expected)
    _leave_state(claim)
    line.say(_READY)
    line.close()
    while claim.items:
        try:
            end, _ = listener.accept()
        except OSError:  # too many files are open in the system, or the like
            time.sleep(_PAUSE_S)
        else:
            _serve(claim, Line(end), lock)


def _listener() -> socket.socket:
    """Return the socket on which commands ask. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    address = kept.DIRECTORY / _SOCKET
    address.unlink(missing_ok=True)
    mask = os.umask(0o177)
    listener.bind(str(address))
    os.umask(mask)
    listener.listen()
    return listener


def _lost(paths: Sequence[str], reason: str) -> PramError:
    """Return the error about images that have not come over, and let their paths be used again."""
    kept.write_state(_state([]))
    return PramError(f"{reason}; lost: {', '.join(paths)}" if paths else reason)


def _serve(claim: Claim, asking: Line, lock: int) -> None:
    with contextlib.suppress(Exception):  # as in `place`
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
        finally:
            asking.close()


def _leave_state(claim: Claim) -> None:
    images = [
        KeptImage(item.carried.path, item.carried.size_bytes, item.reason) for item in claim.items
    ]
    with contextlib.suppress(OSError):
        kept.write_state(_state(images))


def _state(images: Sequence[KeptImage]) -> State:
    return State(os.getpid(), outgoing=False, images=tuple(images))
