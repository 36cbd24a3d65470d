"""What CRIU does beyond one dump, with its images on the mount. The tests share a machine."""

from collections.abc import Iterator

import pytest

from kexeclib.machine import Machine
from kexeclib.session import FILE, MEMORY, MOUNTPOINT, Session, Workload, require_same

pytestmark = pytest.mark.timeout(900)

CHAIN = f"{MOUNTPOINT}/chain"
PAGES = "pages-1.img"


@pytest.fixture(autouse=True)
def mounted(machine: Machine, session: Session) -> Iterator[None]:
    session.mount()
    yield
    # Whatever a failed test has left running may use the mount.
    machine.run("pkill -KILL criu; pkill -KILL -f workload.py; cd /; rm -rf /mnt/*; sync")
    session.umount()


def remount(session: Session) -> None:
    session.umount()
    session.mount()


def dump(machine: Machine, step: str, directory: str, options: str = "") -> int:
    """Run one step of a chain, which tracks what the process writes; returns its exit status."""
    command = f"mkdir -p {CHAIN}/{directory} && criu {step} -D {CHAIN}/{directory} -t {MEMORY.pid}"
    return machine.attempt(f"{command} --track-mem {options} -v4 -o dump.log").code


def size_bytes(machine: Machine, path: str) -> int:
    return int(machine.run(f"stat -c %s {path}"))


def restore(machine: Machine, directory: str) -> None:
    machine.run(f"criu restore -d -D {directory} -v4 -o restore.log")


def test_the_kernel_has_what_criu_needs(machine: Machine) -> None:
    assert "Looks good." in machine.run("criu check")


def test_a_chain_of_predumps_is_restored_after_a_remount(
    machine: Machine, session: Session
) -> None:
    session.start(MEMORY)
    before = session.report(MEMORY)
    assert dump(machine, "pre-dump", "1") == 0
    assert dump(machine, "pre-dump", "2", "--prev-images-dir ../1") == 0
    assert dump(machine, "dump", "3", "--prev-images-dir ../2") == 0
    remount(session)

    assert machine.run(f"readlink {CHAIN}/2/parent {CHAIN}/3/parent") == "../1\n../2\n"
    whole, *rest = (size_bytes(machine, f"{CHAIN}/{part}/{PAGES}") for part in (1, 2, 3))
    assert whole > 32 << 20
    assert all(0 < part < whole // 8 for part in rest), "only what was written since is dumped"
    restore(machine, f"{CHAIN}/3")
    require_same(before, session.report(MEMORY))


def test_auto_dedup_fails_since_fuse_cannot_punch_holes_and_the_process_goes_on(
    machine: Machine, session: Session
) -> None:
    session.start(MEMORY)
    before = session.report(MEMORY)
    assert dump(machine, "pre-dump", "1") == 0
    assert dump(machine, "dump", "2", "--prev-images-dir ../1 --auto-dedup") != 0
    log = machine.run(f"grep Error {CHAIN}/2/dump.log")
    assert "Error punching hole: Operation not supported" in log
    require_same(before, session.report(MEMORY))

    # The chain is whole: without the option the same dump works, and is restored.
    machine.run(f"rm -r {CHAIN}/2")
    assert dump(machine, "dump", "2", "--prev-images-dir ../1") == 0
    restore(machine, f"{CHAIN}/2")
    require_same(before, session.report(MEMORY))


def test_pages_are_brought_lazily_through_a_socket_in_the_image_directory(
    machine: Machine, session: Session
) -> None:
    session.start(MEMORY)
    before = session.report(MEMORY)
    session.dump(MEMORY)
    remount(session)
    machine.run(
        f"criu lazy-pages -D {MEMORY.images} -v4 -o lazy.log >/dev/null 2>&1 &\n"
        f"for n in $(seq 300); do [ -S {MEMORY.images}/lazy-pages.socket ] && exit; sleep 0.1; done\n"
        "exit 1"
    )
    machine.run(f"criu restore -d --lazy-pages -D {MEMORY.images} -v4 -o restore.log")
    require_same(before, session.report(MEMORY))
    assert "uffd_copy" in machine.run(f"cat {MEMORY.images}/lazy.log")


def test_a_process_with_files_open_on_the_mount_is_restored_into_them(
    machine: Machine, session: Session
) -> None:
    on_the_mount = Workload("file", ("file", f"{MOUNTPOINT}/work"), FILE.pid)
    machine.run(f"mkdir {MOUNTPOINT}/work")
    session.start(on_the_mount)
    before = session.report(on_the_mount)
    session.dump(on_the_mount)
    remount(session)
    session.restore(on_the_mount)
    after = session.report(on_the_mount)
    require_same(before, after)
    lines = machine.run(f"cat {MOUNTPOINT}/work/lines").split()
    count = after[on_the_mount.pid]["count"]
    assert lines[:count] == [str(number) for number in range(1, count + 1)]


def test_criu_ns_restores_into_a_pid_namespace_of_its_own(
    machine: Machine, session: Session
) -> None:
    session.start(MEMORY)
    session.dump(MEMORY)
    remount(session)
    # The pid is taken here: in a namespace of its own it is free. Without -d, since the namespace
    # goes, and takes the restored process with it, when criu-ns ends.
    session.start(MEMORY)
    machine.run(
        f"criu-ns restore -D {MEMORY.images} -v4 -o restore.log >/dev/null 2>&1 &\n"
        "for n in $(seq 600); do\n"
        "    [ $(pgrep -cf '^python3 /opt/workload.py') = 2 ] && exit; sleep 0.1\n"
        "done\n"
        "exit 1"
    )
