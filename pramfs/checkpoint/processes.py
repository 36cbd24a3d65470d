"""Which processes a configuration means: the roots of the trees that CRIU dumps."""

import os
from collections.abc import Iterator
from pathlib import Path

from pramfs.checkpoint import units
from pramfs.checkpoint.configuration import Wanted
from pramfs.checkpoint.manifest import Dumped
from pramfs.errors import PramError

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def roots_of(wanted: Wanted) -> list[Dumped]:
    """Return what is to be dumped for an entry, one for each tree. Raises PramError if there is none."""
    if wanted.kind == "pid":
        if not (_PROC / wanted.what).is_dir():
            raise PramError(f"{wanted.name}: there is no process {wanted.what}")
        return [_dumped(wanted, int(wanted.what), "")]
    group = units.cgroup_of(wanted.what) if wanted.kind == "unit" else wanted.what
    pids = _pids_of(group)
    roots = sorted(pid for pid in pids if _parent(pid) not in pids)
    if not roots:
        raise PramError(f"{wanted.name}: no process runs there")
    if wanted.kind == "unit" and len(roots) > 1:
        told = ", ".join(map(str, roots))
        raise PramError(
            f"{wanted.name}: several trees of processes ({told}); dump its cgroup instead"
        )
    return [_dumped(wanted, pid, group, is_only=len(roots) == 1) for pid in roots]


def tree_of(root: int) -> set[int]:
    """Return a process and its descendants."""
    parents = {pid: _parent(pid) for pid in _all_pids()}
    tree, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in tree} - tree
        tree |= more
        grown = bool(more)
    return tree


def _dumped(wanted: Wanted, pid: int, group: str, *, is_only: bool = True) -> Dumped:
    name = wanted.name if is_only else f"{wanted.name}-{pid}"
    unit = wanted.what if wanted.kind == "unit" else ""
    return Dumped(name, pid, unit, group if wanted.kind == "cgroup" else "", wanted.options)


def _pids_of(group: str) -> set[int]:
    place = _CGROUPS / group.strip("/")
    pids: set[int] = set()
    for path in (place, *place.rglob("*/")):
        try:
            pids |= set(map(int, (path / "cgroup.procs").read_text().split()))
        except OSError:
            continue  # it went meanwhile, or has threads only
    return pids


def _all_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir(_PROC) if name.isdigit())


def _parent(pid: int) -> int:
    """Return the parent of a process, 0 if there is none or the process is gone."""
    try:
        status = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])
