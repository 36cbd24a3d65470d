"""A mistake in the daemon is logged, and makes its saves suspect; the mount goes on."""

import sys

import pytest

from tests.mounted import harness, sample_trees
from tests.mounted.harness import MIB, Volume

_BREAK = """
import sys
from pramfs.cli.entry import pramfs
{what}
sys.exit(pramfs())
"""
# The checksums of what was written, which are computed while nobody asks for anything.
_IDLE_WORK = """
from pramfs.storage.arena import Arena
def break_down(arena):
    raise KeyError("a mistake")
Arena.sum_some = break_down
"""
_TASK = """
from pramfs.daemon import service
async def break_down(*arguments):
    raise KeyError("a mistake")
service.warn_of_long_saves = break_down
"""


@pytest.mark.parametrize("what", [_IDLE_WORK, _TASK], ids=["idle work", "task"])
def test_a_mistake_in_what_nobody_waits_for_does_not_end_the_mount(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    volume.announce("a mistake", "traceback", "internal error")
    program = [sys.executable, "-c", _BREAK.format(what=what)]
    with monkeypatch.context() as patched:
        patched.setattr(harness, "_program", lambda *arguments: [*program, *arguments])
        daemon = volume.start_mount()
    root = volume.serve(daemon)
    for number in range(3):
        (root / f"{number}").write_bytes(sample_trees.noise(MIB))
    assert volume.status()["suspect"]
    assert volume.log.count("KeyError: 'a mistake'") == 1
    volume.umount()
    assert volume.info()["suspect"]
    root = volume.mount()
    for number in range(3):
        assert (root / f"{number}").read_bytes() == sample_trees.noise(MIB)
