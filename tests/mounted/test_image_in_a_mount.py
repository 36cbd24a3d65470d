"""An image on a FUSE file system, here another pramfs: as docs/limits.md has it."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, Volume, stopped, wait_until


@pytest.fixture
def outer(new_volume: Callable[[str], Volume]) -> Volume:
    return new_volume("outer")


@pytest.fixture
def inner(outer: Volume, new_volume: Callable[[str], Volume]) -> Volume:
    """A volume whose image lies in the mount of the outer one."""
    inner = new_volume("inner")
    inner.image = outer.mount("size=128M") / "image"
    return inner


def test_an_image_in_a_mount_is_saved_as_any_other(outer: Volume, inner: Volume) -> None:
    root = inner.mount("size=32M")
    (root / "tree").mkdir()
    sample_trees.plant_everything(root / "tree")
    before = sample_trees.snapshot(root / "tree")
    inner.save()
    (root / "big").write_bytes(sample_trees.noise(8 * MIB))
    inner.umount()
    outer.save()
    inner.mount()
    (root / "big").unlink()
    sample_trees.assert_same(sample_trees.snapshot(root / "tree"), before)


def test_a_mount_stands_still_as_long_as_the_file_system_of_its_image(
    outer: Volume, inner: Volume
) -> None:
    """And goes on then. The first change of a run waits for the record that there is one."""
    inner.mount("size=32M").joinpath("before").touch()
    inner.remount()
    with stopped(outer.pid):
        change = subprocess.Popen(["touch", inner.root / "file"])
        wait_until(lambda: writes(inner.pid), "the record")
        assert change.poll() is None
    assert change.wait() == 0
    inner.remount()
    assert sorted(path.name for path in inner.root.iterdir()) == ["before", "file"]


def writes(pid: int) -> bool:
    """Whether a process waits in a call that writes to a file."""
    stack = Path(f"/proc/{pid}/stack").read_text()
    return "sys_pwrite64" in stack or "sys_fdatasync" in stack
