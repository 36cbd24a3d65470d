"""Unmount and wait for the save, because umount(2) of a FUSE file system returns before it is done."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pramfs.control import client, run_state, save_progress
from pramfs.control.daemon_watch import DaemonWatch
from pramfs.control.run_state import State
from pramfs.control.status import MountStatus
from pramfs.errors import NotUnderItsName, PramError, UmountNotAllowed, UnknownOutcome
from pramfs.storage import superblock
from pramfs.storage.image import identity_of, open_image
from pramfs.storage.layout import SUPER_CUT_OFF, SUPER_INCOMPLETE, SuperBlock
from pramfs.system import mount_tools, mountinfo
from pramfs.system.mountinfo import Mount


@dataclass(frozen=True, slots=True)
class Unmounted:
    """What an unmount has come to, if it has not failed."""

    message: str
    is_over: bool  # it is mounted nowhere any more, and nothing is left to save


def umount(mountpoint: Path, flags: Sequence[str] = (), *, for_umount: bool = False) -> Unmounted:
    """Unmount, wait until the daemon is gone, and return what is to be said of the save.

    `flags` are umount(8)'s -l (detach now; without -f, wait for nothing), -f, -r, -n; `for_umount` if it is
    umount(8) that called. Raises PramError when it cannot be unmounted, when the save failed or lacks
    something, and UnknownOutcome when nobody knows.
    """
    mount = mountinfo.require_mount(mountpoint)
    if os.geteuid() not in (0, mount.user):
        return _umount_of_another_user(mountpoint, mount, flags)
    client.require_answer(mount)
    if mountinfo.is_dead(mountpoint):
        mount_tools.unmount(mount.mountpoint, *flags)
        raise PramError(
            f"{mountpoint}: unmounted, but the daemon was dead: what it had not saved is lost; "
            f"{_what_stands(mount.image)}"
        )
    status = client.read_status(mountpoint)
    # Before the mount is gone: its device number may then be reused.
    before = mountinfo.pramfs_mounts()
    with contextlib.closing(DaemonWatch(status)) as watch:
        with _forced(mountpoint, flags, mount, status, watch):
            mount_tools.unmount(mount.mountpoint, *flags)
        if "-r" in flags and mount in mountinfo.pramfs_mounts():
            # umount -r has removed the entry.
            mount_tools.record_helper(mount.image, mount.mountpoint)
            raise PramError(f"{mountpoint}: busy, so it is read-only now; still mounted, not saved")
        views = [view for view in mountinfo.views_of(mount.device) if view in before]
        _record_helpers(views, mount.mountpoint if for_umount and "-n" not in flags else None)
        if "-l" in flags and "-f" not in flags:
            told = _detached(mountpoint, views, status)
            if status.error:
                raise PramError(f"{told}; but the {status.error}")
            return Unmounted(told, is_over=False)
        if views:
            return Unmounted(_still_mounted(mountpoint, views, status), is_over=False)
        if watch.can_wait:
            save_progress.wait_for_end(watch, status, mountpoint)
        if status.read_only:
            told = f"{mountpoint}: unmounted; it was read-only, there was nothing to save"
            return Unmounted(told, is_over=True)
        if not watch.can_wait:
            raise UnknownOutcome(
                mountpoint, "neither its daemon nor its image is to be seen here", status.image
            )
        return Unmounted(_verdict(mountpoint, status, watch), is_over=True)


def _umount_of_another_user(mountpoint: Path, mount: Mount, flags: Sequence[str]) -> Unmounted:
    """Unmount as fstab's option `users` lets everybody; what is returned knows of no save.

    Neither the daemon nor its image answers this user, as a rule.
    """
    if not mount_tools.anybody_may_unmount(mount.image, mount.mountpoint):
        raise UmountNotAllowed(mountpoint, mount.allowed_users)
    status = client.read_status(mountpoint) if mount.shared else None
    with contextlib.ExitStack() as stack:
        watch = DaemonWatch(status) if status is not None else None
        if watch is not None:
            stack.callback(watch.close)
        mount_tools.unmount_by_fstab(mount.mountpoint, *flags)
        views = mountinfo.views_of(mount.device)
        if views:
            return Unmounted(f"{mountpoint}: unmounted; {_where(views)}", is_over=False)
        if "-l" in flags:
            told = f"{mountpoint}: detached; it is saved when nobody uses it any more"
            return Unmounted(told, is_over=False)
        if status is not None and watch is not None and watch.can_wait:
            save_progress.wait_for_end(watch, status, mountpoint)
    raise UnknownOutcome(
        mountpoint, f"only {mount.allowed_users} can see how it is saved", mount.image
    )


def _flush(mount: Mount) -> None:
    """Have the kernel hand over its dirty pages; the last save tells what it could not."""
    try:
        client.request_flush(mount)
    except OSError:  # a daemon of an older version, or a read-only view of a part
        mount_tools.flush(mount.mountpoint)


@contextlib.contextmanager
def _forced(
    mountpoint: Path, flags: Sequence[str], mount: Mount, status: MountStatus, watch: DaemonWatch
) -> Iterator[None]:
    """Let `umount -f` lose nothing that can be had, and say what it has done to a mount that is busy.

    The kernel ends the connection first, and looks then who uses the mount: what programs have written and
    it has not handed over is lost, and what is left is a dead mount. So it does if it is mounted elsewhere.
    """
    if "-f" in flags:
        _flush(mount)
    try:
        yield
    except PramError as exc:
        if "-f" not in flags or not mountinfo.is_dead(mountpoint):
            raise
        if watch.can_wait:
            save_progress.wait_for_end(watch, status, mountpoint)
        raise PramError(
            f"{mountpoint}: busy, and cut off by force: a dead mount now. The daemon has ended; "
            f"{_lost_by_force(watch, status)} ({exc})"
        ) from exc
    views = mountinfo.views_of(mount.device) if "-f" in flags else ()
    if views:
        if watch.can_wait:
            save_progress.wait_for_end(watch, status, mountpoint)
        raise PramError(
            f"{mountpoint}: unmounted by force, which cut off the other places, too; {_where(views)}, as a "
            f"dead mount. The daemon has ended; {_lost_by_force(watch, status)}"
        )


def _lost_by_force(watch: DaemonWatch, status: MountStatus) -> str:
    """Say what may be lost after an unmount by force; `status` is that of before."""
    trouble = _displaced(watch, status.image) or status.error
    if trouble:
        return f"what programs wrote may be lost; the {trouble}"
    with contextlib.suppress(OSError):
        block = watch.last_block(sync=True)
        if block is not None:
            told = f"what programs wrote since it saved generation {block.generation} may be lost"
            return told + (
                ", and that save is incomplete" if block.flags & SUPER_INCOMPLETE else ""
            )
    return "what programs wrote since the last save may be lost"


def _what_stands(image: str) -> str:
    """Say which save is in the image of a daemon that has been killed, if there is one."""
    try:
        with open_image(image, writable=False) as opened:
            opened.sync()  # the daemon may have been killed before it did
            block = superblock.require(opened)
            state = run_state.last_state(opened, block.uuid)
            if state is None or state.phase not in (run_state.SERVING, run_state.SAVING):
                return f"in {image} is generation {block.generation}, perhaps of another image"
            return f"generation {block.generation} in {image} stands{_lacking(block)}"
    except (OSError, PramError) as exc:
        return f"no save is to be seen: {exc}"


def _lacking(block: SuperBlock) -> str:
    incomplete, cut_off = (bool(block.flags & flag) for flag in (SUPER_INCOMPLETE, SUPER_CUT_OFF))
    told = superblock.what_it_lacks(incomplete=incomplete, cut_off=cut_off, why=False)
    return told and f", {told}"


def _detached(mountpoint: Path, views: Sequence[Mount], status: MountStatus) -> str:
    if views:
        return f"{mountpoint}: detached, nothing saved; {_where(views)}"
    return (
        f"{mountpoint}: detached; it is saved when nobody uses it any more, "
        f"process {status.pid} then ends; see: pramfs info {status.image}"
    )


def _record_helpers(views: Sequence[Mount], strikes_out: Path | None) -> None:
    """Let umount(8) know of its helper wherever the file system is still mounted.

    `strikes_out` is the place whose utab entry umount(8) removes afterwards; the file system may still be
    mounted there, too, if it was bound to itself.
    """
    for view in views:
        times = 2 if view.mountpoint == strikes_out else 1
        mount_tools.record_helper(view.image, view.mountpoint, times=times)


def _still_mounted(mountpoint: Path, views: Sequence[Mount], status: MountStatus) -> str:
    """Save a file system that is still mounted at other places, and return the message about it.

    Only the umount of the last place waits for the daemon.
    """
    where = _where(views)
    if status.read_only:
        return f"{mountpoint}: unmounted; {where}"
    try:
        generation = save_progress.save(views[0].mountpoint).generation
    except PramError as exc:
        raise PramError(f"{mountpoint}: unmounted, {where}; but {exc}") from exc
    return f"{mountpoint}: unmounted; saved to {status.image}, generation {generation}; {where}"


def _where(views: Sequence[Mount]) -> str:
    return f"still mounted at {', '.join(str(view.mountpoint) for view in views)}"


def _verdict(mountpoint: Path, status: MountStatus, watch: DaemonWatch) -> str:
    """Return what to say of the save, by what the image holds now. Raises PramError if that is not all."""
    image = status.image
    state = run_state.read_state(Path(status.state))
    if state is not None and state.run != status.run:
        state = None
    try:
        generation, incomplete, misplaced = _last_save(watch, state, status)
    except OSError as exc:
        raise UnknownOutcome(
            mountpoint, f"the image fails ({exc.strerror}) after the save", image
        ) from exc
    except PramError as exc:
        raise PramError(f"{mountpoint}: unmounted, but {exc}") from exc
    if generation is None:
        raise UnknownOutcome(
            mountpoint, f"the daemon left no word on its save at {status.state}", image
        )
    misplaced = misplaced or _displaced(watch, image)
    if misplaced:
        raise PramError(f"{mountpoint}: unmounted, but the {misplaced}")
    if incomplete:
        raise PramError(
            f"{mountpoint}: unmounted and saved, generation {generation}, but the {incomplete}"
        )
    return f"{mountpoint}: unmounted; saved to {image}, generation {generation}"


def _last_save(
    watch: DaemonWatch, state: State | None, status: MountStatus
) -> tuple[int | None, str, str]:
    """Return the generation of the final save, None if unknown; what it lacks; why it is not in the image.

    Raises PramError when the run ended without a final save.
    """
    if state is not None and state.phase == run_state.FAILED:
        raise PramError(f"the {state.error}")
    told = state if state is not None and state.phase == run_state.SAVED else None
    incomplete, misplaced = (told.incomplete, told.misplaced) if told is not None else ("", "")
    block = watch.last_block(sync=told is None)
    if block is not None and watch.is_final(block):
        lacks = "; the ".join(map(str, superblock.shortcomings(block)))
        return block.generation, incomplete or lacks, misplaced
    if told is not None:
        if watch.image is None or (block is not None and block.generation > told.generation):
            return told.generation, incomplete, misplaced
        raise PramError(f"generation {told.generation} is in the image no more: it was overwritten")
    if block is None:
        return None, "", ""
    if block.run.hex() == status.run or block.generation == status.generation:
        raise PramError(
            f"the daemon ended while it saved; the previous save (generation {block.generation}) stands"
        )
    return None, "", ""  # somebody else has saved since


def _displaced(watch: DaemonWatch, image: str) -> str:
    """Return why the image is not found under its name, "" if it is, or if nobody here can know."""
    if watch.image is None:
        return ""
    with contextlib.suppress(OSError):
        if identity_of(Path(image).stat()) == watch.image.identity:
            return ""
    return str(NotUnderItsName(image, "it was removed or renamed meanwhile"))
