"""Calls that a container runtime or a hardened unit refuses: there is another way, or they are left out."""

import errno
from pathlib import Path

import pytest

from tests.field.surroundings import Caller
from tests.mounted import sample_trees
from tests.mounted.admin_shell import Shell
from tests.mounted.harness import MIB
from tests.support.checkout import CHECKOUT

_REFUSE = """
sys.path.insert(0, {checkout!r})
from tests.field import seccomp
seccomp.refuse({number})
"""
# More than is kept mapped at a time.
LARGE = sample_trees.noise(MIB) * 40


@pytest.mark.parametrize(
    ("number", "arena"), [(errno.EPERM, "image"), (errno.ENOSYS, "memory")], ids=str
)
def test_a_mount_does_without_the_calls_that_are_refused(
    shell: Shell, root: Path, image: Path, number: int, arena: str
) -> None:
    """opencontainers/runc #2151, moby/moby #39396: EPERM for a call that has another way, or can be left out.

    umount ended before it had waited for the save, because it could not have a pidfd.
    """
    refuse = _REFUSE.format(checkout=str(CHECKOUT), number=number)
    caller = Caller(shell, refuse)
    caller.lives_a_whole_life(image, root, f"arena={arena}")
    large = shell.path(root) / "large"
    for _ in range(2):
        caller.run("mount", "-o", f"arena={arena},checkpoint=1", image, root).succeeded()
        if large.exists():
            assert large.read_bytes() == LARGE
            large.unlink()
        else:
            large.write_bytes(LARGE)
        assert "saved to" in caller.run("umount", root).succeeded().text
    caller.run("check", image).succeeded()
