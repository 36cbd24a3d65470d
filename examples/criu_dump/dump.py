"""Dump stopped processes into an images directory: their memory, and what /proc says of them.

The files, their sizes and the system calls that write them are those of a CRIU dump. What CRIU
learns by ptrace and from code that it puts into the process is missing.
"""

import os
import stat
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from examples.criu_dump.images import (
    IN_PARENT,
    PAGEMAP_RECORD,
    ImagesWriter,
    PagesReader,
    PagesWriter,
)
from examples.criu_dump.process import PAGE_BYTES, Area, Memory, Process, Run

SOCKET_NAME = "lazy-pages.socket"
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")

Progress = Callable[[int], None]  # called with the number of bytes just dealt with


def pre_dump(images: ImagesWriter, processes: list[Process], progress: Progress) -> None:
    """Write the pages of processes, which may go on afterwards: a later dump refers to them."""
    for number, process in enumerate(processes, start=1):
        _dump_pages(images, process, pages_name(number), None, progress)
    images.write_records("inventory.img", [b"pre-dump"])


def dump(images: ImagesWriter, processes: list[Process], parent: Path, progress: Progress) -> None:
    """Write processes completely, except for pages that have not changed since the pre-dump."""
    images.link_parent(parent)
    images.bind_socket(SOCKET_NAME)
    for number, process in enumerate(processes, start=1):
        name = pages_name(number)
        with PagesReader(parent, process.pid, name) as before:
            _dump_pages(images, process, name, before, progress)
        _dump_task(images, process)
    for number, ghost in enumerate(ghosts(processes), start=1):
        images.log(f"Dumping ghost file {ghost}")
        with ghost.open("rb") as file:
            images.write_copy(ghost_name(number), file.fileno())
    _dump_globals(images, processes)


def pages_name(number: int) -> str:
    """Return the name of the image with the pages of the process of this number, from 1."""
    return f"pages-{number}.img"


def ghost_name(number: int) -> str:
    """Return the name of the image of the ghost file of this number, from 1."""
    return f"ghost-file-{number}.img"


def ghosts(processes: list[Process]) -> list[Path]:
    """Return the links in /proc to regular files without a name that processes hold open."""
    return [path for process in processes for path in process.open_files if _is_ghost(path)]


def area_records(areas: list[Area]) -> list[bytes]:
    """Return the records of mm-PID.img: the memory areas of a process."""
    return [
        f"{a.start:x}-{a.end:x} {a.access} {a.offset:x} {a.inode} {a.name}".encode() for a in areas
    ]


def _dump_pages(
    images: ImagesWriter,
    process: Process,
    name: str,
    before: PagesReader | None,
    progress: Progress,
) -> None:
    areas = process.areas()
    images.log(f"Dumping pages of {process.pid}: {len(areas)} memory areas")
    for area in area_records(areas):
        images.log(f"  {area.decode()}")
    records: list[bytes] = []
    with Memory(process) as memory, images.open_pages(name) as pages:
        for run in process.own_runs(areas):
            for piece in _pieces(run, pages.piece_bytes):
                data = memory.read(*piece)
                records += _dump_piece(images, pages, piece, data, before)
                progress(piece.length)
    images.write_records(f"pagemap-{process.pid}.img", records)


def _dump_piece(
    images: ImagesWriter, pages: PagesWriter, piece: Run, data: bytes, before: PagesReader | None
) -> Iterator[bytes]:
    """Write what has changed of a piece of memory; yield its records for the pagemap."""
    for at, length, unchanged in _parts(piece, data, before):
        if not unchanged:
            pages.write(data[at : at + length])
        yield PAGEMAP_RECORD.pack(piece.start + at, length, IN_PARENT if unchanged else 0)
        where = "in parent" if unchanged else "written"
        images.log(f"  {piece.start + at:#x} {length // PAGE_BYTES} pages {where}")


def _pieces(run: Run, length_max: int) -> Iterator[Run]:
    for at in range(0, run.length, length_max):
        yield Run(run.start + at, min(length_max, run.length - at))


def _parts(piece: Run, data: bytes, before: PagesReader | None) -> Iterator[tuple[int, int, bool]]:
    """Yield offset, length, and whether it is unchanged, of each part of a piece of memory.

    CRIU has the kernel's soft-dirty bits tell; not every kernel has them, the bytes always do.
    """
    if before is None or before.read(*piece) == data:
        yield 0, len(data), before is not None
        return

    def unchanged(at: int) -> bool:
        return before.read(piece.start + at, PAGE_BYTES) == data[at : at + PAGE_BYTES]

    for same, group in groupby(range(0, len(data), PAGE_BYTES), key=unchanged):
        pages = list(group)
        yield pages[0], len(pages) * PAGE_BYTES, same


def _dump_task(images: ImagesWriter, process: Process) -> None:
    """Write the small images that each process has."""
    proc = process.proc
    small = {
        "core": [(proc / name).read_bytes() for name in ("comm", "stat", "status", "auxv")],
        "mm": area_records(process.areas()),
        "ids": [bytes((proc / "ns" / name).readlink()) for name in _NAMESPACES],
        "fs": [bytes((proc / name).readlink()) for name in ("cwd", "root")],
        "fdinfo": [(proc / "fdinfo" / path.name).read_bytes() for path in process.open_files],
        "rlimit": (proc / "limits").read_bytes().splitlines(),
    }
    for name, records in small.items():
        images.log(f"Dumping {name} of {process.pid}")
        images.write_records(f"{name}-{process.pid}.img", records)


def _dump_globals(images: ImagesWriter, processes: list[Process]) -> None:
    """Write the small images that the processes share."""
    files = [bytes(path.readlink()) for process in processes for path in process.open_files]
    images.write_records("files.img", files)
    images.write_records("pstree.img", [b"%d" % process.pid for process in processes])
    images.write_records("utsns.img", [text.encode() for text in os.uname()])
    images.write_records("seccomp.img", [])
    images.write_records("inventory.img", [b"dump"])


def _is_ghost(path: Path) -> bool:
    status = path.stat()
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 0
