"""The daemon as others meet it: verdicts, signals, progress on a terminal, service managers, its log."""

import contextlib
import json
import mmap
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.admin_shell import Disk, Shell, busy, has_ended, open_to_nobody
from tests.mounted.harness import (
    CHECK_UNREADABLE,
    MIB,
    MOUNT_FAILED,
    NOBODY,
    run,
    wait_until,
)
from tests.support.checkout import CHECKOUT, PRAMFS

UNITS = CHECKOUT / "share/systemd"


@pytest.fixture
def image(disk: Disk) -> Path:
    return disk.root / "image"


@pytest.fixture
def pid(shell: Shell, root: Path, image: Path) -> int:
    """The daemon of a mount at `root` with something in it."""
    return mount(shell, root, image)


def mount(shell: Shell, root: Path, image: Path, options: str = "size=64M") -> int:
    shell.pramfs("mount", "-o", options, image, root).succeeded()
    shell.path(root / "file").write_bytes(sample_trees.noise(MIB))
    return int(shell.status(root)["pid"])


# --- the truth about the save -------------------------------------------------------------------


def test_a_save_that_fails_is_told_by_all_who_are_asked(
    shell: Shell, root: Path, image: Path, pid: int
) -> None:
    shell.pramfs("save", root).succeeded()
    generation = shell.status(root)["generation"]
    filler = shell.path(image.parent / "filler")
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(MIB)):
            pass
    shell.path(root / "more").write_bytes(sample_trees.noise(8 * MIB))
    failed = shell.pramfs("save", root).refused(MOUNT_FAILED, "save failed", "No space")
    assert f"the previous save (generation {generation}) stands" in failed.err
    assert "No space" in shell.status(root)["error"]
    assert "No space" in shell.pramfs("status", root).succeeded().text
    outcome = shell.run("umount", root)
    outcome.refused(MOUNT_FAILED, "unmounted, but the save failed", "No space", f"{generation}")
    assert has_ended(pid)
    told = shell.pramfs("info", image).succeeded().text
    assert re.search(r"last run: .*save failed.*No space", told)
    filler.unlink()
    outcome = shell.pramfs("mount", image, root).succeeded()
    assert "the last run's save failed" in outcome.err
    assert f"this is generation {generation}" in outcome.err
    assert not shell.path(root / "more").exists()
    shell.run("umount", root).succeeded()
    assert "saved at unmount" in shell.pramfs("info", image).succeeded().text
    assert not shell.pramfs("mount", image, root).succeeded().err


def test_a_save_that_is_killed_leaves_the_one_before_and_the_next_mount_says_so(
    shell: Shell, disk: Disk, root: Path, image: Path, pid: int
) -> None:
    with disk.frozen():
        command = subprocess.Popen(
            [*shell.prefix(), "umount", root], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        wait_until(lambda: not shell.pramfs_mounts(), "the kernel to let go")
        wait_until(lambda: "is saving it now" in info(shell, disk), "the save to begin")
        os.kill(pid, signal.SIGKILL)
    _, err = command.communicate()
    assert command.returncode == MOUNT_FAILED
    assert b"ended while it saved; the previous save (generation 2) stands" in err
    assert "ended while it saved" in shell.pramfs("info", image).succeeded().text
    assert "ended while it saved" in shell.pramfs("mount", image, root).succeeded().err


def info(shell: Shell, disk: Disk) -> str:
    """What `pramfs info` tells of the image on the disk."""
    return shell.pramfs("info", disk.root / "image").succeeded().text


def test_status_tells_what_is_not_published_yet(shell: Shell, root: Path, pid: int) -> None:
    told = shell.status(root)
    assert told["pid"] == pid
    assert told["changed"]
    shell.path(root / "big").write_bytes(sample_trees.noise(4 * MIB))
    run("sync", "-f", shell.path(root)).succeeded()
    assert shell.status(root)["unpublished_pages"] >= 1024
    shell.pramfs("save", root).succeeded()
    saved = shell.status(root)
    assert (saved["unpublished_pages"], saved["changed"], saved["error"]) == (0, False, "")
    assert (told["save_seconds"], saved["save_seconds"]) == (-1, 0)
    assert saved["generation"] > told["generation"]
    text = shell.pramfs("status", root).succeeded().text
    for word in ("image:", "process:", "last save:", " ago", "unpublished:", "errors:"):
        assert word in text


# What is asked of a dead mount {m} of the image {i}, and by what exit code that is refused.
ASKED = {
    "mount {i} {m}": MOUNT_FAILED,
    "mount {i} {m}/below": MOUNT_FAILED,
    "mount {m}/image {elsewhere}": MOUNT_FAILED,
    "save {m}": MOUNT_FAILED,
    "status {m}": MOUNT_FAILED,
    "status {m}/below": MOUNT_FAILED,
    "info {m}": MOUNT_FAILED,
    "map {m}": MOUNT_FAILED,
    "check {m}": CHECK_UNREADABLE,
    "ls {m}": MOUNT_FAILED,
    "ls {m}/below": MOUNT_FAILED,
    "extract -C {elsewhere} {m}": MOUNT_FAILED,
    "put {m} node": MOUNT_FAILED,
}


@pytest.mark.parametrize(
    ("mounts", "options", "asks"),
    [
        (0, "", 0),
        (0, "", NOBODY),
        (0, ",allow_other", NOBODY),
        (NOBODY, "", NOBODY),
        (NOBODY, "", 0),
    ],
)
def test_a_dead_mount_is_named_with_the_command_that_clears_it(
    shell: Shell, mounts: int, options: str, asks: int
) -> None:
    """Also to another user, if the kernel lets that user ask; and root clears everybody's."""
    home = open_to_nobody(shell.home / "user")
    words = {"i": home / "image", "m": home / "mnt", "elsewhere": home / "elsewhere"}
    for name in ("m", "elsewhere"):
        shell.run("mkdir", words[name], user=mounts).succeeded()
    shell.pramfs(
        "mount", "-o", f"size=16M{options}", words["i"], words["m"], user=mounts
    ).succeeded()
    pid = shell.status(words["m"])["pid"]
    shell.pramfs("save", words["m"]).succeeded()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid), "the daemon to die")
    may_look = asks in (0, mounts) or options
    told = ["dead mount", f"pramfs umount {words['m']}"] if may_look else []
    if asks not in (0, mounts) and may_look:
        told.append("only root can")
    for line, code in ASKED.items():
        shell.pramfs(*line.format(**words).split(), user=asks).refused(code, *told)
    outcome = shell.pramfs("umount", words["m"], user=asks)
    if asks not in (0, mounts):
        outcome.refused(MOUNT_FAILED, "only root can unmount it")
        outcome = shell.pramfs("umount", words["m"])
    outcome.refused(MOUNT_FAILED, "the daemon was dead", "generation 3 in")
    assert not shell.pramfs_mounts()


@pytest.mark.parametrize("command", [["check"], ["ls"], ["put", "node"]], ids=str)
def test_where_an_image_is_needed_a_mountpoint_names_it(
    shell: Shell, root: Path, image: Path, pid: int, command: list[str]
) -> None:
    outcome = shell.pramfs(command[0], root, *command[1:])
    outcome.refused(CHECK_UNREADABLE if command == ["check"] else MOUNT_FAILED, f"mounted: {image}")


def test_mount_8_and_umount_8_name_a_dead_mount(
    shell: Shell, root: Path, image: Path, pid: int
) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid), "the daemon to die")
    shell.run("mount", "-t", "pramfs", image, root).refused(MOUNT_FAILED, "dead mount")
    shell.run("umount", root).refused(MOUNT_FAILED, "the daemon was dead")
    assert not shell.pramfs_mounts()


# --- signals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_what_was_written_before_it(
    shell: Shell, root: Path, image: Path, pid: int, number: signal.Signals
) -> None:
    """With an open file, a working directory and a dirty shared mapping in it."""
    shell.path(root / "directory").mkdir()
    with (
        busy(*shell.prefix(), path=root / "directory"),
        shell.path(root / "file").open("r+b") as written,
        shell.path(root / "mapped").open("w+b") as mapped,
    ):
        mapped.truncate(8 * MIB)
        memory = mmap.mmap(mapped.fileno(), 8 * MIB)
        memory[:] = sample_trees.noise(8 * MIB)
        written.write(b"last word")
        written.flush()
        os.kill(pid, number)
        wait_until(lambda: has_ended(pid), "the daemon to save")
    shell.pramfs("mount", image, root).succeeded()
    assert shell.path(root / "file").read_bytes() == b"last word" + sample_trees.noise(MIB)[9:]
    assert shell.path(root / "mapped").read_bytes() == sample_trees.noise(8 * MIB)


def test_a_second_signal_does_not_stop_the_save(
    shell: Shell, disk: Disk, root: Path, image: Path, pid: int
) -> None:
    with disk.frozen():
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: "is saving it now" in info(shell, disk), "the save to begin")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
        assert not has_ended(pid)
    wait_until(lambda: has_ended(pid), "the daemon to save")
    assert "saved at unmount" in shell.pramfs("info", image).succeeded().text
    shell.pramfs("mount", image, root).succeeded()
    assert shell.path(root / "file").read_bytes() == sample_trees.noise(MIB)


def test_sigusr1_dumps_threads_and_tasks_into_the_log(shell: Shell, root: Path, pid: int) -> None:
    log = Path(shell.status(root)["log"])
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: "Tasks:" in log.read_text(), "the dump")
    wait_until(
        lambda: "pramfs.daemon.service.Daemon._main" in log.read_text(), "the dump of the tasks"
    )
    assert "most recent call first" in log.read_text()
    assert shell.path(root / "file").read_bytes() == sample_trees.noise(MIB)


def test_sigusr1_tells_what_a_save_waits_for(
    shell: Shell, disk: Disk, root: Path, pid: int
) -> None:
    log = Path(shell.status(root)["log"])
    with disk.frozen():
        shell.run("fusermount3", "-u", root).succeeded()
        wait_until(lambda: "is saving it now" in info(shell, disk), "the save to begin")
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: "image.py" in log.read_text(), "the dump")
    wait_until(lambda: has_ended(pid), "the daemon to save")


def test_the_log_has_the_banned_regions_and_stays_small(
    shell: Shell, root: Path, image: Path
) -> None:
    mount(shell, root, image, "size=64M,banned=0-1M")
    log = Path(shell.status(root)["log"])
    assert "PRAM: banned regions:" in log.read_text()
    assert "Total banned: 256 pages in 1 regions" in log.read_text()
    with log.open("a") as file:
        file.write("a long story\n" * 40_000)
    shell.run("umount", root).succeeded()
    assert log.stat().st_size < 300_000
    assert log.read_text().rstrip().splitlines()[-1].endswith("saved: generation 3")


def test_status_names_no_log_that_is_not_written(shell: Shell, root: Path, image: Path) -> None:
    daemon = subprocess.Popen(
        [*shell.prefix(), PRAMFS, "mount", "-f", "-o", "size=16M", image, root],
        stderr=subprocess.PIPE,
    )
    wait_until(shell.pramfs_mounts, "the mount")
    status = shell.status(root)
    assert status["log"] == ""
    assert not Path(status["state"]).with_suffix(".log").exists()
    told = shell.pramfs("status", root).succeeded().text
    assert f"process:     {daemon.pid}, log on its standard error" in told
    daemon.terminate()
    assert b"saved: generation" in daemon.communicate()[1]


_A_DEV_OF_OUR_OWN = """
set -e
mkdir dev
mount -t tmpfs tmpfs dev
for name in fuse null; do
    touch dev/$name
    mount --bind /dev/$name dev/$name
done
touch dev/log
mount --bind syslog dev/log
mount --move dev /dev
"""


@contextlib.contextmanager
def syslog(shell: Shell) -> Iterator[socket.socket]:
    """The socket behind /dev/log in the shell."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(shell.home / "syslog"))
        listener.settimeout(60)
        shell.run("sh", "-c", _A_DEV_OF_OUR_OWN).succeeded()
        yield listener


def test_syslog_hears_what_the_log_says(shell: Shell) -> None:
    root = shell.home / "\udcff" / "mnt"
    root.mkdir(parents=True)
    with syslog(shell) as listener:
        pid = mount(shell, root, shell.home / "image", "size=64M,banned=0-1M")
        heard = [listener.recv(4096) for _ in range(4)]
        said = [
            "PRAM: banned regions:",
            "   0: [00000000 - 000000ff] 256 pages",
            "Total banned: 256 pages in 1 regions",
            f"{shell.home}/image is mounted at {shell.home}/\\xff/mnt",
        ]
        assert heard == [f"<30>pramfs[{pid}]: INFO: {line}".encode() for line in said]
        log = Path(shell.status(root)["log"]).read_text().splitlines()
        assert [line.partition(" INFO ")[2] for line in log] == said
        shell.run("umount", root).succeeded()
        assert listener.recv(4096).endswith(b" INFO: saved: generation 3")


def test_a_syslog_that_does_not_listen_keeps_nobody_waiting(shell: Shell, root: Path) -> None:
    regions = ":".join(f"{number}M-{number * 1024 + 4}K" for number in range(40))
    with syslog(shell):
        mount(shell, root, shell.home / "image", "size=64M,banned=" + regions)
        shell.run("umount", root).succeeded()


# --- progress -----------------------------------------------------------------------------------


def test_umount_shows_the_progress_of_the_daemon_on_a_terminal(
    shell: Shell, disk: Disk, root: Path, pid: int
) -> None:
    ours, theirs = pty.openpty()
    with disk.frozen():
        command = subprocess.Popen([*shell.prefix(), "umount", root], stdout=theirs, stderr=theirs)
        os.close(theirs)
        seen = b""
        while b"saving [" not in seen:
            seen += os.read(ours, 1000)
    while chunk := read_terminal(ours):
        seen += chunk
    assert command.wait() == 0
    assert re.search(rb"saving \[#* *\] +\d+% [\d,]+ MiB/s, ", seen)
    assert re.search(rb"\r\x1b\[K[^\r]*: unmounted; saved to [^\r]*\r\n\Z", seen)
    os.close(ours)


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1000)
    except OSError:  # EIO: the other end is closed
        return b""


def test_nothing_of_that_goes_into_a_pipe(shell: Shell, root: Path, pid: int) -> None:
    shell.path(root / "big").write_bytes(sample_trees.noise(16 * MIB))
    for command in ("save", "umount"):
        outcome = shell.pramfs(command, root).succeeded()
        assert not outcome.err
        assert len(outcome.text.splitlines()) == 1
        assert "\r" not in outcome.text


# --- systemd ------------------------------------------------------------------------------------


def test_a_service_manager_hears_of_everything(
    shell: Shell, disk: Disk, root: Path, image: Path
) -> None:
    address = shell.home / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)

        def hear(word: bytes) -> bytes:
            while word not in (message := manager.recv(4096)):
                pass
            return message

        daemon = subprocess.Popen(
            [*shell.prefix(), PRAMFS, "mount", "-f", "-o", "size=64M", image, root],
            env={**os.environ, "NOTIFY_SOCKET": str(address)}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert f"STATUS=serving {root}".encode() in hear(b"READY=1")
        assert shell.pramfs_mounts() == [str(root)]
        shell.path(root / "file").write_bytes(sample_trees.noise(MIB))
        with disk.frozen():
            daemon.terminate()
            hear(b"STOPPING=1")
            for _ in range(3):
                assert b"STATUS=saving" in hear(b"EXTEND_TIMEOUT_USEC=")
        assert b"STATUS=saved: generation 3" in hear(b"STATUS=saved")
        assert daemon.wait() == 0


_NO_FORK_BESIDE_THREADS = """
import os, sys
from pramfs.cli import main
from pramfs.pram import verify
forks = 0
def fork(real=os.fork):
    global forks
    forks += 1
    assert len(os.listdir("/proc/self/task")) == 1, "forks while a thread runs"
    return real()
os.fork = fork
verify._SHARE_FRAMES = 64
code = main.main(sys.argv[1:])
assert forks == len(os.sched_getaffinity(0)) - 1, f"{forks} forks"
sys.exit(code)
"""


def test_a_verification_forks_while_no_thread_runs(shell: Shell, root: Path, image: Path) -> None:
    """A child has the locks of all threads, and only one of them to let go."""
    mount(shell, root, image)
    shell.pramfs("umount", root).succeeded()
    address = shell.home / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        daemon = subprocess.Popen(
            [*shell.prefix(), sys.executable, "-c", _NO_FORK_BESIDE_THREADS, "mount", "-f", image, root],
            env={**os.environ, "NOTIFY_SOCKET": str(address)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert b"EXTEND_TIMEOUT_USEC=" in manager.recv(4096)
        wait_until(lambda: daemon.poll() is not None or bool(shell.pramfs_mounts()), "the mount")
        daemon.terminate()
        assert b"forks" not in daemon.communicate()[1]
    assert daemon.returncode == 0


def test_units_are_valid(tmp_path: Path) -> None:
    for unit in UNITS.glob("*.*"):  # the generator and the handover are programs
        text = unit.read_text().replace("/usr/local/bin/pramfs", PRAMFS)
        (tmp_path / unit.name.replace("@", "@data")).write_text(text)
    assert shutil.which("systemd-analyze")
    for unit in tmp_path.iterdir():
        outcome = run("systemd-analyze", "verify", "--man=no", unit)
        assert (outcome.code, outcome.err) == (0, "")


def test_the_state_is_json_that_others_can_read(shell: Shell, root: Path, pid: int) -> None:
    state = Path(shell.status(root)["state"])
    assert json.loads(state.read_text())["phase"] == "serving"
    shell.run("umount", root).succeeded()
    assert json.loads(state.read_text())["phase"] == "saved"
