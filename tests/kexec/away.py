"""How long a machine with 1 GiB in its image is away, step by step: `python -m tests.kexec.away`.

By live update, by memory that is set aside, and by a disk, in virtual machines of the same size.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.kexec.recipe import LIVE_UPDATE, RECIPE
from tests.kexec.session import MOUNTPOINT, LiveSession, Session
from tests.vm.guest import Recipe
from tests.vm.machine import Machine

ROUNDS = 5
DATA_MIB = 1024
MEMORY_MIB = 4096
DISK_MIB = 2048

_ARENA = "size=1400M"
_BARE_KEXEC = (
    "kexec -s -l /boot/vmlinuz-$(uname -r) --initrd=/boot/initrd.img-$(uname -r) --reuse-cmdline"
)

# A step of the way: what it is called, and what takes it.
Step = tuple[str, Callable[[Machine], object]]


class LargeLiveSession(LiveSession):
    options = _ARENA


class LargeSession(Session):
    command_line = "console=ttyS0 panic=-1 quiet loglevel=4 memmap=1400M!1536M"
    options = ""


class DiskSession(Session):
    command_line = "console=ttyS0 panic=-1 quiet loglevel=4"
    image = "/dev/vdd"
    options = _ARENA


WAYS: dict[str, tuple[Recipe, type[Session]]] = {
    "live update": (LIVE_UPDATE, LargeLiveSession),
    "memmap=": (RECIPE, LargeSession),
    "disk": (RECIPE, DiskSession),
}


def main() -> int:
    """Measure all ways, alternating, and print a table of medians in seconds."""
    samples: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pramfs-away.")))
        machines = {way: stack.enter_context(_machine(way, directory)) for way in WAYS}
        for _ in range(ROUNDS):
            for way, machine in machines.items():
                for name, seconds in _round(machine, WAYS[way][1]).items():
                    samples[way].setdefault(name, []).append(seconds)
    _print(samples)
    return 0


def _machine(way: str, directory: Path) -> Machine:
    recipe, _ = WAYS[way]
    guest = replace(recipe, hardware=replace(recipe.hardware, memory_mib=MEMORY_MIB)).prepare()
    place = directory / way
    place.mkdir()
    disk = place / "disk"
    disk.touch()
    with disk.open("r+b") as file:
        file.truncate(DISK_MIB << 20)
    return Machine(guest, place, disks=[disk])


def _round(machine: Machine, kind: type[Session]) -> dict[str, float]:
    session = kind(machine)
    machine.cut_power()
    machine.boot(session.command_line)
    session.mount()
    machine.run(f"dd if=/dev/urandom of={MOUNTPOINT}/data bs=1M count={DATA_MIB} conv=fsync")
    steps: list[Step] = [
        ("umount, with the save", lambda machine: session.umount()),
        ("load the kernel", lambda machine: machine.run(_load(session))),
        ("jump, and boot to a shell", lambda machine: machine.kexec("kexec -e")),
        ("claim", lambda machine: _claim(session)),
        ("mount, every page verified", lambda machine: session.mount()),
    ]
    seconds = {}
    for name, take in steps:
        start = time.monotonic()
        take(machine)
        seconds[name] = time.monotonic() - start
    machine.run(f"[ $(stat -c %s {MOUNTPOINT}/data) = {DATA_MIB << 20} ]; rm {MOUNTPOINT}/data")
    session.umount()
    return seconds


def _load(session: Session) -> str:
    if isinstance(session, DiskSession):
        return _BARE_KEXEC
    return f"pramfs kexec --load-only {session.image}"


def _claim(session: Session) -> None:
    if isinstance(session, LiveSession):
        session.machine.run("pramfs claim")


def _print(samples: dict[str, dict[str, list[float]]]) -> None:
    steps = list(next(iter(samples.values())))
    print(f"| seconds, medians of {ROUNDS} | {' | '.join(samples)} |")
    print(f"| --- |{' --- |' * len(samples)}")
    for step in steps:
        figures = (f"{statistics.median(samples[way][step]):.1f}" for way in samples)
        print(f"| {step} | {' | '.join(figures)} |")
    totals = (
        statistics.median(map(sum, zip(*samples[way].values(), strict=True))) for way in samples
    )
    print(f"| away | {' | '.join(f'{total:.1f}' for total in totals)} |")


if __name__ == "__main__":
    sys.exit(main())
