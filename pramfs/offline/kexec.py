"""Start another kernel with kexec, without touching the memory of images, and tell it where they are.

kexec_file_load(2) puts the new kernel only into System RAM, so an image on a memory device is safe until the
new kernel runs; `memmap=` then keeps that kernel out of it, too. kexec_load(2) guarantees nothing: it goes by
the memory map of the firmware, in which the range is System RAM. It is never used.

An image that is a file on a tmpfs is in System RAM. The kernel carries it, see the package `liveupdate`;
here is only what the new kernel's command line says of it.
"""

import os
import re
import shlex
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pramfs.control import kept
from pramfs.errors import ImageInUse, PramError, SystemFault, UsageError
from pramfs.storage import superblock
from pramfs.storage.image import Image, open_image
from pramfs.system import luo, mountinfo, physmem
from pramfs.system.mountinfo import filesystem_type
from pramfs.system.physmem import LEGACY, SYSTEM_RAM, Resource, Span

COMMAND_LINE_MAX = 2047  # bytes: COMMAND_LINE_SIZE of x86, less the NUL

_BOOT = Path("/boot")
_BUSY = "a daemon that is still saving, or another program; try again when it has ended"
_DYNAMIC_DEBUG = Path("/proc/dynamic_debug/control")
_KERNEL_LOG = Path("/dev/kmsg")
_LOADED = Path("/sys/kernel/kexec_loaded")
# "Loading segment 0: …" up to Linux 6.7, "segment[0]: …" from 6.8 on
_SEGMENT = re.compile(r"\bsegment[ \[]\d+\]?: .*\bmem=0x([0-9a-f]+) memsz=0x([0-9a-f]+)")
# A word of a command line may contain blanks between double quotes.
_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')
# The words by which a boot loader describes the kernel that it loaded are wrong for the next one.
_OF_THE_LOADER = ("BOOT_IMAGE=", "initrd=")
_OF_IMAGES = ("pram=", kept.WORD)  # of those of this kexec only
_READ_HERE = ("memmap=", "kho=", "liveupdate=", *_OF_IMAGES, *_OF_THE_LOADER)


@dataclass(frozen=True, slots=True)
class Range:
    """The physical memory of an image on a device."""

    device: Path
    generation: int
    span: Span
    use: str  # in the words of /proc/iomem
    pfn: int  # of the super block

    def lines(self) -> Iterator[str]:
        """Yield what is to be known of it as lines of text."""
        yield f"image:    {self.device}, generation {self.generation}"
        yield f"memory:   {self.span} ({self.use})"


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a kexec."""

    ranges: Sequence[Range]
    carried: Sequence[Image]  # files on a tmpfs
    kernel: Path
    initrd: Path
    command_line: str

    @property
    def load(self) -> list[str]:
        """Return the command that loads the new kernel."""
        files = ["-l", str(self.kernel), f"--initrd={self.initrd}"]
        # With -d, Linux 6.8 and newer log the addresses of segments; older ones have dynamic debugging.
        return ["kexec", "-s", "-d", *files, f"--append={self.command_line}"]

    def lines(self) -> Iterator[str]:
        """Yield the plan as lines of text."""
        for range_ in self.ranges:
            yield from range_.lines()
        for image in self.carried:
            block = superblock.require(image)
            yield f"image:    {image.path}, generation {block.generation}"
            yield f"memory:   {block.frames_used << 2} KiB, carried by live update"
        yield f"kernel:   {self.kernel}"
        yield f"initrd:   {self.initrd}"
        yield f"command:  {shlex.join(self.load)}"


@contextmanager
def prepared(
    paths: Sequence[Path], kernel: Path | None, initrd: Path | None, append: str
) -> Iterator[Plan]:
    """Yield the plan for a kexec that preserves these images, which are locked meanwhile.

    Raises PramError for anything that would lose one: it is in use, unsaved, or not out of reach.
    """
    kernel, initrd = _chosen(kernel, initrd)
    kept.refuse_next_kernel()
    _refuse_repeated(paths)
    current = Path("/proc/cmdline").read_text(encoding="utf-8", errors="surrogateescape")
    ranges, carried = [], []
    with ExitStack() as images:
        for path in paths:
            if _is_on_tmpfs(path):
                luo.require()
                # Its name is needed in the new kernel, and by a keeper, which is in another directory.
                carried.append(images.enter_context(_claimed(Path(os.path.realpath(path)))))
                superblock.require(carried[-1])
            else:
                ranges.append(images.enter_context(_range_of(path)))
        line = next_command_line(current, append, ranges, [image.path for image in carried])
        yield Plan(ranges, carried, kernel, initrd, line)


def foresee(paths: Sequence[Path], kernel: Path | None, initrd: Path | None) -> None:
    """Raise PramError for what `prepared` would refuse, as far as that is known while these are mounted."""
    _chosen(kernel, initrd)
    kept.refuse_next_kernel()
    _refuse_repeated(paths)
    for path in paths:
        if _is_on_tmpfs(path):
            luo.require()
        else:
            use_of_range(physmem.read_iomem(), physmem.span_of_device(path))


def _chosen(kernel: Path | None, initrd: Path | None) -> tuple[Path, Path]:
    """Return the kernel and the initrd to start. Raises UsageError if they are not there, or without root."""
    if os.geteuid() != 0:
        raise UsageError("kexec: root is needed")
    kernel = kernel or _BOOT / f"vmlinuz-{os.uname().release}"
    initrd = initrd or initrd_of(kernel)
    for path, option in ((kernel, "--kernel"), (initrd, "--initrd")):
        if not path.is_file():
            raise UsageError(f"{path}: no such file; name another with {option}")
    return kernel, initrd


def load(plan: Plan, descriptors: Sequence[int] = ()) -> str:
    """Load the new kernel, check where it was put, and return that in words.

    The program that loads it has these `descriptors` open, too, also when this process is killed meanwhile.
    Raises PramError if it cannot be loaded. If it overlaps the image, or the kernel does not tell where it
    is, it is unloaded first.
    """
    with _loading_is_logged() as segments_of:
        try:
            _run(plan.load, descriptors)
            segments = segments_of()
            for range_ in plan.ranges:
                require_out_of_reach(segments, range_.span)
        except BaseException:
            # Also after an interrupt: an unchecked kernel must not be started later.
            unload()
            raise
    return ", ".join(str(segment) for segment in segments)


def start() -> None:
    """Start the loaded kernel, after a sync. Returns only by raising PramError."""
    _run(["kexec", "-e"])
    raise SystemFault("kexec -e came back")


# --- memory out of reach of the new kernel --------------------------------------------------------


def require_out_of_reach(segments: Sequence[Span], span: Span) -> None:
    """Raise PramError unless it is certain that no segment of the new kernel is in the range."""
    for segment in segments:
        if segment.overlaps(span):
            raise PramError(f"the new kernel would be put at {segment}, over the image: unloaded")
    if not segments:
        raise PramError("this kernel does not log where it puts the new one: unloaded")


def use_of_range(resources: Sequence[Resource], span: Span) -> str:
    """Return the use of the range by this kernel. Raises PramError if that is ordinary memory."""
    for resource in resources:
        if resource.name.startswith(SYSTEM_RAM) and resource.span.overlaps(span):
            raise PramError(f"{span} is {SYSTEM_RAM}: the new kernel would overwrite the image")
    for resource in resources:
        if resource.name.startswith("Persistent Memory") and resource.span.contains(span):
            return resource.name
    raise PramError(f"{span} is not persistent memory, says /proc/iomem")


def next_command_line(
    current: str, append: str, ranges: Sequence[Range], carried: Sequence[Path]
) -> str:
    """Return the command line of the new kernel: the present one, `append`, and the places of the images.

    It has `memmap=` for each range once if that parameter made the range, and `pram=` if there is one range.
    If images are carried, it has the words that enable live update, once, and the images' paths. Raises
    PramError if another `memmap=` conflicts with a range, UsageError if the line gets too long.
    """
    ours, rest = _split(current)
    added, added_rest = _split(append)
    ours = [word for word in ours if word not in added and not word.startswith(_OF_THE_LOADER)]
    words = [word for word in (*ours, *added) if not word.startswith(_OF_IMAGES)]
    for range_ in ranges:
        words = physmem.without_reserved(words, range_.span)
    words += [range_.span.memmap for range_ in ranges if range_.use == LEGACY]
    if len(ranges) == 1:
        words.append(f"pram={ranges[0].pfn:x}")
    if carried:
        names = tuple(word.partition("=")[0] + "=" for word in luo.WORDS)
        words = [word for word in words if not word.startswith(names)]
        words += [*luo.WORDS, *kept.words_for(Path(os.path.realpath(path)) for path in carried)]
    of_init = added_rest or rest
    line = " ".join([*words, *(["--", *of_init] if of_init else [])])
    if len(line.encode(errors="surrogateescape")) > COMMAND_LINE_MAX:
        raise UsageError(f"the new kernel's command line is over {COMMAND_LINE_MAX} bytes: {line}")
    return line


def _split(line: str) -> tuple[list[str], list[str]]:
    """Return the words for the kernel, and those after `--`, which are for init. Raises UsageError.

    As in the kernel, quotes around a word or its value are removed from the words that matter here.
    """
    if line.count('"') % 2:
        raise UsageError(f"a double quote without another, which would hide what follows: {line}")
    words = [_unquoted(word) for word in _WORD.findall(line)]
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _unquoted(word: str) -> str:
    plain = word.replace('"', "")
    return plain if plain == "--" or plain.startswith(_READ_HERE) else word


# --- the image, the kernel, their tools -----------------------------------------------------------


def initrd_of(kernel: Path) -> Path:
    """Return the initrd that Debian installs beside a kernel. Raises UsageError for other names."""
    if not kernel.name.startswith("vmlinuz"):
        raise UsageError(f"{kernel}: not called vmlinuz-VERSION; name its initrd with --initrd")
    return kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img", 1))


def _is_on_tmpfs(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and filesystem_type(status.st_dev) == "tmpfs"


def _refuse_repeated(paths: Sequence[Path]) -> None:
    """Raise UsageError if two of these are the same image."""
    for number, path in enumerate(paths):
        if any(
            path.exists() and other.exists() and path.samefile(other) for other in paths[:number]
        ):
            raise UsageError(f"{path}: named twice")


@contextmanager
def _range_of(device: Path) -> Iterator[Range]:
    """Yield the range of the image on a device, which is locked meanwhile."""
    span = physmem.span_of_device(device)
    use = use_of_range(physmem.read_iomem(), span)
    with _claimed(device) as image:
        block = superblock.require(image)
        image.sync()
        yield Range(device, block.generation, span, use, block.pfn)


@contextmanager
def _claimed(device: Path) -> Iterator[Image]:
    """Yield the image on `device`, locked. Raises ImageInUse if it is mounted or being saved."""
    for mount in mountinfo.pramfs_mounts():
        if Path(mount.image).exists() and Path(mount.image).samefile(device):
            place = shlex.quote(str(mount.mountpoint))
            raise ImageInUse(device, f"the mount at {place}; first: pramfs umount {place}")
    try:
        image = open_image(device, writable=True)
    except ImageInUse as exc:
        raise ImageInUse(device, _BUSY) from exc
    with image:
        if not image.is_block_device and not image.try_lock():
            raise ImageInUse(device, _BUSY)
        yield image


@contextmanager
def _loading_is_logged() -> Iterator["_SegmentReader"]:
    """Let the kernel log where it loads the next one, if it can; yield the reader of that log."""
    site = "file kernel/kexec_file.c"
    possible = _DYNAMIC_DEBUG.exists()
    if possible:
        _DYNAMIC_DEBUG.write_text(f"{site} +p")
    log = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.lseek(log, 0, os.SEEK_END)
        yield _SegmentReader(log)
    finally:
        os.close(log)
        if possible:
            _DYNAMIC_DEBUG.write_text(f"{site} -p")


class _SegmentReader:
    """Reads the places of segments from the kernel log, from its end at the time of opening."""

    def __init__(self, log: int) -> None:
        self._log = log

    def __call__(self) -> list[Span]:
        return list(parse_segments(self._records()))

    def _records(self) -> Iterator[str]:
        while True:
            try:
                record = os.read(self._log, 1 << 16)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # records were overwritten before they were read: continue with the next
            if not record:
                return  # not the log: containers have /dev/null there
            yield record.decode(errors="replace")


def parse_segments(records: Iterable[str]) -> Iterator[Span]:
    """Yield the places of the segments of a loaded kernel, from the log records of loading it."""
    for record in records:
        match = _SEGMENT.search(record)
        if match is not None:
            start, size = int(match[1], 16), int(match[2], 16)
            yield Span(start, start + size)


def unload() -> None:
    """Unload the loaded kernel. Raises PramError if that fails."""
    if _LOADED.exists() and _LOADED.read_text(encoding="ascii").strip() != "0":
        _run(["kexec", "-s", "-u"])


def _run(command: Sequence[str], descriptors: Sequence[int] = ()) -> None:
    try:
        result = subprocess.run(
            command, check=False, capture_output=True, text=True, pass_fds=descriptors
        )
    except OSError as exc:
        raise SystemFault(f"{command[0]}: {exc.strerror}; install kexec-tools") from exc
    if result.returncode:
        words = (result.stderr or result.stdout).strip().splitlines()
        why = words[-1] if words else f"exited with {result.returncode}"
        raise PramError(f"{command[0]} failed: {why}")
