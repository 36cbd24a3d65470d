"""The commands for mounts: mount, umount, save, status. Each imports only what it needs."""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from pramfs.cli import helptext
from pramfs.cli.parser import Commands, a_path, add_command, perhaps_empty
from pramfs.cli.tables import frame_counts
from pramfs.errors import PramError
from pramfs.system.text import counted, duration, printable, say

if TYPE_CHECKING:
    from pramfs.control.status import MountStatus
    from pramfs.system.mountinfo import Mount

_LONG_SAVE_S = 60


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    mount = add_command(commands, "mount", _mount, "mount an image; returns once it is usable")
    mount.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    mount.add_argument(
        *("-o", "--options"),
        metavar="OPT[,OPT…]",
        type=perhaps_empty,
        action="append",
        default=[],
        help="see below; may be given several times",
    )
    mount.epilog = helptext.mount_options()
    mount.add_argument("image", metavar="IMAGE", type=a_path)
    umount = add_command(commands, "umount", _umount, "unmount and wait until the save is durable")
    save = add_command(commands, "save", _save, "publish a checkpoint of a mount now")
    save.add_argument(
        "--to",
        metavar="PATH",
        type=a_path,
        help="save everything to a new image at PATH, and let the mount go on there",
    )
    status = add_command(commands, "status", _status, "say how a running mount does")
    status.add_argument("--json", action="store_true", help="for programs")
    for command in (mount, umount, save):
        command.add_argument("mountpoint", metavar="MOUNTPOINT", type=a_path)
    status.add_argument("mountpoint", metavar="MOUNTPOINT", type=a_path, nargs="?")


def _mount(args: argparse.Namespace) -> int:
    from pramfs.daemon.startup import start_mount
    from pramfs.options import parse_options

    options = parse_options(args.options)
    return start_mount(args.image, args.mountpoint, options, foreground=args.foreground)


def _umount(args: argparse.Namespace) -> int:
    from pramfs.control.umount import umount

    say(umount(args.mountpoint).message)
    return 0


def _save(args: argparse.Namespace) -> int:
    from pramfs.control import save_progress

    status = save_progress.save(args.mountpoint, args.to)
    say(f"{args.mountpoint}: saved to {status.image}, generation {status.generation}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from pramfs.control import client

    if args.mountpoint is None:
        _list_mounts(client.running_mounts(), as_json=args.json)
        return 0
    status = client.read_status(args.mountpoint)
    if args.json:
        print(json.dumps(_for_programs(status), indent=2))
    else:
        print("\n".join(_status_lines(status, _age_s(status))))
    return 0


def _age_s(status: "MountStatus") -> float:
    return max(0.0, time.time() - status.saved_ns / 10**9)


def _for_programs(status: "MountStatus") -> dict[str, object]:
    return asdict(status) | {"saved_age_seconds": _age_s(status)}


def _list_mounts(
    mounts: Sequence[tuple["Mount", "MountStatus | PramError"]], *, as_json: bool
) -> None:
    if not as_json:
        for mount, status in mounts:
            print(_line_of(mount, status))
        return
    listed = [
        {"mountpoint": str(mount.mountpoint), "image": mount.image, "error": str(status)}
        if isinstance(status, PramError)
        else _for_programs(status) | {"mountpoint": str(mount.mountpoint)}
        for mount, status in mounts
    ]
    print(json.dumps(listed, indent=2))


def _line_of(mount: "Mount", status: "MountStatus | PramError") -> str:
    if isinstance(status, PramError):
        return printable(str(status))
    told = [f"{mount.mountpoint}: {status.image}", f"process {status.pid}"]
    if status.read_only:
        told.append("read-only")
    else:
        changed = "changed since" if status.changed else "unchanged since"
        told.append(f"generation {status.generation} saved {duration(_age_s(status))} ago")
        told += [_what_it_lacks(status), changed]
    told += [f"the {status.error}"] if status.error else []
    return printable(", ".join(filter(None, told)))


def _what_it_lacks(status: "MountStatus") -> str:
    """Return what to say of a last save that lacks what programs had written, "" of any other."""
    from pramfs.storage.superblock import what_it_lacks

    # Why it is incomplete is told with the errors.
    why = not status.incomplete
    return what_it_lacks(incomplete=status.incomplete, cut_off=status.cut_off, why=why)


def _save_time(status: "MountStatus") -> str:
    """Return what to say of a save that would take long."""
    from pramfs.control.status import SHUTDOWN_MAX_S

    if status.save_seconds < _LONG_SAVE_S:
        return ""
    too_long = status.save_seconds > SHUTDOWN_MAX_S
    limit = ": longer than a shutdown may take" if too_long else ""
    return f", about {duration(status.save_seconds)} to save{limit}"


def _status_lines(status: "MountStatus", age_s: float) -> Iterator[str]:
    yield f"mountpoint:  {printable(status.mountpoint)}"
    yield f"image:       {printable(status.image)}, tree {printable(status.name)}"
    log = printable(status.log) or "on its standard error"
    yield f"process:     {status.pid}, log {log}"
    lacks = _what_it_lacks(status)
    yield (
        f"last save:   {duration(age_s)} ago, generation {status.generation}, "
        f"super block pfn {status.pfn}{f', {lacks}' if lacks else ''}"
    )
    if status.read_only:
        yield "unpublished: nothing, the mount is read-only"
    else:
        changed = "" if status.changed else "; nothing has changed since"
        there = status.unpublished_pages - status.unwritten_pages
        written = f", {there} of them in the image" if status.unwritten_pages >= 0 and there else ""
        pages = counted(status.unpublished_pages, "page")
        yield f"unpublished: {pages}{written}{_save_time(status)}{changed}"
    yield f"frames:      {frame_counts(status.frames)} of {status.frames.total}"
    yield f"inodes:      {status.inodes}"
    suspect = "internal errors, see the log" if status.suspect else ""
    yield f"errors:      {'; '.join(filter(None, (status.error, suspect))) or 'none'}"
