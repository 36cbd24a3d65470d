"""Bulk data through a mount: sequential writes and reads, small writes, random access by fio."""

import json
from collections.abc import Iterator

from benchmarks import peers
from benchmarks.bench import MIB, Bench, Samples
from benchmarks.commands import CommandError, run
from benchmarks.figures import Row, Target, faster

BLOCK_BYTES = MIB
SMALL_BLOCK_BYTES = 4096
STILL_CACHED = 0.01
"""The share of a file that may be in the page cache for a read of it to count as cold."""


def sequential(bench: Bench) -> list[Row]:
    """Write a big file, write over it, read it cold, read it warm."""
    size = bench.scale.bulk_bytes

    def one_round(root: peers.Root) -> dict[str, float]:
        file = root.path / "bulk"
        figures = {}
        for row in ("write, first time", "write over it"):
            (figures[row],) = bench.client("write", file, size, BLOCK_BYTES)
        if root.can_cool:
            bench.client("cool", root.path)
            (resident,) = bench.client("resident", file)
            if resident > size * STILL_CACHED:
                raise CommandError(f"{resident:.0f} bytes stayed in the page cache")
        for row in ("read, cold", "read, warm"):
            (figures[row],) = bench.client("read", file, size, BLOCK_BYTES)
        file.unlink()
        return figures

    compared = _peers(bench, size)
    targets = {
        "write, first time": faster(peers.PASSTHROUGH, 1.2, must=0.95),
        "write over it": faster(peers.PASSTHROUGH, 1.0, must=0.95),
        "read, cold": faster(peers.PASSTHROUGH, 2.8, must=2.0),
        "read, warm": faster(
            peers.PASSTHROUGH, 0.95
        ),  # no request: FUSE's page cache against itself
    }
    return rows(bench.on_each(compared, one_round), targets)


def small_writes(bench: Bench) -> list[Row]:
    """Write a file 4 KiB at a time, as a program without a big buffer does."""
    size = bench.scale.small_writes_bytes

    def one_round(root: peers.Root) -> dict[str, float]:
        file = root.path / "small"
        (seconds,) = bench.client("write", file, size, SMALL_BLOCK_BYTES)
        file.unlink()
        return {"4 KiB writes": seconds}

    compared = _peers(bench, size, peers.PASSTHROUGH_XATTR)
    targets = {"4 KiB writes": faster(peers.PASSTHROUGH, 1.0, must=0.6)}
    return rows(bench.on_each(compared, one_round), targets)


def random_access(bench: Bench) -> list[Row]:
    """Read and write random 4 KiB blocks by fio, one job and 16, and past the page cache, 32 at a time.

    Each block is taken once at most. fio drops the file from the page cache first, so reads reach the
    file system; writes end with an fsync, so that they do.
    """
    amount = bench.scale.random_bytes

    def one_round(root: peers.Root) -> dict[str, float]:
        file = root.path / "random"
        bench.client("write", file, 4 * amount, BLOCK_BYTES)
        figures = {
            f"random {kind}, {jobs} job{'s' if jobs > 1 else ''}": _fio(
                file, amount, kind, f"--numjobs={jobs}", f"--io_size={amount // jobs}", *_CACHED
            )
            for kind, jobs in _fio_kinds()
        }
        if root.can_cool:
            bench.client("cool", root.path)
        for kind in ("read", "write"):
            figures[f"asynchronous direct {kind}, depth 32"] = _fio(
                file, amount, kind, f"--io_size={amount}", *_DIRECT
            )
        file.unlink()
        return figures

    compared = _peers(bench, 4 * amount, bindfs=False)
    return rows(bench.on_each(compared, one_round), _RANDOM_TARGETS)


_CACHED = ("--ioengine=psync", "--thread", "--group_reporting", "--end_fsync=1")
_DIRECT = ("--ioengine=libaio", "--direct=1", "--iodepth=32")
_RANDOM_TARGETS = {
    "random read, 1 job": faster(peers.RAW_LOOP, 0.75, must=0.6),
    "random write, 1 job": faster(peers.PASSTHROUGH, 0.6, must=0.5),
    "random read, 16 jobs": faster(peers.RAW_LOOP, 0.75, must=0.6),
    "random write, 16 jobs": faster(peers.RAW_LOOP, 0.6, must=0.4),
}


def _peers(bench: Bench, file_size: int, *variants: str, bindfs: bool = True) -> list[peers.Peer]:
    """All peers, with room for the file and its shadow."""
    variants = (*variants, peers.PASSTHROUGH_NO_WRITEBACK)
    compared = bench.compared(2 * file_size + 64 * MIB, *variants, bindfs=bindfs)
    return compared + bench.floors(file_size, plain=False)


def _fio_kinds() -> Iterator[tuple[str, int]]:
    for jobs in (1, 16):
        yield "read", jobs
        yield "write", jobs


def _fio(file: object, amount: int, kind: str, *options: str) -> float:
    output = run(
        "fio",
        "--name=random",
        f"--filename={file}",
        f"--rw=rand{kind}",
        "--bs=4k",
        f"--size={4 * amount}",
        "--randseed=1",
        *options,
        "--output-format=json",
        "--clocksource=clock_gettime",  # another would be calibrated first, which takes a while
    )
    (job,) = json.loads(output[output.index("{") :])["jobs"]
    return float(job[kind]["runtime"]) / 1000


def rows(samples: Samples, targets: dict[str, Target]) -> list[Row]:
    """One row for each entry of *samples*, with its target if it has one."""
    return [
        Row(name, by_peer, targets=[targets[name]] if name in targets else [])
        for name, by_peer in samples.items()
    ]
