"""What counts as the daemon's own memory: not the files that it shows to others."""

import os
import random
import re
from pathlib import Path

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, PAGE, Volume
from tests.mounted.system import memory_limit, syncfs

GROWTH_MAX_BYTES = 64 * MIB


def peak_bytes(pid: int) -> int:
    """The most memory that a process has had resident, since `forget_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def test_what_is_read_through_the_mount_does_not_become_memory_of_the_daemon(
    volume: Volume, long: bool
) -> None:
    """The pages of an image are there without the daemon: to kill it for them would free none."""
    size_mib = 8192 if long else 2048
    volume.size = f"{size_mib + size_mib // 32}M"  # with room for the metadata of two saves
    root = volume.mount()
    block = sample_trees.noise(8 * MIB)
    with (root / "file").open("wb") as file:
        for _ in range(size_mib // 8):
            file.write(block)
    volume.remount()
    forget_peak(volume.pid)
    before = peak_bytes(volume.pid)
    chance = random.Random(1)
    with (root / "file").open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for _ in range(5000):
            offset = chance.randrange(size_mib * MIB // PAGE) * PAGE
            assert os.pread(file.fileno(), PAGE, offset) == block[offset % len(block) :][:PAGE]
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_NORMAL)
        for at in range(0, size_mib * MIB, len(block)):
            assert os.pread(file.fileno(), len(block), at) == block
            os.posix_fadvise(file.fileno(), at, len(block), os.POSIX_FADV_DONTNEED)
    assert peak_bytes(volume.pid) - before < GROWTH_MAX_BYTES


def test_a_save_needs_little_memory_and_finishes_when_there_is_no_more(volume: Volume) -> None:
    """As docs/limits.md has it. The group is empty at first: it is charged only what comes then."""
    data_mib, files = 256, 10_000
    may_take = (16 + 24 * data_mib // 1024 + 10 * files // 100_000) * MIB
    volume.size = "512M"
    root = volume.mount()
    for number in range(files):
        (root / f"{number}").touch()
    block = sample_trees.noise(8 * MIB)
    with (root / "file").open("wb") as file:
        for _ in range(data_mib // 8):
            file.write(block)
    syncfs(root)
    with memory_limit(volume.pid, may_take):
        volume.save()
        (root / "file").write_bytes(block)
        volume.umount()
    assert (volume.mount() / "file").read_bytes() == block
    volume.umount()
