"""Banned regions: no byte that persists lies in one, not even after a ban that comes later."""

import os
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, MOUNT_FAILED, PAGE, Volume, pramfs


def table_of(volume: Volume) -> list[str]:
    """The lines of the table in the log, without what stands before every line of a log."""
    lines = [line.removeprefix("pramfs: INFO: ") for line in volume.log.splitlines()]
    start = lines.index("PRAM: banned regions:")
    end = next(at for at, line in enumerate(lines) if line.startswith("Total banned: "))
    return lines[start + 1 : end + 1]


@pytest.mark.parametrize(
    ("options", "rows", "total"),
    [
        pytest.param(
            ["banned=0-16M"],
            ["   0: [00000000 - 00000fff] 4096 pages"],
            "Total banned: 4096 pages in 1 regions",
            id="one",
        ),
        pytest.param(
            ["banned=32M-36M", "banned=0-1M"],
            ["   0: [00000000 - 000000ff] 256 pages", "   1: [00002000 - 000023ff] 1024 pages"],
            "Total banned: 1280 pages in 2 regions",
            id="sorted",
        ),
        pytest.param(
            ["banned=4M-8M:0-4M:6M-10M"],
            ["   0: [00000000 - 000009ff] 2560 pages"],
            "Total banned: 2560 pages in 1 regions",
            id="adjacent and overlapping ones merge",
        ),
        pytest.param(
            ["banned=4095-4097:0x5001-0x5002"],
            ["   0: [00000000 - 00000001] 2 pages", "   1: [00000005 - 00000005] 1 pages"],
            "Total banned: 3 pages in 2 regions",
            id="a byte bans its page",
        ),
        pytest.param(
            ["banned=1T-2T"],
            ["   0: [10000000 - 1fffffff] 268435456 pages"],
            "Total banned: 268435456 pages in 1 regions",
            id="beyond the end of the image",
        ),
    ],
)
def test_the_table_is_logged(
    volume: Volume, options: list[str], rows: list[str], total: str
) -> None:
    volume.mount(*options)
    assert table_of(volume) == [*rows, total]


@pytest.mark.parametrize(
    "options",
    [
        ["banned=0-4M,16M-20M,60M-61M"],
        ["banned=0-4M:16M-20M:60M-61M"],
        ["banned=0-4M", "banned=16M-20M", "banned=60M-61M"],
        ["banned=0-4M,16M-20M", "verify=full", "banned=60M-61M"],
    ],
    ids=["commas", "colons", "repeated", "mixed"],
)
def test_every_spelling_of_a_list(volume: Volume, options: list[str]) -> None:
    volume.mount(*options)
    assert len(table_of(volume)) == 3 + 1
    assert table_of(volume)[-1] == "Total banned: 2304 pages in 3 regions"


def test_nothing_is_ever_written_into_a_banned_region(volume: Volume) -> None:
    root = volume.mount("banned=0-16M,20M-24M")
    sample_trees.plant_everything(root)
    (root / "big").write_bytes(sample_trees.noise(16 * MIB))
    volume.save()
    (root / "big").write_bytes(sample_trees.noise(16 * MIB, seed=1))
    before = sample_trees.snapshot(root)
    volume.remount("banned=0-16M,20M-24M")
    sample_trees.assert_same(sample_trees.snapshot(root), before)
    volume.umount()
    assert_hole(volume.image, 0, 16 * MIB)
    assert_hole(volume.image, 20 * MIB, 24 * MIB)


@pytest.mark.parametrize(
    "region", [(0, 16 * MIB), (16 * MIB, 40 * MIB), (0, 30 * MIB)], ids=["low", "middle", "most"]
)
def test_a_later_ban_relocates(volume: Volume, region: tuple[int, int]) -> None:
    """The new owner of the region may overwrite it: the tree no longer depends on it."""
    start, end = region
    root = volume.mount()
    sample_trees.plant_everything(root)
    (root / "big").write_bytes(sample_trees.noise(8 * MIB))
    before = sample_trees.snapshot(root)
    volume.umount()

    volume.mount(f"banned={start}-{end}")
    sample_trees.assert_same(sample_trees.snapshot(root), before)
    volume.umount()
    with volume.image.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * (end - start))
    volume.check()
    volume.mount(f"banned={start}-{end}")
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_a_checkpoint_relocates_as_well(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    before = sample_trees.snapshot(root)
    volume.umount()
    volume.mount("banned=0-32M")
    volume.save()
    volume.kill()
    with volume.image.open("r+b") as file:
        file.write(b"\xff" * 32 * MIB)
    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_a_region_that_is_no_longer_banned_is_used_again(volume: Volume) -> None:
    volume.size = "32M"
    root = volume.mount("banned=0-16M")
    (root / "a").write_bytes(sample_trees.noise(12 * MIB, seed=1))
    volume.remount()
    (root / "b").write_bytes(sample_trees.noise(12 * MIB, seed=2))
    volume.remount()
    assert (root / "a").read_bytes() == sample_trees.noise(12 * MIB, seed=1)
    assert (root / "b").read_bytes() == sample_trees.noise(12 * MIB, seed=2)


def test_banned_frames_are_neither_free_nor_used(volume: Volume) -> None:
    root = volume.mount("banned=0-48M")
    told = os.statvfs(root)
    assert told.f_bavail <= told.f_blocks <= 16 * MIB // PAGE
    (root / "file").write_bytes(sample_trees.noise(4 * MIB))
    volume.save()
    frames = volume.info(root)["frames"]
    assert frames["banned"] == pytest.approx(48 * MIB // PAGE, rel=0.01)
    assert frames["used"] == pytest.approx(4 * MIB // PAGE, abs=100)
    counted = frames["used"] + frames["free"] + frames["banned"] + frames["reserved"]
    assert counted == frames["total"] == 64 * MIB // PAGE


def test_a_list_that_leaves_no_room_is_refused(volume: Volume) -> None:
    banned = volume.options("banned=0-64M")
    outcome = pramfs("mount", "-o", banned, volume.image, volume.root)
    outcome.refused(MOUNT_FAILED, str(volume.image), "banned")
    assert not volume.is_mounted
    assert not volume.image.exists()
    volume.mount()


def test_a_later_list_that_leaves_no_room_is_refused(volume: Volume) -> None:
    root = volume.mount()
    (root / "big").write_bytes(sample_trees.noise(40 * MIB))
    volume.umount()
    volume.refused("banned", options=["banned=0-32M"])
    volume.mount()
    assert (root / "big").read_bytes() == sample_trees.noise(40 * MIB)


def assert_hole(image: Path, start: int, end: int) -> None:
    """Nothing was ever written to this range of the image."""
    descriptor = os.open(image, os.O_RDONLY)
    assert os.lseek(descriptor, start, os.SEEK_DATA) >= end
    os.close(descriptor)
