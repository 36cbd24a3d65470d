"""What the kernel says is mounted: find pramfs mounts in /proc/self/mountinfo. Read-only, never blocks."""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

FSTYPE = "fuse.pramfs"

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One pramfs mount: where it is and, as mounted, what its image is called."""

    mountpoint: Path
    image: str


def pramfs_mounts() -> list[Mount]:
    """All pramfs mounts in this mount namespace, oldest first."""
    found = []
    with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            fstype, source = after.split()[:2]
            if fstype == FSTYPE:
                found.append(Mount(Path(_unescape(before.split()[4])), _unescape(source)))
    return found


def mount_at(mountpoint: Path) -> Mount | None:
    """The pramfs mount that is visible at `mountpoint`, None if it is something else."""
    # realpath() would ask a dead daemon: resolve the parent, which is on another file system.
    absolute = Path(os.path.abspath(mountpoint))  # noqa: PTH100 - see above
    wanted = Path(os.path.realpath(absolute.parent)) / absolute.name
    at = [mount for mount in pramfs_mounts() if mount.mountpoint in (wanted, absolute)]
    if not at and wanted.is_symlink():
        return mount_at(wanted.parent / wanted.readlink())
    return at[-1] if at else None


def is_dead(mountpoint: Path) -> bool:
    """Whether `mountpoint` is a FUSE mount whose daemon is gone."""
    try:
        os.stat(mountpoint)
    except OSError as exc:
        return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
