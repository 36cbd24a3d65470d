"""A shell of an administrator's own: the helpers in /sbin, an fstab and a utab, all in a mount namespace.

Nothing of it is to be seen outside, and it is gone with the process that holds the namespace. The
mounts in it are reached through /proc/PID/root; the daemons run among all other processes.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.mounted.harness import NOBODY, Outcome, mountinfo, run, unescape, wait_until
from tests.support.checkout import CHECKOUT, VENV

_SETUP = """
set -e
cd "$1"
umount --all --internal-only --lazy --types fuse.pramfs  # what others have mounted is not ours to hold
mount -t overlay overlay -o lowerdir="$1/install/sbin:$2" "$2"
mkdir -p /run/mount
mount --bind utab /run/mount
mount --bind fstab /etc/fstab
mknod --mode=666 fuse c 10 229  # as udev makes it
mount --bind fuse /dev/fuse
if [ -n "$4" ]; then  # Python lies where other users have no way in
    mkdir python
    mount --bind "$3" python
    mount -t tmpfs -o mode=755 tmpfs "$4"
    mkdir -p "$3"
    mount --move python "$3"
fi
echo ready
exec cat
"""


def version(program: str) -> tuple[int, ...]:
    """The version that a program of the system says it has, as numbers: what it does may depend on that."""
    found = re.search(r"\d+(\.\d+)+", run(program, "--version").succeeded().text)
    assert found is not None
    return tuple(map(int, found[0].split(".")))


class Shell:
    """Commands in a mount namespace where pramfs is installed; `home` holds what it is made of."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.utab = home / "utab"
        self.fstab = home / "fstab"
        self.utab.mkdir()
        self.fstab.touch()
        environment = {"DESTDIR": str(home / "install"), "PRAMFS_VENV": str(VENV)}
        run(CHECKOUT / "scripts/install-helpers", env=environment).succeeded()
        python = Path(sys.base_prefix)
        top = Path(*python.parts[:2])
        closed = "" if top.stat().st_mode & 0o001 else str(top)
        sbin = Path("/sbin").resolve()
        script = ["sh", "-c", _SETUP, "sh", str(home), str(sbin), str(python), closed]
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", *script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    def prefix(self, user: int = 0) -> list[str]:
        """What to put before a command to run it here, as that user."""
        namespace = f"--mount=/proc/{self._holder.pid}/ns/mnt"
        enter = ["nsenter", namespace, f"--wdns={self.home}", "--"]
        if user:
            enter += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        return enter

    def run(
        self,
        *argv: str | bytes | Path,
        user: int = 0,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> Outcome:
        return run(*self.prefix(user), *argv, stdin=stdin, env=env)

    def pramfs(self, *arguments: str | bytes | Path, user: int = 0, stdin: bytes = b"") -> Outcome:
        return self.run(VENV / "bin" / "pramfs", *arguments, user=user, stdin=stdin)

    def replace_program(self, name: str, script: str) -> None:
        """Put a shell script in the place of a program of the system's; $REAL is the program itself."""
        found = shutil.which(name)
        assert found is not None
        real, fake = self.home / f"real-{name}", self.home / name
        shutil.copy2(found, real)
        fake.write_text(f"#!/bin/sh\nREAL={real}\n{script}\n")
        fake.chmod(0o755)
        self.run("mount", "--bind", fake, Path(found).resolve()).succeeded()

    def path(self, path: Path) -> Path:
        """Where this process finds a file of the namespace."""
        return Path(f"/proc/{self._holder.pid}/root") / path.relative_to("/")

    def status(self, root: Path) -> dict[str, Any]:
        told = json.loads(self.pramfs("status", "--json", root).succeeded().out)
        assert isinstance(told, dict)
        return told

    def pramfs_mounts(self) -> list[str]:
        """The mountpoints of pramfs here, as the kernel writes them."""
        table = mountinfo(self._holder.pid)
        return [line.split()[4] for line in table if " - fuse.pramfs " in line]

    def unmount_all(self) -> None:
        """Leave no pramfs mounted; the daemons save and end by themselves."""
        for point in reversed(self.pramfs_mounts()):
            self.run("umount", "-i", "-l", unescape(point))

    def close(self) -> None:
        self.unmount_all()
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()


_FREEZE = """
fsfreeze --freeze "$1" && echo frozen
cat  # until our end of the pipe is closed, in whatever way
fsfreeze --unfreeze "$1"
"""


class Disk:
    """An ext4 on a loop device that can be frozen: writers then wait, uninterruptibly."""

    def __init__(self, shell: Shell) -> None:
        self.root = shell.home / "disk"
        self.root.mkdir()
        self._shell = shell
        backing = shell.home / "disk.ext4"
        with backing.open("wb") as file:
            file.truncate(128 << 20)
        run("mkfs.ext4", "-q", "-O", "^has_journal", backing).succeeded()
        shell.run("mount", "-o", "loop", backing, self.root).succeeded()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it stand still inside the block, and not longer than this process lives."""
        freezer = subprocess.Popen(
            [*self._shell.prefix(), "sh", "-c", _FREEZE, "sh", self.root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # out of reach of Ctrl-C
        )
        assert freezer.stdout is not None
        assert freezer.stdout.readline() == b"frozen\n"
        try:
            yield
        finally:
            freezer.communicate()
            assert freezer.returncode == 0

    def close(self) -> None:
        self._shell.unmount_all()
        wait_until(lambda: self._shell.run("umount", self.root).code == 0, "the disk to be free")


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or is a zombie that its new parent has not reaped yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextlib.contextmanager
def busy(*prefix: str, path: Path) -> Iterator[None]:
    """Hold a file or directory open in another process."""
    code = "import os,sys; os.open(sys.argv[1], os.O_RDONLY); print(flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [*prefix, sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        yield
    finally:
        holder.communicate()


def open_to_nobody(directory: Path) -> Path:
    """A directory that belongs to the user nobody, and is accessible to that user."""
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    for parent in directory.parents[:-1]:
        parent.chmod(parent.stat().st_mode | 0o011)
    return directory
