"""What must not happen to an image on the way from one kernel to the next, and what is said instead.

A lie to `pramfs kexec` is a file that is mounted over one of the kernel's.
"""

import mmap
import re
import shlex

import pytest

from tests.kexec.session import COMMAND_LINE, DEVICE, MEMORY, MOUNTPOINT, Session, require_same
from tests.vm.machine import CommandError, Machine

pytestmark = pytest.mark.timeout(900)

KEXEC = f"pramfs kexec {DEVICE}"
LOADED = "cat /sys/kernel/kexec_loaded"
WITHOUT_MEMMAP = COMMAND_LINE.partition(" memmap=")[0]
SAVE_AND_GO_ON = f"cd {MOUNTPOINT} && seq 100000 >saved && pramfs save . && seq 100000 >unsaved"
PAGE_SIZE = 4096


def refusal(machine: Machine, command: str) -> str:
    """The one line with which a command refuses."""
    result = machine.attempt(command)
    assert (result.code, result.output.count("\n")) == (32, 1), result.output
    return result.output


def lie(machine: Machine, path: str, text: str) -> None:
    """Put other words in the place of a file of the kernel, until `umount` of it."""
    other = f"/run/{path.rpartition('/')[2]}"
    machine.run(f"printf %s {shlex.quote(text)} >{other} && mount --bind {other} {path}")


@pytest.mark.usefixtures("session")
def test_an_image_in_the_kernels_own_memory_is_refused(machine: Machine) -> None:
    said = refusal(machine, "pramfs kexec /dev/ram0")
    assert "no memory of its own that outlives a kexec; boot with memmap=SIZE!START" in said


def test_an_image_is_refused_while_it_is_mounted_and_until_it_is_saved(
    machine: Machine, session: Session
) -> None:
    session.mount()
    said = refusal(machine, KEXEC)
    assert f"in use by the mount at {MOUNTPOINT}; first: pramfs umount {MOUNTPOINT}" in said
    pid = machine.run(
        f"getfattr --absolute-names --only-values -n user.pramfs.pid {MOUNTPOINT}"
    ).strip()
    # A daemon that stands still between the unmount and the save is one that saves for long.
    machine.run(f"kill -STOP {pid}; umount -i -l {MOUNTPOINT}")
    said = refusal(machine, KEXEC)
    machine.run(f"kill -CONT {pid}; while [ -e /proc/{pid} ]; do sleep 0.1; done")
    assert "a daemon that is still saving" in said
    assert "command:" in machine.run(f"{KEXEC} --dry-run")
    assert machine.run(LOADED) == "0\n"


@pytest.mark.usefixtures("session")
def test_a_range_that_the_next_kernel_would_use_is_refused(machine: Machine) -> None:
    said = refusal(machine, f"{KEXEC} --append memmap=256M!1152M")
    assert "memmap=256M!1152M is at odds with the range of the device, 40000000-4bffffff" in said
    assert machine.run(LOADED) == "0\n"


@pytest.mark.usefixtures("session")
def test_a_range_that_is_memory_of_this_kernel_is_refused(machine: Machine) -> None:
    lie(machine, "/proc/iomem", "00100000-5ffd6fff : System RAM\n")
    said = refusal(machine, KEXEC)
    machine.run("umount /proc/iomem")
    assert "40000000-4bffffff is System RAM: the new kernel would overwrite the image" in said
    assert machine.run(LOADED) == "0\n"


@pytest.mark.usefixtures("session")
def test_a_new_kernel_that_lies_in_the_range_is_unloaded_again(machine: Machine) -> None:
    # The range as it is told takes in the memory that a new kernel is put into.
    region = machine.run("realpath /sys/class/block/pmem0/../../..").strip()
    lie(machine, "/proc/iomem", "00001000-5fffffff : Persistent Memory (legacy)\n")
    lie(machine, f"{region}/resource", "0x1000\n")
    lie(machine, f"{region}/size", f"{0x5FFFF000}\n")
    said = machine.attempt(KEXEC)
    machine.run(f"umount /proc/iomem {region}/resource {region}/size")
    assert said.code == 32
    assert re.search(r"would be put at [0-9a-f]+-[0-9a-f]+, over the image: unloaded", said.output)
    assert machine.run(LOADED) == "0\n"


@pytest.mark.usefixtures("session")
def test_a_new_kernel_of_which_nobody_knows_where_it_lies_is_unloaded_again(
    machine: Machine,
) -> None:
    # A kexec that loads by kexec_load(2), into the middle of the range: the kernel does not log that.
    machine.run(
        "mkdir /run/other && cat >/run/other/kexec <<'END'\n"
        "#!/bin/bash\n"
        "exec /sbin/kexec -c --mem-min=0x41000000 --mem-max=0x4b000000 "
        '"${@/#-s/-d}"\n'
        "END\n"
        "chmod +x /run/other/kexec"
    )
    said = machine.attempt(f"PATH=/run/other:$PATH {KEXEC}")
    assert said.code == 32
    assert "this kernel does not log where it puts the new one: unloaded" in said.output
    assert machine.run(LOADED) == "0\n"


def test_a_kernel_loaded_before_finds_the_last_published_save_even_without_a_sync(
    machine: Machine, session: Session
) -> None:
    output = machine.run(f"{KEXEC} --load-only")
    assert machine.run(LOADED) == "1\n"
    (line,) = re.findall(r"^loaded: +(.*)$", output, re.MULTILINE)
    segments = [[int(end, 16) for end in part.split("-")] for part in line.split(", ")]
    assert segments
    assert all(last < 0x40000000 or first > 0x4BFFFFFF for first, last in segments)

    session.mount()
    machine.run(SAVE_AND_GO_ON)
    before = machine.run(f"sha256sum <{MOUNTPOINT}/saved")
    machine.kexec("kexec -e -y")
    words = machine.run("cat /proc/cmdline").split()
    assert [word for word in words if "memmap=" in word] == ["memmap=192M!1G"]
    session.mount()
    assert machine.run(f"ls -A {MOUNTPOINT}") == "saved\n"
    assert machine.run(f"sha256sum <{MOUNTPOINT}/saved") == before
    machine.run(f"rm {MOUNTPOINT}/saved")
    session.umount()


def test_a_power_cut_leaves_the_last_published_save(machine: Machine, session: Session) -> None:
    session.mount()
    machine.run(SAVE_AND_GO_ON)
    before = machine.run(f"sha256sum <{MOUNTPOINT}/saved")
    machine.cut_power()
    machine.boot(COMMAND_LINE)
    assert "clean" in machine.run(f"pramfs check {DEVICE}")
    session.mount()
    assert machine.run(f"ls -A {MOUNTPOINT}") == "saved\n"
    assert machine.run(f"sha256sum <{MOUNTPOINT}/saved") == before
    machine.run(f"rm {MOUNTPOINT}/saved")
    session.umount()


def flip_a_page_of(machine: Machine, page: bytes) -> None:
    """Damage, from outside, the one page of the machine's memory device that holds this."""
    start, size = 1 << 30, 192 << 20
    with (
        machine.memory.open("r+b") as file,
        mmap.mmap(file.fileno(), size, offset=start) as memory,
    ):
        at = memory.find(page)
        assert at >= 0
        assert at % PAGE_SIZE == 0
        assert memory.find(page, at + 1) < 0
        memory[at + 100] ^= 1


def test_a_dump_that_was_damaged_in_memory_is_refused_by_name_and_not_restored(
    machine: Machine, session: Session
) -> None:
    session.mount()
    session.start(MEMORY)
    before = session.report(MEMORY)
    session.dump(MEMORY)
    pages = f"{MEMORY.images}/pages-1.img"
    words = machine.run(f"dd if={pages} bs=4096 skip=5000 count=1 2>/dev/null | od -An -v -tx1")
    page = bytes.fromhex(words)
    session.umount()

    flip_a_page_of(machine, page)
    said = refusal(machine, f"pramfs mount {DEVICE} {MOUNTPOINT}")
    assert "memory/pages-1.img" in said
    session.mount(options="recover,ro")
    assert "pages-1.img" not in machine.run(f"ls {MEMORY.images}")
    restored = machine.attempt(f"cd /tmp && criu restore -d -D {MEMORY.images} -W /tmp -o log")
    assert restored.code != 0
    with pytest.raises(CommandError):
        machine.run(f"kill -0 {MEMORY.pid}")
    session.umount()

    # Nothing was destroyed meanwhile: with the bit as it was, the process is.
    page = page[:100] + bytes([page[100] ^ 1]) + page[101:]
    flip_a_page_of(machine, page)
    session.mount()
    session.restore(MEMORY)
    require_same(before, session.report(MEMORY))
    machine.run(f"kill {MEMORY.pid}")
    session.remove(MEMORY)
    session.umount()


@pytest.mark.usefixtures("session")
def test_a_kexec_without_memmap_leaves_no_device_and_mount_says_so(machine: Machine) -> None:
    machine.run(
        "kexec -s -l /boot/vmlinuz-$(uname -r) --initrd=/boot/initrd.img-$(uname -r) "
        f"--append='{WITHOUT_MEMMAP}'"
    )
    machine.kexec("kexec -e")
    said = refusal(machine, f"pramfs mount {DEVICE} {MOUNTPOINT}")
    assert "/dev/pmem0: no such device" in said
    assert "memmap=SIZE!START" in said
    assert machine.attempt(f"ls {DEVICE}").code != 0
    machine.cut_power()
