"""Unusual things that administrators do to mounts: mounted over the image, moved, bound, hidden."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mounted.admin_shell import Shell, has_ended
from tests.mounted.harness import MOUNT_FAILED, USAGE, Outcome, wait_until
from tests.support.checkout import PRAMFS


def test_a_mount_may_hide_its_own_image(shell: Shell, root: Path) -> None:
    image = root / "image"
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    shell.run("touch", root / "file").succeeded()
    assert shell.status(root)["image"] == str(image)
    shell.pramfs("save", root).succeeded()
    assert f"saved to {image}" in shell.run("umount", "-v", root).succeeded().text
    assert shell.pramfs("ls", image).succeeded().text.split()[-1] == "file"


@pytest.fixture
def pid(shell: Shell, root: Path, image: Path) -> int:
    """A mount that programs have written to, and the process that serves it."""
    shell.run("mount", "--make-private", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    shell.run("mkdir", root / "part").succeeded()
    shell.run("sh", "-c", f"echo kept > {root}/part/file").succeeded()
    return int(shell.status(root)["pid"])


@pytest.fixture
def other(shell: Shell) -> Path:
    """Another mountpoint."""
    path = shell.home / "other"
    path.mkdir()
    return path


def all_of(outcome: Outcome) -> str:
    """What umount said: `pramfs umount` on standard output, umount(8) perhaps on standard error."""
    return outcome.text + outcome.err


def saved(shell: Shell, image: Path) -> bytes:
    """What the file has in the last save."""
    return shell.pramfs("cat", image, "part/file").succeeded().out


@pytest.mark.parametrize(
    "words", [["umount", "-v"], ["umount", "-v", "-c"], [PRAMFS, "umount"]], ids=str
)
def test_a_mount_that_is_bound_elsewhere_is_saved_and_serves_on(
    shell: Shell, root: Path, other: Path, image: Path, pid: int, words: list[str]
) -> None:
    shell.run("mount", "--bind", root, other).succeeded()
    told = all_of(shell.run(*words, root).succeeded())
    assert "saved to" in told
    assert f"still mounted at {other}" in told
    assert saved(shell, image) == b"kept\n"
    assert shell.status(other)["pid"] == pid
    shell.run("touch", other / "new").succeeded()
    assert "saved to" in shell.run("umount", "-v", other).succeeded().text
    assert has_ended(pid)
    assert "new" in shell.pramfs("ls", image).succeeded().text


@pytest.mark.parametrize(
    "words", [["umount", "-v"], ["umount", "-v", "-c"], [PRAMFS, "umount"]], ids=str
)
def test_a_mount_that_is_bound_to_its_own_place_takes_as_many_umounts_and_each_waits(
    shell: Shell, root: Path, image: Path, pid: int, words: list[str]
) -> None:
    for _ in range(2):
        shell.run("mount", "--bind", root, root).succeeded()
    for _ in range(2):
        told = all_of(shell.run(*words, root).succeeded())
        assert "saved to" in told
        assert f"still mounted at {root}" in told
        assert not has_ended(pid)
    told = all_of(shell.run(*words, root).succeeded())
    assert "saved to" in told
    assert "still" not in told
    assert has_ended(pid)
    assert saved(shell, image) == b"kept\n"


@pytest.mark.parametrize("words", [["umount"], [PRAMFS, "umount"]], ids=str)
def test_umount_records_nothing_for_good(
    shell: Shell, root: Path, pid: int, words: list[str]
) -> None:
    shell.run("mount", "--bind", root, root).succeeded()
    for _ in range(2):
        shell.run(*words, root).succeeded()
    assert has_ended(pid)
    assert str(root) not in (shell.utab / "utab").read_text()


@pytest.mark.parametrize("part", ["part", "part/file"])
def test_a_part_that_is_bound_elsewhere_can_be_unmounted(
    shell: Shell, root: Path, other: Path, image: Path, pid: int, part: str
) -> None:
    if part != "part":
        other.rmdir()
        other.touch()
    shell.run("mount", "--bind", root / part, other).succeeded()
    assert shell.status(other)["pid"] == pid
    told = shell.run("umount", "other").succeeded().err
    assert f"still mounted at {root}" in told
    assert saved(shell, image) == b"kept\n"
    shell.run("mount", "--bind", root / part, other).succeeded()
    assert f"still mounted at {other}" in shell.run("umount", root).succeeded().err
    assert "saved to" in shell.pramfs("save", other).succeeded().text
    assert "saved to" in shell.pramfs("umount", other).succeeded().text
    assert has_ended(pid)


def test_umount_says_whom_it_waits_for(shell: Shell, root: Path, pid: int) -> None:
    unshare = ["unshare", "--mount", "--propagation", "private"]
    container = subprocess.Popen(
        [*shell.prefix(), *unshare, "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert container.stdin is not None
    assert container.stdout is not None
    container.stdout.readline()
    umount = subprocess.Popen([*shell.prefix(), "umount", root], stderr=subprocess.PIPE)
    assert umount.stderr is not None
    told = umount.stderr.readline().decode()
    assert f"process {pid} still serves" in told
    assert "another mount namespace" in told
    assert umount.poll() is None
    container.stdin.close()
    assert umount.wait() == 0
    assert has_ended(pid)
    umount.stderr.close()
    container.stdout.close()
    container.wait()


def test_what_an_open_file_has_is_saved_wherever_the_mount_was_moved(
    shell: Shell, root: Path, other: Path, image: Path, pid: int
) -> None:
    shell.run("mount", "--move", root, other).succeeded()
    with shell.path(other / "part/file").open("ab", buffering=0) as file:
        file.write(b"more\n")
        assert "saved to" in shell.pramfs("save", other).succeeded().text
        assert saved(shell, image) == b"kept\nmore\n"
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: has_ended(pid), "the daemon to end")
    assert not shell.pramfs_mounts()


def test_a_signal_leaves_alone_what_is_mounted_over_it(
    shell: Shell, root: Path, image: Path, pid: int
) -> None:
    with shell.path(root / "part/file").open("ab", buffering=0) as file:
        file.write(b"more\n")
        shell.run("mount", "-t", "tmpfs", "over", root).succeeded()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: has_ended(pid), "the daemon to end")
    assert shell.run("findmnt", "-n", "-o", "SOURCE", root).text.split()[-1] == "over"
    assert saved(shell, image) == b"kept\nmore\n"
    shell.run("umount", "-i", root).succeeded()
    shell.run("umount", root).refused(MOUNT_FAILED, "the daemon was dead")


@pytest.mark.parametrize(("flag", "opposite"), [("noexec", "exec"), ("sync", "async")])
def test_a_flag_can_be_taken_back_by_a_remount(
    shell: Shell, root: Path, image: Path, flag: str, opposite: str
) -> None:
    def flags() -> list[str]:
        return shell.run("findmnt", "-n", "-o", "OPTIONS", root).succeeded().text.strip().split(",")

    shell.run("mount", "-t", "pramfs", "-o", f"size=16M,{flag}", image, root).succeeded()
    shell.run("mount", "-o", "remount,ro", root).succeeded()
    assert {flag, "ro"} <= set(flags())
    shell.run("mount", "-o", f"remount,rw,{opposite}", root).succeeded()
    assert flag not in flags()
    assert {"rw", "nosuid", "nodev"} <= set(flags())


def test_an_empty_path_is_not_this_directory(shell: Shell, root: Path, image: Path) -> None:
    shell.pramfs("mount", image, "").refused(USAGE, "MOUNTPOINT", "an empty path")
    shell.pramfs("mount", "", root).refused(USAGE, "IMAGE", "an empty path")
    assert not image.exists()
