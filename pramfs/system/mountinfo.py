"""Find pramfs mounts, and types of file systems, in /proc/self/mountinfo. Read-only, never blocks."""

import errno
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pramfs.errors import DeadMount, NotMounted, PramError
from pramfs.system.forked_call import ForkedCall

FSTYPE = "fuse.pramfs"

_DEAD = {errno.ENOTCONN, errno.ECONNABORTED}
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One pramfs mount: its place, its image, and who has access to its daemon."""

    id: int
    device: str  # MAJOR:MINOR of the file system, the same wherever it is mounted
    mountpoint: Path
    part: str  # the part of the file system that is mounted there, "/" for all of it
    image: str
    user: int
    group: int
    shared: bool  # mounted with allow_other

    @property
    def access_credentials(self) -> tuple[int, int] | None:
        """The uid and gid that root must assume: without allow_other FUSE admits only who mounted."""
        if self.shared or self.user == os.geteuid() or os.geteuid() != 0:
            return None
        return self.user, self.group

    @property
    def allowed_users(self) -> str:
        """The users who may unmount it and access its daemon, in words."""
        return f"root and user {self.user}" if self.user else "root"

    def ask(self, act: Callable[[], bytes]) -> bytes:
        """Call `act`, which accesses the mount, with `access_credentials`. Raises its OSError."""
        return (
            act()
            if self.access_credentials is None
            else ForkedCall(act, self.access_credentials).result()
        )


def pramfs_mounts(process: int | str = "self") -> list[Mount]:
    """Return all pramfs mounts in the mount namespace of a process, oldest first.

    Raises FileNotFoundError when that process is gone.
    """
    return [_parse(line) for line in _mountinfo(process) if _filesystem(line)[0] == FSTYPE]


def mount_at(mountpoint: Path) -> Mount | None:
    """Return the pramfs mount that is visible at `mountpoint`, None if there is none."""
    # realpath() would access a mount that may be dead: resolve the parent, which is on another file system.
    absolute = Path(os.path.abspath(mountpoint))  # noqa: PTH100 - see above
    wanted = Path(os.path.realpath(absolute.parent)) / absolute.name
    at = [line for line in _mountinfo() if _mountpoint(line) in (wanted, absolute)]
    if not at and os.path.islink(wanted):  # noqa: PTH114 - False, no error, where a daemon is dead
        return mount_at(wanted.parent / wanted.readlink())
    return _parse(at[-1]) if at and _filesystem(at[-1])[0] == FSTYPE else None


def places_of(device: str) -> list[Path]:
    """Return where the file system `device` is visible, and not covered by another mount."""
    return [view.mountpoint for view in views_of(device)]


def views_of(device: str) -> list[Mount]:
    """Return the visible mounts of the file system `device`, those of all of it first."""
    places = [mount.mountpoint for mount in pramfs_mounts() if mount.device == device]
    seen = [mount_at(place) for place in places]
    views = [mount for mount in seen if mount is not None and mount.device == device]
    return sorted(views, key=lambda view: view.part != "/")


def has_mount(number: int) -> bool:
    """Whether the mount with that mnt_id (see proc(5), fdinfo) is part of this mount namespace."""
    return any(line.split(" ", 1)[0] == str(number) for line in _mountinfo())


def filesystem_type(device: int) -> str:
    """Return the type of the mounted file system with this st_dev, "" if none is visible."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    types = (_filesystem(line)[0] for line in _mountinfo() if line.split(" ")[2] == wanted)
    return next(types, "")


def require_mount(mountpoint: Path) -> Mount:
    """Return the pramfs mount at `mountpoint`, dead or alive. Raises NotMounted, with a hint."""
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
    """Return the pramfs mount at `mountpoint`. Raises NotMounted, or DeadMount if its daemon is gone."""
    refuse_dead(mountpoint)
    return require_mount(mountpoint)


def refuse_dead(path: Path) -> None:
    """Raise DeadMount, with the command that clears it, for a path on a mount whose daemon is gone."""
    if not is_dead(path):
        return
    around = _around(path)
    if around is None:
        raise PramError(f"{path}: on a dead mount, not of pramfs: its daemon is gone; unmount it")
    command = f"pramfs umount {shlex.quote(str(around.mountpoint))}"
    if os.geteuid() not in (0, around.user):
        command += f" (only {around.allowed_users} can)"
    raise DeadMount(around.mountpoint, command)


def refuse_as_image(path: Path) -> None:
    """Raise PramError, naming the image, if `path` is a mountpoint where an image is needed."""
    refuse_dead(path)
    mount = mount_at(path)
    if mount is not None:
        raise PramError(f"{path}: not an image, but where one is mounted: {mount.image}")


def is_dead(path: Path) -> bool:
    """Return whether `path` is on a FUSE mount whose daemon is gone; False if this user has no access."""

    def probe() -> bytes:
        # Not stat: the kernel may answer that from its cache although the daemon is gone.
        os.statvfs(path)
        return b""

    around = _around(path)
    try:
        probe() if around is None else around.ask(probe)
    except OSError as exc:
        return exc.errno in _DEAD
    return False


def _around(path: Path) -> Mount | None:
    """Return the pramfs mount at or around `path`."""
    real = Path(os.path.realpath(path))
    inside = [mount for mount in pramfs_mounts() if real.is_relative_to(mount.mountpoint)]
    return max(inside, key=lambda mount: len(mount.mountpoint.parts), default=None)


def _mountinfo(process: int | str = "self") -> Iterator[str]:
    table = Path(f"/proc/{process}/mountinfo")
    with table.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        yield from lines


def _parse(line: str) -> Mount:
    _, source, options = _filesystem(line)
    values = dict(word.partition("=")[::2] for word in options.split(","))
    number, _, device, part, _ = line.split(" ", maxsplit=4)
    return Mount(
        id=int(number),
        device=device,
        mountpoint=_mountpoint(line),
        part=_unescape(part),
        image=_unescape(source),
        user=int(values.get("user_id", "0")),
        group=int(values.get("group_id", "0")),
        shared="allow_other" in values,
    )


def _mountpoint(line: str) -> Path:
    return Path(_unescape(line.split(" ")[4]))


def _filesystem(line: str) -> tuple[str, str, str]:
    """Return type, source and options of the file system; the kernel escapes blanks in all of them."""
    fstype, source, options = line.rstrip("\n").partition(" - ")[2].split(" ")[:3]
    return fstype, source, options


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
