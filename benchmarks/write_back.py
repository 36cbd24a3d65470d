"""Write-back before a save: what it spares the save after a burst, and what it costs writers meanwhile.

The image is on a disk of a known pace: a loop device over tmpfs, throttled by the control group of all
processes. That takes the blkio controller of version 1; in version 2 the root group has no limits.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import mounts, peers
from benchmarks.bench import GIB, MIB, Bench
from benchmarks.commands import CommandError, run
from benchmarks.figures import PRAMFS, Row, cost
from benchmarks.streams import BLOCK_BYTES

_LIMIT = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
_DISK_BYTES_PER_S = 16 * MIB
_SECONDS = 10  # writeback=
_BURST_BYTES = 2 * _SECONDS * _DISK_BYTES_PER_S
_SMALL_BYTES = 32 * MIB
_QUIET = "pramfs, writeback=0"
_BURST = "write of the burst"
_SMALL = "4 KiB writes while pages go out"


def write_back(bench: Bench) -> list[Row]:
    """Write more than the disk takes in `writeback=` seconds, and save when that has had time to go out."""
    samples = bench.alternate(
        {PRAMFS: lambda: _round(bench, _SECONDS), _QUIET: lambda: _round(bench, 0)}
    )
    return [
        Row("save", samples.get("save", {}), targets=[cost(_QUIET, 0.7)]),
        *(
            Row(name, samples.get(name, {}), targets=[cost(_QUIET, 1.1)])
            for name in (_BURST, _SMALL)
        ),
    ]


def _round(bench: Bench, seconds: int) -> dict[str, float]:
    with peers.scratch(bench.work) as directory, _slow_disk(directory) as disk:
        image = peers.Image(bench.pramfs(GIB, f"writeback={seconds}"), disk)
        try:
            image.mount()
            root = image.mountpoint
            start = time.perf_counter()
            bench.client("write", root / "burst", _BURST_BYTES, BLOCK_BYTES)
            run("sync", "-f", root)
            burst = time.perf_counter() - start
            start = time.perf_counter()
            bench.client("write", root / "small", _SMALL_BYTES, 4096)
            run("sync", "-f", root)
            small = time.perf_counter() - start
            if seconds:
                time.sleep((_BURST_BYTES + _SMALL_BYTES) / _DISK_BYTES_PER_S - seconds + 2)
            save = image.save()
        finally:
            image.clean_up()
    return {"save": save, _BURST: burst, _SMALL: small}


@contextmanager
def _slow_disk(directory: Path) -> Iterator[Path]:
    """Give a mounted ext4 on a disk with a limit; raise CommandError where none can be set."""
    if not _LIMIT.exists():
        raise CommandError(f"{_LIMIT} is missing: a disk cannot be made slow here")
    file, point = directory / "disk", directory / "slow"
    run("truncate", "-s", f"{GIB}", file)
    device = run("losetup", "--find", "--show", file).strip()
    try:
        run("mkfs.ext4", "-q", device)
        point.mkdir()
        number = run("lsblk", "-no", "MAJ:MIN", device).strip()
        run("mount", device, point)
        try:
            _LIMIT.write_text(f"{number} {_DISK_BYTES_PER_S}")
            yield point
        finally:
            _LIMIT.write_text(f"{number} 0")
            mounts.unmount(point)
    finally:
        run("losetup", "--detach", device)
