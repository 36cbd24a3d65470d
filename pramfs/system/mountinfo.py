"""Find pramfs mounts, and types of file systems, in /proc/self/mountinfo. Read-only.

Functions that take a device or a path without links answer from the table alone and never block: a daemon may
ask them about its own mount. Those that take a path as it was typed look at the file system.
"""

import contextlib
import errno
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pramfs.errors import DeadMount, NotMounted, PramError
from pramfs.system.forked_call import ForkedCall

FSTYPE = "fuse.pramfs"

_CONNECTIONS = Path("/sys/fs/fuse/connections")
_DEAD = {errno.ENOTCONN, errno.ECONNABORTED}
_SERVED = re.compile(r"^fuse_connection:\s*(\d+)$", re.MULTILINE)
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: its place, its image, and who has access to its daemon, if it is of pramfs."""

    id: int
    parent: int  # id of the mount that it is mounted on
    device: str  # MAJOR:MINOR of the file system, the same wherever it is mounted
    mountpoint: Path
    part: str  # the part of the file system that is mounted there, "/" for all of it
    fstype: str
    image: str
    user: int
    group: int
    shared: bool  # mounted with allow_other

    @property
    def is_pramfs(self) -> bool:
        """Whether the file system is a pramfs."""
        return self.fstype == FSTYPE

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

    Raises OSError when that process is gone, or about to go.
    """
    return [mount for mount in _table(process) if mount.is_pramfs]


def devices_served_by(process: int) -> set[str]:
    """Return the devices of the FUSE file systems that a process serves, as in the table.

    There are none where the kernel does not tell them (6.1 does not, 6.18 does), nor for who may not look.
    """
    devices = set()
    directory = Path(f"/proc/{process}/fdinfo")
    with contextlib.suppress(OSError):
        for descriptor in directory.iterdir():
            with contextlib.suppress(OSError):  # it has just been closed
                found = _SERVED.search(descriptor.read_text())
                if found is not None:
                    devices.add(f"0:{found[1]}")
    return devices


def mount_at(mountpoint: Path) -> Mount | None:
    """Return the pramfs mount that is visible at `mountpoint`, None if there is none."""
    # realpath() would access a mount that may be dead: resolve the parent, which is on another file system.
    absolute = Path(os.path.abspath(mountpoint))  # noqa: PTH100 - see above
    wanted = Path(os.path.realpath(absolute.parent)) / absolute.name
    table = _table()
    mount = _topmost(table, wanted) or _topmost(table, absolute)
    if mount is None and os.path.islink(wanted):  # noqa: PTH114 - False, no error, where a daemon is dead
        return mount_at(wanted.parent / wanted.readlink())
    return mount if mount is not None and mount.is_pramfs else None


def mount_at_resolved(mountpoint: Path) -> Mount | None:
    """Return the pramfs mount that is visible at a path without links, None if there is none."""
    mount = _topmost(_table(), mountpoint)
    return mount if mount is not None and mount.is_pramfs else None


def places_of(device: str) -> list[Path]:
    """Return where the file system `device` is visible, and not covered by another mount."""
    return [view.mountpoint for view in views_of(device)]


def views_of(device: str) -> list[Mount]:
    """Return the visible mounts of the file system `device`, those of all of it first."""
    table = _table()
    ours = [mount for mount in table if mount.is_pramfs and mount.device == device]
    views = [mount for mount in ours if _topmost(table, mount.mountpoint) is mount]
    return sorted(views, key=lambda view: view.part != "/")


def leads_into_pramfs(path: Path) -> bool:
    """Return whether the kernel comes through a mount of pramfs when it walks to a path without links."""
    return any(mount.is_pramfs for mount in _way_to(_table(), path))


def has_mount(number: int) -> bool:
    """Return whether the mount with that mnt_id (proc(5), fdinfo) is in this mount namespace."""
    return any(mount.id == number for mount in _table())


def devices() -> dict[int, str]:
    """Return the device of each mount in this mount namespace, by its mnt_id."""
    return {mount.id: mount.device for mount in _table()}


def devices_on_the_way(path: Path) -> set[str]:
    """Return the devices of the mounts that the kernel crosses when it walks to a path without links."""
    return {mount.device for mount in _way_to(_table(), path)}


def filesystem_type(device: int) -> str:
    """Return the type of the mounted file system with this st_dev, "" if none is visible."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((mount.fstype for mount in _table() if mount.device == wanted), "")


def location(path: Path, *, but: str = "") -> tuple[str, Path] | None:
    """Return device and place in its file system of a path without links, were `but` not mounted.

    None if it is on a mount that this process cannot see.
    """
    way = _way_to([mount for mount in _table() if mount.device != but], path)
    if not way:
        return None
    return way[-1].device, Path(way[-1].part) / path.relative_to(way[-1].mountpoint)


def mountpoint_around(path: Path, device: str) -> Path:
    """Return where the file system of a path without links is mounted, were `device` not mounted."""
    way = _way_to([mount for mount in _table() if mount.device != device], path)
    return way[-1].mountpoint if way else Path("/")


def require_mount(mountpoint: Path) -> Mount:
    """Return the pramfs mount at `mountpoint`, dead or alive. Raises NotMounted, with a hint."""
    mount = mount_at(mountpoint)
    if mount is not None:
        return mount
    if not os.path.lexists(mountpoint):
        raise NotMounted(mountpoint, "it does not exist")
    around = _around(mountpoint)
    if around is not None and around.mountpoint == Path(os.path.realpath(mountpoint)):
        raise NotMounted(mountpoint, "another file system is mounted over one")
    if around is not None:
        quoted = shlex.quote(str(around.mountpoint))
        raise NotMounted(mountpoint, f"it lies in the one that is mounted at {quoted}")
    if not mountpoint.is_dir():
        raise NotMounted(mountpoint, "it is not a directory")
    told = "another file system is" if mountpoint.is_mount() else "it is an ordinary directory"
    raise NotMounted(mountpoint, told)


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


def refuse_as_image(path: Path, *, to_change: bool = False) -> None:
    """Raise PramError, naming the image, if `path` is a mountpoint where an image is needed.

    `to_change`: the command changes the image, so that it cannot be mounted meanwhile.
    """
    refuse_dead(path)
    mount = mount_at(path)
    if mount is not None:
        told = f"{path}: not an image, but where one is mounted: {mount.image}"
        hint = f"; unmount it first: pramfs umount {shlex.quote(str(path))}" if to_change else ""
        raise PramError(told + hint)


def connection(device: str) -> int:
    """Return a number of the kernel's connection to the daemon of a FUSE file system, 0 if it shows none.

    The number is not used again, other than `device`. Looks into sysfs, which a mount may cover.
    """
    try:
        return (_CONNECTIONS / device.partition(":")[2]).stat().st_ino
    except OSError:
        return 0


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
    way = _way_to(_table(), Path(os.path.realpath(path)))
    return next((mount for mount in reversed(way) if mount.is_pramfs), None)


def _topmost(table: list[Mount], path: Path) -> Mount | None:
    """Return the mount that is visible at `path`, of all those that may be stacked there."""
    way = _way_to(table, path)
    return way[-1] if way and way[-1].mountpoint == path else None


def _way_to(table: list[Mount], path: Path) -> list[Mount]:
    """Return the mounts that the kernel crosses when it walks to `path`, which has no links in it."""
    known = {mount.id for mount in table}
    on_the_way = [mount for mount in table if path.is_relative_to(mount.mountpoint)]
    way: list[Mount] = []
    # A mount that this process cannot see, such as that of a chroot, is not in the table: begin below it.
    next_ones = [m for m in on_the_way if m.parent not in known or m.parent == m.id]
    while next_ones:
        # The one that comes first on the way covers the others.
        way.append(min(next_ones, key=lambda m: len(m.mountpoint.parts)))
        next_ones = [m for m in on_the_way if m.parent == way[-1].id and m is not way[-1]]
    return way


def _table(process: int | str = "self") -> list[Mount]:
    lines = Path(f"/proc/{process}/mountinfo").read_bytes().split(b"\n")[:-1]
    return [_parse(os.fsdecode(line)) for line in lines]


def _parse(line: str) -> Mount:
    """Return the mount of a line. The kernel escapes blanks in all fields, and no other bytes of a path."""
    where, _, what = line.partition(" - ")
    number, parent, device, part, mountpoint = where.split(" ")[:5]
    fstype, source, options = what.split(" ")[:3]
    values = dict(word.partition("=")[::2] for word in options.split(","))
    return Mount(
        id=int(number),
        parent=int(parent),
        device=device,
        mountpoint=Path(_unescape(mountpoint)),
        part=_unescape(part),
        fstype=fstype,
        image=_unescape(source),
        user=int(values.get("user_id", "0")),
        group=int(values.get("group_id", "0")),
        shared="allow_other" in values,
    )


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
