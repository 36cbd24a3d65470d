"""What the kernel says is mounted: find pramfs mounts in /proc/self/mountinfo. Read-only, never blocks."""

import errno
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pramfs.errors import DeadMount, NotMounted

FSTYPE = "fuse.pramfs"

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One pramfs mount: where it is, what its image is called, and who may talk to its daemon."""

    id: int
    mountpoint: Path
    image: str
    user: int
    group: int
    shared: bool  # other users may talk to it too


def pramfs_mounts(process: int | str = "self") -> list[Mount]:
    """All pramfs mounts in the mount namespace of a process, oldest first.

    Raises FileNotFoundError when that process is gone.
    """
    return [_parse(line) for line in _mountinfo(process) if _filesystem(line)[0] == FSTYPE]


def mount_at(mountpoint: Path) -> Mount | None:
    """The pramfs mount that is visible at `mountpoint`, None if it is something else."""
    # realpath() would ask a dead daemon: resolve the parent, which is on another file system.
    absolute = Path(os.path.abspath(mountpoint))  # noqa: PTH100 - see above
    wanted = Path(os.path.realpath(absolute.parent)) / absolute.name
    at = [line for line in _mountinfo() if _mountpoint(line) in (wanted, absolute)]
    if not at and wanted.is_symlink():
        return mount_at(wanted.parent / wanted.readlink())
    return _parse(at[-1]) if at and _filesystem(at[-1])[0] == FSTYPE else None


def require_mount(mountpoint: Path) -> Mount:
    """The pramfs mount at `mountpoint`, dead or alive. Raises NotMounted, which tells what is near."""
    mount = mount_at(mountpoint)
    if mount is not None:
        return mount
    if not os.path.lexists(mountpoint):
        raise NotMounted(mountpoint, "it does not exist")
    around = _around(mountpoint)
    if around is not None:
        quoted = shlex.quote(str(around.mountpoint))
        raise NotMounted(mountpoint, f"it lies in the one that is mounted at {quoted}")
    raise NotMounted(mountpoint, "it is not a mountpoint of one")


def require_alive(mountpoint: Path) -> Mount:
    """The pramfs mount at `mountpoint`. Raises NotMounted, or DeadMount when its daemon is gone."""
    mount = require_mount(mountpoint)
    refuse_dead(mountpoint)
    return mount


def refuse_dead(mountpoint: Path) -> None:
    """Raise DeadMount, with the command that clears it, when there is a mount without a daemon."""
    if is_dead(mountpoint):
        raise DeadMount(mountpoint, shlex.quote(str(mountpoint)))


def is_dead(mountpoint: Path) -> bool:
    """Whether `mountpoint` is a FUSE mount whose daemon is gone."""
    try:
        # Not stat: the kernel answers that from what it has cached of a daemon that is gone.
        os.statvfs(mountpoint)
    except OSError as exc:
        return exc.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _around(path: Path) -> Mount | None:
    """The pramfs mount that `path` lies in."""
    real = Path(os.path.realpath(path))
    inside = [mount for mount in pramfs_mounts() if real.is_relative_to(mount.mountpoint)]
    return inside[-1] if inside else None


def _mountinfo(process: int | str = "self") -> Iterator[str]:
    table = Path(f"/proc/{process}/mountinfo")
    with table.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        yield from lines


def _parse(line: str) -> Mount:
    _, source, options = _filesystem(line)
    values = dict(word.partition("=")[::2] for word in options.split(","))
    return Mount(
        id=int(line.split(" ", 1)[0]),
        mountpoint=_mountpoint(line),
        image=_unescape(source),
        user=int(values.get("user_id", "0")),
        group=int(values.get("group_id", "0")),
        shared="allow_other" in values,
    )


def _mountpoint(line: str) -> Path:
    return Path(_unescape(line.split(" ")[4]))


def _filesystem(line: str) -> tuple[str, str, str]:
    """Type, source and options of the file system; the kernel escapes blanks in all of them."""
    fstype, source, options = line.rstrip("\n").partition(" - ")[2].split(" ")[:3]
    return fstype, source, options


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
