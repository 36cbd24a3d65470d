"""A daemon never waits for its own mount, whatever that covers: nobody else could answer."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.admin_shell import Shell
from tests.mounted.harness import MOUNT_FAILED, NOBODY, wait_until
from tests.support.checkout import CHECKOUT, PRAMFS, VENV

SENDERS = {"connect", "sendto", "sendmsg"}
OF_LIBFUSE = Path("/etc/mtab")  # which it does not look for when a mount covers it

# What a daemon uses in its life and its own mount may cover: the run directory, syslog and utab; devices;
# programs and libraries; configuration; Python and pramfs.
COVERED = {"/run", "/dev", "/usr", "/etc", "/sys", sys.base_prefix, str(VENV), str(CHECKOUT)}


@contextlib.contextmanager
def served(shell: Shell, image: Path, mountpoint: Path, *options: str) -> Iterator[int]:
    """A mount in the foreground; yields the pid of its daemon, which must end by itself."""
    words = ",".join(["size=16M", *options])
    command = [*shell.prefix(), PRAMFS, "mount", "-f", "-o", words, str(image), str(mountpoint)]
    log = shell.home / "log"
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as daemon:
        try:
            wait_until(lambda: mounted(shell, mountpoint) or daemon.poll() is not None, "a mount")
            wait_until(lambda: os.listdir(shell.path(mountpoint)) == [], "it to be served")
            yield daemon.pid
            wait_until(lambda: daemon.poll() is not None, "the daemon to end")
            assert daemon.returncode == 0, log.read_text()
            assert "cannot" not in log.read_text()
        finally:
            daemon.kill()


def mounted(shell: Shell, mountpoint: Path) -> bool:
    return str(mountpoint) in shell.pramfs_mounts()


@pytest.mark.parametrize("covered", sorted(COVERED))
def test_a_mount_over_what_its_daemon_uses_is_served_and_saved(
    shell: Shell, image: Path, covered: str
) -> None:
    """mpartel/bindfs #182, trapexit/mergerfs #1319: a daemon that looks into its own mount waits for ever."""
    root = Path(covered)
    with served(shell, image, root, "checkpoint=1") as pid:
        shell.path(root / "pramfs").mkdir()
        shell.path(root / "file").write_bytes(b"kept")
        before = generation(shell, root)
        wait_until(lambda: generation(shell, root) > before, "a checkpoint")
        os.kill(pid, signal.SIGUSR1)
        shell.path(root / "later").write_bytes(b"kept")
        still_open = os.open(shell.path(root / "open"), os.O_WRONLY | os.O_CREAT)
        os.write(still_open, b"kept")  # the kernel has it until it is told to hand it over
        os.kill(pid, signal.SIGTERM)
    with contextlib.suppress(OSError):
        os.close(still_open)
    assert not shell.pramfs_mounts()
    for name in ("file", "later", "open"):
        assert shell.pramfs("cat", image, name).succeeded().out == b"kept"


def generation(shell: Shell, root: Path) -> int:
    return int(os.getxattr(shell.path(root), "user.pramfs.generation"))


def test_a_thread_that_waits_for_the_mount_keeps_no_killed_daemon(
    shell: Shell, root: Path, image: Path
) -> None:
    """The kernel ends its wait when /dev/fuse is closed; a thread that had it open would wait for itself."""
    with served(shell, image, root) as pid:
        tables = [list(thread.iterdir()) for thread in Path(f"/proc/{pid}/task").glob("*/fd")]
        assert [] in tables
        os.kill(pid, signal.SIGTERM)


def test_a_mount_over_all_that_its_user_has_is_served_and_saved(shell: Shell) -> None:
    """trapexit/mergerfs #1319: image, run directory, home and temporary files lie under the mountpoint."""
    home = shell.home / "user"
    for directory in (home, home / "run", home / "tmp"):
        directory.mkdir()
        os.chown(directory, NOBODY, NOBODY)
    places = {"HOME": home, "XDG_RUNTIME_DIR": home / "run", "TMPDIR": home / "tmp"}
    env = {name: str(place) for name, place in places.items()}
    shell.run(PRAMFS, "mount", "-o", "size=16M", home / "image", home, user=NOBODY, env=env)
    shell.run("touch", home / "file", user=NOBODY).succeeded()
    told = shell.run(PRAMFS, "save", home, user=NOBODY, env=env).succeeded()
    assert "saved to" in told.text
    told = shell.run(PRAMFS, "umount", home, user=NOBODY, env=env).succeeded()
    assert "unmounted; saved" in told.text
    assert "file" in shell.pramfs("ls", home / "image").succeeded().text
    assert list((home / "run/pramfs").glob("*.state"))


def test_a_mount_bound_into_itself_ends(shell: Shell, root: Path, image: Path) -> None:
    """mpartel/bindfs #182: the tree is visible once more inside of itself."""
    with served(shell, image, root) as pid:
        shell.run("mkdir", root / "inside").succeeded()
        shell.run("mount", "--bind", root, root / "inside").succeeded()
        os.kill(pid, signal.SIGTERM)
    assert not shell.pramfs_mounts()


def test_programs_are_looked_for_in_the_mount_without_standing_still(
    shell: Shell, root: Path, image: Path
) -> None:
    """canyonroad/agentsh #410: between clone and exec a child looks into the mount, and its parent waits."""
    path = f"{root}/sbin:{root}/bin:{os.environ['PATH']}"
    shell.run(PRAMFS, "mount", "-o", "size=16M", image, root, env={"PATH": path}).succeeded()
    shell.run(PRAMFS, "save", root).succeeded()
    shell.run(PRAMFS, "umount", root).succeeded()


def test_the_one_place_that_cannot_be_covered_is_refused(shell: Shell, image: Path) -> None:
    """trapexit/mergerfs #1319: what cannot work is refused, not tried."""
    shell.pramfs("mount", "-o", "size=16M", image, "/proc").refused(MOUNT_FAILED, "/proc", "needs")
    assert not image.exists()


@pytest.mark.parametrize("how", ["unmounted", "told to end"])
def test_no_path_is_followed_by_the_thread_that_serves(
    shell: Shell, root: Path, image: Path, tmp_path: Path, how: str
) -> None:
    """The rule that keeps all this from coming back, by every system call of a whole life.

    From the mount to the end of the process that thread follows no path but into /proc and /sys, which no
    mount of ours can cover. It uses descriptors that it opened before.
    """
    assert shutil.which("strace")
    trace = tmp_path / "trace"
    calls = "trace=%file,connect,sendto,sendmsg"
    command = [*shell.prefix(), "strace", "-f", "-qq", "-s", "4096", "-e", calls]
    words = "size=16M,checkpoint=1"
    mount = [PRAMFS, "mount", "-f", "-o", words, str(image), str(root)]
    with subprocess.Popen([*command, "-o", str(trace), *mount], stderr=subprocess.PIPE) as daemon:
        wait_until(lambda: mounted(shell, root) or daemon.poll() is not None, "a mount")
        before = generation(shell, root)
        shell.run("touch", root / "file").succeeded()
        wait_until(lambda: generation(shell, root) > before, "a checkpoint")
        pid = int(os.getxattr(shell.path(root), "user.pramfs.pid"))
        if how == "unmounted":
            shell.run("umount", root).succeeded()
        else:
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: daemon.poll() is not None, "the daemon to end")
    lines = trace.read_text(errors="replace").splitlines()
    ours = [line.split(" ", 1)[1].lstrip() for line in lines if line.startswith(f"{pid} ")]
    mounts = [at for at, line in enumerate(ours) if line.startswith("mount(") and "= 0" in line]
    assert len(mounts) == 1
    assert not [line for line in ours[mounts[0] + 1 :] if follows_a_path(line, root)]


def follows_a_path(line: str, root: Path) -> bool:
    """Whether a traced call walks a path that does not lead into /proc or /sys, nor begin at a descriptor."""
    call, _, arguments = line.partition("(")
    if call.endswith(("at", "at2")) and "AT_FDCWD" not in arguments:
        return False
    if call in SENDERS:
        return "sun_path=" in arguments
    path = Path(arguments.partition('"')[2].partition('"')[0])
    if '"' not in arguments or path == OF_LIBFUSE:
        return False
    return not (path in root.parents or path.is_relative_to("/proc") or path.is_relative_to("/sys"))
