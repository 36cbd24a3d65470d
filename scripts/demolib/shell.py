"""What the demo does as a person at a shell would: run pramfs, find a place, look at a mount."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from demolib.story import Step

COMMAND_TIMEOUT_SECONDS = 120
PRAMFS = Path(sys.prefix, "bin", "pramfs")


class FailureError(Exception):
    """The demo cannot go on; the message says why."""


def pramfs(step: Step, directory: Path, *arguments: str) -> None:
    """Run pramfs in a directory, and show it in the step; FailureError unless it exits with 0.

    A signal that asks the demo to end does not interrupt it: a mount that is half done could not
    be cleaned up.
    """
    step.command(["pramfs", *arguments])
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
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise FailureError(f"pramfs {arguments[0]} took over {COMMAND_TIMEOUT_SECONDS} s") from None
    except BaseException:
        process.communicate(timeout=COMMAND_TIMEOUT_SECONDS)
        raise
    step.output(errors)
    step.output(output)
    if process.returncode:
        raise FailureError(f"pramfs {arguments[0]} exited with {process.returncode}")


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
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(mountpoint) for line in mounts)


def remove_place(place: Path, mountpoint: Path) -> None:
    """Unmount what may be left mounted after a failure, and delete everything."""
    while is_mounted(mountpoint):
        subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=True)
    shutil.rmtree(place)
