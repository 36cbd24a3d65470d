"""Start another kernel with kexec, leaving the memory of an image alone and passing its place on.

kexec_file_load(2) puts the new kernel into System RAM only, so an image outside of it is safe until the
new kernel runs; `memmap=` then keeps that one out of it, too. kexec_load(2) gives no such promise: it goes
by the firmware's memory map, which calls the range System RAM. It is never used.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pramfs.errors import ImageInUse, PramError, SystemFault, UsageError
from pramfs.storage import superblock
from pramfs.storage.image import Image, open_image
from pramfs.system import mountinfo, physmem
from pramfs.system.physmem import LEGACY, SYSTEM_RAM, Resource, Span

COMMAND_LINE_MAX = 2047  # bytes: COMMAND_LINE_SIZE of x86, less the NUL

_BOOT = Path("/boot")
_DYNAMIC_DEBUG = Path("/proc/dynamic_debug/control")
_KERNEL_LOG = Path("/dev/kmsg")
_LOADED = Path("/sys/kernel/kexec_loaded")
# "Loading segment 0: …" up to Linux 6.7, "segment[0]: …" from 6.8 on
_SEGMENT = re.compile(r"\bsegment[ \[]\d+\]?: .*\bmem=0x([0-9a-f]+) memsz=0x([0-9a-f]+)")
# A word of a command line may hold blanks between double quotes.
_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')
# What a boot loader says of the kernel that it loaded is not true of the next one.
_OF_THE_LOADER = ("BOOT_IMAGE=", "initrd=")
_READ_HERE = ("memmap=", "pram=", *_OF_THE_LOADER)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to happen."""

    device: Path
    generation: int
    span: Span
    use: str  # what /proc/iomem calls the range
    kernel: Path
    initrd: Path
    command_line: str

    @property
    def load(self) -> list[str]:
        """The command that loads the new kernel."""
        files = ["-l", str(self.kernel), f"--initrd={self.initrd}"]
        # -d has Linux 6.8 and newer log where the segments lie; older ones have dynamic debugging.
        return ["kexec", "-s", "-d", *files, f"--append={self.command_line}"]

    def lines(self) -> Iterator[str]:
        """The plan in words, for a person."""
        yield f"image:    {self.device}, generation {self.generation}"
        yield f"memory:   {self.span} ({self.use})"
        yield f"kernel:   {self.kernel}"
        yield f"initrd:   {self.initrd}"
        yield f"command:  {shlex.join(self.load)}"


@contextmanager
def prepared(device: Path, kernel: Path | None, initrd: Path | None, append: str) -> Iterator[Plan]:
    """The plan for a kexec that keeps the image on `device`, which nobody can mount meanwhile.

    Raises PramError for whatever would lose the image: it is in use or unsaved, or not out of reach.
    """
    if os.geteuid() != 0:
        raise UsageError("kexec: root is needed")
    span = physmem.span_of_device(device)
    use = use_of_range(physmem.read_iomem(), span)
    kernel = kernel or _BOOT / f"vmlinuz-{os.uname().release}"
    initrd = initrd or initrd_of(kernel)
    for path, option in ((kernel, "--kernel"), (initrd, "--initrd")):
        if not path.is_file():
            raise UsageError(f"{path}: no such file; name another with {option}")
    current = Path("/proc/cmdline").read_text(encoding="utf-8", errors="surrogateescape")
    with _claimed(device) as image:
        block = superblock.require(image)
        image.sync()
        line = next_command_line(current, append, span, use, block.pfn)
        yield Plan(device, block.generation, span, use, kernel, initrd, line)


def load(plan: Plan) -> str:
    """Load the new kernel, and read back where it lies; returns that in words.

    Raises PramError when it cannot be loaded. When it lies in the way of the image, or the kernel does
    not tell where it lies, it is unloaded before that.
    """
    with _loading_is_logged() as segments_of:
        try:
            _run(plan.load)
            segments = segments_of()
            require_out_of_reach(segments, plan.span)
        except (
            BaseException
        ):  # an interrupt, too: what nobody has looked at must not be started later
            _unload()
            raise
    return ", ".join(str(segment) for segment in segments)


def start() -> None:
    """Start the loaded kernel, after a sync. Returns only by raising PramError."""
    _run(["kexec", "-e"])
    raise SystemFault("kexec -e came back")


# --- what is out of reach of the new kernel -------------------------------------------------------


def require_out_of_reach(segments: Sequence[Span], span: Span) -> None:
    """Raise PramError unless it is known that no segment of the new kernel lies in the range."""
    for segment in segments:
        if segment.overlaps(span):
            raise PramError(f"the new kernel would be put at {segment}, over the image: unloaded")
    if not segments:
        raise PramError("this kernel does not log where it puts the new one: unloaded")


def use_of_range(resources: Sequence[Resource], span: Span) -> str:
    """What the range is to this kernel. Raises PramError when it is memory like any other."""
    for resource in resources:
        if resource.name.startswith(SYSTEM_RAM) and resource.span.overlaps(span):
            raise PramError(f"{span} is {SYSTEM_RAM}: the new kernel would overwrite the image")
    for resource in resources:
        if resource.name.startswith("Persistent Memory") and resource.span.contains(span):
            return resource.name
    raise PramError(f"{span} is not persistent memory, says /proc/iomem")


def next_command_line(current: str, append: str, span: Span, use: str, pfn: int) -> str:
    """The command line of the new kernel: the present one, then `append`, then where the image is.

    `memmap=` for the range is on it once if the range was made by it, `pram=` once. Raises PramError when
    another `memmap=` is at odds with the range, UsageError when the line gets too long.
    """
    ours, rest = _split(current)
    added, added_rest = _split(append)
    ours = [word for word in ours if word not in added and not word.startswith(_OF_THE_LOADER)]
    words = physmem.without_reserved([*ours, *added], span)
    words = [word for word in words if not word.startswith("pram=")]
    if use == LEGACY:
        words.append(span.memmap)
    words.append(f"pram={pfn:x}")
    of_init = added_rest or rest
    line = " ".join([*words, *(["--", *of_init] if of_init else [])])
    if len(line.encode(errors="surrogateescape")) > COMMAND_LINE_MAX:
        raise UsageError(f"the new kernel's command line is over {COMMAND_LINE_MAX} bytes: {line}")
    return line


def _split(line: str) -> tuple[list[str], list[str]]:
    """The words for the kernel, and those after `--`, which are for init. Raises UsageError.

    The kernel does without quotes around a word or its value: so do the words that matter here.
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
    """The initrd that Debian puts beside a kernel. Raises UsageError for a kernel of another name."""
    if not kernel.name.startswith("vmlinuz"):
        raise UsageError(f"{kernel}: not called vmlinuz-VERSION; name its initrd with --initrd")
    return kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img", 1))


@contextmanager
def _claimed(device: Path) -> Iterator[Image]:
    """The image on `device`, for us alone. Raises ImageInUse when a mount or a save of it goes on."""
    for mount in mountinfo.pramfs_mounts():
        if Path(mount.image).exists() and Path(mount.image).samefile(device):
            place = shlex.quote(str(mount.mountpoint))
            raise ImageInUse(device, f"the mount at {place}; first: pramfs umount {place}")
    try:
        image = open_image(device, writable=True)
    except ImageInUse as exc:
        words = "a daemon that is still saving, or another program; try again when it has ended"
        raise ImageInUse(device, words) from exc
    with image:
        yield image


@contextmanager
def _loading_is_logged() -> Iterator["_SegmentReader"]:
    """Have the kernel log where it loads the next one, where it can do that; gives the reader of it."""
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
    """Reads the places of the segments from the kernel's log, from where it stood when it was opened."""

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
                continue  # records were overwritten before they were read: go on with the next
            if not record:
                return  # not the log: containers have /dev/null there
            yield record.decode(errors="replace")


def parse_segments(records: Iterable[str]) -> Iterator[Span]:
    """Where the segments of a loaded kernel lie, from what the kernel logs while it loads them."""
    for record in records:
        match = _SEGMENT.search(record)
        if match is not None:
            start, size = int(match[1], 16), int(match[2], 16)
            yield Span(start, start + size)


def _unload() -> None:
    """Unload whatever kernel is loaded. Raises PramError when it stays."""
    if _LOADED.exists() and _LOADED.read_text(encoding="ascii").strip() != "0":
        _run(["kexec", "-s", "-u"])


def _run(command: Sequence[str]) -> None:
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as exc:
        raise SystemFault(f"{command[0]}: {exc.strerror}; install kexec-tools") from exc
    if result.returncode:
        words = (result.stderr or result.stdout).strip().splitlines()
        why = words[-1] if words else f"exited with {result.returncode}"
        raise PramError(f"{command[0]} failed: {why}")
