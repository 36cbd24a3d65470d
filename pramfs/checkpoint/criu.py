"""The calls of criu(8): a dump that leaves the processes running, one that ends them, a restore."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from pramfs.checkpoint.manifest import Dumped
from pramfs.errors import NotDumped, SystemFault

# The new process is put into its cgroup from outside: by systemd, or by what calls criu.
_ALWAYS = ("--manage-cgroups=ignore", "-v4")


def dump(dumped: Dumped, images: Path, log: Path, *, leave_running: bool) -> None:
    """Dump into the directory `images`, which is made. Raises NotDumped; the processes then run on."""
    images.mkdir(parents=True)
    words = ["criu", "dump", "-t", str(dumped.pid), "-D", str(images), *_ALWAYS, "-o", str(log)]
    _run(dumped, [*words, *(["--leave-running"] if leave_running else []), *dumped.options], log)


def restore_command(dumped: Dumped, images: Path, log: Path, pidfile: Path) -> list[str]:
    """Return the command that restores from `images`, and writes the pid to `pidfile`."""
    words = ["criu", "restore", "-d", "-D", str(images), *_ALWAYS, "-o", str(log)]
    return [*words, "--pidfile", str(pidfile), *dumped.options]


def _run(dumped: Dumped, command: Sequence[str], log: Path) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as exc:
        raise SystemFault(f"criu: {exc.strerror}; install criu") from exc
    # CRIU 3.17 ends a dump with success although there was no room for its last pages.
    if done.returncode or "No space left on device" in _text_of(log):
        raise NotDumped(dumped.name, reason(log), log)


def reason(log: Path) -> str:
    """Return the first error in a log, which is the cause of those that follow."""
    for line in _text_of(log).splitlines():
        _, mark, told = line.partition("Error ")
        if mark:
            return told.partition("): ")[2] or told
    return "criu has failed and says no more"


def _text_of(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""
