"""Run a command of the host: quietly when it works, with what it complained of when it does not."""

import os
import subprocess
import tempfile
from pathlib import Path

# What it starts and mounts ends with it, and it with us, even when we are killed.
_CONFINED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
# A mount namespace begins with all mounts of the host. As long as a build takes, their daemons would serve,
# their loop devices stay, and whoever unmounts a pramfs would wait. So it begins without pramfs and without
# what tests mount in temporary directories. It asks no daemon, and strikes nothing from utab.
_WITHOUT_TESTS = r"""
let_go() { umount --lazy --internal-only --no-canonicalize --no-mtab "$@"; }
let_go --all --types fuse.pramfs
cut -d ' ' -f 5 /proc/self/mountinfo | tac | sed 's/\\/&0/g' | while read -r place; do
    case $place in "$0"/*) let_go "$(printf %b "$place")" ;; esac
done
exec "$@"
"""
_running: set[subprocess.Popen[str]] = set()


class FailureError(Exception):
    """The scenario cannot go on; the message says why."""


def run(
    *command: str | Path, cwd: Path | None = None, text: str = "", confined: bool = False
) -> str:
    """Run a command, with `text` as its input; returns its standard output. Raises FailureError.

    `confined` is for commands that start and mount more: nothing of that stays when we are interrupted.
    Takes root.
    """
    with subprocess.Popen(
        confined_command(*command) if confined else command,
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _running.add(process)
        try:
            output, errors = process.communicate(text)
        except BaseException:
            process.kill()
            process.communicate()  # comes to an end when all that could still write has ended
            raise
        finally:
            _running.remove(process)
    if process.returncode:
        words = (errors or output).strip()
        raise FailureError(f"{command[0]} exited with {process.returncode}: {words}")
    return output


def confined_command(*command: str | Path) -> list[str | Path]:
    """Return what to start so that nothing stays of what a command starts and mounts. Takes root."""
    temporary = os.path.realpath(tempfile.gettempdir())
    return [*_CONFINED, "sh", "-c", _WITHOUT_TESTS, temporary, *command]


def kill_all() -> None:
    """End what other threads run: an interrupt is for the main thread only."""
    for process in list(_running):
        process.kill()
