"""Servers of Debian's packages, which are not installed on this machine and run none of their services.

Each is a process in namespaces of its own, on this machine's network. /tmp in there is a directory that
the test sees, too.
"""

import socket
import subprocess
import time
from pathlib import Path

from tests.distributions.chroot import ENTER, Debian
from tests.remote import server_tree
from tests.vm.shell import confined_command

START_S = 240


class ServerMachine:
    """The tree of servers in the hands of a run, whose servers have /tmp in common."""

    def __init__(self, place: Path) -> None:
        """Build the tree unless it is there. Takes root. Raises FailureError."""
        self._debian = server_tree.servers(place)
        self.tmp = self._debian.tmp

    def run(self, *command: str) -> str:
        """Run a command there, as root in /tmp; return its output. Raises FailureError."""
        return self._debian.run("env", "--chdir=/tmp", *command)

    def start(self, name: str, script: str, *arguments: str) -> "Server":
        """Start a server by a shell script that runs in /tmp and stays in the foreground."""
        command = ("sh", "-ec", f"cd /tmp\n{script}", "sh", *arguments)
        return Server(self._debian, self.tmp / f"{name}.log", command)


class Server:
    """A process that serves, and its log."""

    def __init__(self, debian: Debian, log: Path, command: tuple[str, ...]) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                confined_command(ENTER, debian.tree, debian.checkout, debian.tmp, *command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait_for(self, port: int) -> None:
        """Wait until it accepts connections."""
        end_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                return
            except OSError:
                log = self.log.read_text(errors="replace")
                assert self._process.poll() is None, log
                assert time.monotonic() < end_s, log
                time.sleep(0.05)

    def end(self) -> None:
        """End it; what it has started ends with it."""
        self._process.kill()
        self._process.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port
