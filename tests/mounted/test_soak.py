"""Mixed load for a long time, with checkpoints on the way: memory stays flat, frames are accounted for."""

import os
import random
import time
from pathlib import Path

import pytest

from tests.mounted.harness import KIB, MIB, Volume
from tests.mounted.system import syncfs

SOAK_S = 8
SOAK_LONG_S = 1800  # in each arena
SAMPLES = 8
ANON_GROWTH_MAX = 4 * MIB


@pytest.mark.timeout(2 * SOAK_LONG_S)
def test_a_mount_under_load_does_not_drift(volume: Volume, long: bool) -> None:
    root = volume.mount("checkpoint=5" if long else "checkpoint=1", "size=64M")
    volume.save()
    used_at_first = _frames(volume)["used"]
    rng = random.Random(1)
    _work(root, rng, 2)  # what grows to its size once
    anon_at_first = _anon_bytes(volume.pid)
    for _ in range(SAMPLES):
        _work(root, rng, (SOAK_LONG_S if long else SOAK_S) / SAMPLES)
        frames = _frames(volume)
        parts = ("used", "free", "banned", "reserved")
        assert sum(frames[part] for part in parts) == frames["total"]
        assert _anon_bytes(volume.pid) < anon_at_first + ANON_GROWTH_MAX
    for path in root.iterdir():
        path.unlink()
    volume.save()
    volume.save()  # the frames of the last save but one are free now
    assert _frames(volume)["used"] == used_at_first


def _work(root: Path, rng: random.Random, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path = root / f"f{rng.randrange(100)}"
        kind = rng.randrange(6)
        if kind < 3 or not path.exists():
            path.write_bytes(rng.randbytes(rng.randrange(200 * KIB)))
        elif kind == 3:
            path.unlink()
        elif kind == 4:
            path.rename(root / f"f{rng.randrange(100)}")
        else:
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), rng.randbytes(100), rng.randrange(200 * KIB))
                os.ftruncate(file.fileno(), rng.randrange(200 * KIB))


def _frames(volume: Volume) -> dict[str, int]:
    syncfs(volume.root)
    return dict(volume.status()["frames"])


def _anon_bytes(pid: int) -> int:
    """Memory of a process that is its own: not the arena, which is a file's."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no RssAnon")
