"""What a person types in the guest: mount, start processes, dump, unmount, kexec, restore.

Each function shows its commands and what they print in a step of the story, if it is given one.
"""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from examples.criu_dump.story import Step
from tests.vm.machine import Machine
from tests.vm.shell import FailureError

DEVICE = "/dev/pmem0"
MOUNTPOINT = "/mnt"
PERSISTENT = "/srv"
RANGE = "192M!1G"
BANNED = "0-16M"
COMMAND_LINE = f"console=ttyS0 panic=-1 quiet loglevel=4 memmap={RANGE}"

_PLACE = re.compile(r"\bpram=[0-9a-f]+")


@dataclass(frozen=True)
class Workload:
    """A process worth restoring: its directory of dumps is named by what it is."""

    name: str
    arguments: tuple[str, ...]
    pid: int

    @property
    def command(self) -> str:
        """What runs it, and its children."""
        return shlex.join(["python3", "/opt/workload.py", *self.arguments])

    @property
    def images(self) -> str:
        """Where its dump is."""
        return f"{MOUNTPOINT}/{self.name}"


# Pids far from those that a booting guest uses, so that they are free again after a kexec.
MEMORY = Workload("memory", ("memory", "32"), 6000)
FAMILY = Workload("family", ("family",), 7000)
FILE = Workload("file", ("file", PERSISTENT), 8000)
WORKLOADS = (MEMORY, FAMILY, FILE)

Report = dict[str, Any]
Reports = dict[int, Report]  # by pid: of a process and its children


class Session:
    """A shell in the guest: one with a range of memory kept out of the kernel, and an image there."""

    title = "pramfs: processes go on in another kernel, their memory kept in place over kexec"
    boot_title = "Boot with a range of memory kept out of the kernel"
    mount_title = "Mount pramfs on the memory, and keep out of a part of it"
    mount_again_title = "Mount in the new kernel, where its command line says that the image is"
    command_line = COMMAND_LINE
    image = DEVICE
    options = f"banned={BANNED}"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def command(self, step: Step | None, *words: str) -> str:
        """Run a command and show it; returns what it wrote. Raises CommandError."""
        if step is not None:
            step.command(words)
        output = self.machine.run(shlex.join(words))
        if step is not None:
            step.output(output)
        return output

    def boot(self, step: Step) -> None:
        """Switch the machine on, and show what is special about it."""
        self.machine.boot(self.command_line)
        self.command(step, "uname", "-sr")
        self.command(step, "cat", "/proc/cmdline")
        self.show_place(step)

    def show_place(self, step: Step) -> None:
        """Show where the image is, or will be."""
        self.command(step, "grep", "Persistent", "/proc/iomem")

    def mount(self, step: Step | None = None, options: str = "") -> None:
        """Mount pramfs from the image."""
        self.command(step, "pramfs", "mount", "-o", options or self.options, self.image, MOUNTPOINT)

    def show_mount(self, step: Step) -> None:
        """Show what is special about the mount."""
        self.command(step, "sh", "-c", "grep -h -A9 banned /run/pramfs/*.log")

    def mount_again(self, step: Step, line: str) -> None:
        """Mount after a kexec, with what the kernel's command line says of the image."""
        places = _PLACE.findall(line)
        if not line.count("memmap=") == line.count("pram=") == len(places) == 1:
            raise FailureError("memmap= and pram= should be there once")
        self.mount(step, f"{self.options},{places[0]}")

    def umount(self, step: Step | None = None) -> None:
        """Unmount it; what it holds is safe when this returns."""
        self.command(step, "pramfs", "umount", MOUNTPOINT)

    def start(self, workload: Workload) -> None:
        """Start a workload with the pid it is to have; returns when it can report."""
        self.machine.run(
            # An earlier process of this pid may have left its report.
            f"rm -f /run/workload/{workload.pid}\n"
            f"echo {workload.pid - 1} >/proc/sys/kernel/ns_last_pid\n"
            f"setsid {workload.command} </dev/null >/dev/null 2>&1 &"
        )
        self._read_reports(workload)

    def report(self, workload: Workload) -> Reports:
        """What the processes of a workload say of themselves now."""
        # Fresh ones of all: a process that is not there any more leaves none.
        self.machine.run("rm -f /run/workload/*")
        # By their command: in a pid namespace of their own they have other pids here.
        self.machine.run(f"pkill -USR1 --full {shlex.quote(f'^{workload.command}$')}")
        return self._read_reports(workload)

    def dump(self, workload: Workload, step: Step | None = None) -> None:
        """Dump a workload into the mount; its processes are gone then."""
        images = workload.images
        self.command(step, "mkdir", "-p", images)
        self.command(
            step,
            *("criu", "dump", "-D", images, "-t", str(workload.pid), "-v4", "-o", "dump.log"),
        )

    def restore(self, workload: Workload, step: Step | None = None) -> None:
        """Restore a workload from the mount."""
        self.command(
            step, *("criu", "restore", "-d", "-D", workload.images, "-v4", "-o", "restore.log")
        )

    def remove(self, workload: Workload, step: Step | None = None) -> None:
        """Remove the dump of a workload."""
        self.command(step, "rm", "-r", workload.images)

    def kexec(self, step: Step | None = None) -> str:
        """Go on in another kernel; returns the command line that it was given."""
        words = ("pramfs", "kexec", self.image)
        if step is not None:
            step.command(words)
            step.output(self.machine.run(shlex.join([*words, "--dry-run"])))
        self.machine.kexec(shlex.join(words))
        return self.machine.run("cat /proc/cmdline")

    def _read_reports(self, workload: Workload) -> Reports:
        first = self._read_report(workload.pid)
        children = first.get("children", [])
        return {workload.pid: first} | {pid: self._read_report(pid) for pid in children}

    def _read_report(self, pid: int) -> Report:
        path = f"/run/workload/{pid}"
        wait = f"for n in $(seq 600); do [ -e {path} ] && break; sleep 0.1; done; cat {path}"
        report: Report = json.loads(self.machine.run(wait))
        return report


class LiveSession(Session):
    """A shell in the guest with live update, in which nothing is reserved, and an image in /dev/shm."""

    title = "pramfs: processes go on in another kernel, with no memory set aside for it"
    boot_title = "Boot with live update, and nothing else"
    mount_title = "Mount pramfs on a file in /dev/shm"
    mount_again_title = "Claim the image in the new kernel, and mount it"
    # Without a check of the timer, which panics on a machine that is emulated too slowly.
    command_line = "console=ttyS0 panic=-1 quiet loglevel=4 no_timer_check kho=on liveupdate=on"
    image = "/dev/shm/keep.pram"
    options = "size=256M"

    def show_place(self, step: Step) -> None:
        self.command(step, "ls", "-l", "/dev/liveupdate")

    def show_mount(self, step: Step) -> None:
        self.command(step, "ls", "-l", self.image)

    def mount_again(self, step: Step, line: str) -> None:
        words = line.split()
        once = ("kho=on", "liveupdate=on", f"pramfs.claim={self.image}")
        if "memmap=" in line or any(words.count(word) != 1 for word in once):
            raise FailureError(f"{once} should be there once, and no memmap=")
        self.command(step, "pramfs", "claim")
        self.command(step, "ls", "-l", self.image)
        self.mount(step)


def differences(before: Reports, after: Reports) -> Iterator[str]:
    """What should be as it was before the dump, and is not."""
    for pid, old in before.items():
        new = after[pid]
        for key in old.keys() - {"count", "heard", "offset"}:
            if new[key] != old[key]:
                yield f"process {pid}: {key} was {old[key]}, is {new[key]}"
        for key in old.keys() & {"count", "heard", "offset"}:
            if new[key] < old[key]:
                yield f"process {pid}: {key} went back from {old[key]} to {new[key]}"


def require_same(before: Reports, after: Reports) -> None:
    """Raise FailureError unless everything is as it was, or has gone on from there."""
    wrong = list(differences(before, after))
    if wrong:
        raise FailureError("; ".join(wrong))
