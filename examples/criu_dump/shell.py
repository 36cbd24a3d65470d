"""What the demo does as a person at a shell would: run pramfs, find a place, look at a mount."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from examples.criu_dump.story import Step

COMMAND_TIMEOUT_SECONDS = 60
GRACE_SECONDS = 10
PRAMFS = Path(sys.prefix, "bin", "pramfs")


class FailureError(Exception):
    """The demo cannot go on; the message says why."""


def pramfs(step: Step, directory: Path, *arguments: str) -> None:
    """Run pramfs in a directory, and show it in the step; FailureError unless it exits with 0."""
    step.command(["pramfs", *arguments])
    result = _run(directory, arguments)
    step.output(result.stderr)
    step.output(result.stdout)
    if result.returncode:
        raise FailureError(f"pramfs {arguments[0]} exited with {result.returncode}")


def run_files(directory: Path, mountpoint: str) -> tuple[Path, Path]:
    """Return where the daemon of a mount leaves its log, and the state of its run."""
    result = _run(directory, ["info", "--json", mountpoint])
    if result.returncode:
        raise FailureError(f"pramfs info exited with {result.returncode}: {result.stderr}")
    mount = json.loads(result.stdout)["mount"]
    return Path(mount["log"]), Path(mount["state"])


def banned_table(log: Path) -> list[str]:
    """Return the table of banned regions that a daemon wrote to its log when it mounted last."""
    messages = [line.partition(" INFO ")[2] for line in log.read_text().splitlines()]
    firsts = [n for n, message in enumerate(messages) if message == "PRAM: banned regions:"]
    lasts = [n for n, message in enumerate(messages) if message.startswith("Total banned:")]
    if not firsts or not lasts:
        raise FailureError(f"{log} holds no table of banned regions")
    return messages[firsts[-1] : lasts[-1] + 1]


def make_place(bytes_needed: int) -> Path:
    """Make a directory for image and mountpoint: in memory if there is room, else in $TMPDIR."""
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free >= bytes_needed
    return Path(tempfile.mkdtemp(prefix="pramfs-demo.", dir=memory if in_memory else None))


def memory_available_bytes() -> int:
    """How much memory the kernel could hand out without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise FailureError("/proc/meminfo does not say how much memory is available")


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted there, even if it answers no longer."""
    # Others may have names that are no UTF-8.
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return any(line.split()[4] == os.fsencode(mountpoint) for line in mounts)


def unmount_leftover(mountpoint: Path) -> None:
    """Unmount what a demo that failed has left: in the proper way, or else by force."""
    if is_mounted(mountpoint):
        with suppress(FailureError):
            _run(mountpoint.parent, ["umount", mountpoint.name])
    while is_mounted(mountpoint):
        subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)


def _run(directory: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run pramfs to its end.

    A signal that asks the demo to end leaves it some time: a mount that is half done could not be
    cleaned up.
    """
    process = subprocess.Popen(
        [PRAMFS, *arguments],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=COMMAND_TIMEOUT_SECONDS)
    except BaseException as error:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        process.kill()
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise FailureError(f"pramfs {arguments[0]} does not come to an end") from None
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)
