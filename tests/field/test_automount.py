"""Mounted on demand: whoever mounts is held by the kernel as well, if it leaves the automounter's group."""

import sys
from pathlib import Path

import pytest

from tests.field import automounter
from tests.mounted.admin_shell import Shell
from tests.support.checkout import PRAMFS


@pytest.mark.parametrize("command", [[PRAMFS, "mount"], ["mount", "-t", "pramfs"]], ids=str)
def test_the_first_access_mounts_and_is_served(
    shell: Shell, root: Path, image: Path, command: list[str]
) -> None:
    """rclone/rclone #3246, jacobsa/fuse #22: the first access waits for a mount that waits, too."""
    program: list[str | Path] = [sys.executable, automounter.__file__, root, *command]
    shell.run(*program, "-o", "size=16M", image, root).succeeded()
    assert shell.pramfs_mounts() == [str(root)]
    shell.path(root / "file").write_bytes(b"kept")
    shell.run("umount", root).succeeded()
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"
    shell.run("umount", root).succeeded()  # the automounter's own


def test_an_image_on_the_way_to_the_mountpoint_is_looked_for_under_the_trap(
    shell: Shell, root: Path
) -> None:
    """rclone/rclone #3246: what a mount looks at may lie in the directory that it is for."""
    program: list[str | Path] = [
        sys.executable,
        automounter.__file__,
        root,
        PRAMFS,
        "mount",
        "-o",
        "size=16M",
    ]
    outcome = shell.run(*program, root / "image", root)
    assert "cannot open the image" in outcome.err
    assert "hangs" not in outcome.err
    shell.run("umount", root).succeeded()
