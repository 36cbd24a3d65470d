"""Nothing is lost where a page of the kernel holds four frames, and memory goes back all the same."""

import lzma
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.golden.decoder import decode
from tests.golden.manifest import IMAGE as GOLDEN
from tests.large_pages import wear
from tests.large_pages.guest_16k import PAGE_BYTES
from tests.mounted.harness import pramfs
from tests.vm.machine import Machine

pytestmark = pytest.mark.timeout(900)

MOUNTPOINT, REFERENCE = "/mnt", "/tmp/reference"
SIZE = "48M"
# Of an image that holds nothing: what a save writes, and pages of the kernel that are not all free.
EMPTY_KIB_MAX = 256


class Worn:
    """A mount in the guest, and beside it a directory on a tmpfs in which the same is done."""

    def __init__(self, machine: Machine, image: str, arena: str) -> None:
        self.machine = machine
        self.image = image
        self.options = f"size={SIZE},arena={arena}"
        machine.run(f"rm -rf {REFERENCE}; mkdir {REFERENCE}")

    def mount(self) -> None:
        self.machine.run(f"pramfs mount -o {self.options} {self.image} {MOUNTPOINT}")

    def umount(self) -> None:
        """Unmount, and check that nothing is damaged."""
        self.machine.run(f"pramfs umount {MOUNTPOINT} && pramfs check {self.image}")

    def wear(self, seed: str) -> None:
        self.machine.run(f"python3 /opt/wear.py wear {seed} {MOUNTPOINT} {REFERENCE}")

    def compare(self) -> None:
        """Compare all files with what they should hold, as the daemon has it, not the kernel's cache."""
        self.machine.run(
            "sync; echo 3 >/proc/sys/vm/drop_caches\n"
            f"python3 /opt/wear.py compare {MOUNTPOINT} {REFERENCE}"
        )

    def used_kib(self) -> int:
        """What the image takes of the file system that it is on."""
        words = self.machine.run(f"sync; du --block-size=1024 {self.image}").split()
        return int(words[0])


@pytest.fixture(autouse=True)
def nothing_stays_mounted(machine: Machine) -> Iterator[None]:
    yield
    machine.attempt(f"! mountpoint -q {MOUNTPOINT} || umount -l {MOUNTPOINT}")


def test_the_kernel_has_larger_pages_than_frames(machine: Machine) -> None:
    size = machine.run("python3 -c 'import mmap; print(mmap.PAGESIZE)'")
    assert int(size) == PAGE_BYTES


# Where holes are made: in the image, in the image on a disk, and in the memory beside it.
@pytest.mark.parametrize(
    ("directory", "arena"), [("/dev/shm", "image"), ("/srv", "image"), ("/srv", "memory")]
)
def test_files_that_are_worn_down_stay_whole_and_give_memory_back(
    machine: Machine, directory: str, arena: str
) -> None:
    worn = Worn(machine, f"{directory}/{arena}", arena)
    worn.mount()
    worn.wear("one")
    worn.compare()
    machine.run(f"pramfs save {MOUNTPOINT}")
    worn.wear("two")
    worn.compare()
    worn.umount()
    full_kib = worn.used_kib()
    worn.mount()
    worn.compare()
    machine.run(f"rm {MOUNTPOINT}/*")
    worn.umount()
    assert full_kib > 4 * EMPTY_KIB_MAX
    assert worn.used_kib() < EMPTY_KIB_MAX
    machine.run(f"rm {worn.image}")


def test_images_go_from_small_pages_to_large_ones_and_back(
    machine: Machine, exchange: Path, tmp_path: Path
) -> None:
    image, root, reference = tmp_path / "image", tmp_path / "mnt", tmp_path / "reference"
    root.mkdir()
    reference.mkdir()

    def mount() -> None:
        pramfs("mount", "-o", f"size={SIZE},arena=memory", image, root).succeeded()

    mount()
    wear.wear_all("one", str(root), str(reference))
    pramfs("umount", root).succeeded()
    exchange.write_bytes(image.read_bytes())
    size_bytes = image.stat().st_size

    worn = Worn(machine, "/dev/shm/other", "image")
    machine.run(f"head -c {size_bytes} /dev/vdd >{worn.image}")
    machine.run(f"python3 /opt/wear.py wear one {REFERENCE}")
    worn.mount()
    worn.compare()
    worn.wear("two")
    worn.umount()
    machine.run(f"cat {worn.image} >/dev/vdd && sync && rm {worn.image}")

    image.write_bytes(exchange.read_bytes()[:size_bytes])
    decode(image.read_bytes())
    pramfs("check", image).succeeded()
    wear.wear_all("two", str(reference))
    mount()
    assert wear.digests(root) == wear.digests(reference)
    pramfs("umount", root).succeeded()


def test_the_golden_image_is_read(machine: Machine, exchange: Path) -> None:
    golden = lzma.decompress(GOLDEN.read_bytes())
    exchange.write_bytes(golden)
    machine.run(f"head -c {len(golden)} /dev/vdd >/dev/shm/golden && pramfs check /dev/shm/golden")
    machine.run("rm /dev/shm/golden")
