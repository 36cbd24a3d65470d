"""Another pramfs has the helpers in /sbin, and somebody else's daemon has died: a mount lives its life.

libfuse/libfuse #1613: a program and a helper of another version than it expects are often found together.
"""

import os
import signal
from pathlib import Path

import pytest

from tests.field.surroundings import Caller
from tests.mounted.admin_shell import Shell, has_ended
from tests.mounted.harness import wait_until

# What the others' umount helper does with the place that it is given as its first argument.
_OTHERS = {
    "one that waits for nothing": 'exec umount -i "$1"',
    "one that fails": "echo 'umount.pramfs: not today' >&2; exit 32",
    "one that is broken": "exec /nowhere/python",
}


@pytest.fixture
def dead(shell: Shell) -> Path:
    """A mountpoint of others, whose daemon is gone."""
    root = shell.home / "dead"
    shell.path(root).mkdir()
    shell.pramfs("mount", "-o", "size=8M", shell.home / "theirs", root).succeeded()
    pid = shell.status(root)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid), "their daemon to end")
    return root


@pytest.fixture(params=_OTHERS)
def calls(shell: Shell, request: pytest.FixtureRequest) -> Path:
    """Have the helpers of another pramfs in /sbin; returns where they note that they were called."""
    noted = shell.home / "calls"
    noted.touch()
    for name, deed in (("mount.pramfs", "exit 32"), ("umount.pramfs", _OTHERS[request.param])):
        helper = shell.home / name
        helper.write_text(f'#!/bin/sh\necho "$0 $@" >> {noted}\n{deed}\n')
        helper.chmod(0o755)
        # Over what the links in /sbin lead to.
        shell.run("mount", "--bind", helper, f"/sbin/{name}").succeeded()
    return noted


def test_its_helpers_have_no_part_in_what_pramfs_does(
    shell: Shell, root: Path, dead: Path, calls: Path
) -> None:
    image = shell.home / "image"
    Caller(shell).lives_a_whole_life(image, root)
    assert not calls.read_text()
    listed = shell.pramfs("status").succeeded().text
    assert listed.startswith(f"{dead}: a dead mount")
    assert len(listed.splitlines()) == 1


def test_what_umount_leaves_to_them_is_saved_all_the_same(
    shell: Shell, root: Path, dead: Path, calls: Path
) -> None:
    image = shell.home / "image"
    shell.pramfs("mount", "-o", "size=64M", image, root).succeeded()
    shell.path(root / "file").write_bytes(b"kept")
    pid = shell.status(root)["pid"]
    outcome = shell.run("umount", root)
    assert "umount.pramfs" in calls.read_text()
    if outcome.code:
        shell.pramfs("umount", root).succeeded()
    wait_until(lambda: has_ended(pid), "the daemon to save and to end")
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"
    assert "saved" in shell.pramfs("info", image).succeeded().text
    shell.pramfs("check", image).succeeded()
    assert not shell.path(root).is_mount()
