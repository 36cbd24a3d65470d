"""Services of systemd whose processes are dumped: kept from starting anew, and started by a restore.

All of it is done with a drop-in below /run, which the next kernel does not see.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from pramfs.errors import PramError, SystemFault

_UNITS = Path("/run/systemd/system")
_UP = ("active", "activating", "reloading")
_TRIES = 50
_PAUSE_S = 0.1
_DROP_IN = "50-pramfs-checkpoint.conf"
# What ends by being dumped is not started again, and cleans up nothing.
_QUIET = """\
[Service]
Restart=no
SuccessExitStatus=SIGKILL
ExecStopPost=
RuntimeDirectoryPreserve=yes
"""
_HELD = """\
[Unit]
# Never true.
ConditionPathExists=!/
"""
# With '+' as root and in no sandbox, whatever the service has: CRIU brings back what the processes had.
_RESTORED = """\
[Unit]
StartLimitIntervalSec=0
[Service]
Type=forking
PIDFile={pidfile}
Restart=no
TimeoutStartSec=infinity
ExecCondition=
ExecStartPre=
ExecStartPost=
ExecStart=
ExecStart=+{command}
"""


def cgroup_of(unit: str) -> str:
    """Return the cgroup of a running service. Raises PramError if it does not run."""
    properties = ("--property=ActiveState", "--property=ControlGroup")
    told = dict(line.split("=", 1) for line in _systemctl("show", *properties, unit).splitlines())
    group = told.get("ControlGroup", "")
    if told.get("ActiveState") != "active" or not group:
        raise PramError(f"{unit}: does not run")
    return group


def quiet(units: Sequence[str]) -> None:
    """Let systemd leave these alone when their processes are gone. Raises PramError."""
    _give(units, _QUIET)


def hold(units: Sequence[str]) -> None:
    """Keep these from starting until they are cleared or restored. Raises PramError."""
    _give(units, _HELD)


def start_restored(unit: str, command: Sequence[str], pidfile: Path) -> None:
    """Start a service by a command that restores its processes. Raises PramError, also if it runs."""
    _wait_until_down(unit)
    words = [shutil.which(command[0]) or command[0], *command[1:]]
    text = _RESTORED.format(pidfile=_escaped(str(pidfile)), command=" ".join(map(_quoted, words)))
    _give([unit], text)
    _systemctl("reset-failed", unit, check=False)
    _systemctl("start", unit)


def clear(units: Iterable[str]) -> None:
    """Let these be as they are configured. Raises PramError."""
    for unit in units:
        path = _drop_in_of(unit)
        with contextlib.suppress(OSError):
            path.unlink()
            path.parent.rmdir()
    if units:
        _systemctl("daemon-reload")


def start(units: Iterable[str]) -> None:
    """Have these started, without waiting. Raises PramError."""
    for unit in units:
        _systemctl("start", "--no-block", unit)


def _wait_until_down(unit: str) -> None:
    """Wait until systemd has seen that the processes are gone. Raises PramError if they are not."""
    for _ in range(_TRIES):
        state = _systemctl("show", "--property=ActiveState", "--value", unit).strip()
        if state not in _UP:
            return
        time.sleep(_PAUSE_S)
    raise PramError(f"{unit}: runs already")


def runs_the_system() -> bool:
    """Return whether systemd is what runs here."""
    return _UNITS.is_dir()


def _give(units: Sequence[str], text: str) -> None:
    for unit in units:
        path = _drop_in_of(unit)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o644)
        except OSError as exc:
            raise PramError(f"{path}: {exc.strerror}") from exc
    if units:
        _systemctl("daemon-reload")


def _drop_in_of(unit: str) -> Path:
    return _UNITS / f"{unit}.d" / _DROP_IN


def _quoted(word: str) -> str:
    """Return a word for ExecStart=, in which systemd finds nothing to expand."""
    escaped = _escaped(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _systemctl(*words: str, check: bool = True) -> str:
    try:
        done = subprocess.run(["systemctl", *words], check=False, capture_output=True, text=True)
    except OSError as exc:
        raise SystemFault(f"systemctl: {exc.strerror}; a unit needs systemd") from exc
    if check and done.returncode:
        why = done.stderr.strip().splitlines()
        raise PramError(f"systemctl {words[0]} failed: {why[0] if why else done.returncode}")
    return done.stdout
