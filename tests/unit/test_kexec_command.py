"""The parts of `pramfs kexec` that start nothing: what /proc/iomem says, and the next command line.

The samples are recorded: from a guest booted with `memmap=192M!1G`, and from its kernel's log.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from pramfs.control import kept
from pramfs.control.kept import KeptImage, State
from pramfs.errors import (
    HandedOver,
    ImageInUse,
    KeptElsewhere,
    NoPhysicalRange,
    NotClaimed,
    PramError,
    SystemFault,
    UsageError,
)
from pramfs.offline import kexec
from pramfs.system import physmem
from pramfs.system.memory_values import memparse
from pramfs.system.physmem import LEGACY, Span

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

# Linux 6.1, with dynamic debugging
KERNEL_LOG = """\
7,389,48270138,-;kexec-bzImage64: Loaded purgatory at 0x9a000
7,395,48285812,-;kexec_file: Loading segment 0: buf=0x00000000c9171e51 mem=0x9a000 memsz=0x5000
7,396,48286125,-;kexec_file: Loading segment 2: buf=0x0000000094fd3d13 mem=0x3c000000 memsz=0x3398000
"""
# Linux 6.8 and newer, after kexec -d; made from its sources
NEWER_KERNEL_LOG = """\
6,389,48270138,-;kexec_file: kernel: 00000000f7d2b6ab kernel_size: 0x7dd7c0
6,395,48285812,-;kexec_file: nr_segments = 2
6,396,48286125,-;kexec_file: segment[0]: buf=0x0000000c9171e51 bufsz=0x5000 mem=0x9a000 memsz=0x5000
6,397,48286126,-;kexec_file: segment[1]: buf=0x000000094fd3d13 bufsz=0x70 mem=0x3c000000 memsz=0x3398000
"""

RANGE = Span(1 << 30, (1 << 30) + (192 << 20))
RESOURCES = list(physmem.parse_iomem(IOMEM))


def next_line(current: str, append: str = "", use: str = LEGACY) -> str:
    range_ = kexec.Range(Path("/dev/pmem0"), 1, RANGE, use, 0x1000)
    return kexec.next_command_line(current, append, [range_], [])


# --- images that are carried ----------------------------------------------------------------------


def carrying_line(current: str, *paths: str) -> str:
    return kexec.next_command_line(current, "", [], [Path(path) for path in paths])


def test_live_update_is_enabled_once_and_the_images_are_named() -> None:
    line = carrying_line("quiet kho=on liveupdate=on", "/one", "/two words")
    assert line == "quiet kho=on liveupdate=on pramfs.claim=/one pramfs.claim=/two%20words"


@pytest.mark.parametrize("before", ["kho=off", "liveupdate=0 kho=on", "kho=on kho=off", ""])
def test_live_update_is_enabled_whatever_was_said_before(before: str) -> None:
    assert carrying_line(before, "/one").split() == ["kho=on", "liveupdate=on", "pramfs.claim=/one"]


def test_what_the_last_kexec_has_carried_is_not_named_again() -> None:
    assert "/old" not in carrying_line("kho=on liveupdate=on pramfs.claim=/old", "/new")
    assert "/old" not in next_line("quiet pramfs.claim=/old")


def test_devices_and_carried_images_go_together() -> None:
    ranges = [
        kexec.Range(Path("/dev/pmem0"), 1, RANGE, LEGACY, 0x1000),
        kexec.Range(Path("/dev/pmem1"), 1, Span(2 << 30, 3 << 30), LEGACY, 0x1000),
    ]
    line = kexec.next_command_line("memmap=192M!1G pram=1000", "", ranges, [Path("/one")])
    # Of several devices none has the place that pram= would tell.
    assert line == "memmap=192M!1G memmap=1G!2G kho=on liveupdate=on pramfs.claim=/one"


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


def test_a_range_of_which_no_line_tells_is_refused() -> None:
    with pytest.raises(PramError, match="is not persistent memory"):
        kexec.use_of_range([], RANGE)


@pytest.mark.parametrize("at", [RANGE.start, RANGE.start + 0x123, RANGE.end - 1])
def test_a_single_byte_of_system_ram_in_the_range_is_enough_to_refuse(at: int) -> None:
    hotplugged = physmem.Resource(Span(at, at + 1), "System RAM (kmem)")
    with pytest.raises(PramError, match="the new kernel would overwrite the image"):
        kexec.use_of_range([*RESOURCES, hotplugged], RANGE)


def test_a_range_is_not_pieced_together_from_several() -> None:
    middle = RANGE.start + (96 << 20)
    halves = [physmem.Resource(Span(RANGE.start, middle), LEGACY)]
    halves += [physmem.Resource(Span(middle, RANGE.end), LEGACY)]
    with pytest.raises(PramError, match="is not persistent memory"):
        kexec.use_of_range(halves, RANGE)
    assert kexec.use_of_range(halves, halves[1].span) == LEGACY


def test_what_is_no_line_of_iomem_is_passed_over() -> None:
    text = "\n".join(["", "nonsense", "40000000 : half", "-4bffffff : end", "G-H : letters", IOMEM])
    assert list(physmem.parse_iomem(text)) == RESOURCES


@pytest.mark.parametrize("text", ["", "nonsense\n", UNPRIVILEGED_IOMEM])
def test_an_iomem_without_addresses_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "iomem").write_text(text)
    with pytest.raises(PramError, match="shows no addresses: root is needed"):
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


def test_a_device_that_is_not_there_is_refused_with_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(NoPhysicalRange, match=r"no such device.*boot with memmap=SIZE!START"):
        physmem.span_of_device(tmp_path / "pmem0", tmp_path)


@pytest.mark.parametrize(
    ("resource", "size"),
    [
        pytest.param("0x0", "0", id="hidden_from_all_but_root"),
        pytest.param("0x0", "201326592", id="no_start"),
        pytest.param("0x40000000", "0", id="no_size"),
        pytest.param("0x40000000", "-4096", id="negative"),
        pytest.param("0xffffffffffffffff", "201326592", id="unknown_start"),
        pytest.param("0x40000000", str(1 << 60), id="beyond_the_address_space"),
        pytest.param("", "", id="empty"),
        pytest.param("somewhere", "201326592", id="words"),
    ],
)
def test_a_region_without_a_credible_range_is_refused(
    tmp_path: Path, device: Path, resource: str, size: str
) -> None:
    folder = make_sysfs(tmp_path, device, "devices/ndbus0/region0")
    (folder / "resource").write_text(f"{resource}\n")
    (folder / "size").write_text(f"{size}\n")
    with pytest.raises(NoPhysicalRange, match="boot with memmap=SIZE!START"):
        physmem.span_of_device(device, tmp_path)


def test_each_of_several_regions_has_its_own_range(tmp_path: Path, device: Path) -> None:
    for number, start in enumerate(("0x40000000", "0x80000000")):
        folder = tmp_path / f"devices/ndbus0/region{number}"
        (folder / "namespace0.0").mkdir(parents=True)
        (folder / "resource").write_text(start)
        (folder / "size").write_text("4096")
    make_sysfs(tmp_path, device, "devices/ndbus0/region1/namespace0.0/block/pmem1/pmem1p1")
    assert physmem.span_of_device(device, tmp_path) == Span(0x80000000, 0x80001000)


@pytest.mark.parametrize(
    "span", [Span(0x40000200, 0x40000A00), Span(0x40000001, 0x4BFFFFFF), Span(1 << 51, 1 << 52)]
)
def test_a_range_off_page_boundaries_is_passed_on_to_the_byte(span: Span) -> None:
    (part,) = physmem.without_reserved(["quiet"], span)
    assert part == "quiet"
    size, start = span.memmap.removeprefix("memmap=").split("!")
    assert Span(memparse(start), memparse(start) + memparse(size)) == span
    assert physmem.without_reserved([span.memmap], span) == []
    with pytest.raises(PramError, match="at odds"):
        physmem.without_reserved([span.memmap], Span(span.start + 1, span.end))


# --- where the new kernel lies --------------------------------------------------------------------

SEGMENTS = [Span(0x9A000, 0x9F000), Span(0x3C000000, 0x3F398000)]


@pytest.mark.parametrize("log", [KERNEL_LOG, NEWER_KERNEL_LOG])
def test_the_places_of_the_segments_are_read_from_the_kernels_log(log: str) -> None:
    assert list(kexec.parse_segments(log.splitlines())) == SEGMENTS


class Kernel:
    """Stands for kexec(8) and the kernel's log; keeps what it was asked to do."""

    def __init__(self, records: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.commands: list[list[str]] = []
        self.error: BaseException | None = None  # of loading, which comes too late to stop it
        self._records = records
        self._loaded = tmp_path / "kexec_loaded"
        self._loaded.write_text("0\n")
        self._log = tmp_path / "kmsg"
        self._log.write_text("6,1,1,-;kexec_file: segment[0]: buf=0x0 mem=0x40000000 memsz=0x1\n")
        monkeypatch.setattr("pramfs.offline.kexec._KERNEL_LOG", self._log)
        monkeypatch.setattr("pramfs.offline.kexec._DYNAMIC_DEBUG", tmp_path / "none")
        monkeypatch.setattr("pramfs.offline.kexec._LOADED", self._loaded)
        monkeypatch.setattr("pramfs.offline.kexec._run", self._run)

    @property
    def is_loaded(self) -> bool:
        return self._loaded.read_text() == "1\n"

    def _run(self, command: list[str], descriptors: Sequence[int] = ()) -> None:
        self.commands.append(command[1:4])
        self._loaded.write_text("0\n" if "-u" in command else "1\n")
        with self._log.open("a") as log:
            log.write(self._records)
        if "-l" in command and self.error is not None:
            raise self.error


def make_plan() -> kexec.Plan:
    kernel, initrd = Path("/boot/vmlinuz-1"), Path("/boot/initrd.img-1")
    range_ = kexec.Range(Path("/dev/pmem0"), 1, RANGE, LEGACY, 0x1000)
    return kexec.Plan([range_], [], kernel, initrd, "quiet")


def test_a_kernel_that_lies_elsewhere_stays_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = Kernel(NEWER_KERNEL_LOG.splitlines()[2], monkeypatch, tmp_path)
    assert kexec.load(make_plan()) == "9a000-9efff"
    assert kernel.commands == [["-s", "-d", "-l"]]
    assert kernel.is_loaded


@pytest.mark.parametrize(
    ("record", "why"),
    [
        pytest.param(
            "segment[0]: mem=0x3ffff000 memsz=0x1001",
            "put at 3ffff000-40000000, over the image",
            id="reaching_into_it",
        ),
        pytest.param("segment[0]: mem=0x4bffffff memsz=0x1000", "over the image", id="its_end"),
        pytest.param("segment[0]: mem=0x41000000 memsz=0x1000", "over the image", id="within"),
        pytest.param("segment[0]: mem=0x100000 memsz=0x7fff0000", "over the image", id="around"),
        pytest.param("", "does not log where it puts the new one", id="no_word_of_it"),
    ],
)
def test_a_kernel_that_may_lie_over_the_image_is_unloaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: str, why: str
) -> None:
    kernel = Kernel(record, monkeypatch, tmp_path)
    with pytest.raises(PramError, match=f"{why}.*: unloaded"):
        kexec.load(make_plan())
    assert kernel.commands == [["-s", "-d", "-l"], ["-s", "-u"]]
    assert not kernel.is_loaded


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(), PramError("kexec failed")])
def test_a_kernel_that_nobody_has_looked_at_does_not_stay_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    kernel = Kernel(NEWER_KERNEL_LOG.splitlines()[2], monkeypatch, tmp_path)
    kernel.error = error
    with pytest.raises(type(error)):
        kexec.load(make_plan())
    assert not kernel.is_loaded


def test_a_machine_without_kexec_tools_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SystemFault, match="install kexec-tools"):
        kexec.start()


def test_what_kexec_says_when_it_fails_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "kexec"
    tool.write_text(
        "#!/bin/sh\necho kexec_file_load failed: Function not implemented >&2; exit 255"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(PramError, match="failed: kexec_file_load failed: Function not implemented"):
        kexec.start()


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
        '"memmap=192M!1G"',
        'memmap="192M!1G"',
        "",
    ],
)
def test_however_it_was_written(spelling: str) -> None:
    assert next_line(f"{spelling} quiet") == "quiet memmap=192M!1G pram=1000"


def test_other_ranges_stay_as_they_are() -> None:
    line = next_line("memmap=64M$512M,192M!1G memmap=1G!8G")
    assert line == "memmap=64M$512M memmap=1G!8G memmap=192M!1G pram=1000"


@pytest.mark.parametrize(
    "part", ["192M!1100M", "4G!0", '"4G!0"', "192M@1G", "64M$1G", "4K#1G", "1G%1G-1+2"]
)
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


@pytest.mark.parametrize("where", ["current", "append"])
def test_a_quote_that_would_hide_where_the_image_is_from_the_kernel_is_refused(where: str) -> None:
    with pytest.raises(UsageError, match="a double quote without another"):
        next_line(**{"current": "quiet", where: 'dyndbg="file a.c +p'})


@pytest.mark.parametrize("dashes", ["--", '"--"'])
def test_words_for_init_are_told_from_others_by_the_dashes(dashes: str) -> None:
    line = next_line(f"quiet {dashes} memmap=1G!1G")
    assert line == "quiet memmap=192M!1G pram=1000 -- memmap=1G!1G"


def test_words_for_init_stay_behind_the_dashes() -> None:
    line = next_line("quiet -- single", append="loglevel=7")
    assert line == "quiet loglevel=7 memmap=192M!1G pram=1000 -- single"


def test_a_line_that_the_kernel_would_cut_off_is_refused() -> None:
    assert next_line("x" * 2000)
    with pytest.raises(UsageError, match="over 2047 bytes"):
        next_line("x" * 2040)


# --- the files of the new kernel ------------------------------------------------------------------


def test_the_initrd_is_the_one_that_debian_puts_beside_the_kernel() -> None:
    assert kexec.initrd_of(Path("/boot/vmlinuz-6.1")) == Path("/boot/initrd.img-6.1")
    assert kexec.initrd_of(Path("/vmlinuz")) == Path("/initrd.img")


def test_no_initrd_is_guessed_for_a_kernel_of_another_name() -> None:
    with pytest.raises(UsageError, match="name its initrd with --initrd"):
        kexec.initrd_of(Path("/tmp/bzImage"))


@pytest.fixture
def of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine of a root with a device that has its range."""
    monkeypatch.setattr("pramfs.offline.kexec.os.geteuid", lambda: 0)
    monkeypatch.setattr("pramfs.offline.kexec.physmem.span_of_device", lambda device: RANGE)
    monkeypatch.setattr("pramfs.offline.kexec.physmem.read_iomem", lambda: RESOURCES)


def refuse_to_prepare(device: Path, kernel: Path, initrd: Path | None) -> None:
    with kexec.prepared([device], kernel, initrd, ""):
        pytest.fail("it was prepared")


@pytest.mark.usefixtures("of_root")
def test_a_kernel_or_initrd_that_is_not_there_is_refused_with_its_option(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz-1"
    with pytest.raises(UsageError, match="vmlinuz-1: no such file; name another with --kernel"):
        refuse_to_prepare(tmp_path / "pmem0", kernel, None)
    kernel.touch()
    with pytest.raises(UsageError, match=r"initrd.img-1: no such file; name another with --initrd"):
        refuse_to_prepare(tmp_path / "pmem0", kernel, None)


def test_only_root_may_start_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pramfs.offline.kexec.os.geteuid", lambda: 1000)
    with pytest.raises(UsageError, match="root is needed"):
        refuse_to_prepare(Path("/dev/pmem0"), Path("/boot/vmlinuz-1"), None)


@pytest.mark.usefixtures("of_root")
@pytest.mark.parametrize("path", ["pmem0", "link"])
def test_an_image_that_is_named_twice_is_refused(tmp_path: Path, path: str) -> None:
    device = tmp_path / "pmem0"
    device.touch()
    (tmp_path / "link").symlink_to(device)
    kernel = Path("/proc/version")
    with pytest.raises(UsageError, match=f"{path}: named twice"):  # noqa: SIM117
        with kexec.prepared([device, tmp_path / path], kernel, kernel, ""):
            pytest.fail("it was prepared")


# --- images that are on their way between kernels -------------------------------------------------


@pytest.mark.usefixtures("of_root")
@pytest.mark.parametrize("which", ["prepared", "foresee"])
def test_a_kexec_that_would_lose_an_image_of_the_last_kernel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Also one of an image on a device only."""
    monkeypatch.setattr(kept, "DIRECTORY", tmp_path / "kept")
    monkeypatch.setattr(kept, "_COMMAND_LINE", tmp_path / "cmdline")
    (tmp_path / "cmdline").write_text("quiet pramfs.claim=/dev/shm/one")
    kernel = Path("/proc/version")

    def ask() -> None:
        if which == "foresee":
            kexec.foresee([tmp_path / "pmem0"], kernel, kernel)
        else:
            refuse_to_prepare(tmp_path / "pmem0", kernel, kernel)

    with pytest.raises(NotClaimed, match=r"/dev/shm/one: .*first: pramfs claim"):
        ask()
    lock = kept.try_to_lock()
    assert lock is not None
    images = (KeptImage("/dev/shm/one", 1, "no room"),)
    kept.write_state(State(os.getpid(), outgoing=False, images=images))
    with pytest.raises(KeptElsewhere, match=r"/dev/shm/one: .*no room; see: pramfs claim --list"):
        ask()
    kept.write_state(State(os.getpid(), outgoing=True, images=images))
    with pytest.raises(HandedOver, match=r"/dev/shm/one: .*pramfs kexec --undo"):
        ask()
    os.close(lock)


# --- who uses the image ---------------------------------------------------------------------------


@pytest.mark.usefixtures("of_root")
def test_a_mounted_device_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "pmem0"
    device.touch()
    mount = SimpleNamespace(mountpoint=Path("/mnt/a b"), image=str(device))
    monkeypatch.setattr("pramfs.offline.kexec.mountinfo.pramfs_mounts", lambda: [mount])
    with pytest.raises(ImageInUse, match="first: pramfs umount '/mnt/a b'"):
        refuse_to_prepare(device, Path("/proc/version"), Path("/proc/version"))
