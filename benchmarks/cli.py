"""The command line of `scripts/bench`: choose workloads, run them, report, and always clean up."""

import argparse
import contextlib
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import (
    chart,
    footprint,
    many,
    metadata,
    migration,
    mounts,
    ranges,
    report,
    saves,
    scaling,
    snapshots,
    streams,
    tools,
    write_back,
)
from benchmarks.bench import (
    FILES_PER_DIR,
    GIB,
    KIB,
    LONG,
    QUICK,
    STANDARD,
    Bench,
    Interruption,
    Scale,
    Workload,
)
from benchmarks.commands import Client, CommandError, compile_passthrough_ll, run

_TMPFS = Path("/dev/shm")
_CHECKOUT = Path(__file__).parents[1]


def _bulk(scale: Scale) -> int:
    return 5 * max(scale.bulk_bytes, scale.saved_bytes) + GIB


def _sent(scale: Scale) -> int:
    return 4 * scale.sent_bytes


def _small(scale: Scale) -> int:
    return GIB


def _many(scale: Scale) -> int:
    return scale.many_dirs * FILES_PER_DIR * 12 * KIB + GIB


def _snapshots(scale: Scale) -> int:
    return 5 * scale.saved_bytes + GIB


def _scaled(scale: Scale) -> int:
    return 19 * GIB


WORKLOADS = (
    Workload("sequential", "one big file in 1 MiB blocks", streams.sequential, _bulk),
    Workload("small-writes", "one file in 4 KiB writes", streams.small_writes, _small),
    Workload("random", "random 4 KiB blocks by fio", streams.random_access, _small),
    Workload("copies", "copy_file_range of a big file", ranges.copies, _bulk),
    Workload("holes", "holes of 4 KiB punched and found", ranges.holes, _small),
    Workload("metadata", "small files, one operation at a time", metadata.small_files, _small),
    Workload("listing", "one big directory, listed and stat-ed cold", metadata.listing, _small),
    Workload("git", "a clone, and git status", tools.clone, _small),
    Workload("compile", "a C program with 1,000 headers", tools.compile_c, _small),
    Workload("pip", "pip install of a local wheel", tools.install_wheel, _small),
    Workload("untar", "tar -x of a source tree", tools.untar, _small),
    Workload("sqlite", "inserts", tools.sqlite, _small),
    Workload("criu", "the write and read pattern of dump and restore", tools.criu, _bulk),
    Workload("saves", "save and load of 16 big files", saves.saves, _bulk),
    Workload("write-back", "a save after a burst, on a slow disk", write_back.write_back, _small),
    Workload("snapshots", "what snapshots cost", snapshots.snapshots, _snapshots),
    Workload("migration", "send and receive of one big file", migration.migration, _sent),
    Workload("start", "mount of an empty image until it is usable", saves.start, _small),
    Workload("many", "very many files of 512 bytes, a hundred a directory", many.many_files, _many),
    Workload("overhead", "frames used for one big file", footprint.overhead, _bulk),
    Workload("idle", "an idle mount", footprint.idle, _small),
    Workload("held-twice", "arena and page cache, and direct_io", footprint.held_twice, _bulk),
    Workload("scaling", "8 GiB against 1 GiB", scaling.scaling, _scaled, long_only=True),
)


def main() -> int:
    """Run what the command line asks for; 0: all was measured, 1: something was not."""
    parser = _parser()
    arguments = parser.parse_args()
    scale: Scale = arguments.scale
    chosen = [
        workload
        for workload in WORKLOADS
        if workload.name in (arguments.only or [workload.name])
        and (scale is LONG or not workload.long_only)
    ]
    if arguments.list:
        print("\n".join(f"{workload.name:14}{workload.what}" for workload in WORKLOADS))
        return 0
    if not chosen:
        parser.error("only --long runs what --only names")
    interruption = Interruption()
    try:
        _require_machine(scale, chosen)
        for path in filter(None, (arguments.json, arguments.svg)):
            path.touch()  # rather now than after hours
        with _workplace() as work:
            run = _measure(_bench(scale, interruption, work), chosen)
    except (CommandError, OSError) as error:
        interruption.check()
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        report.write_json(run, arguments.json)
    if arguments.svg:
        chart.write_svg(run, arguments.svg)
    return 1 if run.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures pramfs and its peers side by side; docs/performance.md explains.",
    )
    form = parser.add_mutually_exclusive_group()
    for scale, words in (
        (QUICK, "2 minutes, small sizes"),
        (LONG, "hours: 1,000,000 files, 8 GiB"),
    ):
        option = f"--{scale.name}"
        form.add_argument(option, dest="scale", action="store_const", const=scale, help=words)
    parser.set_defaults(scale=STANDARD)
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help="this workload; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="name the workloads, measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios to FILE")
    return parser


def _measure(bench: Bench, chosen: list[Workload]) -> report.Run:
    """Run the chosen workloads and print each when it is done."""
    run = report.Run(bench.scale.name, bench.scale.rounds, failures=bench.failures)
    start = time.monotonic()
    print(report.heading(run))
    for workload in chosen:
        bench.workload, began = workload.name, time.monotonic()
        try:
            rows = workload.run(bench)
        except (CommandError, OSError) as error:
            bench.interruption.check()
            bench.failures.append(f"{workload.name}: {error}")
            continue
        finally:
            bench.done()
        seconds = time.monotonic() - began
        run.sections.append(report.Section(workload.name, workload.what, rows, seconds))
        print(report.table(run.sections[-1]), flush=True)
    run.seconds = time.monotonic() - start
    print(report.summary(run))
    return run


def _bench(scale: Scale, interruption: Interruption, work: Path) -> Bench:
    python = _interpreter()
    # As an installed pramfs has it: without, every start would compile what it loads.
    run(python, "-m", "compileall", "-q", _CHECKOUT / "pramfs")
    bench = Bench(scale, interruption, work, python, Client(work), None)
    try:
        bench.passthrough_ll = compile_passthrough_ll(work)
    except CommandError as error:
        bench.failures.append(f"passthrough_ll: {error}")
    return bench


def _interpreter() -> str:
    """Return the interpreter of the environment that scripts/setup made."""
    python = _CHECKOUT / os.environ.get("PRAMFS_VENV", ".venv") / "bin" / "python"
    if not python.exists():
        raise CommandError(f"{python} is missing: run scripts/setup first")
    return str(python)


def _require_machine(scale: Scale, chosen: list[Workload]) -> None:
    """Refuse before anything is mounted, and say what is missing."""
    if os.geteuid() != 0:
        raise CommandError("it must run as root, to remount (which makes caches cold)")
    needed = max((workload.memory_bytes(scale) for workload in chosen), default=0)
    free = min(_memory_available(), shutil.disk_usage(_TMPFS).free)
    if free < needed:
        raise CommandError(
            f"{needed / GIB:.1f} GiB of memory are needed and {free / GIB:.1f} GiB are free; "
            "--quick or --only needs less"
        )
    # passthrough_ll holds a descriptor for every inode that the kernel remembers.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _memory_available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * KIB
    raise CommandError("/proc/meminfo does not tell how much memory is available")


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """Give a directory on tmpfs; whatever happens, leave no mount and no byte of it behind."""
    work = Path(tempfile.mkdtemp(prefix="pramfs-bench-", dir=_TMPFS))
    try:
        yield work
    finally:
        for mountpoint in mounts.mounted_below(work):
            mounts.unmount(mountpoint, mounts.MNT_DETACH)
        shutil.rmtree(work)
