"""umount -f, -l and -R, on mounts that are busy or bound elsewhere: the last line says what is so.

util-linux/util-linux #493: after `umount -l` nothing told whether the file system was still in use.
"""

from pathlib import Path

from tests.mounted.admin_shell import Shell, busy
from tests.mounted.harness import MOUNT_FAILED


def mount(shell: Shell, root: Path) -> Path:
    """Mount with a file in it; returns the image."""
    image = shell.home / "image"
    shell.pramfs("mount", "-o", "size=16M", image, root).succeeded()
    shell.path(root / "file").write_bytes(b"kept")
    return image


def test_force_on_a_busy_mount_leaves_a_dead_one_and_says_so(shell: Shell, root: Path) -> None:
    image = mount(shell, root)
    with busy(*shell.prefix(), path=root / "file"):
        outcome = shell.run("umount", "-f", root)
        outcome.refused(MOUNT_FAILED, "cut off by force", "dead mount", "it saved generation 3")
    shell.run("umount", "-l", root)
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"


def test_force_on_an_idle_mount_loses_nothing(shell: Shell, root: Path) -> None:
    image = mount(shell, root)
    assert "saved to" in shell.run("umount", "-v", "-f", root).succeeded().text
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
