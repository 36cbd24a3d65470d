"""`pramfs kexec --checkpoint`: services and their TCP connections go on in another kernel, by one command.

The machine has systemd and a network card; the clients are here, outside of it.
"""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.kexec.client import Client
from tests.kexec.conftest import require_tools
from tests.kexec.recipe import CHECKPOINT
from tests.kexec.session import COMMAND_LINE
from tests.vm.machine import Machine

pytestmark = pytest.mark.timeout(900)

PORTS = (7000, 7001)  # of counter.service and other.service
CONFIGURATION = "/run/checkpoint.toml"
SYSTEM = (
    "no_timer_check systemd.getty_auto=no systemd.journald.forward_to_console=1"
    " systemd.journald.max_level_console=info first=/opt/checkpoint-boot"
)
OPTIONS = '["--tcp-established", "--network-lock", "nftables"]'
# Waits for what systemd starts at boot, the restore included.
SETTLED = (
    "for n in $(seq 200); do systemctl is-system-running | grep -q -e running -e degraded && exit;"
    " sleep 1; done; systemctl list-jobs; exit 1"
)


def free_ports() -> list[int]:
    """Ports of the host that nobody uses now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Services:
    """The machine with its two services, and the ports of the host that lead to them."""

    def __init__(self, machine: Machine, ports: list[int]) -> None:
        self.machine = machine
        self.counter, self.other = ports

    def configure(self, *entries: str) -> None:
        dumps = "".join(f"[[dump]]\n{entry}\n" for entry in entries)
        self.machine.run(f"cat >{CONFIGURATION} <<'END'\nmountpoint = \"/mnt\"\n{dumps}END")

    def settle(self) -> None:
        self.machine.run(SETTLED)

    def pid(self, unit: str) -> str:
        return self.machine.run(f"systemctl show --property=MainPID --value {unit}").strip()

    def state(self, unit: str) -> str:
        return self.machine.run(f"systemctl show --property=ActiveState --value {unit}").strip()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    require_tools()
    ports = free_ports()
    forwards = (
        f"hostfwd=tcp:127.0.0.1:{ours}-10.0.2.15:{theirs}"
        for ours, theirs in zip(ports, PORTS, strict=True)
    )
    network = ("-netdev", ",".join(["user,id=net", *forwards]))
    card = ("-device", "virtio-net-pci,netdev=net,romfile=")
    hardware = replace(CHECKPOINT.hardware, options=(*CHECKPOINT.hardware.options, *network, *card))
    guest = replace(CHECKPOINT, hardware=hardware).prepare()
    with Machine(guest, tmp_path_factory.mktemp("checkpoint")) as machine:
        machine.boot(f"{COMMAND_LINE} {SYSTEM}")
        services = Services(machine, ports)
        services.settle()
        yield services


@pytest.fixture
def clients(services: Services) -> Iterator[list[Client]]:
    """A client of each service."""
    clients = [Client(services.counter), Client(services.other)]
    for client in clients:
        client.wait_for(10, 60)
    yield clients
    for client in clients:
        client.close()


def unit(name: str) -> str:
    return f'unit = "{name}.service"\noptions = {OPTIONS}'


def require_all_numbers(client: Client) -> None:
    first = client.numbers[0]
    assert client.numbers == list(range(first, first + len(client.numbers)))


def test_what_cannot_be_dumped_is_named_before_anything_is_stopped(
    services: Services, clients: list[Client]
) -> None:
    machine = services.machine
    before = services.pid("counter"), services.pid("other")
    # CRIU dumps no connection without being told to.
    services.configure(unit("counter"), 'unit = "other.service"')
    refused = machine.attempt(f"pramfs kexec --checkpoint={CONFIGURATION}")
    assert refused.code == 32
    assert "nothing was stopped" in refused.output
    assert "other.service: cannot be dumped" in refused.output
    assert "log: /var/lib/pramfs/other.service.trial.log" in refused.output
    machine.run("grep -q Error /var/lib/pramfs/other.service.trial.log; mountpoint -q /mnt")
    assert (services.pid("counter"), services.pid("other")) == before
    for client in clients:
        client.wait_for(10, 60)
        require_all_numbers(client)


def test_a_kernel_that_cannot_be_loaded_leaves_all_as_it_was(
    services: Services, clients: list[Client]
) -> None:
    services.configure(unit("counter"), unit("other"))
    services.machine.run("echo no kernel >/run/vmlinuz-1; echo no initrd >/run/initrd.img-1")
    failed = services.machine.attempt(
        f"pramfs kexec --checkpoint={CONFIGURATION} --kernel /run/vmlinuz-1"
    )
    assert failed.code == 32
    assert "counter.service: restored" in failed.output
    assert "other.service: restored" in failed.output
    assert services.state("counter") == services.state("other") == "active"
    for client in clients:
        client.wait_for(10, 120)
        require_all_numbers(client)


def test_services_go_on_in_the_next_kernel_with_their_connections(
    services: Services, clients: list[Client]
) -> None:
    machine = services.machine
    before = services.pid("counter"), services.pid("other")
    services.configure(unit("counter"), unit("other"))
    machine.kexec(f"pramfs kexec --checkpoint={CONFIGURATION}")
    services.settle()
    for client in clients:
        client.wait_for(10, 120)
        require_all_numbers(client)
    assert (services.pid("counter"), services.pid("other")) == before
    assert services.state("counter") == services.state("other") == "active"
    assert machine.attempt("nft list table inet pramfs_checkpoint").code != 0
    print("the longest pause of a client, seconds:", clients[0].longest_pause_s)
    # Once: there is nothing to restore any more.
    assert json.loads(machine.run("pramfs restore --json /mnt"))["restored"] == []


def test_what_cannot_be_restored_is_kept_with_its_log_and_the_rest_comes_up(
    services: Services, clients: list[Client]
) -> None:
    machine = services.machine
    services.configure(unit("counter"), unit("other"))
    # The pid of the first is taken in the next kernel.
    taken = services.pid("counter")
    machine.run(
        "cat >/var/lib/pramfs/early <<END\n"
        f"echo {int(taken) - 1} >/proc/sys/kernel/ns_last_pid; sleep infinity &\nEND"
    )
    machine.kexec(f"pramfs kexec --checkpoint={CONFIGURATION}")
    services.settle()
    told = machine.run("journalctl --unit=pramfs-restore --output=cat; true")
    assert "other.service: restored" in told
    assert "counter.service: cannot be restored" in told
    machine.run("ls /mnt/.pramfs-checkpoint/counter.service/restore.log")
    assert services.state("counter") == "failed"
    clients[1].wait_for(10, 120)
    require_all_numbers(clients[1])
    assert machine.attempt("nft list table inet pramfs_checkpoint").code != 0
