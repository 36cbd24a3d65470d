"""Compare images that came back with their source, and with what was noted when they were written.

The source is the memory of processes that have not run since the dump. Every difference raises
ImagesError, saying where.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from examples.criu_dump.dump import (
    SOCKET_NAME,
    Progress,
    area_records,
    ghost_name,
    ghosts,
    pages_name,
)
from examples.criu_dump.images import (
    PARENT_LINK,
    PIECE_BYTES,
    ImagesError,
    PagesReader,
    read_records,
)
from examples.criu_dump.process import PAGE_BYTES, Memory, Process, Run


class Attributes(NamedTuple):
    """What ls(1) tells of a file, and its inode number; not its times of access."""

    mode: str
    owner: int
    group: int
    links: int
    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    target: str


def attributes_of_tree(root: Path) -> dict[Path, Attributes]:
    """Return the attributes of everything below a directory, and of itself, by path."""
    return {path: _attributes(path) for path in [root, *sorted(root.rglob("*"))]}


def compare_attributes(before: Mapping[Path, Attributes], after: Mapping[Path, Attributes]) -> None:
    """Compare two trees, name by name."""
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            was, now = _what_differs(before.get(path), after.get(path))
            raise ImagesError(f"{path} had {was}, and has {now}")


def compare_digests(digests: Mapping[Path, str], progress: Progress) -> None:
    """Compare the content of each file with the SHA-256 that it was written with."""
    for path, expected in digests.items():
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while data := file.read(PIECE_BYTES):
                digest.update(data)
                progress(len(data))
        if digest.hexdigest() != expected:
            raise ImagesError(f"{path} has not the content that was written")


def compare_memory(directory: Path, processes: list[Process], progress: Progress) -> None:
    """Compare each byte of the processes' own memory with a dump and its parent."""
    for number, process in enumerate(processes, start=1):
        with (
            PagesReader(directory, process.pid, pages_name(number)) as pages,
            Memory(process) as memory,
        ):
            runs = list(_merged(process.own_runs(process.areas())))
            if list(_merged(pages.runs)) != runs:
                raise ImagesError(f"the dump of {process.pid} holds not the pages it has in memory")
            for run in pages.runs:
                _compare_run(process, memory, pages, run)
                progress(run.length)


def compare_state(directory: Path, processes: list[Process]) -> None:
    """Compare maps and deleted files with the processes; look at the link and the socket."""
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for process in processes:
            name = f"mm-{process.pid}.img"
            if read_records(directory_fd, name) != area_records(process.areas()):
                raise ImagesError(f"{name} is not the map of the process's memory")
    finally:
        os.close(directory_fd)
    for number, ghost in enumerate(ghosts(processes), start=1):
        if (directory / ghost_name(number)).read_bytes() != ghost.read_bytes():
            raise ImagesError(f"{ghost_name(number)} is not the deleted file {ghost}")
    if not stat.S_ISSOCK((directory / SOCKET_NAME).lstat().st_mode):
        raise ImagesError(f"{SOCKET_NAME} is not a socket")
    if not (directory / PARENT_LINK).is_symlink():
        raise ImagesError(f"{PARENT_LINK} is not a symbolic link")


def _attributes(path: Path) -> Attributes:
    status = path.lstat()
    return Attributes(
        stat.filemode(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
        str(path.readlink()) if path.is_symlink() else "",
    )


def _what_differs(before: Attributes | None, after: Attributes | None) -> tuple[object, object]:
    if before is None or after is None:
        return before, after
    names = [n for n in Attributes._fields if getattr(before, n) != getattr(after, n)]
    return {n: getattr(before, n) for n in names}, {n: getattr(after, n) for n in names}


def _compare_run(process: Process, memory: Memory, pages: PagesReader, run: Run) -> None:
    for at in range(0, run.length, PIECE_BYTES):
        start, length = run.start + at, min(PIECE_BYTES, run.length - at)
        dumped, source = pages.read(start, length), memory.read(start, length)
        if dumped == source:
            continue
        for page in range(0, length, PAGE_BYTES):
            if dumped is None or dumped[page:][:PAGE_BYTES] != source[page:][:PAGE_BYTES]:
                raise ImagesError(f"the page at {start + page:#x} of {process.pid} has changed")


def _merged(runs: Iterable[Run]) -> Iterator[Run]:
    """Join runs, sorted by address, that touch one another."""
    current: Run | None = None
    for run in runs:
        if current is not None and current.start + current.length == run.start:
            current = Run(current.start, current.length + run.length)
        else:
            if current is not None:
                yield current
            current = run
    if current is not None:
        yield current
