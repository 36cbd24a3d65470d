"""Follow the work of a daemon from another process; a save, through the state in its run directory."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from pramfs.control import client, run_state
from pramfs.control.daemon_watch import DaemonWatch
from pramfs.control.status import MountStatus
from pramfs.errors import (
    PramError,
    SaveNotAllowed,
    SaveUnknown,
    StatusNotAllowed,
    UnknownOutcome,
)
from pramfs.storage.image import Image
from pramfs.system.descriptors import readable
from pramfs.system.forked_call import ForkedCall
from pramfs.system.namespaces import pid_namespace
from pramfs.system.progress import Bar

_PERIOD_S = 0.1
_NOTICE_S = 2.0
_LOOK_S = 1.0
_STOPPED_S = 6.0  # so long a daemon may be stopped before nobody waits for it


def wait_for_end(daemon: DaemonWatch, status: MountStatus, mountpoint: Path) -> None:
    """Wait until the daemon is gone, showing how it saves meanwhile.

    Reports if the save does not begin: the daemon then still serves the mount in another namespace. Raises
    UnknownOutcome if the daemon is stopped.
    """
    end_s = time.monotonic() + _NOTICE_S
    while not (daemon.wait(_PERIOD_S) or _saves(status, daemon.image) or _is_stopped(status)):
        if time.monotonic() > end_s:
            print(
                f"process {status.pid} still serves {status.image}: it is mounted in another "
                "mount namespace, too, such as a container's; waiting until it is unmounted there",
                file=sys.stderr,
            )
            break
    if not _follow(status, "saving", daemon.wait, lambda: _saved_pages(status)):
        raise UnknownOutcome(mountpoint, stopped(status), status.image)


def _saves(status: MountStatus, image: Image | None) -> bool:
    """Return whether it serves nobody any more, or nobody here can know."""
    if image is not None:
        try:
            return image.serving_pid() is None
        except OSError:  # its medium has failed
            return True
    state = run_state.read_state(Path(status.state))
    return state is None or (state.run, state.phase) == (status.run, run_state.SAVING)


def save(mountpoint: Path, to: Path | None = None, *, keep: bool = True) -> MountStatus:
    """Publish a checkpoint, showing its progress; return the status after it. Raises PramError.

    With `to` it goes to a new image at that path, where the mount goes on. `keep` is as for `request_save`.
    """
    status = status_to_save(mountpoint, "there is nothing to save")
    if to is None:
        client.request_save(mountpoint, shown(mountpoint, status), keep=keep)
    else:
        client.request_save_to(mountpoint, to, shown(mountpoint, status))
    return client.read_status(mountpoint)


def take_snapshot(mountpoint: Path, name: str, status: MountStatus) -> MountStatus:
    """Take a snapshot, showing the progress of its save; return the status after it. Raises PramError."""
    client.request_snapshot(mountpoint, name, shown(mountpoint, status))
    return client.read_status(mountpoint)


def free_snapshot(mountpoint: Path, full_name: str, status: MountStatus) -> MountStatus:
    """Free a snapshot, showing the progress of the save; return the status after it.

    Raises PramError, and FileNotFoundError if there is no such snapshot.
    """
    client.request_free(mountpoint, full_name, shown(mountpoint, status))
    return client.read_status(mountpoint)


def status_to_save(mountpoint: Path, if_read_only: str) -> MountStatus:
    """Return the status of a mount that is to save. Raises PramError if nobody may, or this user may not.

    `if_read_only` says what a read-only mount cannot do.
    """
    try:
        status = client.read_status(mountpoint)
    except StatusNotAllowed as exc:
        raise SaveNotAllowed(*exc.args[:2]) from exc
    if status.read_only:
        raise PramError(f"{mountpoint}: the mount is read-only: {if_read_only}")
    return status


def shown(mountpoint: Path, status: MountStatus) -> Callable[[ForkedCall], None]:
    """Return a function that waits for a call, showing how the daemon saves. Raises SaveUnknown from it."""

    def show(call: ForkedCall) -> None:
        if not follow(status, "saving", call, lambda: _saved_pages(status)):
            call.abandon()
            raise SaveUnknown(mountpoint, stopped(status))

    return show


def follow(
    status: MountStatus, label: str, call: ForkedCall, look: Callable[[], tuple[int, int]]
) -> bool:
    """Show the progress of the daemon until the call is over; return False if it is stopped before.

    `look` returns how many pages are done, and how many there are, 0 if that is not known.
    """
    return _follow(status, label, lambda timeout_s: bool(readable([call], timeout_s)), look)


def _follow(
    status: MountStatus,
    label: str,
    done: Callable[[float], bool],
    look: Callable[[], tuple[int, int]],
) -> bool:
    """Do the same until `done`, which waits for that many seconds, says that it is over."""
    runs_s = time.monotonic()
    with Bar(label, 0) as bar:
        while not done(_PERIOD_S if bar.visible else _LOOK_S):
            if not _is_stopped(status):
                runs_s = time.monotonic()
            elif time.monotonic() > runs_s + _STOPPED_S:
                return False
            if bar.visible:
                pages, total = look()
                if total:
                    bar.show(pages, total)
    return True


def _saved_pages(status: MountStatus) -> tuple[int, int]:
    state = run_state.read_state(Path(status.state))
    if state is None or state.run != status.run:
        return 0, 0
    return state.pages_done, state.pages_total


def _is_stopped(status: MountStatus) -> bool:
    is_ours = status.pid_namespace in (0, pid_namespace())
    return is_ours and client.is_stopped(status.pid)


def stopped(status: MountStatus) -> str:
    """Return what to say of a daemon that is stopped."""
    return f"its daemon is stopped, and kill -CONT {status.pid} lets it go on"
