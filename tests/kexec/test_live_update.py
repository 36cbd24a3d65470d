"""Images that the kernel itself carries over a kexec, with nothing set aside; and what can go wrong there."""

import itertools
import json
import mmap
import shlex

import pytest

from examples.criu_dump.story import Story
from tests.kexec import scenario
from tests.kexec.conftest import LIVE_UPDATE_TIMEOUT_S
from tests.kexec.session import DEVICE, MOUNTPOINT, LiveSession
from tests.vm.machine import Machine

pytestmark = pytest.mark.timeout(LIVE_UPDATE_TIMEOUT_S)

IMAGE = LiveSession.image
KEXEC = f"pramfs kexec {IMAGE}"
LOAD = "pramfs kexec --load-only /dev/shm/keep.pram"
LOADED = "cat /sys/kernel/kexec_loaded"
GONE = f"rm -f {IMAGE}"
BOOT_KERNEL = "/boot/vmlinuz-$(uname -r) --initrd=/boot/initrd.img-$(uname -r)"


def fill(session: LiveSession, mebibytes: int = 8) -> str:
    """Make an image with random bytes in it, and return their hash. It is not mounted then."""
    machine = session.machine
    machine.run(GONE)
    session.mount()
    machine.run(f"dd if=/dev/urandom of={MOUNTPOINT}/data bs=1M count={mebibytes}")
    digest = hash_of(machine)
    session.umount()
    machine.run(f"chmod 640 {IMAGE}; chown 5:6 {IMAGE}; setfattr -n user.note -v kept {IMAGE}")
    return digest


def hash_of(machine: Machine) -> str:
    return machine.run(f"sha256sum <{MOUNTPOINT}/data")


def mounted_hash(session: LiveSession) -> str:
    session.mount()
    digest = hash_of(session.machine)
    session.umount()
    return digest


def refusal(machine: Machine, command: str) -> str:
    """The one line with which a command refuses."""
    result = machine.attempt(command)
    assert (result.code, result.output.count("\n")) == (32, 1), result.output
    return result.output


def test_processes_go_on_after_three_kexecs_in_a_row(live: Machine) -> None:
    scenario.run(Story(), LiveSession(live))
    live.run("pkill -KILL -f workload.py; umount /srv")


@pytest.mark.short_form
def test_an_image_comes_over_with_owner_mode_and_xattrs(live_session: LiveSession) -> None:
    machine = live_session.machine
    digest = fill(live_session)
    size = machine.run(f"stat -c %s {IMAGE}")
    line = live_session.kexec()
    assert line.split().count(f"pramfs.claim={IMAGE}") == 1
    # Between hand-over and claim nothing is made in its place.
    said = refusal(machine, f"pramfs mount {IMAGE} {MOUNTPOINT}")
    assert "not claimed yet; first: pramfs claim" in said
    assert machine.attempt(f"ls {IMAGE}").code != 0

    assert machine.run("pramfs claim") == f"{IMAGE}: clean\n"
    assert machine.run(f"stat -c '%u %g %a' {IMAGE}") == "5 6 640\n"
    assert machine.run(f"stat -c %s {IMAGE}") == size
    assert "kept" in machine.run(f"getfattr --absolute-names -n user.note {IMAGE}")
    assert mounted_hash(live_session) == digest


@pytest.mark.short_form
def test_several_images_go_together(live_session: LiveSession) -> None:
    machine = live_session.machine
    machine.run(GONE)
    images = (IMAGE, "/dev/shm/other.pram")
    names = shlex.join(images)
    before = [fill_one(machine, image) for image in images]
    sizes = machine.run(f"stat -c %s {names}")
    told = machine.run(f"pramfs kexec --dry-run {names}").splitlines()
    for image in images:
        assert any(line.startswith(f"image:    {image},") for line in told), told
    assert machine.run(f"stat -c %s {names}") == sizes
    assert machine.run(LOADED) == "0\n"

    machine.kexec(f"pramfs kexec {names}")
    claims = [word for word in machine.run("cat /proc/cmdline").split() if "pramfs.claim" in word]
    assert claims == [f"pramfs.claim={image}" for image in images]
    assert machine.run("pramfs claim") == "".join(f"{image}: clean\n" for image in images)
    assert machine.run(f"stat -c %s {names}") == sizes
    assert [hash_in(machine, image) for image in images] == before
    machine.run(f"rm {names}")


@pytest.mark.short_form
def test_an_image_on_a_tmpfs_and_one_on_a_device_go_together(live_session: LiveSession) -> None:
    machine = live_session.machine
    machine.boot(f"{LiveSession.command_line} memmap=64M!512M")
    images = (IMAGE, DEVICE)
    names = shlex.join(images)
    before = [fill_one(machine, image) for image in images]
    told = machine.run(f"pramfs kexec --dry-run {names}").splitlines()
    for image in images:
        assert any(line.startswith(f"image:    {image},") for line in told), told

    machine.run(f"pramfs kexec --load-only {names}")
    machine.run("pramfs kexec --undo")
    assert [hash_in(machine, image) for image in images] == before

    machine.kexec(f"pramfs kexec {names}")
    words = machine.run("cat /proc/cmdline").split()
    assert [word for word in words if word.startswith(("memmap=", "pramfs.claim="))] == [
        "memmap=64M!512M",
        f"pramfs.claim={IMAGE}",
    ]
    assert machine.run("pramfs claim") == f"{IMAGE}: clean\n"
    machine.run(f"pramfs check {IMAGE} && pramfs check {DEVICE}")
    assert [hash_in(machine, image) for image in images] == before
    machine.cut_power()  # the tests that come next have no range set aside


def fill_one(machine: Machine, image: str) -> str:
    """Make an image with random bytes in it, and return their hash."""
    machine.run(f"pramfs mount -o size=64M {image} {MOUNTPOINT}")
    machine.run(f"dd if=/dev/urandom of={MOUNTPOINT}/data bs=1M count=8")
    machine.run(f"pramfs umount {MOUNTPOINT}")
    return hash_in(machine, image)


def hash_in(machine: Machine, image: str) -> str:
    return machine.run(
        f"pramfs mount {image} {MOUNTPOINT} >/dev/null; sha256sum <{MOUNTPOINT}/data; "
        f"pramfs umount {MOUNTPOINT} >/dev/null"
    )


def test_a_mounted_image_is_refused(live_session: LiveSession) -> None:
    fill(live_session)
    live_session.mount()
    said = refusal(live_session.machine, KEXEC)
    assert f"in use by the mount at {MOUNTPOINT}; first: pramfs umount {MOUNTPOINT}" in said
    live_session.umount()


@pytest.mark.short_form
def test_what_is_handed_over_is_not_mounted_and_can_be_taken_back(
    live_session: LiveSession,
) -> None:
    machine = live_session.machine
    digest = fill(live_session)
    used = json.loads(machine.run(f"pramfs info --json {IMAGE}"))["frames"]["used"]
    machine.run(LOAD)
    assert int(machine.run(f"stat -c %s {IMAGE}")) <= used * 4096 * 1.05
    said = refusal(machine, f"pramfs mount {IMAGE} {MOUNTPOINT}")
    assert "handed over to the next kernel; to take it back: pramfs kexec --undo" in said
    assert "handed over" in refusal(machine, KEXEC)
    assert machine.run("pramfs kexec --undo") == f"{IMAGE}: taken back\n"
    assert machine.run(LOADED) == "0\n"
    assert mounted_hash(live_session) == digest


@pytest.mark.short_form
def test_a_kexec_that_fails_to_load_undoes_everything(live_session: LiveSession) -> None:
    machine = live_session.machine
    digest = fill(live_session)
    machine.run("echo no kernel >/tmp/vmlinuz-0; cp /boot/initrd.img-* /tmp/initrd.img-0")
    said = machine.attempt(f"{KEXEC} --kernel /tmp/vmlinuz-0")
    assert said.code == 32
    assert "kexec failed" in said.output
    assert machine.run(LOADED) == "0\n"
    assert mounted_hash(live_session) == digest


def test_a_device_that_is_in_use_is_told_and_undone(live_session: LiveSession) -> None:
    machine = live_session.machine
    digest = fill(live_session)
    said = machine.attempt(f"exec 5<>/dev/liveupdate; {KEXEC}")
    assert said.code == 32
    assert "/dev/liveupdate: it is in use by another program" in said.output
    assert mounted_hash(live_session) == digest


@pytest.mark.parametrize("moment", ["handed", "loaded"])
def test_a_command_that_is_killed_leaves_all_or_nothing(
    live_session: LiveSession, moment: str
) -> None:
    """Killed when it has said that the image is handed over, or that the new kernel is loaded."""
    machine = live_session.machine
    digest = fill(live_session)
    # It stands still at the pipe, which nobody reads any further.
    machine.run(
        f"mkfifo /tmp/pipe; {KEXEC} --load-only >/tmp/pipe & command=$!; exec 5</tmp/pipe; "
        f"while read -r line <&5; do case $line in {moment}:*) break ;; esac; done; "
        "kill -KILL $command; wait; rm /tmp/pipe"
    )
    if machine.run(LOADED) == "1\n" and machine.attempt("pramfs kexec --undo").code == 0:
        pass  # it was handed over already
    machine.run(
        "for n in $(seq 100); do flock -n /run/pramfs-kept/lock true && break; sleep 0.1; done"
    )
    assert machine.run(LOADED) == "0\n"
    assert mounted_hash(live_session) == digest


def test_a_command_that_is_killed_at_any_moment_leaves_all_or_nothing(
    live_session: LiveSession,
) -> None:
    """Later and later, from its start until it has loaded the new kernel, while the image is moved."""
    machine = live_session.machine
    live_session.options = "size=600M"
    digest = fill(live_session, mebibytes=400)
    for tenths in itertools.count(2, 15):
        done = machine.run(
            f"{KEXEC} --load-only >/dev/null 2>&1 & command=$!; sleep {tenths / 10}; "
            "kill -KILL $command 2>/dev/null || echo done; wait"
        )
        machine.attempt("pramfs kexec --undo")
        machine.run(
            "for n in $(seq 300); do flock -n /run/pramfs-kept/lock true && break; sleep 0.1; done"
        )
        assert machine.run(LOADED) == "0\n"
        assert mounted_hash(live_session) == digest
        if done:
            break


def test_a_claim_that_is_killed_is_finished_by_the_keeper(live_session: LiveSession) -> None:
    machine = live_session.machine
    digest = fill(live_session, mebibytes=100)
    live_session.kexec()
    machine.run(
        "pramfs claim & command=$!; "
        "for n in $(seq 600); do [ -e /run/pramfs-kept/state ] && break; sleep 0.02; done; "
        "kill -KILL $command; wait"
    )
    machine.attempt("pramfs claim")
    machine.run(f"for n in $(seq 300); do [ -e {IMAGE} ] && break; sleep 0.1; done")
    assert machine.run("pramfs claim --list") == ""
    assert mounted_hash(live_session) == digest


def test_an_image_of_most_of_the_memory_comes_over(live_session: LiveSession) -> None:
    """There is no room for a second copy: it is moved, and a claim needs little beside it, too."""
    machine = live_session.machine
    machine.run("mount -o remount,size=90% /dev/shm")
    live_session.options = "size=800M"
    total_kib = int(machine.run("sed -n 's/^MemTotal: *//p' /proc/meminfo").split()[0])
    digest = fill(live_session, mebibytes=total_kib * 6 // 10 >> 10)
    assert "moved" in machine.run(LOAD)
    machine.kexec("kexec -e")
    # The half of memory that a tmpfs may take by itself is half of what is left beside the image.
    said = refusal(machine, "pramfs claim")
    assert f"{IMAGE}: kept, because its file system has" in said
    machine.run("mount -o remount,size=900M /dev/shm")
    # What is free sinks by no more than a claim may use; without reclaim, which the page cache is small for.
    lowest = machine.run(
        "free() { sed -n 's/^MemAvailable: *\\([0-9]*\\).*/\\1/p' /proc/meminfo; }; "
        "before=$(free); pramfs claim & command=$!; lowest=$before; "
        "while kill -0 $command 2>/dev/null; do now=$(free); "
        "[ $now -lt $lowest ] && lowest=$now; sleep 0.05; done; wait $command; echo $((before - lowest))"
    )
    assert "clean" in lowest
    assert int(lowest.split()[-1]) < 64 << 10
    assert mounted_hash(live_session) == digest
    machine.run(GONE)


def test_an_image_whose_path_is_taken_can_be_claimed_elsewhere(live_session: LiveSession) -> None:
    machine = live_session.machine
    digest = fill(live_session)
    live_session.kexec()
    machine.run(f"echo mine >{IMAGE}")
    assert f"kept, because {IMAGE} is there already" in refusal(machine, "pramfs claim")
    said = machine.run(f"pramfs claim --to /tmp/keep.pram {IMAGE}")
    assert said == "/tmp/keep.pram: clean\n"
    assert machine.run(f"cat {IMAGE}") == "mine\n"
    machine.run(f"mv /tmp/keep.pram {IMAGE}")
    assert mounted_hash(live_session) == digest


@pytest.mark.short_form
def test_a_page_that_was_damaged_in_memory_is_named(live_session: LiveSession) -> None:
    machine = live_session.machine
    fill(live_session)
    live_session.mount()
    words = machine.run(
        f"dd if={MOUNTPOINT}/data bs=4096 skip=700 count=1 2>/dev/null | od -An -v -tx1"
    )
    live_session.umount()
    live_session.kexec()
    flip_all(machine, bytes.fromhex(words))
    said = refusal(machine, "pramfs claim")
    assert f"{IMAGE}: damaged: " in said
    assert "/data" in said
    assert "/data" in refusal(machine, f"pramfs mount {IMAGE} {MOUNTPOINT}")
    machine.run(GONE)


def flip_all(machine: Machine, page: bytes) -> None:
    """Damage, from outside, every copy of this page in the machine's memory."""
    with machine.memory.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        at, found = memory.find(page), 0
        while at >= 0:
            memory[at + 100] ^= 1
            found += 1
            at = memory.find(page, at + 1)
        assert found


def test_without_live_update_in_the_second_kernel_the_claim_says_what_is_lost(
    live_session: LiveSession,
) -> None:
    machine = live_session.machine
    fill(live_session)
    machine.run(LOAD)
    words = LiveSession.command_line.replace("liveupdate=on", f"pramfs.claim={IMAGE}")
    machine.run(f"kexec -s -l {BOOT_KERNEL} --append={shlex.quote(words)}")
    machine.kexec("kexec -e")
    said = refusal(machine, "pramfs claim")
    assert "live update is not enabled: start the kernel with kho=on liveupdate=on" in said
    assert f"lost: {IMAGE}" in said
    live_session.mount()  # a new image
    live_session.umount()
    assert "not enabled" in refusal(machine, KEXEC)
    machine.cut_power()


def test_after_a_power_cut_there_is_nothing_to_claim(live_session: LiveSession) -> None:
    machine = live_session.machine
    fill(live_session)
    machine.run(LOAD)
    machine.cut_power()
    machine.boot(LiveSession.command_line)
    assert machine.run("pramfs claim") == ""
    assert machine.attempt(f"ls {IMAGE}").code != 0
    live_session.mount()
    live_session.umount()
    machine.run(GONE)


def test_systemd_carries_the_image_of_a_line_in_fstab_over(live_session: LiveSession) -> None:
    """`systemctl kexec` kills everything but the keeper; at boot the unit claims before fstab's mounts."""
    machine = live_session.machine
    machine.cut_power()
    machine.boot(f"{LiveSession.command_line} systemd.getty_auto=no first=/opt/live-boot")
    machine.run(f"dd if=/dev/urandom of={MOUNTPOINT}/data bs=1M count=8")
    digest = hash_of(machine)
    machine.run(f"pramfs umount {MOUNTPOINT}")
    machine.run(LOAD)
    machine.kexec("systemctl kexec; kill -STOP $PPID; sleep 60")  # no answer of the agent
    assert f"pramfs.claim={IMAGE}" in machine.run("cat /proc/cmdline")
    assert "clean" in machine.run("journalctl --unit pramfs-claim.service --output cat")
    assert hash_of(machine) == digest
    machine.cut_power()
