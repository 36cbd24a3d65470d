"""Real programs on a mount: tar, git, sqlite; and CRIU's own way of writing and reading."""

import os
import random
import sys
import time
import zipfile
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import KIB, MIB, Bench
from benchmarks.commands import remove_tree, run, timed
from benchmarks.figures import Row, faster
from benchmarks.streams import rows

_FILES_PER_DIR = 20
_HEADERS, _SOURCES = 1_000, 4
_MODULES = 300
_MEDIAN_LINES = 80
_LINE_BYTES = 40
_ROWS_PER_TRANSACTION = 20

_SQLITE = """
import sqlite3, sys, time
path, journal, transactions, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
start = time.perf_counter()
database = sqlite3.connect(path, isolation_level=None)
database.execute(f"PRAGMA journal_mode={journal}")
database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, what TEXT)")
for number in range(transactions):
    database.execute("BEGIN")
    database.executemany("INSERT INTO t (what) VALUES (?)", [("x" * 100,)] * rows)
    database.execute("COMMIT")
database.close()
print(time.perf_counter() - start)
"""


def untar(bench: Bench) -> list[Row]:
    """Unpack an archive of a source tree."""
    with peers.scratch(bench.work) as directory:
        archive = directory / "source.tar"
        write_source_tree(directory / "source", bench.scale.source_files)
        run("tar", "-cf", archive, "-C", directory / "source", ".")
        remove_tree(directory / "source")
        size = 4 * archive.stat().st_size

        def one_round(root: peers.Root) -> dict[str, float]:
            return {"tar -x": timed("tar", "-xf", archive, "-C", root.path)}

        samples = bench.on_each(bench.compared(size + 128 * MIB, bindfs=False), one_round)
    return rows(samples, {"tar -x": faster(peers.PASSTHROUGH, 1.0)})


def clone(bench: Bench) -> list[Row]:
    """Clone a repository from tmpfs, its objects copied, and check it out."""
    with peers.scratch(bench.work) as directory:
        origin = directory / "origin"
        write_source_tree(origin, bench.scale.repository_files)
        git = ("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-C", origin)
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "All"], ["gc", "-q"]):
            run(*git, *words)

        def one_round(root: peers.Root) -> dict[str, float]:
            copy = root.path / "clone"
            figures = {"git clone": timed("git", "clone", "-q", "--no-hardlinks", origin, copy)}
            # git reads files again that are as old as its index, to the second: all, or by chance none.
            soon_ns = time.time_ns() + 2 * 10**9
            os.utime(copy / ".git/index", ns=(soon_ns, soon_ns))
            status = ("git", "-C", copy, "status", "--porcelain")
            run(*status)
            figures["git status, warm"] = timed(*status)
            if root.can_cool:
                bench.client("cool", root.path)
            figures["git status, cold"] = timed(*status)
            return figures

        size = 16 * KIB * bench.scale.repository_files
        samples = bench.on_each(bench.compared(size + 128 * MIB), one_round)
    aim = faster(peers.PASSTHROUGH, 1.5, must=1.0)
    targets = {"git status, warm": aim, "git status, cold": aim}
    return rows(samples, {"git clone": faster(peers.PASSTHROUGH, 1.0, must=0.8), **targets})


def compile_c(bench: Bench) -> list[Row]:
    """Compile a few sources, each of which includes all headers."""
    names = [f"header{number}.h" for number in range(_HEADERS)]
    source = "".join(f'#include "{name}"\n' for name in names) + "int main(void) { return 0; }\n"

    def one_round(root: peers.Root) -> dict[str, float]:
        for number, name in enumerate(names):
            (root.path / name).write_text(f"static inline int f{number}(int x) {{ return x; }}\n")
        seconds = 0.0
        for number in range(_SOURCES):
            path = root.path / f"source{number}.c"
            path.write_text(source)
            seconds += timed("gcc", "-c", "-o", path.with_suffix(".o"), path)
        return {"gcc, 1,000 headers": seconds}

    samples = bench.on_each(bench.compared(128 * MIB, bindfs=False), one_round)
    return rows(samples, {"gcc, 1,000 headers": faster(peers.PASSTHROUGH, 1.0, must=0.97)})


def install_wheel(bench: Bench) -> list[Row]:
    """Install a wheel of many modules by pip, which also compiles them."""
    with peers.scratch(bench.work) as directory:
        wheel = directory / "modules-1-py3-none-any.whl"
        _write_wheel(wheel)

        def one_round(root: peers.Root) -> dict[str, float]:
            words = ("-q", "--no-index", "--no-deps", "--target", root.path / "site", wheel)
            return {"pip install": timed(bench.python, "-m", "pip", "install", *words)}

        samples = bench.on_each(bench.compared(128 * MIB, bindfs=False), one_round)
    return rows(samples, {"pip install": faster(peers.PASSTHROUGH, 1.0, must=0.97)})


def _write_wheel(path: Path) -> None:
    info = "modules-1.dist-info"
    files = {f"modules/m{number}.py": f"VALUE = {number}\n" * 20 for number in range(_MODULES)}
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: modules\nVersion: 1\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)


def sqlite(bench: Bench) -> list[Row]:
    """Insert rows, with a rollback journal and with a write-ahead log."""
    journals = {"sqlite inserts, rollback journal": "DELETE", "sqlite inserts, WAL": "WAL"}
    amount = (bench.scale.transactions, _ROWS_PER_TRANSACTION)

    def insert(directory: Path, journal: str) -> float:
        path = directory / f"{journal}.db"
        return float(run(sys.executable, "-c", _SQLITE, path, journal, *amount))

    def one_round(root: peers.Root) -> dict[str, float]:
        # Not in the root: sqlite syncs the directory of its journal, and in pramfs's root that
        # publishes a save, which no peer does.
        directory = root.path / "database"
        directory.mkdir()
        return {row: insert(directory, journal) for row, journal in journals.items()}

    samples = bench.on_each(bench.compared(128 * MIB), one_round)
    return rows(samples, dict.fromkeys(journals, faster(peers.PASSTHROUGH, 1.0)))


def criu(bench: Bench) -> list[Row]:
    """Write an image directory as a CRIU dump does; read it as a restore does, nothing cached."""
    size = bench.scale.bulk_bytes

    def one_round(root: peers.Root) -> dict[str, float]:
        images = root.path / "images"
        images.mkdir()
        (dumped,) = bench.client("dump", images, size)
        if root.can_cool:
            bench.client("cool", root.path)
        (restored,) = bench.client("restore", images, size)
        remove_tree(images)
        return {"dump": dumped, "restore, cold": restored, "dump + restore": dumped + restored}

    compared = bench.compared(2 * size + 64 * MIB, bindfs=False)
    samples = bench.on_each(compared, one_round)
    # tmpfs takes the pages of a splice as they are, and is never cold: no FUSE file system comes near it.
    targets = {
        "dump": faster(peers.PASSTHROUGH, 1.0, must=0.9),
        "restore, cold": faster(peers.PASSTHROUGH, 2.8, must=2.0),
        "dump + restore": faster(peers.PASSTHROUGH, 1.5, must=1.3),
    }
    return rows(samples, targets)


def write_source_tree(directory: Path, files: int) -> None:
    """Write a tree shaped like source code, always the same: text, few files of it big."""
    chance = random.Random(0)
    words = [f"word{number}" for number in range(1000)]
    lines = [" ".join(chance.choices(words, k=6))[: _LINE_BYTES - 1] for _ in range(5000)]
    for number in range(files):
        parent = directory / f"module{number // (_FILES_PER_DIR * 10)}" / f"part{number % 10}"
        parent.mkdir(parents=True, exist_ok=True)
        length = max(1, int(chance.lognormvariate(0, 1.2) * _MEDIAN_LINES))
        text = "\n".join(chance.choices(lines, k=length))
        (parent / f"file{number}.c").write_text(text, encoding="ascii")
