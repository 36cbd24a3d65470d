"""`pramfs kexec --checkpoint`: services and their TCP connections go on in another kernel, by one command.

The machine has systemd and a network card; the clients are here, outside of it. Once with memory that is set
aside, once by live update.
"""

import json
from collections.abc import Iterator

import pytest

from tests.conftest import LONG
from tests.kexec.client import Client
from tests.kexec.conftest import require_tools
from tests.kexec.services import CONFIGURATION, LIVE, MEMMAP, Services, running
from tests.kexec.session import Session, Workload, require_same

pytestmark = pytest.mark.timeout(900)

WAYS = {"memmap": MEMMAP} | ({"live-update": LIVE} if LONG else {})
OPTIONS = '["--tcp-established", "--network-lock", "nftables"]'
# No services: a process by its pid, and a cgroup with two trees. A booting guest does not reach these pids.
ALONE = Workload("alone", ("memory", "8"), 25000)
BATCH = (Workload("batch", ("family",), 26000), Workload("more", ("memory", "9"), 27000))
BATCH_GROUP = "/sys/fs/cgroup/batch.slice/work"


@pytest.fixture(scope="module", params=WAYS)
def services(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    require_tools()
    with running(WAYS[request.param], tmp_path_factory.mktemp("checkpoint")) as services:
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


def test_services_and_processes_go_on_in_the_next_kernel_with_their_connections(
    services: Services, clients: list[Client]
) -> None:
    machine, session = services.machine, Session(services.machine)
    before = services.pid("counter"), services.pid("other")
    for workload in (ALONE, *BATCH):
        session.start(workload)
    machine.run(f"mkdir -p {BATCH_GROUP}")
    for pid in in_batch(session):
        machine.run(f"echo {pid} >{BATCH_GROUP}/cgroup.procs")
    reports = [session.report(workload) for workload in (ALONE, *BATCH)]
    services.configure(
        unit("counter"), unit("other"), f"pid = {ALONE.pid}", 'cgroup = "/batch.slice/work"'
    )
    machine.kexec(f"pramfs kexec --checkpoint={CONFIGURATION}")
    services.settle()
    for client in clients:
        client.wait_for(10, 120)
        require_all_numbers(client)
    assert (services.pid("counter"), services.pid("other")) == before
    assert services.state("counter") == services.state("other") == "active"
    for workload, was in zip((ALONE, *BATCH), reports, strict=True):
        require_same(was, session.report(workload))
    # Where they were: in their cgroup, or in a scope of their own, which no service ends.
    members = set(map(int, machine.run(f"cat {BATCH_GROUP}/cgroup.procs").split()))
    assert members == set(in_batch(session))
    assert ".scope" in machine.run(f"cat /proc/{ALONE.pid}/cgroup")
    assert machine.attempt("nft list table inet pramfs_checkpoint").code != 0
    print("the longest pause of a client, seconds:", clients[0].longest_pause_s)
    # Once: there is nothing to restore any more.
    assert json.loads(machine.run("pramfs restore --json /mnt"))["restored"] == []


def in_batch(session: Session) -> list[int]:
    """The processes that belong to the cgroup."""
    return [pid for workload in BATCH for pid in session.report(workload)]


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
