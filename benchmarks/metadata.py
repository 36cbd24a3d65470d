"""Many small operations on files: what a file system does when it moves hardly any data."""

from benchmarks import peers
from benchmarks.bench import MIB, Bench
from benchmarks.figures import Row, Target, faster

_PHASES = (
    "create + write 4 KiB + close",
    "stat, cold",
    "open + read + close, cold",
    "open + read + close, warm",
    "rename",
    "unlink",
)
_FILE_BYTES = 4096
_FLOOR = faster(peers.RAW_LOOP, 0.8)


def small_files(bench: Bench) -> list[Row]:
    """Every phase goes over all the files before the next phase begins."""
    count = bench.scale.files

    def one_round(root: peers.Root) -> dict[str, float]:
        seconds = bench.client("files", root.path, count, int(root.can_cool))
        return dict(zip(_PHASES, seconds, strict=True))

    arena = 4 * count * _FILE_BYTES + 64 * MIB
    compared = bench.compared(arena, peers.PASSTHROUGH_NO_WRITEBACK) + bench.floors(_FILE_BYTES)
    samples = bench.on_each(compared, one_round)
    return [Row(name, samples.get(name, {}), targets=_targets(0.7)) for name in _PHASES]


def listing(bench: Bench) -> list[Row]:
    """List and stat the files of one big directory, nothing of it cached."""
    count = bench.scale.listed_files

    def one_round(root: peers.Root) -> dict[str, float]:
        bench.client("fill", root.path, count, 0)
        if root.can_cool:
            bench.client("cool", root.path)
        (seconds,) = bench.client("walk", root.path, count)
        return {"readdir + stat": seconds}

    compared = bench.compared(64 * MIB, bindfs=False) + bench.floors(_FILE_BYTES)
    samples = bench.on_each(compared, one_round)
    return [Row("readdir + stat", samples.get("readdir + stat", {}), targets=_targets(None))]


def _targets(must: float | None) -> list[Target]:
    return [faster(peers.PASSTHROUGH, 1.0, must), _FLOOR]
