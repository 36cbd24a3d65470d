"""Ask a running mount for its status, or to save. Needs no FUSE; the daemon's side is `control_xattrs`."""

import contextlib
import errno
import fcntl
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pramfs.control.control_xattrs import (
    ALLOWED_ON_ROOT,
    DEDUP,
    FLUSH,
    FRAMES,
    FRAMES_AT_ONCE,
    FREE,
    PERMIT,
    PERMIT_BYTES,
    PREFIX,
    RECEIVE,
    SAVE,
    SAVE_TO,
    SNAPSHOT,
    UNKEPT,
    Setting,
    encode_setting,
)
from pramfs.control.dedup_report import DedupReport, parse_report
from pramfs.control.save_target import opened_target
from pramfs.control.status import MountStatus, parse_status
from pramfs.control.tree_offer import TreeOffer
from pramfs.errors import (
    NotMounted,
    PramError,
    SaveNotAllowed,
    SaveUnknown,
    SnapshotExists,
    StatusNotAllowed,
)
from pramfs.storage import superblock
from pramfs.storage.frames import FrameCounts
from pramfs.storage.image import open_image
from pramfs.system import mountinfo
from pramfs.system.descriptors import readable
from pramfs.system.forked_call import ForkedCall
from pramfs.system.mountinfo import Mount, pramfs_mounts, require_alive, views_of

__all__ = ["FrameCounts", "Mount", "MountStatus", "read_status", "request_save", "running_mounts"]

_ANSWER_S = 6.0
_REPEATABLE = frozenset({SAVE, FLUSH, DEDUP})
_NOTHING_KNOWN = "unknown what is saved"


def status_if_mounted(target: Path, if_refused: str = _NOTHING_KNOWN) -> MountStatus | None:
    """Return the status of the mount at `target`, None if that is an image. As `read_status`."""
    return read_status(target, if_refused) if mountinfo.mount_at(target) else None


def read_status(mountpoint: Path, if_refused: str = _NOTHING_KNOWN) -> MountStatus:
    """Return the status of the pramfs mounted at `mountpoint`.

    Raises NotMounted, DeadMount, or another PramError if this user may not ask or the daemon does not answer;
    `if_refused` tells this user what is not done then.
    """
    mount = _mount_to_ask(mountpoint)
    with _what_cannot_be_asked(mountpoint, mount, if_refused):
        text = _read(mount, PREFIX + b"status")
    try:
        return parse_status(text)
    except ValueError as exc:
        raise PramError(
            f"{mountpoint}: cannot read the status of the daemon: {exc}; "
            "use the version of pramfs that mounted it"
        ) from exc


def running_mounts() -> list[tuple[Mount, MountStatus | PramError]]:
    """Return every mount that is visible here, oldest first, with its status or why it has none."""
    devices = dict.fromkeys(mount.device for mount in pramfs_mounts())
    views = [view for device in devices for view in views_of(device)[:1]]
    silent = _silent(views)
    told = [
        (view, _no_answer(view) if view in silent else _status_or_error(view)) for view in views
    ]
    # Some may have been unmounted meanwhile.
    return [(view, status) for view, status in told if not isinstance(status, NotMounted)]


def require_answer(mount: Mount) -> None:
    """Raise PramError, with what is known all the same, if the daemon does not answer within some seconds.

    It may be stopped. Any access to the mount would then wait for ever.
    """
    if _silent([mount]):
        raise _no_answer(mount)


def _silent(mounts: Sequence[Mount]) -> list[Mount]:
    """Return those whose daemons answer nothing for _ANSWER_S seconds. All are asked at the same time."""

    def ask(mount: Mount) -> ForkedCall:
        return ForkedCall(lambda: _probe(mount), mount.access_credentials)

    waiting = {ask(mount): mount for mount in mounts}
    end_s = time.monotonic() + _ANSWER_S
    while waiting:
        answered = readable(waiting, max(0.0, end_s - time.monotonic()))
        if not answered:
            break
        for call in answered:
            del waiting[call]
            with contextlib.suppress(OSError, PramError):  # an error is an answer
                call.result()
    for call in waiting:
        call.abandon()
    return list(waiting.values())


def _probe(mount: Mount) -> bytes:
    os.statvfs(mount.mountpoint)  # not stat: the kernel answers that from its cache
    return b""


def _no_answer(mount: Mount) -> PramError:
    told = [f"{mount.mountpoint}: the daemon does not answer"]
    # What the image tells needs no daemon. After a save to another image the mount table has the old one.
    with (
        contextlib.suppress(PramError, OSError),
        open_image(Path(mount.image), writable=False) as image,
    ):
        pid = image.serving_pid()
        if pid is not None:
            if pid > 0 and is_stopped(pid):
                told.append(f"process {pid} is stopped, kill -CONT {pid} lets it go on")
            elif pid > 0:
                told.append(f"process {pid} is busy or hangs")
            generation = superblock.require(image).generation
            told.append(f"generation {generation} is saved in {image.path}")
    return PramError("; ".join(told))


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped, by a signal or a debugger; False when it is gone."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        return status.rpartition(")")[2].split()[0] in {"T", "t"}
    return False


def _status_or_error(mount: Mount) -> MountStatus | PramError:
    try:
        return read_status(mount.mountpoint)
    except PramError as exc:
        return exc


def read_frames(mountpoint: Path, frames: int) -> bytes:
    """Return the states of all frames of the pramfs mounted at `mountpoint`. Raises as `read_status`."""
    mount = _mount_to_ask(mountpoint)
    numbers = range(-(-frames // FRAMES_AT_ONCE))
    with _what_cannot_be_asked(mountpoint, mount):
        parts = [_read(mount, FRAMES + str(number).encode()) for number in numbers]
    return b"".join(map(zlib.decompress, parts))


def request_save(
    mountpoint: Path,
    wait: Callable[[ForkedCall], object] = lambda call: None,
    *,
    keep: bool = True,
) -> None:
    """Publish a checkpoint, and return when it is durable; unless `keep`, it does not count for that option.

    Raises NotMounted, DeadMount, or another PramError if this user may not ask for it, the save failed or it
    lacks something. `wait` is called with the running call, and may wait for it in its own way.
    """
    mount = _mount_to_ask(mountpoint)
    _request_save(mountpoint, mount, lambda: _save(mount, keep=keep), wait)


def request_save_to(
    mountpoint: Path, path: Path, wait: Callable[[ForkedCall], object] = lambda call: None
) -> None:
    """Save to a new image at `path`, where the mount goes on, and return when that is durable.

    `path` is opened here, with the rights of this process. Raises as `request_save`, and for a path that
    cannot be used; the mount then goes on where it was.
    """
    mount = _mount_to_ask(mountpoint)
    status = read_status(mountpoint)
    with opened_target(path, status) as target:
        _request_save(mountpoint, mount, _setting(mount, SAVE_TO, target.to_json()), wait)


def request_flush(mount: Mount) -> None:
    """Have the daemon flush its mount: what the kernel cannot hand over makes the next save incomplete.

    Raises OSError, of an older daemon and where the kernel has a view of a part read-only, too.
    """
    _request(mount, _setting(mount, FLUSH), lambda call: None)


def request_dedup(mountpoint: Path, wait: Callable[[ForkedCall], object]) -> None:
    """Deduplicate, and return when that is done. Raises as `request_save`, and calls `wait` as that does."""
    mount = _mount_to_ask(mountpoint)
    refused = f"only {mount.allowed_users} may ask it to deduplicate"
    older = "its daemon is of an older version, and cannot deduplicate"
    refusals = {errno.EACCES: refused if _is_refused(mount) else older, errno.EPERM: refused}
    try:
        _request(mount, _setting(mount, DEDUP), wait)
    except OSError as exc:
        mountinfo.refuse_dead(mountpoint)  # killed meanwhile
        told = refusals.get(exc.errno or 0, f"not deduplicated: {exc.strerror}")
        raise PramError(f"{mountpoint}: {told}") from exc


def read_dedup(mountpoint: Path) -> DedupReport:
    """Return what the daemon tells of deduplication. Raises as `read_status`."""
    mount = _mount_to_ask(mountpoint)
    with _what_cannot_be_asked(mountpoint, mount):
        text = _read(mount, DEDUP)
    try:
        return parse_report(text)
    except ValueError as exc:
        raise PramError(f"{mountpoint}: cannot read what its daemon tells: {exc}") from exc


def request_snapshot(
    mountpoint: Path, name: str, wait: Callable[[ForkedCall], object] = lambda call: None
) -> None:
    """Save, keep what is saved as a snapshot, and return when that is durable.

    Raises as `request_save`, and SnapshotExists or another PramError if it was not tried.
    """
    refusals: dict[int, PramError] = {
        errno.EEXIST: SnapshotExists(name),
        errno.ENOSPC: PramError(
            f"{mountpoint}: no room for a snapshot: free others, or delete files"
        ),
    }
    _set(mountpoint, SNAPSHOT, name, wait, refusals)


def request_free(
    mountpoint: Path, full_name: str, wait: Callable[[ForkedCall], object] = lambda call: None
) -> None:
    """Free the snapshot NAME@SNAPSHOT, and return when a save without it is durable.

    Raises as `request_save`, and FileNotFoundError if there is none.
    """
    absent = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), full_name)
    _set(mountpoint, FREE, full_name, wait, {errno.ENOENT: absent})


def request_tree(
    mountpoint: Path,
    offer: TreeOffer,
    wait: Callable[[ForkedCall], object],
    refusals: Mapping[int, Exception],
) -> None:
    """Have a tree made of what is offered, and return when that is durable.

    Raises as `request_save`, and what `refusals` has for an errno if it was not tried.
    """
    mount = _mount_to_ask(mountpoint)
    no_access = _no_access(mountpoint, mount, "and cannot receive trees")
    act = _setting(mount, RECEIVE, offer.to_json())
    _request_save(mountpoint, mount, act, wait, {errno.EACCES: no_access, **refusals})


def _set(
    mountpoint: Path,
    attribute: bytes,
    value: str,
    wait: Callable[[ForkedCall], object],
    refusals: Mapping[int, Exception],
) -> None:
    mount = _mount_to_ask(mountpoint)
    act = _setting(mount, attribute, os.fsencode(value))
    _request_save(mountpoint, mount, act, wait, {**_no_snapshots(mountpoint, mount), **refusals})


def _no_snapshots(mountpoint: Path, mount: Mount) -> dict[int, PramError]:
    return {
        errno.EACCES: _no_access(mountpoint, mount, "without snapshots"),
        errno.EROFS: PramError(f"{mountpoint}: the mount is read-only"),
    }


def _no_access(mountpoint: Path, mount: Mount, lacking: str) -> PramError:
    """Return what EACCES means: the kernel refuses who may not write there, an old daemon what is new."""
    if _is_refused(mount):
        return SaveNotAllowed(mountpoint, mount.allowed_users)
    return PramError(f"{mountpoint}: its daemon is of an older version, {lacking}")


def _is_refused(mount: Mount) -> bool:
    return os.geteuid() != 0 and not os.access(mount.mountpoint, os.W_OK)


def _request_save(
    mountpoint: Path,
    mount: Mount,
    act: Callable[[], bytes],
    wait: Callable[[ForkedCall], object],
    refusals: Mapping[int, Exception] | None = None,
) -> None:
    """Have `act` ask for a save of some kind; raise what an errno means, by `refusals` if it is there."""
    known: dict[int, Exception] = {
        errno.EACCES: _no_access(mountpoint, mount, "and cannot save to another image"),
        errno.EPERM: SaveNotAllowed(mountpoint, mount.allowed_users),
        errno.EINTR: SaveUnknown(mountpoint, "a signal came before the daemon had answered"),
        **(refusals or {}),
    }
    try:
        _request(mount, act, wait)
    except OSError as exc:
        if exc.errno in known:
            raise known[exc.errno] from exc
        why = read_status(mountpoint).error or f"save failed: {exc.strerror}"
        raise PramError(f"{mountpoint}: the {why}") from exc


def _request(mount: Mount, act: Callable[[], bytes], wait: Callable[[ForkedCall], object]) -> None:
    """Have `act` ask the daemon. Raises OSError with what it answers."""
    call = ForkedCall(act, mount.access_credentials)
    wait(call)
    call.result()


def _setting(mount: Mount, attribute: bytes, value: bytes = b"") -> Callable[[], bytes]:
    """Return what sets a control attribute, for `_request`."""

    def act() -> bytes:
        if not _set_by_ioctl(mount, attribute, value):
            os.setxattr(mount.mountpoint, attribute, value)
        return b""

    return act


def _set_by_ioctl(mount: Mount, attribute: bytes, value: bytes) -> bool:
    """Do what `_set_once_by_ioctl` does, again if this process was stopped or frozen meanwhile."""
    while True:
        try:
            return _set_once_by_ioctl(mount, attribute, value)
        except InterruptedError:
            if attribute not in _REPEATABLE:
                raise


def _set_once_by_ioctl(mount: Mount, attribute: bytes, value: bytes) -> bool:
    """Set a control attribute in the way that holds no lock; return False where setxattr(2) is to be tried.

    That is: for an older daemon, for a value that is too long, and for who may not write to the place or open
    it, because setxattr(2) tells why.
    """
    permit = os.urandom(PERMIT_BYTES)
    encoded = encode_setting(Setting(permit, attribute, value))
    if encoded is None:
        return False
    try:
        kind = os.stat(mount.mountpoint).st_mode
        if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):  # a view of a device or a fifo
            return False
        if attribute not in ALLOWED_ON_ROOT or mount.part != "/":
            os.setxattr(mount.mountpoint, PERMIT, permit)
        place = os.open(mount.mountpoint, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(place, *encoded)
    except OSError as exc:
        if exc.errno != errno.ENOTTY:
            raise
        return False
    finally:
        os.close(place)
    return True


def _mount_to_ask(mountpoint: Path) -> Mount:
    """Return the mount through which to access the daemon: one of the root, if there is one."""
    seen = mountinfo.mount_at(mountpoint)
    if seen is not None:
        require_answer(seen)
    mount = require_alive(mountpoint)
    return (*views_of(mount.device), mount)[0]


def _save(mount: Mount, *, keep: bool) -> bytes:
    if not keep:
        try:
            return _setting(mount, SAVE, UNKEPT)()
        except OSError as exc:
            if exc.errno not in (errno.EROFS, errno.EACCES):
                raise
    if _set_by_ioctl(mount, SAVE, b""):
        return b""
    if mount.part != "/":
        os.setxattr(mount.mountpoint, SAVE, b"")
        return b""
    # fsync of the root does the same, even after a remount read-only and for who may not write there.
    root = os.open(mount.mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(root)
    finally:
        os.close(root)
    return b""


def _read(mount: Mount, name: bytes) -> bytes:
    return mount.ask(lambda: os.getxattr(mount.mountpoint, name))


@contextlib.contextmanager
def _what_cannot_be_asked(
    mountpoint: Path, mount: Mount, if_refused: str = _NOTHING_KNOWN
) -> Iterator[None]:
    try:
        yield
    except PermissionError as exc:
        raise StatusNotAllowed(mountpoint, mount.allowed_users, if_refused) from exc
    except OSError as exc:
        raise PramError(f"{mountpoint}: the daemon does not answer: {exc.strerror}") from exc
