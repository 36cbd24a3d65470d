"""The process that the demo dumps: over 256 MiB of the kinds of data that programs hold.

Random bytes, numbers, text, dictionaries, an sqlite database, a mapping used in places, a deleted
file that is still open, and a child at the other end of a pipe. Run: `python -m examples.criu_dump.workload`.

It says "ready" and the child's pid on standard output once everything is in place. From then on
every line on standard input makes it work one round, which changes some of its memory and of the
child's, and is answered by a line. It ends with its input.
"""

import array
import ctypes
import math
import mmap
import os
import random
import signal
import sqlite3
import sys
import tempfile
from typing import IO

MIB = 1 << 20
PAGE_BYTES = 4096
PR_SET_PDEATHSIG = 1  # of linux/prctl.h

RANDOM_BYTES = 176 * MIB
WAVE_NUMBERS = 2_000_000
RECORDS = 120_000
ROWS = 150_000
SPARSE_BYTES = 48 * MIB
SPARSE_STEP_BYTES = 9 * PAGE_BYTES
GHOST_BYTES = 300_000


def main() -> None:
    """Get ready, then work as told on standard input."""
    die_with_parent()
    # Forked before the heap is filled, or the child would share, and be dumped with, all of it.
    pid, messages, answers = fork_child()
    heap = Heap()
    print("ready", pid, flush=True)
    for number, _ in enumerate(sys.stdin):
        heap.work(number)
        messages.write(b"round %d: %s\n" % (number, os.urandom(16).hex().encode()))
        messages.flush()
        count = answers.readline().decode().strip()
        print(f"round {number + 1}: messages that the child remembers: {count}", flush=True)


class Heap:
    """Everything the process keeps alive."""

    def __init__(self) -> None:
        self.noise = bytearray(os.urandom(RANDOM_BYTES))
        self.waves = array.array("d", map(math.sin, range(WAVE_NUMBERS)))
        self.records = {
            f"record {n}": (n, n * n, f"value {n * 7919 % RECORDS}") for n in range(RECORDS)
        }
        self.database = filled_database()
        self.sparse = sparse_mapping()
        self.ghost = deleted_file()

    def work(self, round_number: int) -> None:
        """Change some of each: bytes here and there, records, rows."""
        chooser = random.Random(round_number)
        for _ in range(200):
            at = chooser.randrange(RANDOM_BYTES - 64)
            self.noise[at : at + 64] = os.urandom(64)
            self.waves[chooser.randrange(len(self.waves))] = chooser.random()
            self.records[f"record {chooser.randrange(RECORDS)}"] = (round_number, 0, "changed")
        self.database.execute("UPDATE t SET body = upper(body) WHERE id % 500 = ?", (round_number,))


def filled_database() -> sqlite3.Connection:
    """Return a database in memory."""
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT, blob BLOB)")
    rows = ((n, f"the body of row {n}", os.urandom(100)) for n in range(ROWS))
    database.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    database.commit()
    return database


def sparse_mapping() -> mmap.mmap:
    """Return a mapping with two of every nine pages in use, as fragmented as an old heap."""
    mapping = mmap.mmap(-1, SPARSE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, SPARSE_BYTES - 2 * PAGE_BYTES, SPARSE_STEP_BYTES):
        mapping[at : at + 2 * PAGE_BYTES] = os.urandom(2 * PAGE_BYTES)
    return mapping


def deleted_file() -> IO[bytes]:
    """Return an open file without a name: CRIU calls it a ghost file."""
    ghost = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is to stay open
    ghost.write(os.urandom(GHOST_BYTES))
    return ghost


def remember(messages: IO[bytes], answers: IO[bytes]) -> None:
    """Remember every message, and answer each with how many there have been."""
    seen: list[bytes] = []
    while message := messages.readline():
        seen.append(message)
        answers.write(b"%d\n" % len(seen))
        answers.flush()


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, even while it is stopped."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def fork_child() -> tuple[int, IO[bytes], IO[bytes]]:
    """Return the child's pid, where to write messages to it and where to read its answers."""
    message_source, message_sink = os.pipe()
    answer_source, answer_sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        os.close(message_sink)
        os.close(answer_source)
        remember(os.fdopen(message_source, "rb"), os.fdopen(answer_sink, "wb"))
        os._exit(0)
    os.close(message_source)
    os.close(answer_sink)
    return pid, os.fdopen(message_sink, "wb"), os.fdopen(answer_source, "rb")


if __name__ == "__main__":
    main()
