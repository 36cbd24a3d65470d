"""Mounts and daemons seen from outside: unmount, wait, who holds an image, what a daemon uses.

It asks the kernel only, so that a daemon is judged by what it does and not by what it reports.
"""

import ctypes
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

MNT_DETACH = 2
_CPUCLOCK_SCHED = 2  # as clock_getcpuclockid(3) makes a clock of a process

_libc = ctypes.CDLL(None, use_errno=True)


def unmount(mountpoint: Path, flags: int = 0) -> None:
    """umount2(2), helpers bypassed. Raises OSError."""
    if _libc.umount2(os.fsencode(mountpoint), flags):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), str(mountpoint))


def mounted_below(directory: Path) -> list[Path]:
    """Return the mountpoints below *directory*, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()  # names are of any bytes
    found = [Path(os.fsdecode(line.split()[4])) for line in lines]
    return [path for path in reversed(found) if path.is_relative_to(directory)]


def is_mounted(path: Path) -> bool:
    """Whether *path* is a mountpoint; unlike stat(2) this cannot hang on a daemon that hangs."""
    return path in mounted_below(path)


def wait_for_mount(mountpoint: Path, pid: int, timeout_s: float = 20) -> None:
    """Return when *mountpoint* is one; raises ChildProcessError if child *pid* ends before."""
    deadline = time.monotonic() + timeout_s
    while not is_mounted(mountpoint):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise ChildProcessError("it ended before it was mounted")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{mountpoint} was not mounted within {timeout_s} s")
        time.sleep(0.005)


def holders(path: Path) -> Iterator[int]:
    """Return the processes that have *path* open."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if any(fd.readlink() == path for fd in (entry / "fd").iterdir()):
                yield int(entry.name)
        except OSError:
            continue  # it ended, or its descriptor was closed, while we looked


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all threads of a process so far, ended ones too, to the nanosecond.

    /proc counts in hundredths of a second: a timer that fires now and then would not show.
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


class Daemon:
    """A process that is not our child: its end can be awaited and its use of the machine read."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def wait(self, timeout_s: float) -> None:
        """Return when it is gone. Raises TimeoutError."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            raise TimeoutError(f"process {self.pid} still runs after {timeout_s} s")

    def end(self, timeout_s: float) -> None:
        """Give it so long to end by itself, then kill it."""
        try:
            self.wait(timeout_s)
        except TimeoutError:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.wait(timeout_s)
        finally:
            self.close()

    def close(self) -> None:
        os.close(self._pidfd)

    def cpu_seconds(self) -> float:
        """Return the processor time of all its threads so far: see `cpu_seconds`."""
        return cpu_seconds(self.pid)

    def anonymous_bytes(self) -> int:
        """Its private memory: an arena, being a mapped file, is not part of it."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError(f"process {self.pid} has ended")
