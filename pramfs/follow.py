"""Follow from another process how a daemon saves: by the state that it leaves in its run directory."""

import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pramfs import control, rundir
from pramfs.errors import PramError
from pramfs.progress import Bar

_PERIOD_S = 0.1


def wait_for_end(daemon: int, status: dict[str, Any]) -> None:
    """Wait until the process behind the pidfd `daemon` is gone, showing how it saves meanwhile."""
    _show(status, lambda timeout_s: bool(select.select([daemon], [], [], timeout_s)[0]))


def save(mountpoint: Path) -> dict[str, Any]:
    """Publish a checkpoint and show how it gets on; returns the status after it. Raises PramError."""
    status = control.read_status(mountpoint)
    if status["read_only"]:
        raise PramError(f"{mountpoint}: the mount is read-only: there is nothing to save")
    failures: list[BaseException] = []

    def request() -> None:
        try:
            control.request_save(mountpoint)
        except BaseException as exc:  # noqa: BLE001 - it is raised again where it is waited for
            failures.append(exc)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()

    def is_done(timeout_s: float | None) -> bool:
        thread.join(timeout_s)
        return not thread.is_alive()

    _show(status, is_done)
    if failures:
        raise failures[0]
    return control.read_status(mountpoint)


def _show(status: dict[str, Any], is_done: Callable[[float | None], bool]) -> None:
    path = Path(os.fspath(status["state"]))
    with Bar("saving", 0) as bar:
        if not bar.visible:
            is_done(None)
            return
        while not is_done(_PERIOD_S):
            state = rundir.read_state(path)
            if state is not None and state.run == status["run"] and state.pages_total:
                bar.show(state.pages_done, state.pages_total)
