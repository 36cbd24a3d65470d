"""Saves and loads: what an unmount and a mount cost, against archivers and a CRC-32C pass.

A save is timed from umount2(2) to the end of the daemon, a load from the start of `pramfs mount` to
its return. "Over an empty one" takes away what the same costs in the same round with no file in it.
"""

import time
from pathlib import Path

from benchmarks import mounts, peers
from benchmarks.bench import MIB, Bench
from benchmarks.commands import CommandError, remove_tree, sync_and_time, timed
from benchmarks.figures import PRAMFS, Row, cost, faster
from benchmarks.streams import BLOCK_BYTES

_FILES = 16
_CHANGED_INVERSE = 100  # one page in so many is written again: 1 %

_CRC = "CRC-32C pass"
_IMPORTS = "imports alone"
_TAR, _CP, _RSYNC = "tar", "cp -a", "rsync -a"


def saves(bench: Bench) -> list[Row]:
    """Save, save again after a small change, load in full and lazily."""
    size = bench.scale.saved_bytes
    with peers.scratch(bench.work) as directory:
        tree = directory / "tree"
        tree.mkdir()
        _write_files(bench, tree, size)
        measured = {
            PRAMFS: lambda: _pramfs_round(bench, size),
            _TAR: lambda: _tar_round(bench, directory, tree),
            _CRC: lambda: dict.fromkeys(_OVER_EMPTY, bench.module("crcpass", size)),
        }
        if bench.passthrough_ll is not None:
            measured[peers.PASSTHROUGH] = lambda: _kernel_round(bench, size)
        if bench.scale.thorough:
            measured[_CP] = lambda: _copy_round(bench, directory, tree, ["cp", "-a"])
            measured[_RSYNC] = lambda: _copy_round(bench, directory, tree, ["rsync", "-a"])
        samples = bench.alternate(measured)
    result = [Row(name, samples.get(name, {})) for name in (*_ARCHIVERS, *_OVER_EMPTY)]
    for row in result:
        row.targets.append(_ARCHIVERS.get(row.name) or _OVER_EMPTY[row.name])
    return [*result, Row(_UMOUNT2, samples.get(_UMOUNT2, {}))]


_ARCHIVERS = {
    "save": faster(_TAR, 6, must=4),  # most of it is umount2(2), which drops the page cache
    "load, verify=full": faster(_TAR, 4),
    "save + load": faster(_TAR, 4),
}
_OVER_EMPTY = {
    "save, over an empty one": cost(_CRC, 1.5),
    "save again after 1 %, over an empty one": cost(_CRC, 1.4),
    "load, verify=full, over an empty one": cost(_CRC, 2.5),
    "load, verify=lazy, over an empty one": cost(_CRC, 1.0),
}
_UMOUNT2 = "umount2(2) alone"  # the kernel's part of a save, which it takes of any FUSE mount


def start(bench: Bench) -> list[Row]:
    """Mount an image for the first time, against `python3 -c "import pyfuse3, trio"`."""

    def mount() -> dict[str, float]:
        with bench.pramfs(64 * MIB).image() as image:
            return {"mount, empty": image.mount()}

    samples = bench.alternate(
        {
            PRAMFS: mount,
            _IMPORTS: lambda: {"mount, empty": timed(bench.python, "-c", "import pyfuse3, trio")},
        },
        rounds=2 * bench.scale.rounds,
    )
    return [Row("mount, empty", samples.get("mount, empty", {}), targets=[cost(_IMPORTS, 2.5)])]


def _pramfs_round(bench: Bench, size: int) -> dict[str, float]:
    pramfs = bench.pramfs(2 * size + 64 * MIB)
    with pramfs.image() as image:
        image.mount()
        empty_save = image.unmount()
        empty_load = image.mount()
        _write_files(bench, image.mountpoint, size)
        save = image.save()
        umount2 = image.detached_s
        full = image.mount("verify=full")
        _require(image.mountpoint, size)
        image.unmount()
        lazy = image.mount("verify=lazy")
        for file in image.mountpoint.iterdir():
            bench.client("scatter", file, _CHANGED_INVERSE)
        again = image.save()
    return {
        "save": save,
        "load, verify=full": full,
        "save + load": save + full,
        "save, over an empty one": save - empty_save,
        "save again after 1 %, over an empty one": again - empty_save,
        "load, verify=full, over an empty one": full - empty_load,
        "load, verify=lazy, over an empty one": lazy - empty_load,
        _UMOUNT2: umount2,
    }


def _kernel_round(bench: Bench, size: int) -> dict[str, float]:
    """Measure what umount2(2) takes for a mount with as much in the page cache, whoever serves it."""
    assert bench.passthrough_ll is not None
    peer = peers.passthrough(peers.PASSTHROUGH, bench.work, bench.passthrough_ll)
    with peer.mounted() as root:
        _write_files(bench, root.path, size)
        start = time.perf_counter()
        mounts.unmount(root.path)
        return {_UMOUNT2: time.perf_counter() - start}


def _tar_round(bench: Bench, directory: Path, tree: Path) -> dict[str, float]:
    archive, copy = directory / "tree.tar", directory / "copy"
    copy.mkdir()
    bench.client("touch", bench.scale.saved_bytes)
    packed = sync_and_time(["tar", "-cf", archive, "-C", tree, "."], archive)
    bench.client("touch", bench.scale.saved_bytes)
    unpacked = timed("tar", "-xf", archive, "-C", copy)
    archive.unlink()
    remove_tree(copy)
    return _both_ways(packed, unpacked)


def _copy_round(bench: Bench, directory: Path, tree: Path, command: list[str]) -> dict[str, float]:
    copy = directory / "copy"
    bench.client("touch", bench.scale.saved_bytes)
    there = timed(*command, f"{tree}/", copy)
    bench.client("touch", bench.scale.saved_bytes)
    back = timed(*command, f"{copy}/", directory / "back")
    remove_tree(copy)
    remove_tree(directory / "back")
    return _both_ways(there, back)


def _both_ways(save: float, load: float) -> dict[str, float]:
    return {"save": save, "load, verify=full": load, "save + load": save + load}


def _write_files(bench: Bench, directory: Path, size: int) -> None:
    for number in range(_FILES):
        bench.client("write", directory / f"file{number}", size // _FILES, BLOCK_BYTES)


def _require(mountpoint: Path, size: int) -> None:
    """Fail if a file is missing after the load, which would then not count as fast."""
    found = sum(file.stat().st_size for file in mountpoint.iterdir())
    if found != size:
        raise CommandError(f"{found} of {size} bytes came back")
