"""Processes from outside: stop them, see what memory they hold, read it. All of it from /proc.

Needs what ptrace(2) needs: root, or the same user and an ancestor. Addresses and lengths are bytes.
"""

import array
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

PAGE_BYTES = 4096
STOP_TIMEOUT_SECONDS = 10

_AREA_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) (\S+) (\d+)\s*(.*)")
# Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT = 1 << 63
_SWAPPED = 1 << 62
_FILE_OR_SHARED = 1 << 61
_PAGEMAP_ENTRY_BYTES = 8


class Area(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    access: str
    offset: int
    device: str
    inode: int
    name: str

    @property
    def is_private(self) -> bool:
        """Neither shared with others, nor one of the kernel's own: [vdso], [vvar], [vsyscall]."""
        return self.access.endswith("p") and not self.name.startswith("[v")


class Run(NamedTuple):
    """Pages that follow one another in a process's memory."""

    start: int
    length: int


@dataclass(frozen=True)
class Process:
    """A live process, by pid."""

    pid: int

    @property
    def proc(self) -> Path:
        """Its directory in /proc."""
        return Path(f"/proc/{self.pid}")

    @property
    def state(self) -> str:
        """The letter of ps(1): R, S, D, T for stopped, Z."""
        return (self.proc / "stat").read_text().rpartition(") ")[2][0]

    @property
    def open_files(self) -> list[Path]:
        """The links of /proc/PID/fd, in the order of the file descriptors."""
        return sorted((self.proc / "fd").iterdir(), key=lambda path: int(path.name))

    def stop(self) -> None:
        """Stop it, and return when it stands still; TimeoutError when it does not."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while self.state != "T":
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} did not stop in {STOP_TIMEOUT_SECONDS} s")
            time.sleep(0.001)

    def resume(self) -> None:
        """Let a stopped process go on."""
        os.kill(self.pid, signal.SIGCONT)

    def areas(self) -> list[Area]:
        """Return its memory areas, in the order of their addresses."""
        return [_parse_area(line) for line in (self.proc / "maps").read_text().splitlines()]

    def own_runs(self, areas: list[Area]) -> list[Run]:
        """Return the runs of pages that only this process has: those that CRIU dumps, too."""
        with (self.proc / "pagemap").open("rb", buffering=0) as pagemap:
            return [
                run
                for area in areas
                if area.is_private
                for run in _own_runs_of_area(pagemap.fileno(), area)
            ]

    def own_length(self) -> int:
        """Return how many bytes those runs have."""
        return sum(run.length for run in self.own_runs(self.areas()))


class Memory:
    """The memory of a process, open for reading."""

    def __init__(self, process: Process) -> None:
        self._pid = process.pid
        self._fd = os.open(process.proc / "mem", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes; OSError when some of them cannot be read."""
        data = os.pread(self._fd, length, start)
        if len(data) != length:
            raise OSError(f"process {self._pid}: read {len(data)} of {length} bytes at {start:#x}")
        return data


def _parse_area(line: str) -> Area:
    match = _AREA_LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a line of /proc/PID/maps: {line!r}")
    start, end, access, offset, device, inode, name = match.groups()
    return Area(int(start, 16), int(end, 16), access, int(offset, 16), device, int(inode), name)


def _own_runs_of_area(pagemap_fd: int, area: Area) -> Iterator[Run]:
    first_page, pages = area.start // PAGE_BYTES, (area.end - area.start) // PAGE_BYTES
    entries = array.array("Q")
    entries.frombytes(
        os.pread(pagemap_fd, pages * _PAGEMAP_ENTRY_BYTES, first_page * _PAGEMAP_ENTRY_BYTES)
    )
    entries.append(0)  # belongs to nobody: ends a run that reaches to the end
    run_from: int | None = None
    for number, entry in enumerate(entries):
        own = entry & (_PRESENT | _SWAPPED) and not entry & _FILE_OR_SHARED
        if own and run_from is None:
            run_from = number
        elif not own and run_from is not None:
            start = area.start + run_from * PAGE_BYTES
            yield Run(start, (number - run_from) * PAGE_BYTES)
            run_from = None
