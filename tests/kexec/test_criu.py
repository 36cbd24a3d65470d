"""What CRIU does beyond one dump, with its images on the mount."""

from collections.abc import Iterator

import pytest

from tests.kexec.session import FILE, MEMORY, MOUNTPOINT, Session, Workload, require_same
from tests.vm.machine import Machine

pytestmark = pytest.mark.timeout(900)

# Where it does not matter how much memory a process has, it has little.
SMALL = Workload("memory", ("memory", "2"), MEMORY.pid)
LARGE_MIB = 256
LARGE = Workload("memory", ("memory", str(LARGE_MIB)), MEMORY.pid)
CHAIN = f"{MOUNTPOINT}/chain"
PAGES = "pages-1.img"


@pytest.fixture(autouse=True)
def mounted(machine: Machine, session: Session) -> Iterator[None]:
    """The mount, which one test leaves to the next: it takes longer to mount than to clear it."""
    if machine.attempt(f"mountpoint -q {MOUNTPOINT}").code:
        session.mount()
    yield
    machine.run(f"pkill -KILL criu; pkill -KILL -f workload.py; rm -rf {MOUNTPOINT}/*")


@pytest.fixture(autouse=True, scope="module")
def unmounted_at_last(machine: Machine) -> Iterator[None]:
    yield
    if machine.is_on:
        Session(machine).umount()


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


def test_auto_dedup_frees_pages_of_the_parent_that_were_dumped_again(
    machine: Machine, session: Session
) -> None:
    session.start(SMALL)
    before = session.report(SMALL)
    assert dump(machine, "pre-dump", "1") == 0
    whole = allocated_kib(machine, "1")
    assert dump(machine, "dump", "2", "--prev-images-dir ../1 --auto-dedup") == 0
    assert allocated_kib(machine, "1") < whole
    remount(session)
    restore(machine, f"{CHAIN}/2")
    require_same(before, session.report(SMALL))


def test_auto_dedup_frees_as_much_as_on_tmpfs(machine: Machine, session: Session) -> None:
    """Of two pre-dumps and a dump, and of a restore that consumes its images."""
    large = "/run/large"  # the range of memory that is set aside has no room for this
    machine.run(f"mkdir {large}; pramfs mount -o size=400M /dev/shm/large.pram {large}")
    left = {}
    for place in (f"{large}/chain", "/dev/shm/chain"):
        session.start(LARGE)
        before = session.report(LARGE)
        machine.run(f"mkdir -p {place}/1 {place}/2 {place}/3")
        chain = f"-t {LARGE.pid} --track-mem -v4 -o dump.log"
        machine.run(f"criu pre-dump -D {place}/1 {chain}")
        first = pages_mib(machine, place)
        machine.run(f"criu pre-dump -D {place}/2 --prev-images-dir ../1 --auto-dedup {chain}")
        second = pages_mib(machine, place)
        machine.run(f"criu dump -D {place}/3 --prev-images-dir ../2 --auto-dedup {chain}")
        dumped = pages_mib(machine, place)
        machine.run(f"criu restore -d -D {place}/3 --auto-dedup -v4 -o restore.log")
        require_same(before, session.report(LARGE))
        left[place] = (first, second, dumped, pages_mib(machine, place))
        machine.run(f"kill -KILL {LARGE.pid}; rm -rf {place}")
    machine.run(f"pramfs umount {large}; rm /dev/shm/large.pram; rmdir {large}")
    print("MiB after each pre-dump, the dump and the restore:", left)
    ours, theirs = left.values()
    assert theirs[0] > LARGE_MIB
    assert theirs[-1] < 16
    assert all(abs(here - there) <= 1 for here, there in zip(ours, theirs, strict=True))


def pages_mib(machine: Machine, place: str) -> int:
    """What the pages in the images of a chain take."""
    return int(machine.run(f"du -cm {place}/*/{PAGES} | tail -n 1 | cut -f1"))


def allocated_kib(machine: Machine, part: str) -> int:
    """What the images of one part of a chain take."""
    return int(machine.run(f"du -sk {CHAIN}/{part} | cut -f1"))


def test_pages_are_brought_lazily_through_a_socket_in_the_image_directory(
    machine: Machine, session: Session
) -> None:
    session.start(SMALL)
    before = session.report(SMALL)
    session.dump(SMALL)
    machine.run(
        f"criu lazy-pages -D {SMALL.images} -v4 -o lazy.log >/dev/null 2>&1 &\n"
        f"for n in $(seq 300); do [ -S {SMALL.images}/lazy-pages.socket ] && exit; sleep 0.1; done\n"
        "exit 1"
    )
    machine.run(f"criu restore -d --lazy-pages -D {SMALL.images} -v4 -o restore.log")
    require_same(before, session.report(SMALL))
    assert "uffd_copy" in machine.run(f"cat {SMALL.images}/lazy.log")


def test_a_process_with_files_open_on_the_mount_is_restored_into_them(
    machine: Machine, session: Session
) -> None:
    on_the_mount = Workload("file", ("file", f"{MOUNTPOINT}/work"), FILE.pid)
    machine.run(f"mkdir {MOUNTPOINT}/work")
    session.start(on_the_mount)
    before = session.report(on_the_mount)

    # It keeps the mount busy, also when it was dumped and left running.
    machine.run(
        f"mkdir {MOUNTPOINT}/running && criu dump -D {MOUNTPOINT}/running -t {on_the_mount.pid}"
        " --leave-running"
    )
    refused = machine.attempt(f"pramfs umount {MOUNTPOINT}")
    assert refused.code != 0
    assert "busy" in refused.output

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
    session.start(SMALL)
    before = session.report(SMALL)
    session.dump(SMALL)
    # The pid is taken here: in a namespace of its own it is free. Without -d, since the namespace
    # goes, and takes the restored process with it, when criu-ns ends.
    session.start(SMALL)
    machine.run(
        f"criu-ns restore -D {SMALL.images} -v4 -o restore.log >/dev/null 2>&1 &\n"
        "for n in $(seq 600); do\n"
        "    [ $(pgrep -cf '^python3 /opt/workload.py') = 2 ] && exit; sleep 0.1\n"
        "done\n"
        "exit 1"
    )
    machine.run(f"kill -KILL {SMALL.pid}")  # so that it does not answer for the other
    require_same(before, session.report(SMALL))
