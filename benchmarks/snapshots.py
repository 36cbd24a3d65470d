"""Snapshots: what one costs, and what those that there are cost a save."""

import contextlib
import os
import time
from pathlib import Path

from benchmarks.bench import MIB, Bench
from benchmarks.figures import PRAMFS, Row, cost, limit
from benchmarks.peers import Image

_NONE = "pramfs, no snapshots"
_SNAPSHOTS = 10
_FILES = 10_000  # in which the snapshot's data is
_BIG_FILES = 16
_CHANGED_INVERSE = 100  # one page in so many is written again: 1 %
_ROUNDS = 15

_SAVE, _TAKE = "save after 1 %, with ten snapshots", "snapshot of 10,000 files, beyond a save"


def snapshots(bench: Bench) -> list[Row]:
    """Save after a small change with ten snapshots and with none; take a snapshot of many files."""
    size = bench.scale.saved_bytes
    with contextlib.ExitStack() as stack:
        plain, full = (
            stack.enter_context(bench.pramfs(2 * size + 256 * MIB).image()) for _ in range(2)
        )
        for image in (plain, full):
            _fill(bench, image, size)
        for number in range(_SNAPSHOTS):
            _change(bench, full)
            _take(full, f"s{number}")
        measured = {
            PRAMFS: lambda: {_SAVE: _save(bench, full)},
            _NONE: lambda: {_SAVE: _save(bench, plain)},
        }
        samples = bench.alternate(measured, rounds=_ROUNDS)
    with bench.pramfs(2 * size + 256 * MIB).image() as image:
        image.mount()
        bench.client("fill", image.mountpoint, _FILES, size // _FILES)
        taken = bench.alternate({PRAMFS: lambda: _take_and_free(image)})
    return [
        Row(_SAVE, samples.get(_SAVE, {}), targets=[cost(_NONE, 1.2)]),
        Row(_TAKE, taken.get(_TAKE, {}), targets=[limit(0.1)]),
    ]


def _fill(bench: Bench, image: Image, size: int) -> None:
    image.mount()
    for number in range(_BIG_FILES):
        bench.client("fill", _directory(image, number), 1, size // _BIG_FILES)
    _set(image, "save")


def _directory(image: Image, number: int) -> Path:
    directory = image.mountpoint / f"d{number}"
    directory.mkdir()
    return directory


def _change(bench: Bench, image: Image) -> None:
    """Write 1 % of the pages again, and have the kernel hand them over."""
    for file in image.mountpoint.glob("d*/*"):
        bench.client("scatter", file, _CHANGED_INVERSE)
        descriptor = os.open(file, os.O_RDWR)
        os.fsync(descriptor)
        os.close(descriptor)


def _save(bench: Bench, image: Image) -> float:
    _change(bench, image)
    return _set(image, "save")


def _take(image: Image, name: str) -> float:
    return _set(image, "snapshot", name)


def _take_and_free(image: Image) -> dict[str, float]:
    _touch(image)
    save = _set(image, "save")
    _touch(image)
    snapshot = _take(image, "s")
    _set(image, "free", "pramfs@s")
    return {_TAKE: snapshot - save}


def _touch(image: Image) -> None:
    """Change something, so that there is something to save."""
    os.utime(image.mountpoint)


def _set(image: Image, attribute: str, value: str = "") -> float:
    """Ask the daemon as the commands do, without the start of an interpreter; return the seconds."""
    start = time.perf_counter()
    os.setxattr(image.mountpoint, f"user.pramfs.{attribute}", value.encode())
    return time.perf_counter() - start
