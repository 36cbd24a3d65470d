"""What pramfs uses while it stands: frames, memory, processor time."""

import time

from benchmarks.bench import MIB, Bench
from benchmarks.commands import run
from benchmarks.figures import PRAMFS, Row, limit
from benchmarks.streams import BLOCK_BYTES

_FRAME_BYTES = 4096
_DIRECT = "pramfs, direct_io"
_WORKER_ENDS_S = 10
"""After how long trio lets a thread go that has done its work; it does that once."""


def overhead(bench: Bench) -> list[Row]:
    """Frames that a big file takes beyond its data."""
    size = bench.scale.bulk_bytes

    def one_round() -> dict[str, float]:
        with bench.pramfs(size + size // 8 + 64 * MIB).image() as image:
            image.mount()
            bench.client("write", image.mountpoint / "bulk", size, BLOCK_BYTES)
            image.save()
            return {"frames": 100 * (image.frames_used() * _FRAME_BYTES / size - 1)}

    samples = bench.alternate({PRAMFS: one_round}, rounds=1)
    return [Row("frames beyond the data", samples.get("frames", {}), "%", [limit(1.5)])]


def idle(bench: Bench) -> list[Row]:
    """Processor time of a mount that nobody uses."""

    def one_round() -> dict[str, float]:
        with bench.pramfs(64 * MIB).image() as image:
            image.mount()
            bench.client("fill", image.mountpoint, 100, 4096)
            bench.client("cool", image.mountpoint)
            # Else the kernel hands the times of the files over while we watch.
            run("sync", "-f", image.mountpoint)
            # Nothing tells that a daemon has come to rest: that is what is measured.
            time.sleep(_WORKER_ENDS_S + 1)
            before = image.daemon.cpu_seconds()
            time.sleep(bench.scale.idle_s)
            return {"idle": image.daemon.cpu_seconds() - before}

    samples = bench.alternate({PRAMFS: one_round}, rounds=1)
    name = f"processor time in {bench.scale.idle_s:g} s of idling"
    return [Row(name, samples.get("idle", {}), targets=[limit(0)])]


def held_twice(bench: Bench) -> list[Row]:
    """Memory that a file takes in the arena and in the page cache; `direct_io`, the way out."""
    size = bench.scale.bulk_bytes // 2

    def one_round(*options: str) -> dict[str, float]:
        with bench.pramfs(size + size // 8 + 64 * MIB, *options).image() as image:
            image.mount()
            file = image.mountpoint / "bulk"
            (written,) = bench.client("write", file, size, BLOCK_BYTES)
            (read,) = bench.client("read", file, size, BLOCK_BYTES)
            (cached,) = bench.client("resident", file)
            held = image.path.stat().st_blocks * 512 + cached
            (small,) = bench.client(
                "write", image.mountpoint / "small", bench.scale.random_bytes // 4, _FRAME_BYTES
            )
        return {"held": held / size, "write": written, "read, warm": read, "4 KiB writes": small}

    samples = bench.alternate(
        {PRAMFS: one_round, _DIRECT: lambda: one_round("direct_io")}, rounds=bench.scale.rounds
    )
    return [
        Row("memory held, of the data's size", samples.get("held", {}), "x"),
        *(Row(name, samples.get(name, {})) for name in ("write", "read, warm", "4 KiB writes")),
    ]
