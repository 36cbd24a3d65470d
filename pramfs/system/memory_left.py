"""How much memory is left to this process before the kernel kills one: see proc(5), cgroups(7)."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_V1 = Path("/sys/fs/cgroup/memory")
_V2 = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_NO_LIMIT_BYTES = 1 << 60  # version 1 says so with a number near 2^63


class MemoryLeft(NamedTuple):
    """What is left of the memory of this machine, or of the control group that has the least left."""

    # What is free, or would be once clean pages of files are dropped; swap is not counted.
    free_bytes: int
    total_bytes: int


_Reader = Callable[[Path], Iterator[MemoryLeft]]


def memory_left() -> MemoryLeft:
    """Return how much memory is left; without /proc, that there is no end of it."""
    found = [_of_machine()]
    with contextlib.suppress(OSError, ValueError):
        found += _of_groups(_OWN_GROUPS.read_text(errors="replace"))
    return min(found)


def _of_machine() -> MemoryLeft:
    try:
        values = _values(_MEMINFO)
        return MemoryLeft(values["MemAvailable:"] << 10, values["MemTotal:"] << 10)
    except (OSError, ValueError, KeyError):
        return MemoryLeft(sys.maxsize, sys.maxsize)


def _of_groups(groups: str) -> Iterator[MemoryLeft]:
    """Yield what is left in each group with a limit that this process is in, by /proc/self/cgroup."""
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            yield from _of_group_and_parents(_V1, path, _of_group_v1)
        elif not controllers:
            for root in _V2:
                yield from _of_group_and_parents(root, path, _of_group_v2)


def _of_group_and_parents(root: Path, path: str, left: _Reader) -> Iterator[MemoryLeft]:
    group = root / path.lstrip("/")
    if not group.is_dir():
        group = root  # in a container that sees its own group there
    for directory in [group, *group.parents]:
        with contextlib.suppress(OSError, ValueError, KeyError):
            yield from left(directory)
        if directory == root:
            return


def _of_group_v2(group: Path) -> Iterator[MemoryLeft]:
    limits = [(group / name).read_text().strip() for name in ("memory.max", "memory.high")]
    numbers = [int(limit) for limit in limits if limit != "max"]
    if numbers:
        stat = _values(group / "memory.stat")
        clean = stat["active_file"] + stat["inactive_file"]
        clean -= stat["file_dirty"] + stat["file_writeback"]
        used = int((group / "memory.current").read_text())
        yield MemoryLeft(min(numbers) - used + max(0, clean), min(numbers))


def _of_group_v1(group: Path) -> Iterator[MemoryLeft]:
    limit = int((group / "memory.limit_in_bytes").read_text())
    if limit < _NO_LIMIT_BYTES:
        stat = _values(group / "memory.stat")
        clean = stat["total_active_file"] + stat["total_inactive_file"]
        clean -= stat.get("total_dirty", 0) + stat.get("total_writeback", 0)
        used = int((group / "memory.usage_in_bytes").read_text())
        yield MemoryLeft(limit - used + max(0, clean), limit)


def _values(path: Path) -> dict[str, int]:
    """Return the numbers of a file that has a name and a number in each line."""
    words = (line.split() for line in path.read_text().splitlines())
    return {word[0]: int(word[1]) for word in words if len(word) > 1}
