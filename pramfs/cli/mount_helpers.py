"""The helpers that mount(8) and umount(8) call for the types pramfs and fuse.pramfs: only their arguments.

    mount.pramfs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]
    umount.pramfs DIR [-flnrv] [-N NAMESPACE] [-t TYPE.SUBTYPE]

The options may come anywhere. Exit codes are those of mount(8).
"""

import getopt
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pramfs.control import client
from pramfs.control.umount import umount
from pramfs.daemon.startup import start_mount
from pramfs.errors import PramError, UsageError
from pramfs.options import MountOptions, parse_options
from pramfs.system import mount_tools
from pramfs.system.text import printable, say, with_standard_streams

# mount(8) passes the flags that the remount is to have. Called by us, it keeps present flags unless it is
# given their opposite.
_OPPOSITES = {"noexec": "exec", "sync": "async"}
_NO_NAMESPACE = "-N is not for helpers that leave a daemon behind; use: nsenter --mount=NAMESPACE"


def mount_helper() -> int:
    """Run the command mount.pramfs, also called mount.fuse.pramfs."""
    return with_standard_streams(lambda: _run("mount.pramfs", _mount))


def umount_helper() -> int:
    """Run the command umount.pramfs, also called umount.fuse.pramfs."""
    return with_standard_streams(lambda: _run("umount.pramfs", _umount))


def _run(name: str, command: Callable[[Sequence[str]], int]) -> int:
    try:
        return command(sys.argv[1:])
    except PramError as exc:
        print(f"{name}: {printable(str(exc))}", file=sys.stderr)
        return exc.exit_code


def _mount(argv: Sequence[str]) -> int:
    flags, words, (spec, directory) = _parse(argv, "sfnvN:o:t:", ["SPEC", "DIR"])
    options = parse_options(words, sloppy="-s" in flags)
    mountpoint = Path(directory)
    if any("remount" in text.split(",") for text in words):
        if "-f" not in flags:
            _remount(mountpoint, options)
        return 0
    if "-f" in flags:  # fake: everything but the mount
        return 0
    return start_mount(Path(spec), mountpoint, options, verbose="-v" in flags)


def _remount(mountpoint: Path, options: MountOptions) -> None:
    """Change the flags that the kernel keeps, such as read-only. Raises UsageError for other options."""
    status = client.read_status(mountpoint)
    for word in options.words:
        if word not in {"ro", "rw", *status.options}:
            raise PramError(
                f"{mountpoint}: a remount cannot change '{word}'; unmount and mount again"
            )
    if status.read_only and not options.ro:
        raise PramError(
            f"{mountpoint}: the image is open read-only; unmount and mount again to write to it"
        )
    ended = [word for flag, word in _OPPOSITES.items() if flag not in options.mount_flags]
    mount_tools.remount(mountpoint, ["ro" if options.ro else "rw", *options.mount_flags, *ended])
    if options.ro and not status.read_only:
        client.request_save(mountpoint)


def _umount(argv: Sequence[str]) -> int:
    """Unmount. If all is well this says nothing in a pipe, as umount(8) does for any other file system."""
    flags, _, (directory,) = _parse(argv, "flnrvN:t:", ["DIR"])
    told = umount(Path(directory), sorted({"-f", "-l", "-n", "-r"} & flags), for_umount=True)
    if not told.is_over:
        print(printable(told.message), file=sys.stderr)
    elif "-v" in flags or sys.stdout.isatty():
        say(told.message)
    return 0


def _parse(
    argv: Sequence[str], letters: str, operands: Sequence[str]
) -> tuple[set[str], list[str], list[str]]:
    """Return the flags, the values of all -o, and the operands. Raises UsageError."""
    try:
        pairs, rest = getopt.gnu_getopt(list(argv), letters)
    except getopt.GetoptError as exc:
        raise UsageError(exc.msg) from exc
    flags = {flag for flag, _ in pairs}
    if "-N" in flags:
        raise UsageError(_NO_NAMESPACE)
    if len(rest) != len(operands):
        raise UsageError(f"needed: {' '.join(operands)}; called by mount(8) and umount(8)")
    for operand, given in zip(operands, rest, strict=True):
        if not given:  # it is an unset variable, not this directory
            raise UsageError(f"{operand}: an empty path")
    return flags, [value for flag, value in pairs if flag == "-o"], rest
