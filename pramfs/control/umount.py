"""Unmount and wait for the save, because umount(2) of a FUSE file system returns before it is done."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pramfs.control import control_xattrs, run_state, save_progress
from pramfs.errors import PramError
from pramfs.system import mount_tools, mountinfo
from pramfs.system.mountinfo import Mount


def umount(mountpoint: Path, flags: Sequence[str] = (), *, for_umount: bool = False) -> str:
    """Unmount, wait until the daemon is gone, and return the message about the save.

    `flags` are those of umount(8): -l (detach now, and do not wait), -f, -r, -n. `for_umount`: umount(8) is
    the caller. Raises PramError when the mount cannot be unmounted, or the save failed or may have failed.
    """
    mount = mountinfo.require_mount(mountpoint)
    if os.geteuid() not in (0, mount.user):
        raise PramError(f"{mountpoint}: only {mount.allowed_users} can unmount it")
    if mountinfo.is_dead(mountpoint):
        mount_tools.unmount(mount.mountpoint, *flags)
        raise PramError(
            f"{mountpoint}: unmounted, but the daemon was dead: what it had not saved is lost, "
            "the last save stands"
        )
    status = control_xattrs.read_status(mountpoint)
    daemon = _pidfd(int(status["pid"]))
    # Before the mount is gone: its device number may then be reused.
    before = mountinfo.pramfs_mounts()
    try:
        mount_tools.unmount(mount.mountpoint, *flags)
        if "-r" in flags and mount in mountinfo.pramfs_mounts():
            # umount -r has removed the entry.
            mount_tools.record_helper(mount.image, mount.mountpoint)
            raise PramError(f"{mountpoint}: busy, so it is read-only now; still mounted, not saved")
        if "-l" in flags:
            return (
                f"{mountpoint}: detached; it is saved when nobody uses it any more, "
                f"process {status['pid']} then ends; see: pramfs info {status['image']}"
            )
        views = [view for view in mountinfo.views_of(mount.device) if view in before]
        if views:
            strikes_out = mount.mountpoint if for_umount and "-n" not in flags else None
            return _still_mounted(mountpoint, views, status, strikes_out)
        if daemon is not None:
            save_progress.wait_for_end(daemon, status)
    finally:
        if daemon is not None:
            os.close(daemon)
    if status["read_only"]:
        return f"{mountpoint}: unmounted; it was read-only, there was nothing to save"
    return _verdict(mountpoint, status)


def _still_mounted(
    mountpoint: Path, views: Sequence[Mount], status: dict[str, Any], strikes_out: Path | None
) -> str:
    """Save a file system that is still mounted at other places, and return the message about it.

    Only the umount of the last place waits for the daemon. `strikes_out` is the place whose utab entry
    umount(8) removes afterwards; the file system may still be mounted there, too, if it was bound to itself.
    """
    for view in views:
        times = 2 if view.mountpoint == strikes_out else 1
        mount_tools.record_helper(view.image, view.mountpoint, times=times)
    where = ", ".join(str(view.mountpoint) for view in views)
    if status["read_only"]:
        return f"{mountpoint}: unmounted; still mounted at {where}"
    generation = save_progress.save(views[0].mountpoint)["generation"]
    saved = f"saved to {status['image']}, generation {generation}"
    return f"{mountpoint}: unmounted; {saved}; still mounted at {where}"


def _pidfd(pid: int) -> int | None:
    """Return a pidfd, which is readable when the process has ended; None if it has already."""
    with contextlib.suppress(ProcessLookupError):
        return os.pidfd_open(pid)
    return None


def _verdict(mountpoint: Path, status: dict[str, Any]) -> str:
    state = run_state.read_state(Path(status["state"]))
    image = status["image"]
    if state is None or state.run != status["run"]:
        raise PramError(
            f"{mountpoint}: unmounted, but the daemon left no word on its save at {status['state']}: "
            f"it is unknown what is durable; see: pramfs info {image}"
        )
    if state.phase == run_state.FAILED:
        raise PramError(f"{mountpoint}: unmounted, but the {state.error}")
    if state.phase != run_state.SAVED:
        raise PramError(
            f"{mountpoint}: unmounted, but the daemon ended while it saved: it is unknown what is durable; "
            f"see: pramfs info {image}"
        )
    return f"{mountpoint}: unmounted; saved to {image}, generation {state.generation}"
