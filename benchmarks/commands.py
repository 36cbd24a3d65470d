"""Running the commands that are measured or that measure: the client, tar, fio and the like."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import mounts

TIMEOUT_S = 600.0
_GRACE_S = 2.0

Argument = str | Path | int

_EXAMPLES = Path("/usr/share/doc/libfuse3-dev/examples")


class CommandError(Exception):
    """A command failed; the message names it and carries its last words."""


def run(*argv: Argument, env: Mapping[str, str] | None = None) -> str:
    """Run a command to its end and return what it printed. Raises CommandError.

    Its output goes to files: a daemon it leaves behind would hold a pipe open for ever.
    """
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            status = _wait(words, env, out.fileno(), err.fileno())
        except FileNotFoundError:
            raise CommandError(f"{words[0]} is not installed") from None
        out.seek(0)
        err.seek(0)
        if status:
            last_words = err.read().strip().splitlines()[-1:] or [f"status {status}"]
            raise CommandError(f"{Path(words[0]).name}: {last_words[0]}")
        return out.read()


def _wait(words: Sequence[str], env: Mapping[str, str] | None, out: int, err: int) -> int:
    """Run a command to its end and return its status; one that is given up ends with its children.

    Raises CommandError after TIMEOUT_S, and FileNotFoundError.
    """
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, process_group=0
    ) as process:
        try:
            # Not wait(TIMEOUT_S): it looks every 50 ms, and what is timed would take as long.
            with os.fdopen(os.pidfd_open(process.pid)) as pidfd:
                if not select.select([pidfd], [], [], TIMEOUT_S)[0]:
                    raise CommandError(f"{' '.join(words)}: no end after {TIMEOUT_S} s")
            return process.wait()
        except BaseException:
            _give_up(process)
            raise


def _give_up(process: "subprocess.Popen[bytes]") -> None:
    """End a command and its children; by SIGTERM first, for it may have a daemon to end."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(_GRACE_S)


def timed(*argv: Argument, env: Mapping[str, str] | None = None) -> float:
    """Run a command and return the seconds from its start to its end. Raises CommandError."""
    start = time.perf_counter()
    run(*argv, env=env)
    return time.perf_counter() - start


def sync_and_time(command: Sequence[Argument], written: Path) -> float:
    """Like `timed`, until what the command wrote is also synced."""
    return timed(*command) + timed("sync", "-f", written)


class Client:
    """The compiled client; its source says what each of its commands does."""

    def __init__(self, directory: Path) -> None:
        source = Path(__file__).with_name("client.c")
        self._program = directory / "client"
        run("gcc", "-O2", "-Wall", "-Wextra", "-o", self._program, source)

    def __call__(self, command: str, *args: Argument) -> list[float]:
        """Run *command* and return its numbers: seconds, one a phase. Raises CommandError."""
        return [float(word) for word in run(self._program, command, *args).split()]


def compile_passthrough_ll(directory: Path) -> Path:
    """Build libfuse's own C example from the source that Debian's libfuse3-dev carries."""
    for name in ("passthrough_ll.c", "passthrough_helpers.h"):
        try:
            shutil.copy(_EXAMPLES / name, directory)
        except FileNotFoundError:
            raise CommandError("libfuse3-dev is not installed") from None
    program = directory / "passthrough_ll"
    flags = run("pkg-config", "--cflags", "--libs", "fuse3").split()
    run("gcc", "-O2", "-o", program, directory / "passthrough_ll.c", *flags)
    return program


def remove_tree(directory: Path) -> None:
    """Delete *directory* with all in it, but never reach into something still mounted there."""
    if mounts.mounted_below(directory):
        raise OSError(f"{directory} still holds a mount")
    shutil.rmtree(directory, ignore_errors=True)
