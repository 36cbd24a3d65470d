"""Room that fallocate has reserved: it is there, whoever takes the rest of the memory or of the disk."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, Volume, run
from tests.mounted.system import memory_limit


@pytest.fixture(params=["image", "memory"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    """A volume whose image is on a tmpfs that is smaller than it."""
    home, disk = tmp_path / "volume", tmp_path / "small"
    home.mkdir()
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=32M", "small", disk).succeeded()
    volume = Volume(home, request.param, size="64M")
    volume.image = disk / "image"
    yield volume
    volume.finish()
    run("umount", disk).succeeded()


def fill(path: Path, *, leave: int) -> None:
    """Take all room of a file system but so many bytes."""
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(path.parent).free - leave)


def reserve(path: Path, size: int) -> None:
    """Reserve room in a new file. Raises OSError."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def overwrite(path: Path, content: bytes) -> None:
    """Write a file anew, in place, and have the kernel hand it over. Raises OSError."""
    with path.open("r+b", buffering=0) as file:
        for at in range(0, len(content), MIB):
            file.write(content[at : at + MIB])
        os.fsync(file.fileno())


def test_reserved_room_is_there_when_others_have_filled_the_tmpfs(small: Volume) -> None:
    root = small.mount()
    reserve(root / "reserved", 8 * MIB)
    other = small.image.parent / "other"
    fill(other, leave=MIB // 2)  # for the metadata of saves
    # With arena=memory, saves need a place for what is in memory: only one write fits.
    contents = [
        sample_trees.noise(8 * MIB, seed=seed) for seed in range(3 if small.arena == "image" else 1)
    ]
    for content in contents:
        overwrite(root / "reserved", content)
        assert (root / "reserved").read_bytes() == content
    other.unlink()
    small.remount()
    assert (root / "reserved").read_bytes() == contents[-1]


def test_room_that_is_not_there_is_refused_and_none_is_taken(small: Volume) -> None:
    root = small.mount()
    free = shutil.disk_usage(small.image.parent).free
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
        reserve(root / "reserved", 48 * MIB)
    assert caught.value.errno == errno.ENOSPC
    assert (root / "reserved").stat().st_blocks == 0
    assert shutil.disk_usage(small.image.parent).free > free - MIB
    reserve(root / "reserved", 16 * MIB)
    assert shutil.disk_usage(small.image.parent).free < free - 16 * MIB
    (root / "reserved").unlink()
    small.save()
    assert shutil.disk_usage(small.image.parent).free > free - MIB


@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_room_is_reserved_within_the_memory_that_the_control_group_allows(volume: Volume) -> None:
    volume.size = "256M"
    root = volume.mount()
    with memory_limit(volume.pid, 96 * MIB):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
            reserve(root / "too much", 200 * MIB)
        assert caught.value.errno == errno.ENOSPC
        (root / "too much").unlink()
        reserve(root / "reserved", 32 * MIB)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
            overwrite_new(root / "other", 128 * MIB)
        assert caught.value.errno == errno.ENOSPC
        content = sample_trees.noise(32 * MIB)
        overwrite(root / "reserved", content)
        (root / "other").unlink()
        volume.save()
        volume.umount()
    assert (volume.mount() / "reserved").read_bytes() == content
    volume.umount()


def overwrite_new(path: Path, size: int) -> None:
    """Write a new file. Raises OSError."""
    path.touch()
    overwrite(path, sample_trees.noise(MIB) * (size // MIB))
