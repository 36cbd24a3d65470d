"""Mount operations that go through mount(8) and umount(8): flush, unmount, remount, register a helper.

Both are called with -i, so that they call no helper, and thus not pramfs again.
"""

import contextlib
import ctypes
import errno
import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pramfs.errors import PramError

HELPER = "pramfs"  # umount(8) then calls /sbin/umount.pramfs

_UTAB = Path("/run/mount/utab")
_READ_AHEAD_KIB = 512

# open_tree(2) and close_range(2), which C libraries do not know yet.
_OPEN_TREE = 428
_CLOSE_RANGE = 436
_CLOSE_RANGE_UNSHARE = 2
_OPEN_TREE_CLONE = 1
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


class Flushed(NamedTuple):
    """The outcome of a flush: the process that had the mount open for it, and the error, "" for none."""

    pid: int
    complaint: str


def flush(mountpoint: Path | None) -> Flushed:
    """Have the kernel hand over all dirty pages. Must not be called from the main thread of the daemon.

    Without a mountpoint, for a mount that is detached, this is a sync(2) of all file systems. The error
    reports pages that were refused since the last flush (as errseq does): programs that were killed, or
    have not closed their files, have not seen it. Raises OSError if no program can be started.
    """
    if mountpoint is None:
        return _sync()
    with _private_mount(mountpoint) as private:
        if private is None:
            return _sync("-f", "--", str(mountpoint))
        return _sync("-f", "--", f"/proc/self/fd/{private}", pass_fds=(private,))


def flush_in_thread(mountpoint: Path | None, device: str) -> Flushed:
    """Do what `flush` does in the calling thread, which must have let go of its descriptors first.

    Without a mountpoint, and where another file system than `device` (MAJOR:MINOR) covers it, this is a
    sync(2). Raises OSError if the mount cannot be opened.
    """
    thread = threading.get_native_id()  # this, not the pid, is what requests name
    with _root_of(mountpoint, device) as root:
        if root is None:
            os.sync()
            return Flushed(thread, "")
        failed = _libc.syncfs(root)
        return Flushed(thread, os.strerror(ctypes.get_errno()) if failed else "")


def let_go_of_descriptors() -> bool:
    """Give the calling thread a table of descriptors of its own, an empty one; return whether it has that."""
    everything = (ctypes.c_uint(0), ctypes.c_uint(0xFFFFFFFF))
    return not _libc.syscall(_CLOSE_RANGE, *everything, ctypes.c_uint(_CLOSE_RANGE_UNSHARE))


def flushes_needed() -> int:
    """Return how many flushes it takes until everything has been handed over.

    A page that was written after it was copied needs another flush.
    """
    return 2 if hands_over_copies() else 1


def hands_over_copies() -> bool:
    """Return whether the kernel hands over copies of dirty pages, which it calls clean at once.

    Since Linux 6.16 it does not.
    """
    release = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
    return release < (6, 16)


def unmount(mountpoint: Path, *flags: str) -> None:
    """Run umount(8) with flags out of -l, -f, -r, -n. Raises PramError with its message."""
    if os.geteuid() == 0:
        _run(["umount", "-i", *flags], mountpoint)
        return
    _refuse_flags_of_root(mountpoint, flags)
    _run(["fusermount3", "-u", *(["-z"] if "-l" in flags else [])], mountpoint)


def anybody_may_unmount(source: str, mountpoint: Path) -> bool:
    """Return whether fstab has the mount with the option `users`."""
    line = _try(["findmnt", "--fstab", "-n", "-o", "OPTIONS", "-S", source, "-M", str(mountpoint)])
    return "users" in line.stdout.strip().split(",")


def unmount_by_fstab(mountpoint: Path, *flags: str) -> None:
    """Run umount(8), which is set-uid root, where `anybody_may_unmount`. Raises PramError."""
    _refuse_flags_of_root(mountpoint, flags)
    _run(["umount", "-i", *(["-l"] if "-l" in flags else [])], mountpoint)


def _refuse_flags_of_root(mountpoint: Path, flags: Sequence[str]) -> None:
    if not set(flags) <= {"-l", "-n"}:
        raise PramError(f"{mountpoint}: only root can unmount with {' '.join(flags)}")


def remount(mountpoint: Path, words: Sequence[str]) -> None:
    """Change the flags of a mount. Raises PramError with the message of mount(8)."""
    # From util-linux 2.39 on mount(8) prefers the calls fspick and fsconfig, with which FUSE lets nothing be
    # changed; with mount(2), as before, it takes the flags.
    force_mount2 = {"LIBMOUNT_FORCE_MOUNT2": "always"}
    _run(["mount", "-i", "-o", ",".join(["remount", *words])], mountpoint, force_mount2)


def record_helper(source: str, mountpoint: Path, *, times: int = 1) -> None:
    """Register, in libmount's utab, that umount(8) must call our helper to unmount `mountpoint`.

    Without the entry, `umount /absolute/path` by root sees only the magic number of the file system, which
    says "fuse", and calls no helper. Does nothing where utab cannot be written or no helper is installed.
    Makes `times` entries, because each umount(8) of the place removes one.
    """
    if os.geteuid() != 0 or not Path(f"/sbin/umount.{HELPER}").exists():
        return
    # fusermount3 leaves entries behind when it unmounts.
    for _ in range(_times_recorded(mountpoint)):
        _try(["umount", "-i", "--fake", "--", str(mountpoint)])
    fake = ["mount", "-i", "--fake", "-t", "fuse.pramfs", "-o", f"helper={HELPER}"]
    for _ in range(times):
        _try([*fake, "--", source, str(mountpoint)])


def read_further_ahead(device: str) -> None:
    """Increase the read-ahead of the mount `device` (MAJOR:MINOR), by default 128 KiB.

    Does nothing where that is not permitted: it takes root.
    """
    with contextlib.suppress(OSError):
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(_READ_AHEAD_KIB))


@contextlib.contextmanager
def _private_mount(mountpoint: Path) -> Iterator[int | None]:
    """Yield a descriptor of a private mount of the same file system, None if that is impossible.

    One that is opened through `mountpoint` itself would prevent unmounting it.
    """
    path = os.fsencode(mountpoint)
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    descriptor = _libc.syscall(_OPEN_TREE, _AT_FDCWD, ctypes.c_char_p(path), ctypes.c_uint(flags))
    if descriptor < 0:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _root_of(mountpoint: Path | None, device: str) -> Iterator[int | None]:
    """Yield a descriptor of the root of what is mounted there, None if that is not `device`, or nowhere."""
    if mountpoint is None:
        yield None
        return
    flags = os.O_RDONLY | os.O_DIRECTORY
    with _private_mount(mountpoint) as private:
        root = os.open(mountpoint if private is None else ".", flags, dir_fd=private)
    try:
        number = os.fstat(root).st_dev
        yield root if f"{os.major(number)}:{os.minor(number)}" == device else None
    finally:
        os.close(root)


def _sync(*arguments: str, pass_fds: Sequence[int] = ()) -> Flushed:
    with subprocess.Popen(
        ["sync", *arguments], pass_fds=pass_fds, stderr=subprocess.PIPE,
        text=True, errors="replace", env={**os.environ, "LC_ALL": "C"},
    ) as process:  # fmt: skip
        _, said = process.communicate()
    if process.returncode not in (0, 1):  # it was killed, or its libraries are not there
        raise OSError(errno.ENOEXEC, f"sync ended with {process.returncode}")
    failed = "sync failed" if process.returncode else ""
    return Flushed(process.pid, said.strip().rpartition(": ")[2] or failed)


def _times_recorded(mountpoint: Path) -> int:
    try:
        lines = os.fsdecode(_UTAB.read_bytes()).splitlines()
    except OSError:
        return 0
    wanted = f"TARGET={mangle(str(mountpoint))}"
    return sum(wanted in line.split(" ") for line in lines)


def mangle(text: str) -> str:
    """Return a path as the kernel and libmount escape it in their tables."""
    for char in "\\ \t\n":
        text = text.replace(char, f"\\{ord(char):03o}")
    return text


def _run(
    command: list[str], mountpoint: Path, environment: Mapping[str, str] | None = None
) -> None:
    _require(_try([*command, "--", str(mountpoint)], environment))


def _require(ended: "subprocess.CompletedProcess[str]") -> None:
    """Raise PramError with the message of the program if it failed."""
    if ended.returncode:
        lines = (ended.stderr or ended.stdout).strip().splitlines()
        raise PramError(lines[0] if lines else f"{shlex.join(ended.args)} failed")


def _try(
    command: list[str], environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, check=False, capture_output=True, text=True, errors="surrogateescape",
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
    )  # fmt: skip
