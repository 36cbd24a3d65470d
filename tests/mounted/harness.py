"""What a mounted test holds in its hands: the command line, and volumes.

A volume is an image, a mountpoint, and the daemon between them. Building and comparing trees is
for sample_trees.py, fixtures are for conftest.py. Nothing here imports pramfs: the command line is the
contract.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import LONG
from tests.support.checkout import CHECKOUT

# Before pytest's own limit, and long enough for a script of many commands on a machine that is busy.
DEADLINE_S = 600.0 if LONG else 240.0  # the long forms make 200,000 files, and remove them
PAGE = 4096
KIB = 1 << 10
MIB = 1 << 20
NOBODY = 65534

# Exit codes: mount(8)'s for mount and umount, fsck(8)'s for check.
USAGE = 1
MOUNT_FAILED = 32
CHECK_DAMAGED = 4
CHECK_UNREADABLE = 8

_ALARM = re.compile(
    r"\b(warning|error|critical|traceback|exception|fail(ed|ure)|corrupted|suspect)\b",
    re.IGNORECASE,
)
_ASIDE = re.compile("pramfs: (INFO|WARNING): ")
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, what it wrote on both streams."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return os.fsdecode(self.out)

    def succeeded(self) -> "Outcome":
        assert self.code == 0, f"exit code {self.code}: {self.err}{self.out[-2000:]!r}"
        return self

    def refused(self, code: int, *words: str) -> "Outcome":
        """Assert the exit code, and one clear line on stderr with all of `words`.

        What was said before it at INFO or WARNING, of the image or of the last run, does not count.
        """
        assert self.code == code, f"exit code {self.code}, not {code}: {self.err}"
        lines = [line for line in self.err.splitlines() if not _ASIDE.match(line)]
        assert len(lines) == 1, f"not one clear line: {self.err!r}"
        assert "[Errno" not in self.err, f"words for Python, not for people: {self.err!r}"
        missing = [word for word in words if word.lower() not in self.err.lower()]
        assert not missing, f"{missing} not in {self.err!r}"
        return self


def run(
    *argv: str | bytes | Path,
    stdin: bytes = b"",
    cwd: Path | None = None,
    user: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a program to its end, within the deadline, in the C locale."""
    ended = subprocess.run(
        argv,
        input=stdin,
        capture_output=True,
        timeout=DEADLINE_S,
        cwd=cwd,
        user=user,
        env={**_environment(), **(env or {})},
        check=False,
    )
    return Outcome(ended.returncode, ended.stdout, ended.stderr.decode(errors="replace"))


def pramfs(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> Outcome:
    """Run the `pramfs` of this tree to its end."""
    return run(*_program(*arguments), stdin=stdin, cwd=cwd)


def umount_helper(*arguments: str | Path) -> Outcome:
    """What umount(8) runs for a pramfs, installed or not."""
    program = "import sys; from pramfs.cli.entry import umount_helper; sys.exit(umount_helper())"
    return run(sys.executable, "-c", program, *arguments)


def start_pramfs(*arguments: str | Path, stderr: int) -> subprocess.Popen[bytes]:
    """Start the `pramfs` of this tree and leave it running."""
    return subprocess.Popen(
        _program(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=_environment(),
    )


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as `condition` holds; fail the test when the deadline passes before."""
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"waited {DEADLINE_S:.0f} s in vain: {what}"
        time.sleep(0.005)


def mountinfo(pid: int | str = "self") -> list[str]:
    """The lines of a process's mount table; other mounts may have names of any bytes."""
    return os.fsdecode(Path(f"/proc/{pid}/mountinfo").read_bytes()).split("\n")[:-1]


def unescape(field: str) -> str:
    """A field of such a line as it is meant."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mounts_below(directory: Path) -> list[Path]:
    """The mountpoints at and below `directory`, the innermost first."""
    points = [Path(unescape(line.split()[4])) for line in mountinfo()]
    return [point for point in reversed(points) if point.is_relative_to(directory)]


def mount_entry(point: Path) -> tuple[str, str, set[str]]:
    """File system type, source and all options (mount's and super block's) of a mountpoint."""
    for line in mountinfo():
        mount, _, filesystem = line.partition(" - ")
        if unescape(mount.split()[4]) == str(point):
            kind, source, options = filesystem.split()
            return kind, unescape(source), {*mount.split()[5].split(","), *options.split(",")}
    raise AssertionError(f"{point} is not mounted")


def detach(point: Path) -> None:
    """Clear a mountpoint whose daemon is dead."""
    run("umount", "-i", "-l", point).succeeded()


def content_of(image: Path) -> str | None:
    """A digest of everything in an image, to show that nothing touched it; None without one."""
    if not image.exists():
        return None
    with image.open("rb") as file:
        return f"{image.stat().st_size} {hashlib.file_digest(file, 'sha256').hexdigest()}"


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process still with SIGSTOP for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: _state(pid) == "T", f"process {pid} to stop")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Daemon:
    """The daemon of one mount: a child of this process, or a grandchild that was handed to it."""

    def __init__(self, pid: int, poll: Callable[[], int | None]) -> None:
        self.pid = pid
        self._poll = poll

    def wait(self) -> int:
        """Wait until the daemon is gone; its exit status, negative for a signal."""
        wait_until(lambda: self._poll() is not None, f"the daemon {self.pid} to end")
        status = self._poll()
        assert status is not None
        return status

    @property
    def lives(self) -> bool:
        return self._poll() is None


class Volume:
    """One image, one mountpoint, and the daemon between them.

    `mount` runs the daemon in the foreground as a child, so that its exit status and its log are
    known. However the daemon ends, the same audit follows: the exit status, nothing mounted, no
    alarm in the log that the test did not announce, and an image that `pramfs check` finds clean,
    unless the test set `damaged`.
    """

    def __init__(self, home: Path, arena: str, size: str = "64M") -> None:
        self.home = home
        self.arena = arena
        self.size = size
        self.image = home / "image"
        self.root = home / "mnt"
        self.root.mkdir()
        self.damaged = False
        self._log = home / "log"
        self._log.touch()
        self._log_start = 0
        self._announced: list[str] = []
        self._daemon: Daemon | None = None
        self._started: list[Daemon] = []

    # Mounting

    def mount(self, *options: str) -> Path:
        """Mount in the foreground, wait until the tree is usable, and return its root."""
        return self.serve(self.start_mount(*options))

    def start_mount(self, *options: str) -> Daemon:
        """Start mounting in the foreground, and return at once."""
        self._log_start = self._log.stat().st_size
        with self._log.open("ab") as log:
            child = start_pramfs(
                "mount", "-f", "-o", self.options(*options), self.image, self.root,
                stderr=log.fileno(),
            )  # fmt: skip
        self._started.append(Daemon(child.pid, child.poll))
        return self._started[-1]

    def serve(self, daemon: Daemon) -> Path:
        """Wait until a daemon that was started serves, and take charge of it."""
        wait_until(lambda: self.is_mounted or not daemon.lives, f"a mount at {self.root}")
        assert daemon.lives, f"mount ended with {daemon.wait()}: {self.log}"
        self._daemon = daemon
        self.root.stat()
        return self.root

    def mount_in_background(self, *options: str) -> Path:
        """Mount as users do: the command returns, a daemon stays behind (its log is elsewhere)."""
        with _orphans_come_to_us():  # and so does its exit status
            pramfs("mount", "-o", self.options(*options), self.image, self.root).succeeded()
        self._log_start = self._log.stat().st_size
        self._daemon = _grandchild(self.status()["pid"])
        self._started.append(self._daemon)
        return self.root

    def refused(
        self, *words: str, options: Sequence[str] = (), code: int = MOUNT_FAILED
    ) -> Outcome:
        """Assert that a mount fails with one clear line and changes nothing."""
        before = content_of(self.image)
        outcome = pramfs("mount", "-o", self.options(*options), self.image, self.root)
        assert not self.is_mounted, f"mounted, where {words} was expected: {outcome}"
        outcome.refused(code, *words)
        assert content_of(self.image) == before
        return outcome

    def options(self, *options: str) -> str:
        """The text after -o: arena and size of the volume, unless given, then `options`."""
        given = {option.partition("=")[0] for option in options}
        defaults = {"arena": self.arena, "size": self.size}
        ours = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return ",".join([*ours, *options])

    # Unmounting

    def umount(self) -> None:
        """Unmount with `pramfs umount`, and audit what is left."""
        pramfs("umount", self.root).succeeded()
        self.ended()

    def remount(self, *options: str) -> Path:
        self.umount()
        return self.mount(*options)

    def kill(self) -> None:
        """SIGKILL the daemon, clear the dead mount, and audit what is left."""
        os.kill(self.pid, signal.SIGKILL)
        self.daemon.wait()
        detach(self.root)
        self.ended(-signal.SIGKILL)
        self.announce("ended without a final save")  # by the next mount

    def kill_during(self, command: "subprocess.Popen[bytes]") -> None:
        """SIGKILL the daemon while a command works in the mount: it is told, and what is left is clean."""
        os.kill(self.pid, signal.SIGKILL)
        told = command.communicate(timeout=60)[1].decode()
        assert command.returncode == MOUNT_FAILED
        assert told.startswith(f"pramfs: {self.root}: a dead mount: its daemon is gone")
        self.kill()
        pramfs("check", self.image).succeeded()

    def ended(self, status: int = 0) -> None:
        """Assert that the daemon ends, with `status`, and audit what it left."""
        code = self.daemon.wait()
        self._daemon = None
        assert code == status, f"the daemon ended with {code}, not {status}: {self.log}"
        assert not self.is_mounted
        alarms = [line for line in self.log.splitlines() if self._alarms(line)]
        assert not alarms, "\n".join(alarms)
        if status == -signal.SIGKILL:
            self.announce("the last daemon .* ended")  # the next mount tells of it
        if not self.damaged:
            self.check()

    def announce(self, *patterns: str) -> None:
        """From here on, lines of the log that match one of these expressions are no alarm."""
        self._announced += patterns

    def finish(self) -> None:
        """End the test: unmount what is mounted, with the audit; leave nothing behind."""
        try:
            if self._daemon is not None:
                self.umount()
            assert not mounts_below(self.home)
        finally:
            self._force()

    # Looking

    @property
    def daemon(self) -> Daemon:
        assert self._daemon is not None, "not mounted by this volume"
        return self._daemon

    @property
    def pid(self) -> int:
        return self.daemon.pid

    @property
    def is_mounted(self) -> bool:
        return self.root in mounts_below(self.root)

    @property
    def log(self) -> str:
        """What was said on standard error since the current or last mount began."""
        return self._log.read_bytes()[self._log_start :].decode(errors="replace")

    def save(self) -> None:
        pramfs("save", self.root).succeeded()

    def check(self) -> None:
        pramfs("check", self.image).succeeded()

    def info(self, target: Path | None = None) -> dict[str, Any]:
        """`pramfs info --json` of the image, or of another target: the mountpoint."""
        told = json.loads(pramfs("info", "--json", target or self.image).succeeded().out)
        assert isinstance(told, dict)
        return told

    def status(self) -> dict[str, Any]:
        """What the daemon itself tells, in a control attribute of the root."""
        told = json.loads(os.getxattr(self.root, "user.pramfs.status"))
        assert isinstance(told, dict)
        return told

    @property
    def generation(self) -> int:
        """The generation of the last published save, from the running mount."""
        return int(os.getxattr(self.root, "user.pramfs.generation"))

    # Helpers

    def _alarms(self, line: str) -> bool:
        if _ALARM.search(line) is None:
            return False
        return not any(re.search(pattern, line, re.IGNORECASE) for pattern in self._announced)

    def _force(self) -> None:
        for daemon in self._started:
            if daemon.lives:
                os.kill(daemon.pid, signal.SIGKILL)
                daemon.wait()
        for point in mounts_below(self.home):
            detach(point)


def _grandchild(pid: int) -> Daemon:
    status: int | None = None

    def poll() -> int | None:
        nonlocal status
        if status is None:
            ended, code = os.waitpid(pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if ended else None
        return status

    return Daemon(pid, poll)


@contextlib.contextmanager
def _orphans_come_to_us() -> Iterator[None]:
    """Processes whose parent ends inside the block become children of this one."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _program(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "pramfs", *arguments]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), "LC_ALL": "C", "PYTHONUTF8": "1"}


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
