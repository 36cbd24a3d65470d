"""Many small operations on files: what a file system does when it moves hardly any data."""

from benchmarks import peers
from benchmarks.bench import DAEMON_TIME, MIB, Bench
from benchmarks.figures import Row, Target, cost, faster

_PHASES = (
    "create + write 4 KiB + close",
    "stat, cold",
    "open + read + close, cold",
    "open + read + close, warm",
    "rename",
    "unlink",
)
_FILE_BYTES = 4096
_FLOOR = faster(peers.RAW_LOOP, 0.7)


def small_files(bench: Bench) -> list[Row]:
    """Every phase goes over all the files before the next phase begins."""
    count = bench.scale.files

    def one_round(root: peers.Root) -> dict[str, float]:
        seconds = bench.client("files", root.path, count, int(root.can_cool))
        return dict(zip(_PHASES, seconds, strict=True))

    arena = 4 * count * _FILE_BYTES + 64 * MIB
    variants = peers.PASSTHROUGH_ALIKE, peers.PASSTHROUGH_NO_WRITEBACK
    compared = bench.compared(arena, *variants) + bench.floors(_FILE_BYTES)
    samples = bench.on_each(compared, one_round)
    rows = [Row(name, samples.get(name, {}), targets=_TARGETS[name]) for name in _PHASES]
    daemon = Row(DAEMON_TIME, samples.get(DAEMON_TIME, {}), targets=[cost(peers.RAW_LOOP, 1.7)])
    return [*rows, daemon]


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
    targets = [faster(peers.PASSTHROUGH, 1.0), _FLOOR]
    return [Row("readdir + stat", samples.get("readdir + stat", {}), targets=targets)]


def _targets(aim: float, must: float) -> list[Target]:
    return [faster(peers.PASSTHROUGH, aim, must), _FLOOR]


_TARGETS = {
    "create + write 4 KiB + close": _targets(1.0, 0.93),
    "stat, cold": _targets(1.25, 1.15),
    "open + read + close, cold": _targets(1.5, 1.0),
    "open + read + close, warm": _targets(3.5, 3.0),
    "rename": _targets(0.93, 0.85),
    "unlink": _targets(0.94, 0.88),
}
