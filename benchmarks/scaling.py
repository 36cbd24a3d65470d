"""How costs grow: 8 GiB against eight times 1 GiB.

The peers tell how much of that is the machine: `pramfs, direct_io` has an arena and no page cache, the
constant-answer file system a page cache and no arena, tmpfs is memory alone.
"""

from collections.abc import Callable
from functools import partial

from benchmarks import peers
from benchmarks.bench import GIB, MIB, Bench
from benchmarks.figures import PRAMFS, Row, limit
from benchmarks.streams import BLOCK_BYTES

_GIB = 8
_LINEAR = 1.1
"""What a cost per GiB may grow by and still count as linear: noise, no more."""

_FLAT_BYTES = 64 * MIB
_PER_GIB_BYTES = MIB

_MEMORY = "daemon's memory"

Costs = Callable[[int], dict[str, float]]
"""What so many GiB cost, by name."""


def scaling(bench: Bench) -> list[Row]:
    """Every cost as a multiple of eight times that of 1 GiB; the daemon's memory."""
    measured = {name: partial(_growth, costs) for name, costs in _all(bench).items()}
    samples = bench.alternate(measured)
    memory = limit(_FLAT_BYTES + _GIB * _PER_GIB_BYTES)
    in_memory = Row(f"{_MEMORY} at {_GIB} GiB", samples.pop(_MEMORY, {}), "B", [memory])
    growths = [
        Row(f"{cost}, {_GIB} GiB against {_GIB} x 1 GiB", by_peer, "x", [limit(_LINEAR)])
        for cost, by_peer in samples.items()
    ]
    return [*growths, in_memory]


def _all(bench: Bench) -> dict[str, Costs]:
    costs: dict[str, Costs] = {
        PRAMFS: lambda gib: _of_pramfs(bench, gib),
        "pramfs, direct_io": lambda gib: _of_pramfs(bench, gib, "direct_io"),
        peers.TMPFS: lambda gib: _of_peer(bench, gib, peers.Tmpfs(bench.work)),
    }
    program = bench.passthrough_ll
    if program is not None:
        passthrough = peers.passthrough(peers.PASSTHROUGH, bench.work, program)
        costs[peers.PASSTHROUGH] = lambda gib: _of_peer(bench, gib, passthrough)
    costs[peers.RAW_LOOP] = lambda gib: _of_peer(
        bench, gib, peers.floor(peers.RAW_LOOP, bench.work, bench.python, gib * GIB)
    )
    return costs


def _growth(costs: Costs) -> dict[str, float]:
    one, many = costs(1), costs(_GIB)
    memory = {_MEMORY: many[_MEMORY]} if _MEMORY in many else {}
    return {cost: many[cost] / (_GIB * one[cost]) for cost in one if cost != _MEMORY} | memory


def _of_pramfs(bench: Bench, gib: int, *options: str) -> dict[str, float]:
    size = gib * GIB
    with bench.pramfs(size + size // 8 + 64 * MIB, *options).image() as image:
        image.mount()
        file = image.mountpoint / "bulk"
        (written,) = bench.client("write", file, size, BLOCK_BYTES)
        saved = image.save()
        loaded = image.mount()
        bench.client("touch", GIB)  # what the unmounted page cache gave back is gone by now
        (read,) = bench.client("read", file, size, BLOCK_BYTES)
        memory = image.daemon.anonymous_bytes()
    return {
        "write": written,
        "read, cold": read,
        "save": saved,
        "load": loaded,
        _MEMORY: memory,
    }


def _of_peer(bench: Bench, gib: int, peer: peers.Peer) -> dict[str, float]:
    size = gib * GIB
    with peer.mounted() as root:
        file = root.path / "bulk"
        (written,) = bench.client("write", file, size, BLOCK_BYTES)
        if root.can_cool:
            bench.client("cool", root.path)
        (read,) = bench.client("read", file, size, BLOCK_BYTES)
    return {"write": written, "read, cold": read}
