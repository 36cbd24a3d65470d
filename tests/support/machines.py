"""Other machines, as far as pramfs can tell: processes with another machine id and boot id.

Each has a mount namespace of its own, in which other files are over /etc/machine-id and the kernel's boot id,
and a device node of its own for the same bytes, with a page cache and locks of its own.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.mounted.harness import Outcome, run, wait_until
from tests.support.checkout import CHECKOUT

_OFFSET_BYTES = 1 << 20  # with one, the lock of a loop device is not that of the file
_BIND = """\
mount --bind "$1" /etc/machine-id
mount --bind "$2" /proc/sys/kernel/random/boot_id
hostname "$3"
echo ready
exec sleep infinity
"""


class Machine:
    """One machine: its name, its device and its mountpoint; `pramfs` runs a command there."""

    def __init__(self, name: str, home: Path, device: Path, machine_id: str, boot_id: str) -> None:
        self.name = name
        self.device = device
        self.root = home / f"mnt-{name}"
        self.root.mkdir(exist_ok=True)
        for kind, text in (("machine-id", machine_id), ("boot-id", boot_id)):
            (home / f"{name}.{kind}").write_text(f"{text}\n" if text else "")
        self._log = home / f"{name}.log"
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "--uts", "sh", "-euc", _BIND, "sh"]
            + [str(home / f"{name}.{kind}") for kind in ("machine-id", "boot-id")]
            + [name],
            stdout=subprocess.PIPE,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"ready\n"
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.off()

    def pramfs(self, *arguments: str | Path, stdin: bytes = b"") -> Outcome:
        """Run a command of pramfs on this machine."""
        program = [sys.executable, "-m", "pramfs", *arguments]
        return run(*self._entering, *program, stdin=stdin)

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start to mount in the foreground."""
        words = ["mount", "-f", *(word for option in options for word in ("-o", option))]
        with self._log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [*self._entering, sys.executable, "-m", "pramfs", *words, self.device, self.root],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT), "LC_ALL": "C"},
            )
        return self._daemon

    def mount(self, *options: str) -> Path:
        """Mount; returns the root of the tree as it can be reached from here."""
        daemon = self.start(*options)
        wait_until(lambda: self.is_mounted or daemon.poll() is not None, f"a mount on {self.name}")
        assert daemon.poll() is None, self.log
        return self.tree

    @property
    def tree(self) -> Path:
        return Path(f"/proc/{self._keeper.pid}/root{self.root}")

    @property
    def is_mounted(self) -> bool:
        mounts = Path(f"/proc/{self._keeper.pid}/mountinfo").read_text()
        return f" {self.root} " in mounts

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def umount(self) -> Outcome:
        """Unmount, and wait for the end of the daemon."""
        outcome = self.pramfs("umount", self.root)
        if self._daemon is not None:
            self._daemon.wait()
        return outcome

    def kill(self) -> None:
        """End the daemon, as a machine does that loses its power."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()
        run(*self._entering, "umount", "-i", "-l", self.root).succeeded()

    def off(self) -> None:
        """Leave nothing of it."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.kill()
            self._daemon.wait()
        assert self._keeper.stdout is not None
        self._keeper.stdout.close()
        self._keeper.kill()
        self._keeper.wait()

    @property
    def _entering(self) -> list[str]:
        return ["nsenter", "--mount", "--uts", f"--target={self._keeper.pid}"]


@contextlib.contextmanager
def device_of(file: Path) -> Iterator[Path]:
    """One more device for the bytes of the file, which no lock connects with others."""
    outcome = None

    def attach() -> bool:
        nonlocal outcome
        outcome = run("losetup", "--find", "--show", f"--offset={_OFFSET_BYTES}", file)
        return outcome.code == 0

    wait_until(attach, "a free loop device")
    assert outcome is not None
    device = Path(outcome.text.strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device).succeeded()


@contextlib.contextmanager
def machines(home: Path, size_bytes: int) -> Iterator[tuple[Machine, Machine]]:
    """Two machines that reach the same blank disk."""
    disk = home / "disk"
    disk.touch()
    os.truncate(disk, size_bytes + _OFFSET_BYTES)
    with contextlib.ExitStack() as stack:
        made = []
        for name, digit in (("alpha", "a"), ("beta", "b")):
            device = stack.enter_context(device_of(disk))
            made.append(
                stack.enter_context(Machine(name, home, device, digit * 32, boot_id(digit)))
            )
        yield made[0], made[1]


def boot_id(digit: str) -> str:
    return f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}"
