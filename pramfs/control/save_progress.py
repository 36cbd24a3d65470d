"""Follow the save of a daemon from another process, through the state in its run directory."""

import os
import select
import sys
import time
from pathlib import Path
from typing import Any

from pramfs.control import control_xattrs, run_state
from pramfs.errors import PramError
from pramfs.system.forked_call import ForkedCall
from pramfs.system.progress import Bar

_PERIOD_S = 0.1
_NOTICE_S = 2.0


def wait_for_end(daemon: int, status: dict[str, Any]) -> None:
    """Wait until the process of the pidfd `daemon` is gone, and show the progress of its save meanwhile.

    Reports if the save does not begin: the daemon then still serves the mount in another namespace.
    """
    end_s = time.monotonic() + _NOTICE_S
    while not select.select([daemon], [], [], _PERIOD_S)[0] and not _saves(status):
        if time.monotonic() > end_s:
            print(
                f"process {status['pid']} still serves {status['image']}: it is mounted in another "
                "mount namespace, too, such as a container's; waiting until it is unmounted there",
                file=sys.stderr,
            )
            break
    _show(status, daemon)


def _saves(status: dict[str, Any]) -> bool:
    state = run_state.read_state(Path(os.fspath(status["state"])))
    return state is not None and (state.run, state.phase) == (status["run"], run_state.SAVING)


def save(mountpoint: Path) -> dict[str, Any]:
    """Publish a checkpoint, showing its progress; return the status after it. Raises PramError."""
    status = control_xattrs.read_status(mountpoint)
    if status["read_only"]:
        raise PramError(f"{mountpoint}: the mount is read-only: there is nothing to save")
    control_xattrs.request_save(mountpoint, lambda call: _show(status, call))
    return control_xattrs.read_status(mountpoint)


def _show(status: dict[str, Any], done: int | ForkedCall) -> None:
    """Show the progress of the daemon's save until `done` is readable."""
    path = Path(os.fspath(status["state"]))
    with Bar("saving", 0) as bar:
        if not bar.visible:
            select.select([done], [], [])
            return
        while not select.select([done], [], [], _PERIOD_S)[0]:
            state = run_state.read_state(path)
            if state is not None and state.run == status["run"] and state.pages_total:
                bar.show(state.pages_done, state.pages_total)
