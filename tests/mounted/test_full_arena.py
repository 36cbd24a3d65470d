"""Full arenas and full disks: the writer hears of it, and what was there stays."""

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs.storage.layout import PAGE_SIZE
from tests.mounted import sample_trees
from tests.mounted.harness import MIB, MOUNT_FAILED, Volume, pramfs, run
from tests.mounted.system import syncfs


def fill(root: Path, size: int = MIB) -> int:
    """Write files of noise, each synced, until there is no space; the number of whole ones."""
    for number in range(10_000):
        try:
            write_durably(root / f"fill {number}", sample_trees.noise(size, seed=number))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - any other is a failure
            (root / f"fill {number}").unlink(missing_ok=True)
            return number
    raise AssertionError("never full")


def write_durably(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_without_end(file: io.FileIO) -> None:
    for _ in range(20_000):
        file.write(bytes(MIB))


def assert_filled(root: Path, count: int, size: int = MIB) -> None:
    for number in range(count):
        assert (root / f"fill {number}").read_bytes() == sample_trees.noise(size, seed=number)


def test_a_direct_write_that_fits_in_part_is_short_as_on_tmpfs(volume: Volume) -> None:
    tmpfs = volume.home / "tmpfs"
    tmpfs.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", tmpfs).succeeded()
    try:
        assert_short_write(tmpfs)
    finally:
        run("umount", tmpfs).succeeded()
    volume.size = "16M"
    assert_short_write(volume.mount("direct_io"))


def assert_short_write(root: Path) -> None:
    """Write a MiB where 16 pages are free, on pramfs about as many."""
    (root / "room").write_bytes(bytes(16 * PAGE_SIZE))
    with (root / "ballast").open("xb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(PAGE_SIZE))
    (root / "room").unlink()
    content = sample_trees.noise(MIB, seed=5)
    with (root / "file").open("xb", buffering=0) as file:
        os.utime(root / "file", (0, 0))
        written = file.write(content)
        assert 0 < written < MIB
        assert not written % PAGE_SIZE
        assert (root / "file").stat().st_size == written
        assert (root / "file").stat().st_mtime > 0
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            file.write(content[written:])
    assert (root / "file").read_bytes() == content[:written]


def test_room_that_is_reserved_is_there_for_many_writes_at_once(volume: Volume) -> None:
    """However often the file is written anew, after saves and a new mount, as fast as the kernel can."""
    volume.size = "32M"
    root = volume.mount()
    (root / "reserved").touch()
    run("fallocate", "-l", "8M", root / "reserved").succeeded()
    count = fill(root)
    for seed in range(3):
        volume.remount()
        for again in range(3):
            content = sample_trees.noise(8 * MIB, seed=10 * seed + again)
            with (root / "reserved").open("r+b", buffering=0) as file:
                file.write(content)
            syncfs(root)
            assert (root / "reserved").read_bytes() == content
    assert_filled(root, count)


def test_a_writer_without_end_hears_that_the_arena_is_full(volume: Volume) -> None:
    """Though its writes are cached, and nothing tells it to sync or to close."""
    volume.size = "32M"
    root = volume.mount()
    with (root / "file").open("wb", buffering=0) as file:
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            write_without_end(file)
        assert (root / "file").stat().st_size  # who only looks is answered
        file.truncate(MIB)
        with contextlib.suppress(OSError):  # of what was lost before
            os.fsync(file.fileno())
        file.seek(MIB)
        assert file.write(bytes(MIB)) == MIB
        os.fsync(file.fileno())


def test_a_full_arena_answers_enospc_and_lives_on(volume: Volume) -> None:
    volume.size = "16M"
    volume.announce("no free frames", "no space")
    root = volume.mount()
    count = fill(root)
    assert count >= 14
    assert_filled(root, count)
    (root / "fill 0").unlink()
    write_durably(root / "fill 0", sample_trees.noise(MIB, seed=0))
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
        write_durably(root / "too much", sample_trees.noise(4 * MIB))
    assert caught.value.errno == errno.ENOSPC
    (root / "too much").unlink()

    volume.remount()
    assert_filled(root, count)
    assert len(list(root.iterdir())) == count


def test_a_full_arena_of_small_files(volume: Volume) -> None:
    """Metadata has its frames, too: a tree that was written can always be saved."""
    volume.size = "4M"
    volume.announce("no free frames", "no space")
    root = volume.mount()
    count = fill(root, size=1000)
    assert count >= 600
    volume.remount()
    assert_filled(root, count, size=1000)


def test_a_full_arena_can_be_deleted_from(volume: Volume) -> None:
    volume.size = "8M"
    volume.announce("no free frames", "no space")
    root = volume.mount()
    count = fill(root)
    volume.save()  # the one that did not fit has been removed
    for number in range(count):
        (root / f"fill {number}").unlink()
    assert fill(root) == count
    volume.remount()
    assert_filled(root, count)


def test_a_save_tells_of_what_was_written_and_could_not_be_taken(volume: Volume) -> None:
    """Until it is removed or written again; the rest is saved."""
    volume.size = "16M"
    volume.announce("no free frames", "no space", "save is incomplete")
    root = volume.mount()
    write_durably(root / "kept", sample_trees.noise(8 * MIB))
    descriptor = os.open(root / "lost", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, sample_trees.noise(12 * MIB))  # the kernel keeps it for now
        generation = volume.generation
        pramfs("save", root).refused(MOUNT_FAILED, "the save is incomplete", "no space left")
        assert volume.generation > generation
        with pytest.raises(OSError, match="No space left"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    (root / "lost").unlink()
    volume.save()
    volume.kill()
    volume.mount()
    assert [path.name for path in root.iterdir()] == ["kept"]
    assert (root / "kept").read_bytes() == sample_trees.noise(8 * MIB)


@contextlib.contextmanager
def small_disk(volume: Volume, size: str) -> Iterator[Path]:
    """Move the volume's image onto a file system with little space."""
    disk = volume.home / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "small", disk).succeeded()
    volume.image = disk / "image"
    try:
        yield disk
    finally:
        run("umount", "-l", disk).succeeded()


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_a_full_disk_fails_the_save_loudly_and_the_last_one_stands(volume: Volume) -> None:
    volume.announce("save failed", "no space", "previous save")
    with small_disk(volume, "8M"):
        root = volume.mount()
        sample_trees.plant_files(root, 100)
        before = sample_trees.snapshot(root)
        volume.remount()
        (root / "big").write_bytes(sample_trees.noise(16 * MIB))
        syncfs(root)

        pramfs("save", root).refused(MOUNT_FAILED, "save failed", "no space left on device")
        assert (root / "big").read_bytes() == sample_trees.noise(16 * MIB)
        pramfs("umount", root).refused(MOUNT_FAILED, "save failed", "previous save")
        volume.ended(MOUNT_FAILED)

        volume.mount()
        sample_trees.assert_same(sample_trees.snapshot(root), before)
        volume.umount()


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_a_save_succeeds_once_there_is_space_again(volume: Volume) -> None:
    volume.announce("save failed", "no space")
    with small_disk(volume, "8M") as disk:
        root = volume.mount()
        (root / "big").write_bytes(sample_trees.noise(16 * MIB))
        syncfs(root)
        pramfs("save", root).refused(MOUNT_FAILED, "save failed")
        run("mount", "-o", "remount,size=64M", disk).succeeded()
        volume.save()
        volume.remount()
        assert (root / "big").read_bytes() == sample_trees.noise(16 * MIB)
        volume.umount()


@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_a_full_disk_under_an_image_arena_answers_enospc_and_lives_on(volume: Volume) -> None:
    volume.announce("no space")
    with small_disk(volume, "8M"):
        root = volume.mount()
        sample_trees.plant_files(root, 100)
        before = sample_trees.snapshot(root)
        volume.save()
        count = fill(root)
        assert 2 <= count <= 8
        assert_filled(root, count)
        for number in range(count):
            (root / f"fill {number}").unlink()
        volume.remount()
        sample_trees.assert_same_below(sample_trees.snapshot(root), before)
        volume.umount()
