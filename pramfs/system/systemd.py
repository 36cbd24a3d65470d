"""Let this process outlive the session that it was started in, where systemd runs the system.

A session's processes are killed DefaultTimeoutStopSec after they were told to end, and so is the helper of an
umount. That is 90 seconds: too short for a large save to a slow disk.
"""

import contextlib
import os
import re
import string
import subprocess
from pathlib import Path

from pramfs.system import mountinfo

_TIMEOUT_S = 5
_INFINITY = str(2**64 - 1)
_UNIT_NAME_MAX = 255
_UNITS = Path("/run/systemd/system")
_DROP_IN = "50-pramfs.conf"
_PLAIN = frozenset((string.ascii_letters + string.digits + ":_.").encode())
_OWN_UNIT = re.compile(r"^(?:0:|\d+:name=systemd):(.*/)([^/\n]+\.(?:scope|service))$", re.MULTILINE)

_Property = tuple[str, ...]  # name, type and value as arguments of busctl(1)


class DaemonScope:
    """The scope of a daemon that root has started by hand. Shutdown waits for it as long as it takes.

    There is none for a service or a mount unit: those have time-outs of their own. Nor where systemd does not
    run, cannot be reached or refuses: a mount works without.
    """

    def __init__(self, image: Path, mountpoint: Path) -> None:
        self._image = image
        self._mountpoint = mountpoint
        self._wanted = os.geteuid() == 0 and _is_killed_with_others()
        self._drop_in: Path | None = None

    def prepare(self) -> None:
        """Let systemd's unit for the mount, which comes with the mount, wait for umount's helper.

        Systemd looks for drop-ins when it loads a unit; so there is no need to reload anything.
        """
        unit = mount_unit(self._mountpoint)
        if not self._wanted or not unit:
            return
        path = _UNITS / f"{unit}.d" / _DROP_IN
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            path.parent.chmod(0o755)  # the umask lets nobody else read it
            path.write_text("[Mount]\nTimeoutSec=infinity\n")
            path.chmod(0o644)
            self._drop_in = path

    def enter(self, device: str) -> None:
        """Move this process into the scope. `device` is the number of the file system that it has mounted."""
        if not self._wanted:
            return
        around = mountinfo.mountpoint_around(self._image, device)
        _start_scope(f"pramfs-{os.getpid()}", _properties(self._mountpoint, around))

    def remove(self) -> None:
        """Leave nothing to the next mount at this place, which may be of another kind."""
        if self._drop_in is not None:
            with contextlib.suppress(OSError):
                self._drop_in.unlink()
                self._drop_in.parent.rmdir()


def enter_lasting_scope(name: str, description: str) -> None:
    """Move this process, of a session or a service, into a scope of its own, which a shutdown does not stop.

    Does nothing where systemd does not run the system, cannot be reached or refuses.
    """
    if os.geteuid() != 0 or not _UNITS.is_dir():
        return
    _start_scope(
        name,
        [
            ("Description", "s", description),
            ("PIDs", "au", "1", str(os.getpid())),
            ("DefaultDependencies", "b", "false"),
        ],
    )


def show(unit: str, *properties: str) -> dict[str, str]:
    """Return these properties of a unit, none where systemd does not run the system or knows them not."""
    if not _UNITS.is_dir():
        return {}
    told = _ask("systemctl", "show", f"--property={','.join(properties)}", unit)
    return dict(line.split("=", 1) for line in told.splitlines())


def version() -> int:
    """Return the number of the systemd that runs the system, 0 where none does or it cannot be asked."""
    if not _UNITS.is_dir():
        return 0
    told = _ask("systemctl", "show", "--property=Version", "--value")
    number = re.match(r"\d+", told)
    return int(number[0]) if number else 0


def attach(unit: str, pid: int) -> None:
    """Move a process into the control group of an active unit. Does nothing where systemd refuses."""
    _call("AttachProcessesToUnit", "ssau", unit, "", "1", str(pid))


def _start_scope(name: str, properties: list[_Property]) -> None:
    words = [word for entry in properties for word in entry]
    signature = "ssa(sv)a(sa(sv))"
    _call(
        "StartTransientUnit", signature, f"{name}.scope", "fail", str(len(properties)), *words, "0"
    )


def _call(method: str, *words: str) -> None:
    _ask(
        *("busctl", "--quiet", f"--timeout={_TIMEOUT_S}", "call", "org.freedesktop.systemd1"),
        *("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", method, *words),
    )


def mount_unit(mountpoint: Path) -> str:
    """Return the name of a mountpoint's mount unit, as systemd-escape(1) does; "" if it is too long."""
    text = os.fsencode(mountpoint).strip(b"/")
    name = "".join(
        "-" if byte == ord("/") else _escape(byte, is_first=number == 0)
        for number, byte in enumerate(text)
    )
    unit = f"{name or '-'}.mount"
    return unit if len(unit) <= _UNIT_NAME_MAX else ""


def _escape(byte: int, *, is_first: bool) -> str:
    if byte not in _PLAIN or (is_first and byte == ord(".")):
        return f"\\x{byte:02x}"
    return chr(byte)


def _is_killed_with_others() -> bool:
    """Return whether systemd runs the system, and a session's scope or the likes of cron this process.

    Those end without their children, which are killed at the end of a shutdown. A service that is told to be
    forking, however, may be meant to be this process; and a scope that is no part of a session was made to
    limit what is in it, so it is left at shutdown only, by pramfs-handover.
    """
    try:
        first = Path("/proc/1/comm").read_text()
        groups = Path("/proc/self/cgroup").read_text(errors="replace")
    except OSError:
        return False
    found = _OWN_UNIT.search(groups)
    if first != "systemd\n" or found is None:
        return False
    around, unit = found.groups()
    if unit.endswith(".scope"):
        return "/user.slice/" in around
    settings = _ask("systemctl", "show", "--property=KillMode", "--property=Type", unit).split()
    return "KillMode=process" in settings and "Type=forking" not in settings


def _properties(mountpoint: Path, around: Path) -> list[_Property]:
    """Describe the scope of a daemon whose image is on the file system mounted at `around`.

    It is stopped when the mount has been unmounted, and before the image's file system is. A remote one,
    however, is unmounted before local mounts are; so there the daemon is told at once to unmount and save.
    """
    own, below = mount_unit(mountpoint), mount_unit(around)
    properties: list[_Property] = [
        ("Description", "s", f"pramfs at {os.fsencode(mountpoint).decode(errors='replace')}"),
        ("PIDs", "au", "1", str(os.getpid())),
        ("TimeoutStopUSec", "t", _INFINITY),
        ("SendSIGKILL", "b", "false"),
    ]
    if "remote-fs-pre.target" not in _ask("systemctl", "show", "--property=After", below):
        properties += [
            ("DefaultDependencies", "b", "false"),
            ("Conflicts", "as", "1", "umount.target"),
            _units("Before", own, "umount.target"),
        ]
    if below != own:
        properties.append(_units("After", below))
    return properties


def _units(name: str, *units: str) -> _Property:
    named = [unit for unit in units if unit]
    return (name, "as", str(len(named)), *named)


def _ask(*command: str) -> str:
    """Return what a program of systemd prints, "" if it cannot be started, fails or takes too long."""
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, errors="replace",
            stdin=subprocess.DEVNULL, timeout=_TIMEOUT_S,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
