"""umount -f, -l and -R, on mounts that are busy or bound elsewhere: the last line says what is so.

util-linux/util-linux #493: after `umount -l` nothing told whether the file system was still in use.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.mounted.admin_shell import Shell, busy, has_ended, open_to_nobody
from tests.mounted.harness import MOUNT_FAILED, NOBODY, wait_until


def mount(shell: Shell, root: Path) -> Path:
    """Mount with a file in it; returns the image."""
    image = shell.home / "image"
    shell.pramfs("mount", "-o", "size=16M", image, root).succeeded()
    shell.path(root / "file").write_bytes(b"kept")
    return image


def told_in_json(shell: Shell, command: str, image: Path) -> dict[str, Any]:
    told = json.loads(shell.pramfs(command, "--json", image).succeeded().out)
    assert isinstance(told, dict)
    return told


def test_force_on_a_busy_mount_leaves_a_dead_one_and_says_so(shell: Shell, root: Path) -> None:
    image = mount(shell, root)
    with busy(*shell.prefix(), path=root / "file"):
        outcome = shell.run("umount", "-f", root)
        outcome.refused(MOUNT_FAILED, "cut off by force", "dead mount", "it saved generation 3")
    shell.run("umount", "-l", root)
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"


@pytest.mark.parametrize("way", ["umount -i -f", "abort"])
def test_what_is_cut_off_without_the_helper_is_not_said_to_be_saved_whole(
    shell: Shell, root: Path, way: str
) -> None:
    """Nobody has had the kernel hand over what it has of the programs' writes, and it drops that."""
    image = mount(shell, root)
    pid, state = shell.status(root)["pid"], shell.status(root)["state"]
    with busy(*shell.prefix(), path=root / "file"):
        if way == "abort":
            control = shell.home / "connections"
            shell.path(control).mkdir()
            shell.run("mount", "-t", "fusectl", "none", control).succeeded()
            minor = os.minor(shell.path(root).stat().st_dev)
            shell.path(control / str(minor) / "abort").write_bytes(b"1")
        else:
            shell.run("umount", "-i", "-f", root).refused(MOUNT_FAILED, "busy")
        wait_until(lambda: has_ended(pid), "the daemon to end")
    shell.run("umount", "-i", "-l", root).succeeded()
    words = "save may be incomplete: the mount was cut off by force"
    assert words in shell.pramfs("info", image).succeeded().text
    shell.path(Path(state)).unlink()  # as a restart does
    assert words in shell.pramfs("put", image, "note", stdin=b"text").succeeded().err
    told = shell.pramfs("info", image).succeeded().text
    assert words in told.partition("last run:")[2]
    assert "saved: " in told
    assert "incomplete:  pramfs\n" in told
    assert words in shell.pramfs("check", image).succeeded().text
    assert words in shell.pramfs("mount", image, root).succeeded().err
    assert "perhaps incomplete" in shell.pramfs("status", root).succeeded().text
    status, info = shell.status(root), told_in_json(shell, "info", image)
    assert (status["incomplete"], status["cut_off"], status["error"]) == (False, True, "")
    assert (info["incomplete"], info["cut_off"]) == (False, True)
    assert info["incomplete_trees"] == ["pramfs"]
    assert [words in line for line in told_in_json(shell, "check", image)["lacks"]] == [True, False]
    assert shell.path(root / "file").read_bytes() == b"kept"
    shell.pramfs("umount", root).succeeded()
    assert "incomplete" not in shell.pramfs("info", image).succeeded().text
    assert not told_in_json(shell, "check", image)["lacks"]


def test_what_a_user_has_mounted_and_is_cut_off_is_not_said_to_be_saved_whole(shell: Shell) -> None:
    """There libfuse mounts, by fusermount3, and not the daemon itself."""
    home = open_to_nobody(shell.home / "user")
    image, root = home / "image", home / "mnt"
    shell.run("mkdir", root, user=NOBODY).succeeded()
    shell.pramfs("mount", "-o", "size=16M", image, root, user=NOBODY).succeeded()
    shell.run("cp", "/etc/passwd", root / "file", user=NOBODY).succeeded()
    pid = shell.status(root)["pid"]
    with busy(*shell.prefix(NOBODY), path=root / "file"):
        shell.run("umount", "-i", "-f", root).refused(MOUNT_FAILED, "busy")
        wait_until(lambda: has_ended(pid), "the daemon to end")
    shell.run("umount", "-i", "-l", root).succeeded()
    assert (told_in_json(shell, "info", image)["cut_off"], shell.pramfs_mounts()) == (True, [])
    shell.pramfs("mount", image, root, user=NOBODY).succeeded()
    shell.pramfs("umount", root, user=NOBODY).succeeded()
    assert not told_in_json(shell, "info", image)["cut_off"]


@pytest.mark.parametrize("flags", [("-i", "-l", "-f"), ("-l", "-f")], ids=" ".join)
def test_what_is_detached_and_cut_off_is_not_said_to_be_saved_whole(
    shell: Shell, root: Path, flags: tuple[str, ...]
) -> None:
    """No mount is left to be seen, but who uses it has it still, dead: the kernel drops what it wrote."""
    connections = Path("/sys/fs/fuse/connections")
    shell.run("mount", "-t", "fusectl", "none", connections).succeeded()
    image = mount(shell, root)
    pid = shell.status(root)["pid"]
    with busy(*shell.prefix(), path=root / "file"):
        told = shell.run("umount", *flags, root)
        if "-i" in flags:
            told.succeeded()
        else:
            told.refused(MOUNT_FAILED, "save may be incomplete: the mount was cut off by force")
        wait_until(lambda: has_ended(pid), "the daemon to end")
    assert "save may be incomplete" in shell.pramfs("info", image).succeeded().text
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"


def test_what_is_detached_by_force_and_idle_is_saved(shell: Shell, root: Path) -> None:
    image = mount(shell, root)
    assert "saved to" in shell.run("umount", "-v", "-l", "-f", root).succeeded().text
    assert "incomplete" not in shell.pramfs("info", image).succeeded().text


def test_force_on_one_of_several_places_leaves_the_others_dead(shell: Shell, root: Path) -> None:
    image = mount(shell, root)
    other = shell.home / "other"
    shell.path(other).mkdir()
    shell.run("mount", "--bind", root, other).succeeded()
    told = shell.run("umount", "-f", root)
    told.refused(MOUNT_FAILED, f"still mounted at {other}", "dead mount", "may be lost")
    shell.run("umount", "-l", other)
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"


def test_force_on_an_idle_mount_loses_nothing(shell: Shell, root: Path) -> None:
    image = mount(shell, root)
    assert "saved to" in shell.run("umount", "-v", "-f", root).succeeded().text
    assert "incomplete" not in shell.pramfs("info", image).succeeded().text
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"


def test_a_place_that_is_detached_leaves_the_others(shell: Shell, root: Path) -> None:
    image = mount(shell, root)
    other = shell.home / "other"
    shell.path(other).mkdir()
    shell.run("mount", "--bind", root, other).succeeded()
    told = shell.run("umount", "-l", root).succeeded().err
    assert f"detached, nothing saved; still mounted at {other}" in told
    assert "saved to" in shell.run("umount", "-v", "-R", other).succeeded().text
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"
