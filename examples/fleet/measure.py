"""Measure what the model is calibrated with: `python -m examples.fleet.measure [MIB]`, as root.

The memory of a real process, a Python that holds the standard library as syntax trees, is dumped into a
mount as CRIU would, and again after 1, 5 and 20 % of its pages have changed. Each dump is sent in every
way to a file, and received from there. Takes five times as many MiB (default: 512) on /dev/shm, and mounts
below it; prints tables in Markdown.
"""

import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.criu_dump.process import Memory, Process

MIB = 1 << 20
PAGE = 4096
ROUNDS = 3
CASES = (
    (0, False),
    (5, False),
    (1, True),
    (5, True),
    (20, True),
)  # % of pages changed; deduplicated?
PRAMFS = Path(sys.prefix, "bin", "pramfs")
NULL = Path(os.devnull)

# Holds so many bytes of what a Python program holds, says so, and ends with its input.
_HOLDER = """
import ast, pathlib, sys
limit, trees = int(sys.argv[1]), []
def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
paths = sorted(pathlib.Path(ast.__file__).parent.rglob("*.py"))
while held() < limit:
    for path in paths:
        if held() >= limit:
            break
        text = path.read_bytes()
        try:
            trees.append((text, ast.parse(text)))
        except (SyntaxError, ValueError):
            pass
print("ready", flush=True)
sys.stdin.read()
"""


def memory_of_a_process(size: int) -> bytes:
    """Return as many bytes of a process that holds them, page by page as CRIU dumps them."""
    words = [sys.executable, "-c", _HOLDER, str(size + 16 * MIB)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        process = Process(holder.pid)
        with Memory(process) as memory:
            pages = b"".join(memory.read(*run) for run in process.own_runs(process.areas()))
        holder.stdin.close()
    return pages[:size]


def changed(dump: bytes, percent: int) -> bytes:
    """Return the dump with eight bytes changed in so many of a hundred pages, at random places."""
    rng, later = random.Random(percent), bytearray(dump)
    pages = len(dump) // PAGE
    for page in rng.sample(range(pages), pages * percent // 100):
        at = page * PAGE + 8 * rng.randrange(PAGE // 8)
        later[at : at + 8] = rng.randbytes(8)
    return bytes(later)


def pramfs(*words: str | Path, read: Path = NULL, write: Path = NULL) -> float:
    """Run a command of pramfs with these files as standard input and output; return its processor time."""
    with read.open("rb") as source, write.open("wb") as sink:
        process = subprocess.Popen(
            [PRAMFS, *words], stdin=source, stdout=sink, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildProcessError(f"pramfs {words[0]}: {said}")
    return usage.ru_utime + usage.ru_stime


class Site:
    """A mount that sends, and the image of a machine that receives."""

    def __init__(self, directory: Path, size: int) -> None:
        self.size = size
        self.image, self.root = directory / "image", directory / "mnt"
        self.other, self.stream = directory / "other", directory / "stream"
        self.root.mkdir()

    @contextmanager
    def mounted(self, *options: str) -> "Iterator[None]":
        """Have the image mounted; remove it at the end."""
        pramfs("mount", "-o", ",".join([f"size={3 * self.size}", *options]), self.image, self.root)
        try:
            yield
        finally:
            pramfs("umount", self.root)
            self.image.unlink()

    def dump(self, pages: bytes) -> None:
        """Write a dump into a new file, as CRIU does."""
        file = self.root / "pages-1.img"
        file.unlink(missing_ok=True)
        file.write_bytes(pages)

    def costs(self, *send: str | Path, base: bool) -> tuple[float, float]:
        """Send and receive in turn; return the processor time of each.

        The receiver has the base, or nothing.
        """
        sent, received = [], []
        for _ in range(ROUNDS):
            sent.append(pramfs("send", f"{self.root}@new", *send, write=self.stream))
            received.append(self.receive())
            if base:
                pramfs("free", self.other, "@new")
            else:
                self.other.unlink()
        return statistics.median(sent), statistics.median(received)

    def receive(self) -> float:
        """Receive what was sent last."""
        return pramfs("receive", f"--size={3 * self.size}", self.other, read=self.stream)


def measure(site: Site, pages: bytes) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| pages changed | dedup | zstd | stream, of the dump | send, processor | receive, processor |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for percent, dedup in CASES:
        with site.mounted():
            if percent:
                site.dump(pages)
                pramfs("snapshot", site.root, "old")
                pramfs("send", f"{site.root}@old", write=site.stream)
                site.receive()
            site.dump(changed(pages, percent))
            if dedup:
                pramfs("dedup", site.root)
            pramfs("snapshot", site.root, "new")
            since = ("--since", "old") if percent else ()
            for zstd in ((), ("--compress", "zstd")):
                costs = site.costs(*since, *zstd, base=bool(percent))
                words = (
                    f"{percent} %" if percent else "all, no base",
                    "yes" if dedup else "no",
                    "yes" if zstd else "no",
                    f"{100 * site.stream.stat().st_size / site.size:.2f} %",
                    *(f"{seconds:.2f} s" for seconds in costs),
                )
                yield f"| {' | '.join(words)} |"
        site.other.unlink(missing_ok=True)


def main() -> None:
    """Measure, and print."""
    size = int(sys.argv[1] if len(sys.argv) > 1 else 512) * MIB
    pages = memory_of_a_process(size)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="pramfs-fleet.") as directory:
        for line in measure(Site(Path(directory), size), pages):
            print(line, flush=True)


if __name__ == "__main__":
    main()
