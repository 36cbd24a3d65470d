"""What a process inherits from whoever started it, made harmless at the start: see docs/surroundings.md.

Everything that is set right is set right here, in `settle` for every command and in `settle_daemon` for the
process that serves a mount. The rest of pramfs relies on it.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pramfs.system import limits, oom_score

# Where distributions keep mount(8), umount(8) and fusermount3(1), whatever PATH says.
_PROGRAMS = ("/usr/sbin", "/usr/bin", "/sbin", "/bin")


def settle() -> None:
    """Set right what every command inherits. To be called before anything else; may start Python again."""
    _read_names_as_utf8()
    # Who ignores SIGCHLD hands that on, and then nobody can wait for a child.
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    limits.raise_all()
    _set_path(*_path(), *_PROGRAMS)


def settle_daemon() -> None:
    """Set right what a process that serves a mount inherits beyond that."""
    # What the daemon leaves is for its user alone; in the tree the umask of each caller counts.
    os.umask(0o077)
    # Not to call a script of the caller's that happens to be called sync.
    _set_path(*_PROGRAMS, *_path())
    os.chdir("/")  # keep no directory busy
    limits.lift_for_daemon()
    oom_score.ask_to_be_spared()


def hold_standard_streams() -> None:
    """Open the standard streams that are closed.

    Otherwise an image could get the number of one, and messages would be written into it.
    """
    for descriptor, mode in enumerate("rww"):
        try:
            os.fstat(descriptor)
        except OSError:
            # Opened the wrong way round, so that its use is an error; standard error is merely lost.
            put_null(descriptor, os.O_RDONLY if descriptor == 1 else os.O_WRONLY)
            stream = open(descriptor, mode, closefd=False)  # noqa: SIM115
            setattr(sys, ("stdin", "stdout", "stderr")[descriptor], stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may be any bytes, and printing them must not fail.
        sys.stdout.reconfigure(errors="backslashreplace")


def put_null(descriptor: int, flags: int) -> None:
    """Let a descriptor be /dev/null, or where there is none a pipe that has no other end."""
    try:
        null = other = os.open(os.devnull, flags)
    except OSError:
        read_end, write_end = os.pipe()
        null, other = (read_end, write_end) if flags == os.O_RDONLY else (write_end, read_end)
    if null != descriptor:
        os.dup2(null, descriptor)  # closes the other end if that has the number
    os.set_inheritable(descriptor, True)
    for unused in {null, other} - {descriptor}:
        os.close(unused)


def _path() -> list[str]:
    return [directory for directory in os.environ.get("PATH", "").split(os.pathsep) if directory]


def _set_path(*directories: str) -> None:
    os.environ["PATH"] = os.pathsep.join(dict.fromkeys(directories))


def _read_names_as_utf8() -> None:
    """Start Python again in its UTF-8 mode unless it takes names for UTF-8 already.

    In a locale of another encoding it would not give every name back with the bytes that it came with, and
    not the same text for it as a process in another locale.
    """
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    with contextlib.suppress(OSError):
        argv: Sequence[bytes] = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
        os.execv(sys.executable, [argv[0], b"-X", b"utf8", *argv[1:]])
