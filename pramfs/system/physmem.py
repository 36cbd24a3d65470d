"""The place of a memory device in physical memory, and how the kernel uses that memory.

Reads sysfs and /proc/iomem (which shows addresses only to root), and edits the `memmap=` words of a kernel
command line. Addresses and sizes are in bytes.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pramfs.errors import NoPhysicalRange, PramError
from pramfs.system.memory_values import memparse

SYSTEM_RAM = "System RAM"
LEGACY = "Persistent Memory (legacy)"

_ADDRESS_END = 1 << 52  # of x86's physical addresses
_IOMEM_LINE = re.compile(r"\s*([0-9a-f]+)-([0-9a-f]+) : (.*)")
_MEMORY_VALUE = r"((?:0[xX][0-9a-fA-F]+|[0-9]+)[kKmMgGtTpPeE]?)"
# @ usable, # ACPI data, $ reserved, ! persistent, % changed in type
_MEMMAP_PART = re.compile(f"{_MEMORY_VALUE}([@#$!%]){_MEMORY_VALUE}")


class Span(NamedTuple):
    """A range of physical memory, `end` exclusive."""

    start: int
    end: int

    def overlaps(self, other: "Span") -> bool:
        return self.start < other.end and other.start < self.end

    def contains(self, other: "Span") -> bool:
        return self.start <= other.start and other.end <= self.end

    @property
    def memmap(self) -> str:
        """The boot parameter that keeps the kernel out of this range, and makes it a pmem device."""
        return f"memmap={_short(self.end - self.start)}!{_short(self.start)}"

    def __str__(self) -> str:
        return f"{self.start:x}-{self.end - 1:x}"


class Resource(NamedTuple):
    """One line of /proc/iomem."""

    span: Span
    name: str


def span_of_device(device: Path, sys: Path = Path("/sys")) -> Span:
    """Return the physical range of a pmem block device: its whole region, the kernel's part included.

    Raises NoPhysicalRange for any other device.
    """
    try:
        number = device.stat().st_rdev
    except FileNotFoundError:
        raise NoPhysicalRange(device, "no such device") from None
    block = sys / f"dev/block/{os.major(number)}:{os.minor(number)}"
    for folder in block.resolve().parents:
        if re.fullmatch(r"region\d+", folder.name):
            try:
                start = int((folder / "resource").read_text(), 0)
                size = int((folder / "size").read_text(), 0)
            except (OSError, ValueError) as exc:
                raise NoPhysicalRange(device, f"{folder} does not tell its range") from exc
            if start <= 0 or not 0 < size <= _ADDRESS_END - start:
                raise NoPhysicalRange(
                    device, f"{folder} tells no range: {size} bytes at {start:#x}"
                )
            return Span(start, start + size)
    raise NoPhysicalRange(device, "it is no pmem device")


def read_iomem(path: Path = Path("/proc/iomem")) -> list[Resource]:
    """Return the uses of physical memory. Raises PramError when the kernel does not show them."""
    resources = list(parse_iomem(path.read_text(encoding="utf-8")))
    if not any(resource.span.start for resource in resources):
        raise PramError(f"{path} shows no addresses: root is needed")
    return resources


def parse_iomem(text: str) -> Iterator[Resource]:
    """Yield the lines of /proc/iomem, nested ones too."""
    for line in text.splitlines():
        match = _IOMEM_LINE.fullmatch(line)
        if match is not None:
            yield Resource(Span(int(match[1], 16), int(match[2], 16) + 1), match[3])


def without_reserved(words: Iterable[str], span: Span) -> list[str]:
    """Return the words of a command line without any `memmap=SIZE!START` for memory in `span`.

    Raises PramError for a `memmap=` that reaches beyond `span` or gives it another use: the next kernel
    would use that memory in another way than this one.
    """
    kept = []
    for word in words:
        if word.startswith("memmap="):
            parts = word.removeprefix("memmap=").split(",")
            parts = [part for part in parts if not _reserves(part, span)]
            word = "memmap=" + ",".join(parts) if parts else ""  # noqa: PLW2901 - without the removed parts
        if word:
            kept.append(word)
    return kept


def _reserves(part: str, span: Span) -> bool:
    """Return whether a part of a `memmap=` word keeps memory in `span` free.

    Raises PramError as `without_reserved` does.
    """
    match = _MEMMAP_PART.match(part)
    if match is None:
        return False
    size, kind, start = memparse(match[1]), match[2], memparse(match[3])
    other = Span(start, start + size)
    if not span.overlaps(other):
        return False
    if kind == "!" and span.contains(other):
        return True
    raise PramError(f"memmap={part} is at odds with the range of the device, {span}")


def _short(size_bytes: int) -> str:
    """Return the number with the largest suffix that divides it."""
    for shift, suffix in ((30, "G"), (20, "M"), (10, "K")):
        if size_bytes and size_bytes % (1 << shift) == 0:
            return f"{size_bytes >> shift}{suffix}"
    return f"0x{size_bytes:x}"
