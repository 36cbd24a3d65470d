"""One run of the benchmark: how much of everything, where, with what, and the alternation of peers.

Workloads get a `Bench` and return rows; nothing here knows one workload from another.
"""

import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks import mounts, peers
from benchmarks.commands import Client, CommandError, run
from benchmarks.figures import Row

DAEMON_TIME = "processor time of the daemon"

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Samples = dict[str, dict[str, list[float]]]
"""By row, then by peer, one figure a round."""


@dataclass(frozen=True)
class Scale:
    """How much each workload does. `thorough`: with the peers that no target names."""

    name: str
    rounds: int
    bulk_bytes: int
    sent_bytes: int
    saved_bytes: int
    small_writes_bytes: int
    random_bytes: int
    files: int
    listed_files: int
    extents: int
    source_files: int
    repository_files: int
    transactions: int
    many_dirs: int
    many_rounds: int
    idle_s: float
    thorough: bool


STANDARD = Scale(
    name="standard",
    rounds=5,
    bulk_bytes=GIB,
    sent_bytes=GIB,
    saved_bytes=GIB,
    small_writes_bytes=64 * MIB,
    random_bytes=32 * MIB,
    files=2_000,
    listed_files=10_000,
    extents=10_000,
    source_files=10_000,
    repository_files=2_000,
    transactions=500,
    many_dirs=450,
    many_rounds=3,
    idle_s=10,
    thorough=False,
)
QUICK = Scale(
    name="quick",
    rounds=3,
    bulk_bytes=64 * MIB,
    sent_bytes=64 * MIB,
    saved_bytes=192 * MIB,
    small_writes_bytes=32 * MIB,
    random_bytes=8 * MIB,
    files=600,
    listed_files=1_000,
    extents=2_000,
    source_files=1_000,
    repository_files=500,
    transactions=150,
    many_dirs=25,
    many_rounds=3,
    idle_s=3,
    thorough=False,
)
LONG = replace(
    STANDARD,
    name="long",
    rounds=9,
    sent_bytes=4 * GIB,
    extents=100_000,
    transactions=5_000,
    many_dirs=10_000,
    idle_s=60,
    thorough=True,
)

FILES_PER_DIR = 100


class Interruption:
    """Ctrl-C, SIGTERM and SIGHUP unwind the run as SystemExit; once, so that it can clean up in peace."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._code = 0
        for number in self._SIGNALS:
            signal.signal(number, self._unwind)

    def check(self) -> None:
        """Go on unwinding, if what failed has failed while a run that is ended was cleaned up."""
        if self._code:
            raise SystemExit(self._code)

    def _unwind(self, number: int, frame: FrameType | None) -> NoReturn:
        for each in self._SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self._code = 128 + number
        raise SystemExit(self._code)


@dataclass
class Bench:
    """What the workloads share. `failures`: what could not be measured, and why."""

    scale: Scale
    interruption: Interruption
    work: Path
    python: str
    client: Client
    passthrough_ll: Path | None
    workload: str = ""
    failures: list[str] = field(default_factory=list)

    def pramfs(self, size_bytes: int, *options: str) -> peers.Pramfs:
        return peers.Pramfs(self.python, self.work, size_bytes, *options)

    def compared(self, size_bytes: int, *variants: str, bindfs: bool = True) -> list[peers.Peer]:
        """Return the peers of a workload that needs a real file system, with an arena of that size.

        *variants*: names of passthrough_ll with other options, where those tell something. *bindfs*: no
        where there is no time for it.
        """
        result: list[peers.Peer] = [peers.Tmpfs(self.work), self.pramfs(size_bytes)]
        if self.passthrough_ll is not None:
            names = [peers.PASSTHROUGH, *(variants if self.scale.thorough else ())]
            result += [peers.passthrough(name, self.work, self.passthrough_ll) for name in names]
        if self.scale.thorough and bindfs:
            result.append(peers.bindfs(self.work))
        return result

    def floors(self, file_size_bytes: int, *, plain: bool = True) -> list[peers.Peer]:
        """Return the constant-answer file systems: with pramfs's own request loop, and *plain*."""
        names = [peers.RAW_LOOP, peers.FLOOR][: 2 if plain and self.scale.thorough else 1]
        return [peers.floor(name, self.work, self.python, file_size_bytes) for name in names]

    def module(self, name: str, *args: int) -> float:
        """Run a module of this package under pramfs's interpreter; it prints one number."""
        path = Path(__file__).parents[1]
        return float(
            run("env", f"PYTHONPATH={path}", self.python, "-m", f"benchmarks.{name}", *args)
        )

    def on_each(
        self,
        compared: Iterable[peers.Peer],
        one_round: Callable[[peers.Root], Mapping[str, float]],
        rounds: int | None = None,
    ) -> Samples:
        """Run *one_round* on every peer in turn, freshly mounted each time.

        One row more is the processor time that the daemons of the peers took for it.
        """

        def mount_and_run(peer: peers.Peer) -> Mapping[str, float]:
            with peer.mounted() as root:
                if root.pid is None:
                    return one_round(root)
                before = mounts.cpu_seconds(root.pid)
                figures = one_round(root)
                return {**figures, DAEMON_TIME: mounts.cpu_seconds(root.pid) - before}

        measured = {peer.name: partial(mount_and_run, peer) for peer in compared}
        return self.alternate(measured, rounds)

    def alternate(
        self,
        measured: Mapping[str, Callable[[], Mapping[str, float]]],
        rounds: int | None = None,
    ) -> Samples:
        """Measure all in turn, each round beginning with another; give the samples by row.

        One that fails is named in `failures` and has no samples at all: half of its rounds would
        be compared with all of another's.
        """
        collected: dict[str, list[Mapping[str, float]]] = {name: [] for name in measured}
        for number in range(rounds or self.scale.rounds):
            for name in _rotated(list(collected), number):
                self._say(f"round {number + 1}: {name}")
                try:
                    collected[name].append(measured[name]())
                except (CommandError, OSError) as error:
                    self.interruption.check()
                    self.failures.append(f"{self.workload}: {name}: {error}")
                    del collected[name]
        return _by_row(collected)

    def done(self) -> None:
        """Take the line of progress away."""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _say(self, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self.workload}, {what}", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Workload:
    """One entry of `--list`; `memory_bytes` tells what it holds at most, all peers included."""

    name: str
    what: str
    run: Callable[[Bench], list[Row]]
    memory_bytes: Callable[[Scale], int]
    long_only: bool = False


def _rotated(names: Sequence[str], by: int) -> list[str]:
    by %= len(names) or 1
    return [*names[by:], *names[:by]]


def _by_row(collected: Mapping[str, Iterable[Mapping[str, float]]]) -> Samples:
    samples: Samples = {}
    for name, rounds in collected.items():
        for figures in rounds:
            for row, figure in figures.items():
                samples.setdefault(row, {}).setdefault(name, []).append(figure)
    return samples
