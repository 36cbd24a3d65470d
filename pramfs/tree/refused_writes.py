"""Remember which parts of which files programs have written, as the kernel told them, and the tree refused.

With a writeback cache write(2) returns before the tree is asked. When the tree has no room then, or its
medium fails, the program may be gone: only here it is known that the file is not what was written.
"""

from pramfs.tree.inodes import File

RANGES_MAX = 64  # of one file; those nearest to each other are then taken for one

_Range = tuple[int, int]  # bytes: the first, and the first behind


class RefusedWrites:
    """The parts of files that were refused, until they are written again, cut off, or the file is gone."""

    def __init__(self) -> None:
        self.count = 0  # of all refusals so far
        self.why = ""  # the words of the last error
        self.by_file: dict[File, list[_Range]] = {}  # for all to look at: each write asks

    def count_forbidden(self) -> None:
        """Count a refusal that leaves the file as it is to be: chattr(1) has forbidden to write to it."""
        self.count += 1

    def add(self, file: File, start: int, end: int, why: str) -> None:
        """Remember that the bytes from `start` to `end` were refused."""
        self.count += 1
        self.why = why
        ranges = _without(self.by_file.get(file, []), start, end)
        self.by_file[file] = _bounded(sorted([*ranges, (start, end)]))

    def taken(self, file: File, start: int, end: int) -> None:
        """Forget these bytes: they have been written again, or cut off."""
        left = _without(self.by_file.get(file, []), start, end)
        if left:
            self.by_file[file] = left
        else:
            self.by_file.pop(file, None)

    def files(self) -> list[File]:
        """Return the files that lack data and have a name."""
        return [file for file in self.by_file if file.nlink]


def _without(ranges: list[_Range], start: int, end: int) -> list[_Range]:
    """Return what is left of sorted ranges without this one."""
    left: list[_Range] = []
    for first, behind in ranges:
        if first < min(behind, start):
            left.append((first, min(behind, start)))
        if max(first, end) < behind:
            left.append((max(first, end), behind))
    return left


def _bounded(ranges: list[_Range]) -> list[_Range]:
    """Join neighbours among sorted ranges, and the nearest ones as long as there are too many."""
    joined: list[_Range] = []
    for first, behind in ranges:
        if joined and joined[-1][1] == first:
            joined[-1] = (joined[-1][0], behind)
        else:
            joined.append((first, behind))
    while len(joined) > RANGES_MAX:
        at = min(range(1, len(joined)), key=lambda at: joined[at][0] - joined[at - 1][1])
        joined[at - 1 : at + 1] = [(joined[at - 1][0], joined[at][1])]
    return joined
