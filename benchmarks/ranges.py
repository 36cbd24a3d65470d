"""Calls for ranges of a file: copies within the mount, holes, and finding them."""

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.figures import Row, Target, faster, limit
from benchmarks.streams import BLOCK_BYTES

_PAGE_BYTES = 4096
_ROUNDS = 3
_PUNCH, _SEEK = "punch a hole of 4 KiB", "SEEK_DATA or SEEK_HOLE"
_A_CALL = limit(100e-6, must=200e-6)


def copies(bench: Bench) -> list[Row]:
    """Copy a big file by copy_file_range(2)."""
    size = bench.scale.bulk_bytes

    def one_round(root: peers.Root) -> dict[str, float]:
        bench.client("write", root.path / "from", size, BLOCK_BYTES)
        (seconds,) = bench.client("copy", root.path / "from", root.path / "to", size)
        return {"copy_file_range": seconds}

    samples = bench.on_each(bench.compared(3 * size), one_round, _ROUNDS)
    return _rows(samples, {"copy_file_range": faster(peers.PASSTHROUGH, 0.8, must=0.5)})


def holes(bench: Bench) -> list[Row]:
    """Punch every second page of a file, one at a time, then find all that is left; the time of one call.

    passthrough_ll can only reserve room.
    """
    extents = bench.scale.extents
    size = 2 * extents * _PAGE_BYTES

    def one_round(root: peers.Root) -> dict[str, float]:
        file = root.path / "holes"
        bench.client("write", file, size, BLOCK_BYTES)
        (punched,) = bench.client("punch", file, size)
        (found,) = bench.client("seek", file, extents)
        return {_PUNCH: punched / extents, _SEEK: found / (2 * extents)}

    compared: list[peers.Peer] = [peers.Tmpfs(bench.work), bench.pramfs(3 * size)]
    return _rows(bench.on_each(compared, one_round, _ROUNDS), {_PUNCH: _A_CALL, _SEEK: _A_CALL})


def _rows(samples: dict[str, dict[str, list[float]]], targets: dict[str, Target]) -> list[Row]:
    return [
        Row(name, by_peer, targets=[targets[name]] if name in targets else [])
        for name, by_peer in samples.items()
    ]
