"""The parts of `pramfs kexec` that start nothing: what /proc/iomem says, and the next command line.

The samples are recorded: from a guest booted with `memmap=192M!1G`, and from its kernel's log.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from pramfs import kexec, physmem
from pramfs.errors import ImageInUse, NoPhysicalRange, PramError, UsageError
from pramfs.physmem import LEGACY, Span

IOMEM = """\
00000000-00000fff : Reserved
00001000-0009fbff : System RAM
000c0000-000c05ff : Video ROM
00100000-3fffffff : System RAM
  06400000-07201d31 : Kernel code
40000000-4bffffff : Persistent Memory (legacy)
  40000000-4bffffff : namespace0.0
4c000000-5ffd6fff : System RAM
60000000-febfffff : PCI Bus 0000:00
100000000-13fffffff : Persistent Memory
140000000-17fffffff : System RAM
"""
UNPRIVILEGED_IOMEM = "00000000-00000000 : Reserved\n00000000-00000000 : System RAM\n"

KERNEL_LOG = """\
7,389,48270138,-;kexec-bzImage64: Loaded purgatory at 0x9a000
7,395,48285812,-;kexec_file: Loading segment 0: buf=0x00000000c9171e51 mem=0x9a000 memsz=0x5000
7,396,48286125,-;kexec_file: Loading segment 2: buf=0x0000000094fd3d13 mem=0x3c000000 memsz=0x3398000
"""

RANGE = Span(1 << 30, (1 << 30) + (192 << 20))
RESOURCES = list(physmem.parse_iomem(IOMEM))


def next_line(current: str, append: str = "", use: str = LEGACY) -> str:
    return kexec.next_command_line(current, append, RANGE, use, 0x1000)


# --- where the device lies ------------------------------------------------------------------------


def test_a_range_kept_out_of_the_kernel_is_legacy_persistent_memory() -> None:
    assert kexec.use_of_range(RESOURCES, RANGE) == LEGACY


def test_an_nvdimm_is_known_as_one() -> None:
    span = Span(0x100000000, 0x140000000)
    assert kexec.use_of_range(RESOURCES, span) == "Persistent Memory"


@pytest.mark.parametrize(
    "span",
    [
        pytest.param(Span(1 << 20, 2 << 20), id="within"),
        pytest.param(Span(RANGE.start, RANGE.end + 1), id="reaching_into_it"),
        pytest.param(Span(RANGE.start - 1, RANGE.end), id="starting_in_it"),
    ],
)
def test_a_range_that_the_new_kernel_would_overwrite_is_refused(span: Span) -> None:
    with pytest.raises(PramError, match="is System RAM: the new kernel would overwrite the image"):
        kexec.use_of_range(RESOURCES, span)


def test_a_range_that_is_neither_is_refused() -> None:
    with pytest.raises(PramError, match="is not persistent memory"):
        kexec.use_of_range(RESOURCES, Span(0x60000000, 0x60001000))


def test_addresses_that_the_kernel_hides_are_not_taken_for_addresses(tmp_path: Path) -> None:
    (tmp_path / "iomem").write_text(UNPRIVILEGED_IOMEM)
    with pytest.raises(PramError, match="root is needed"):
        physmem.read_iomem(tmp_path / "iomem")


def make_sysfs(sys: Path, device: Path, inside: str) -> Path:
    """A sysfs in which the block device's number leads to a folder of that path."""
    folder = sys / inside
    folder.mkdir(parents=True)
    number = device.stat().st_rdev
    (sys / "dev/block").mkdir(parents=True)
    (sys / f"dev/block/{os.major(number)}:{os.minor(number)}").symlink_to(folder)
    return folder


@pytest.fixture
def device() -> Path:
    return Path("/dev/null")  # any node with a number


def test_the_range_of_a_pmem_device_is_that_of_its_region(tmp_path: Path, device: Path) -> None:
    region = "devices/platform/e820_pmem/ndbus0/region0"
    make_sysfs(tmp_path, device, f"{region}/namespace0.0/block/pmem0")
    (tmp_path / region / "resource").write_text("0x40000000\n")
    (tmp_path / region / "size").write_text("201326592\n")
    assert physmem.span_of_device(device, tmp_path) == RANGE


@pytest.mark.parametrize("place", ["devices/virtual/block/ram0", "devices/ndbus0/region0/pmem0"])
def test_a_device_without_a_range_is_refused(tmp_path: Path, device: Path, place: str) -> None:
    make_sysfs(tmp_path, device, place)
    with pytest.raises(NoPhysicalRange, match="boot with memmap=SIZE!START"):
        physmem.span_of_device(device, tmp_path)


def test_the_places_of_the_segments_are_read_from_the_kernels_log() -> None:
    assert list(kexec.parse_segments(KERNEL_LOG.splitlines())) == [
        Span(0x9A000, 0x9F000),
        Span(0x3C000000, 0x3F398000),
    ]


# --- the command line of the new kernel -----------------------------------------------------------


def test_the_range_is_passed_on_exactly_once() -> None:
    line = next_line("console=ttyS0 memmap=192M!1G quiet")
    assert line == "console=ttyS0 quiet memmap=192M!1G pram=1000"
    assert next_line(line) == line


@pytest.mark.parametrize(
    "spelling",
    [
        "memmap=192M!1G",
        "memmap=0xc000000!0x40000000",
        "memmap=196608K!1024M",
        "memmap=96M!1G memmap=96M!1120M",
        "memmap=96M!1G,96M!1120M",
        "",
    ],
)
def test_however_it_was_written(spelling: str) -> None:
    assert next_line(f"{spelling} quiet") == "quiet memmap=192M!1G pram=1000"


def test_other_ranges_stay_as_they_are() -> None:
    line = next_line("memmap=64M$512M,192M!1G memmap=1G!8G")
    assert line == "memmap=64M$512M memmap=1G!8G memmap=192M!1G pram=1000"


@pytest.mark.parametrize("part", ["192M!1100M", "4G!0", "192M@1G", "64M$1G", "4K#1G", "1G%1G-1+2"])
@pytest.mark.parametrize("where", ["current", "append"])
def test_a_memmap_at_odds_with_the_range_is_refused(part: str, where: str) -> None:
    with pytest.raises(PramError, match="at odds with the range"):
        next_line(**{"current": "quiet", where: f"memmap={part}"})


def test_memory_that_the_firmware_calls_persistent_needs_no_memmap() -> None:
    assert next_line("quiet", use="Persistent Memory") == "quiet pram=1000"


def test_an_earlier_super_block_is_replaced() -> None:
    assert next_line("pram=2 memmap=192M!1G pram=3") == "memmap=192M!1G pram=1000"


def test_what_the_boot_loader_said_is_left_out() -> None:
    line = next_line("BOOT_IMAGE=/boot/vmlinuz-6.1 root=/dev/sda1 initrd=\\initrd.img ro")
    assert line == "root=/dev/sda1 ro memmap=192M!1G pram=1000"


def test_appended_words_come_last_and_once() -> None:
    line = next_line("quiet loglevel=4", append="quiet loglevel=7")
    assert line == "loglevel=4 quiet loglevel=7 memmap=192M!1G pram=1000"


def test_words_between_quotes_stay_together() -> None:
    line = next_line('dyndbg="file a.c +p; file b.c +p" quiet')
    assert line == 'dyndbg="file a.c +p; file b.c +p" quiet memmap=192M!1G pram=1000'


def test_words_for_init_stay_behind_the_dashes() -> None:
    line = next_line("quiet -- single", append="loglevel=7")
    assert line == "quiet loglevel=7 memmap=192M!1G pram=1000 -- single"


def test_a_line_that_the_kernel_would_cut_off_is_refused() -> None:
    assert next_line("x" * 2000)
    with pytest.raises(UsageError, match="over 2047 bytes"):
        next_line("x" * 2040)


# --- who uses the image ---------------------------------------------------------------------------


def test_a_mounted_device_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "pmem0"
    device.touch()
    mount = SimpleNamespace(mountpoint=Path("/mnt/a b"), image=str(device))
    monkeypatch.setattr("pramfs.kexec.physmem.span_of_device", lambda device: RANGE)
    monkeypatch.setattr("pramfs.kexec.physmem.read_iomem", lambda: RESOURCES)
    monkeypatch.setattr("pramfs.kexec.mounts.pramfs_mounts", lambda: [mount])
    with (
        pytest.raises(ImageInUse, match="first: pramfs umount '/mnt/a b'"),
        kexec.prepared(device, Path("/proc/version"), Path("/proc/version"), ""),
    ):
        pytest.fail("it was prepared")
