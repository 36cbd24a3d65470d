"""Who has an image, and what is known of its last run: copies, locks, waiting, what a failure leaves."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mounted.admin_shell import Disk, Shell, busy, has_ended, open_to_nobody
from tests.mounted.failing_medium import WRITE, new_medium
from tests.mounted.harness import MOUNT_FAILED, NOBODY, USAGE, wait_until
from tests.mounted.system import loop_device
from tests.support.checkout import PRAMFS

# --- copies of an image -------------------------------------------------------------------------


def test_a_copy_of_an_image_is_another_image(shell: Shell, root: Path, image: Path) -> None:
    copy, elsewhere = shell.home / "copy", shell.home / "elsewhere"
    elsewhere.mkdir()
    shell.pramfs("mount", "-o", "size=16M", image, root).succeeded()
    shell.pramfs("umount", root).succeeded()
    shutil.copy(image, copy)
    shell.pramfs("mount", image, root).succeeded()
    outcome = shell.pramfs("mount", copy, elsewhere).succeeded()
    assert not outcome.err
    one, two = shell.status(root), shell.status(elsewhere)
    assert one["log"] != two["log"]
    os.kill(two["pid"], signal.SIGKILL)
    wait_until(lambda: has_ended(two["pid"]), "the daemon to die")
    shell.pramfs("umount", elsewhere)
    assert f"has it mounted at {root}\n" in shell.pramfs("info", image).succeeded().text
    assert "ended without a final save" in shell.pramfs("info", copy).succeeded().text
    assert "saved to" in shell.pramfs("umount", root).succeeded().text
    assert "saved at unmount" in shell.pramfs("info", image).succeeded().text
    assert "ended without a final save" in shell.pramfs("mount", copy, root).succeeded().err


@pytest.mark.parametrize("in_session", [False, True])
def test_root_sees_how_another_users_last_run_ended(shell: Shell, in_session: bool) -> None:
    home = open_to_nobody(shell.home / "user")
    image, root = home / "image", home / "mnt"
    shell.run("mkdir", root, user=NOBODY).succeeded()
    env = {}
    if in_session:
        session = Path(f"/run/user/{NOBODY}")
        shell.run("mount", "-t", "tmpfs", "tmpfs", "/run").succeeded()  # only here
        shell.run("mkdir", "-p", session).succeeded()
        shell.run("chown", str(NOBODY), session).succeeded()
        env["XDG_RUNTIME_DIR"] = str(session)
    words: list[str | Path] = [PRAMFS, "mount", "-o", "size=16M", image, root]
    shell.run(*words, user=NOBODY, env=env).succeeded()
    pid = shell.status(root)["pid"]
    shell.pramfs("umount", root).succeeded()
    assert f"saved at unmount by process {pid}" in shell.pramfs("info", image).succeeded().text
    shell.run(*words, user=NOBODY, env=env).succeeded()
    pid = shell.status(root)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid), "the daemon to die")
    shell.pramfs("umount", root)
    told = f"process {pid}) ended without a final save"
    assert told in shell.pramfs("info", image).succeeded().text
    assert told in shell.pramfs("mount", image, root).succeeded().err


# --- who has it ---------------------------------------------------------------------------------


class Mounting:
    """A `pramfs mount` that has to wait; what it waits for is to be read line by line."""

    def __init__(self, shell: Shell, *words: str | Path, prefix: Sequence[str] = ()) -> None:
        self.command = subprocess.Popen(
            [*shell.prefix(), *prefix, PRAMFS, "mount", *words], stderr=subprocess.PIPE, text=True
        )

    def says(self) -> str:
        assert self.command.stderr is not None
        return self.command.stderr.readline()

    def succeeds(self) -> None:
        assert self.command.communicate()[1] == ""
        assert self.command.returncode == 0


def test_a_mount_waits_for_put_and_says_so(shell: Shell, root: Path, image: Path) -> None:
    put = subprocess.Popen([*shell.prefix(), PRAMFS, "put", image, "node"], stdin=subprocess.PIPE)
    wait_until(lambda: image.exists() and image.stat().st_size > 0, "put to begin")
    mounting = Mounting(shell, image, root)
    assert f"process {put.pid} loads it, or writes nodes to it; waiting" in mounting.says()
    told = shell.pramfs("info", image).succeeded().text
    assert f"last run:    process {put.pid} loads it, or writes nodes to it" in told
    put.communicate(b"kept")
    mounting.succeeds()
    assert "node" in shell.pramfs("nodes", image).succeeded().text


def test_a_mount_waits_until_a_detached_mount_is_idle(
    shell: Shell, root: Path, image: Path
) -> None:
    shell.pramfs("mount", "-o", "size=16M", image, root).succeeded()
    pid = shell.status(root)["pid"]
    with busy(*shell.prefix(), path=root):
        shell.run("umount", "-l", root).succeeded()
        mounting = Mounting(shell, image, root)
        told = mounting.says()
        assert "it is detached" in told
        assert f"process {pid} still serves programs that use it; waiting for it" in told
        assert f"process {pid} still serves" in shell.pramfs("info", image).succeeded().text
    mounting.succeeds()


ANOTHER_PID_NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc"]


def test_a_mount_in_another_pid_namespace_is_one(shell: Shell, root: Path, image: Path) -> None:
    shell.pramfs("mount", "-o", "size=16M", image, root).succeeded()
    outcome = shell.run(*ANOTHER_PID_NAMESPACE, PRAMFS, "mount", image, root)
    outcome.refused(MOUNT_FAILED, "in use by a mount in another pid namespace")
    told = shell.run(*ANOTHER_PID_NAMESPACE, PRAMFS, "info", image).succeeded().text
    assert "last run:    it is mounted in another pid namespace" in told


def test_a_save_in_another_pid_namespace_is_waited_for(
    shell: Shell, disk: Disk, root: Path
) -> None:
    image = disk.root / "image"
    shell.pramfs("mount", "-o", "size=16M", image, root).succeeded()
    with disk.frozen():
        shell.run("fusermount3", "-u", root).succeeded()
        wait_until(
            lambda: "is saving it now" in shell.pramfs("info", image).text, "the save to begin"
        )
        told = shell.run(*ANOTHER_PID_NAMESPACE, PRAMFS, "info", image).succeeded().text
        assert "is saving it now" in told
        mounting = Mounting(shell, image, root, prefix=ANOTHER_PID_NAMESPACE)
        assert "a process that is not to be seen from here is saving it now" in mounting.says()
    mounting.succeeds()


def test_a_mount_waits_for_a_device_whose_daemon_still_saves(
    shell: Shell, tmp_path: Path, root: Path
) -> None:
    """The kernel refuses to open a device for writing that a daemon has claimed."""
    with (
        new_medium(tmp_path / "medium") as medium,
        loop_device(medium.image, 16 << 20) as device,
    ):
        shell.pramfs("mount", device, root).succeeded()
        pid = shell.status(root)["pid"]
        with medium.holding(WRITE):  # no longer than it takes to stop the daemon in its save
            shell.run("fusermount3", "-u", root).succeeded()
            medium.wait_until_held()
            os.kill(pid, signal.SIGSTOP)
        mounting = Mounting(shell, device, root)
        assert f"process {pid} is saving it now" in mounting.says()
        assert mounting.command.poll() is None
        os.kill(pid, signal.SIGCONT)
        mounting.succeeds()
        assert "saved to" in shell.pramfs("umount", root).succeeded().text


# --- an image that nothing came of --------------------------------------------------------------


@pytest.mark.parametrize(
    "options", ["size=16M,banned=0-1G", "size=1", "size=8K", "size=16M,verify=full"], ids=str
)
def test_a_mount_that_fails_leaves_no_image(
    shell: Shell, root: Path, image: Path, options: str
) -> None:
    if "banned" not in options and options.startswith("size=16M"):
        shell.run("mount", "--bind", "/dev/null", "/dev/fuse").succeeded()
    outcome = shell.pramfs("mount", "-o", options, image, root)
    assert outcome.code == MOUNT_FAILED
    assert not image.exists()


def test_a_mount_that_fails_leaves_an_image_that_was_there(
    shell: Shell, root: Path, image: Path
) -> None:
    image.touch()
    shell.pramfs("mount", "-o", "size=8K", image, root).refused(MOUNT_FAILED)
    assert image.stat().st_size == 0


def test_a_put_that_fails_leaves_no_image(shell: Shell, image: Path) -> None:
    shell.pramfs("put", image, "n" * 300, stdin=b"x").refused(MOUNT_FAILED, "too long")
    assert not image.exists()
    for name in ("tree-meta", "tree-data", "tree-more"):
        shell.pramfs("put", image, name, stdin=b"x").refused(USAGE, name, "for trees")
    assert not image.exists()


# --- reading only -------------------------------------------------------------------------------


def test_a_mount_that_only_reads_has_nothing_to_save(shell: Shell, root: Path, image: Path) -> None:
    shell.pramfs("put", image, "node", stdin=b"kept").succeeded()
    shell.pramfs("mount", "-o", "ro", image, root).succeeded()
    shell.pramfs("save", root).refused(MOUNT_FAILED, "the mount is read-only: there is nothing")
    shell.run("sync", root).succeeded()
    assert "error" not in shell.path(Path(shell.status(root)["log"])).read_text().lower()


def test_paths_that_are_not_utf_8_are_logged(shell: Shell) -> None:
    root = shell.home / "\udcff\udce4" / "mnt"
    root.mkdir(parents=True)
    shell.pramfs("mount", "-o", "size=16M", root.parent / "image", root).succeeded()
    log = Path(shell.status(root)["log"])
    assert r"\xff\xe4/mnt" in log.read_text()
    assert "Traceback" not in log.read_text()
    shell.pramfs("umount", root).succeeded()
    assert "saved: generation" in log.read_text()
