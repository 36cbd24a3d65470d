"""One virtual machine: QEMU, and the guest's agent at the other end of a serial port.

QEMU runs with -no-reboot: a machine that boots again has gone through kexec, nothing else. Its memory is
a file, so that it outlives a power cut and can be damaged from outside, as real memory can.
"""

import base64
import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pramfs.system.descriptors import readable
from tests.vm.guest import Guest
from tests.vm.shell import FailureError, run

BOOT_SECONDS = 300
COMMAND_SECONDS = 300

_CONSOLE_LINES = 15
_READY = re.compile(r"@ready ([0-9a-f-]{36})")
_DONE = re.compile(r"@done (\d+) ([A-Za-z0-9+/=]*)")


class CommandError(FailureError):
    """A command in the guest exited with something else than 0."""


@dataclass(frozen=True)
class Result:
    """How a command in the guest ended, and all it wrote."""

    code: int
    output: str


class Machine:
    """A machine that is off until `boot`. A context manager: leaving it, however, ends QEMU.

    It has an empty ext4 file system of `disk_mib` MiB on /dev/vdc, which takes `disk_rate` bytes in a second
    if that is given; and `disks`, which are raw files, from /dev/vdd on.
    """

    def __init__(
        self,
        guest: Guest,
        directory: Path,
        disk_mib: int = 16,
        disks: Sequence[Path] = (),
        disk_rate: int | None = None,
    ) -> None:
        # A file without a name: nothing of that size is left behind, even when we are killed.
        self._memory_fd = os.memfd_create("guest")
        self.memory = Path(f"/proc/{os.getpid()}/fd/{self._memory_fd}")
        self._guest = guest
        self._console = directory / "console.log"
        self.disk = directory / "srv.ext4"
        self._disks = [self.disk, *disks]
        self._throttle = "" if disk_rate is None else f",throttling.bps-write={disk_rate}"
        self._process: subprocess.Popen[bytes] | None = None
        self._agent: socket.socket | None = None
        self._received = b""
        self._boot_id = ""
        self.forget()
        run("mke2fs", "-q", "-t", "ext4", self.disk, f"{disk_mib}M")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cut_power()
        os.close(self._memory_fd)

    @property
    def is_on(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def boot(self, command_line: str) -> None:
        """Switch the machine on, or off and on; returns when the guest takes commands.

        What the memory held before is still in it, as after a power cut too short to matter. Raises
        FailureError.
        """
        self.cut_power()
        ours, theirs = socket.socketpair()
        with theirs, self._console.open("ab") as console:
            self._process = subprocess.Popen(
                self._qemu(theirs.fileno(), command_line),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[theirs.fileno()],
            )
        self._agent, self._received = ours, b""
        self._wait_until_ready()

    def run(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a shell command in the guest; returns what it wrote. Raises CommandError."""
        result = self.attempt(command, seconds)
        if result.code:
            raise CommandError(f"{command}: exited with {result.code}:\n{result.output}")
        return result.output

    def attempt(self, command: str, seconds: float = COMMAND_SECONDS) -> Result:
        """Run a shell command in the guest, whatever comes of it. Raises FailureError at the limit."""
        self._send(command)
        match = self._expect(_DONE, seconds, command)
        output = base64.b64decode(match[2]).decode(errors="replace")
        return Result(int(match[1]), output)

    def kexec(self, command: str) -> None:
        """Run a command that starts another kernel, and wait until that takes commands.

        Raises CommandError when the command returns, FailureError when no other kernel comes up.
        """
        self._send(command)
        self._wait_until_ready(command)

    def shut_down(self, command: str, seconds: float) -> None:
        """Run a command that ends with the machine off, or about to start anew as hardware does.

        Raises FailureError at the limit.
        """
        assert self._process is not None
        self._send(command)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise FailureError(f"{command}: still on; the console:\n{self.console()}") from None

    def cut_power(self) -> None:
        """Switch the machine off at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    def forget(self) -> None:
        """Empty the memory, as a power cut of some length does. The machine is off."""
        os.truncate(self._memory_fd, 0)
        os.truncate(self._memory_fd, self._guest.hardware.memory_mib << 20)

    def console(self, lines: int = _CONSOLE_LINES) -> str:
        """The end of what the guest's kernels have said, and what else is on the console; 0 for all of it."""
        text = self._console.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _qemu(self, agent_fd: int, command_line: str) -> list[str]:
        hardware = self._guest.hardware
        size = f"{hardware.memory_mib}M"
        memory = f"memory-backend-file,id=memory,size={size},mem-path={self.memory},share=on"
        command = [
            # With us dies QEMU, even when we are killed.
            *("setpriv", "--pdeathsig", "KILL", hardware.program, *hardware.options),
            *("-machine", f"{hardware.machine},memory-backend=memory"),
            *("-object", memory, "-m", size),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-net", "none"),
            *("-serial", "stdio", "-chardev", f"socket,id=agent,fd={agent_fd}"),
            *hardware.agent_options,
            *("-kernel", str(self._guest.kernel), "-initrd", str(self._guest.initrd)),
            *("-append", command_line),
        ]
        for disk in (self._guest.root, self._guest.pramfs):
            command += ["-drive", f"file={disk},format=raw,if=virtio,readonly=on"]
        for disk in self._disks:
            throttle = self._throttle if disk == self.disk else ""
            command += ["-drive", f"file={disk},format=raw,if=virtio{throttle}"]
        return command

    def _send(self, command: str) -> None:
        assert self._agent is not None
        self._agent.sendall(base64.b64encode(command.encode()) + b"\n")

    def _wait_until_ready(self, command: str = "") -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        what = command or "the boot"
        while True:
            line = self._read_line(deadline, what)
            ready, done = _READY.search(line), _DONE.search(line)
            if ready is not None and ready[1] != self._boot_id:
                self._boot_id = ready[1]
                return
            if done is not None:
                output = base64.b64decode(done[2]).decode(errors="replace")
                raise CommandError(f"{command}: exited with {done[1]}:\n{output}")

    def _expect(self, pattern: re.Pattern[str], seconds: float, what: str) -> re.Match[str]:
        deadline = time.monotonic() + seconds
        while True:
            line = self._read_line(deadline, what)
            match = pattern.search(line)
            if match is not None:
                return match
            if _READY.search(line):
                raise FailureError(f"{what}: the guest has started anew")

    def _read_line(self, deadline: float, what: str) -> str:
        assert self._agent is not None
        while b"\n" not in self._received:
            left = max(0.0, deadline - time.monotonic())
            if not readable([self._agent], left):
                raise FailureError(f"{what}: no answer in time; the console:\n{self.console()}")
            data = self._agent.recv(1 << 16)
            if not data:
                raise FailureError(f"{what}: the machine went off; the console:\n{self.console()}")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")
