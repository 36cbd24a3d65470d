"""A guest with systemd and a network card, and two services in it for clients outside of it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.kexec.recipe import CHECKPOINT, NEWER_DEBIAN
from tests.kexec.session import COMMAND_LINE, LiveSession
from tests.vm.guest import Recipe
from tests.vm.machine import Machine

CONFIGURATION = "/run/checkpoint.toml"

_PORTS = (7000, 7001)  # of counter.service and other.service
_SYSTEM = (
    "no_timer_check systemd.getty_auto=no systemd.journald.forward_to_console=1"
    " systemd.journald.max_level_console=info first=/opt/checkpoint-boot"
)
# Waits for what systemd starts at boot, the restore included.
_SETTLED = (
    "for n in $(seq 200); do systemctl is-system-running | grep -q -e running -e degraded && exit;"
    " sleep 1; done; systemctl list-jobs; exit 1"
)


@dataclass(frozen=True)
class Way:
    """How the image with the dumps gets into the next kernel."""

    recipe: Recipe
    command_line: str


MEMMAP = Way(CHECKPOINT, COMMAND_LINE)
LIVE = Way(NEWER_DEBIAN, LiveSession.command_line)


class Services:
    """The machine with its two services, and the ports of the host that lead to them."""

    def __init__(self, machine: Machine, ports: list[int]) -> None:
        self.machine = machine
        self.counter, self.other = ports

    def configure(self, *entries: str) -> None:
        """Say what a checkpoint is to dump."""
        dumps = "".join(f"[[dump]]\n{entry}\n" for entry in entries)
        self.machine.run(f"cat >{CONFIGURATION} <<'END'\nmountpoint = \"/mnt\"\n{dumps}END")

    def settle(self) -> None:
        """Wait until systemd has started all that it starts at boot."""
        self.machine.run(_SETTLED)

    def pid(self, unit: str) -> str:
        """The main process of a service."""
        return self.machine.run(f"systemctl show --property=MainPID --value {unit}").strip()

    def state(self, unit: str) -> str:
        """What systemd says of a service: active, failed ..."""
        return self.machine.run(f"systemctl show --property=ActiveState --value {unit}").strip()


@contextmanager
def running(way: Way, directory: Path) -> Iterator[Services]:
    """The machine, booted, with both services up."""
    ports = _free_ports()
    forwards = (
        f"hostfwd=tcp:127.0.0.1:{ours}-10.0.2.15:{theirs}"
        for ours, theirs in zip(ports, _PORTS, strict=True)
    )
    network = ("-netdev", ",".join(["user,id=net", *forwards]))
    card = ("-device", "virtio-net-pci,netdev=net,romfile=")
    hardware = way.recipe.hardware
    hardware = replace(hardware, options=(*hardware.options, *network, *card))
    guest = replace(way.recipe, hardware=hardware).prepare()
    with Machine(guest, directory) as machine:
        machine.boot(f"{way.command_line} {_SYSTEM}")
        services = Services(machine, ports)
        services.settle()
        yield services


def _free_ports() -> list[int]:
    """Ports of the host that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
