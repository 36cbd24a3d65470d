"""An orderly shutdown of a system with a mount of every kind, each with much that is not saved.

The time-outs of systemd are shorter than the saves take, as they are with gigabytes and systemd's own.
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from tests.boot.guest_systemd import command_line
from tests.support.checkout import PRAMFS
from tests.vm.guest import Recipe
from tests.vm.machine import Machine
from tests.vm.shell import run

DISK_RATE = 4 << 20  # bytes per second
_MOUNT_SECONDS = 120
_SCOPE = "/sys/fs/cgroup/system.slice/limited.scope"
_AS_USER = "setpriv --reuid=user --regid=user --clear-groups"


@dataclass(frozen=True)
class Way:
    """A way to mount: the command that does it in the guest, "" if systemd does it by itself."""

    name: str
    mountpoint: str
    command: str = ""
    owner: str = "root"

    @property
    def image(self) -> str:
        return f"/srv/{self.name}.img"


def _by_hand(user: str, name: str, mountpoint: str, command: str) -> Way:
    """A mount in a login session, which goes on: the shell waits."""
    session = f"{command} /srv/{name}.img {mountpoint}; exec sleep infinity"
    login = f"setsid su --login {user} --command {shlex.quote(session)}"
    return Way(name, mountpoint, f"{login} </dev/null >/run/{name}.log 2>&1 &", user)


WAYS = (
    Way("fstab", "/mnt/fstab"),
    Way("automount", "/mnt/automount"),
    Way("service", "/mnt/service"),
    Way("left", "/mnt/left"),  # unmounted just before the end, by an umount that does not wait
    _by_hand("root", "mount8", "/mnt/mount8", "mount -t pramfs -o size=$size"),
    _by_hand("root", "root", "/mnt/root", "pramfs mount -o size=$size"),
    _by_hand("user", "user", "/home/user/mnt", "pramfs mount -o size=$size"),
    _by_hand(
        "user",
        "managed",
        "/home/user/managed",
        "systemd-run --user --scope --quiet pramfs mount -o size=$size",
    ),
    Way(
        "scope",  # which was made to limit what a mount takes
        "/mnt/scope",
        "systemd-run --quiet --scope --unit=limited --property=MemoryMax=1G "
        "pramfs mount -o size=$size /srv/scope.img /mnt/scope",
    ),
    Way(
        "cron",  # what cron starts stays when cron ends
        "/mnt/cron",
        "systemd-run --quiet --unit=like-cron --property=KillMode=process "
        "sh -c 'pramfs mount -o size=$size /srv/cron.img /mnt/cron; exec sleep infinity'",
    ),
)


@dataclass(frozen=True)
class Scale:
    """How much is written to each mount, and the time-outs of systemd, None for its own."""

    file_mib: int
    image_mib: int
    timeout_s: int | None
    memory_mib: int

    @property
    def save_seconds(self) -> float:
        """How long it takes at least to save everything."""
        return len(WAYS) * self.file_mib * (1 << 20) / DISK_RATE


SHORT_SCALE = Scale(file_mib=10, image_mib=64, timeout_s=4, memory_mib=1536)
LONG_SCALE = Scale(file_mib=205, image_mib=512, timeout_s=None, memory_mib=8192)


class OrderlyShutdown:
    """A system that is set up, shut down and looked at from outside."""

    def __init__(self, recipe: Recipe, scale: Scale, directory: Path) -> None:
        self.scale = scale
        self._directory = directory
        self._written: dict[str, str] = {}
        hardware = replace(recipe.hardware, memory_mib=scale.memory_mib)
        self.machine = Machine(
            replace(recipe, hardware=hardware).prepare(),
            directory,
            disk_mib=len(WAYS) * scale.image_mib + 64,
            disk_rate=DISK_RATE,
        )

    def run(self, command: str) -> None:
        """Boot, write to all mounts, and run the command that ends it all."""
        with self.machine as machine:
            machine.boot(command_line(f"{self.scale.image_mib}M"))
            machine.run("chmod 1777 /srv")
            self._mount()
            self._write()
            self.processes_in_scope = machine.run(f"cat {_SCOPE}/cgroup.procs").split()
            self._shorten_timeouts()
            machine.shut_down(f"umount -i /mnt/left; {command}", 300 + 2 * self.scale.save_seconds)
            self.console = machine.console(0)
        self._take_images()

    def _mount(self) -> None:
        for way in WAYS:
            if way.command:
                owner = f"install -d -o {way.owner} {way.mountpoint}"
                command = way.command.replace("$size", f"{self.scale.image_mib}M")
                self.machine.run(f"{owner}; {command}")
        self.machine.run("ls /mnt/automount")
        for way in WAYS:
            mounted = f"grep -q ' {way.mountpoint} fuse.pramfs ' /proc/mounts"
            patience = f"for n in $(seq {_MOUNT_SECONDS}); do {mounted} && break; sleep 1; done"
            self.machine.run(f"{patience}; {mounted} || {{ cat /run/*.log; false; }}")

    def _write(self) -> None:
        size = self.scale.file_mib << 20
        for way in WAYS:
            file = f"{way.mountpoint}/file"
            command = f"head -c {size} /dev/urandom >{file}; sha256sum <{file}"
            if way.owner == "user":
                command = f"{_AS_USER} sh -c {shlex.quote(command)}"
            self._written[way.name] = self.machine.run(command).split()[0]

    def _shorten_timeouts(self) -> None:
        if self.scale.timeout_s is None:
            return
        limit = f"{self.scale.timeout_s}s"
        self.machine.run(
            "mkdir -p /etc/systemd/system.conf.d /etc/systemd/system/user@.service.d\n"
            "cat >/etc/systemd/system.conf.d/short.conf <<END\n"
            f"[Manager]\nDefaultTimeoutStartSec={limit}\nDefaultTimeoutStopSec={limit}\nEND\n"
            "cat >/etc/systemd/system/user@.service.d/short.conf <<END\n"
            f"[Service]\nTimeoutStopSec={limit}\nEND\n"
            "systemctl daemon-reexec"
        )

    def _take_images(self) -> None:
        """Copy the images from the guest's disk, which has to be unmounted as it should be."""
        run("e2fsck", "-f", "-n", self.machine.disk)
        self.images = self._directory / "images"
        self.images.mkdir()
        run("debugfs", "-R", f"rdump / {self.images}", self.machine.disk)

    def written(self, way: Way) -> str:
        """The checksum of what was written to a mount."""
        return self._written[way.name]

    def saved(self, way: Way) -> str:
        """The checksum of what its image holds now. Raises FailureError when it holds no file."""
        place = self._directory / way.name
        run(PRAMFS, "extract", "-C", place, self.images / f"{way.name}.img")
        return run("sha256sum", place / "file").split()[0]
