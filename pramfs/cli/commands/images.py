"""The commands for an image as a whole: info, check, map, takeover, dump. Each imports only what it needs."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, a_path_in_tree, add_command
from pramfs.cli.tables import frame_counts, node_lines
from pramfs.errors import CHECK_CLEAN, CHECK_DAMAGED, CHECK_UNREADABLE, CHECK_USAGE, PramError
from pramfs.system.text import counted, printable, say, when

if TYPE_CHECKING:
    from pramfs.offline.inspect import ImageInfo


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    info = add_command(commands, "info", _info, "say what is in an image or a mount")
    check = add_command(commands, "check", _check, "verify everything in an image, change nothing")
    map_ = add_command(commands, "map", _map, "draw where everything lies in an image or a mount")
    takeover = add_command(
        commands, "takeover", _takeover, "let this machine have an image that a dead one had"
    )
    dump = add_command(commands, "dump", _dump, "print the structures of an image field by field")
    check.usage_code = CHECK_USAGE
    check.set_defaults(failure_code=CHECK_UNREADABLE)
    for command in (info, check, map_):
        command.add_argument("--json", action="store_true", help="for programs")
    map_.add_argument("--svg", metavar="FILE", type=a_path, help="write the picture there instead")
    map_.add_argument(
        "--file",
        metavar="PATH",
        type=a_path_in_tree,
        help="show the frames of this file of the tree",
    )
    map_.add_argument("--name", metavar="TREE", help="which tree it is in (default: pramfs)")
    map_.add_argument("--node", metavar="NAME", help="show the frames of this node")
    which = dump.add_mutually_exclusive_group()
    which.add_argument("--node", metavar="NAME", help="this node only")
    dump.add_argument("--links", action="store_true", help="with the links and their entries")
    which.add_argument("--pfn", metavar="PFN", type=_pfn, help="only this frame, hexadecimal")
    for command in (info, map_):
        command.add_argument("target", metavar="IMAGE|MOUNTPOINT", type=a_path)
    for command in (check, takeover, dump):
        command.add_argument("image", metavar="IMAGE", type=a_path)


def _pfn(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a hexadecimal pfn expected, not '{text}'") from None


def _info(args: argparse.Namespace) -> int:
    from pramfs.offline.inspect import image_info

    info = image_info(args.target)
    if args.json:
        values = asdict(info)
        if info.mount is None:
            del values["mount"]
        print(json.dumps(values, indent=2))
    else:
        print("\n".join(map(printable, _info_lines(info))))
    return 0


def _info_lines(info: "ImageInfo") -> Iterator[str]:
    yield f"image:       {info.image}"
    yield f"size:        {info.size:,} bytes, {info.frames.total} frames"
    yield f"frames:      {frame_counts(info.frames)}"
    yield f"generation:  {info.generation}, super block pfn {info.pfn}"
    yield f"saved:       {when(info.saved_ns)} by {info.saved_by}, {_kind_of_save(info)}"
    yield f"trees:       {', '.join(info.trees) or 'none'}"
    if info.incomplete_trees:
        yield f"incomplete:  {', '.join(info.incomplete_trees)}"
    yield f"last run:    {info.last_run or 'nothing is known of it'}"
    mount = info.mount
    if mount is not None:
        state = "changed since the last save" if mount.changed else "as saved"
        yield f"mounted:     {mount.mountpoint}, tree {mount.name}, process {mount.pid}, {state}"
        if mount.error:
            yield f"errors:      {mount.error}"
    yield from node_lines(info.nodes)


def _kind_of_save(info: "ImageInfo") -> str:
    from pramfs.storage.superblock import CUT_OFF, INCOMPLETE

    kind = "at unmount" if info.final else "as a checkpoint"
    kind += f", {INCOMPLETE}" if info.incomplete else ""
    kind += f", {CUT_OFF}" if info.cut_off else ""
    return kind + (", by a run that met an internal error" if info.suspect else "")


def _check(args: argparse.Namespace) -> int:
    from pramfs.offline.check import check_image
    from pramfs.storage.image import open_image
    from pramfs.system.progress import Bar

    with open_image(args.image, writable=False) as image:
        report = check_image(image, Bar)
    if args.json:
        print(json.dumps(asdict(report)))
    else:
        for line in report.damage:
            print(printable(f"{args.image}: {line}"))
        for line in report.lacks:
            print(printable(f"{args.image}: not damaged, but {line}"))
        verdict = "clean" if report.clean else f"{len(report.damage)} damaged"
        pages = f"{counted(report.pages, 'page')} verified"
        print(printable(f"{args.image}: {verdict}, generation {report.generation}, {pages}"))
    return CHECK_CLEAN if report.clean else CHECK_DAMAGED


def _takeover(args: argparse.Namespace) -> int:
    from pramfs.control.takeover import take_over
    from pramfs.storage.machine_mark import words_of_mark

    before = take_over(args.image)
    if before is None:
        say(f"{args.image}: no other machine has it; nothing was changed")
        return 0
    had = f"{words_of_mark(before)}, which had it since {when(before.since_ns)}"
    say(f"{args.image}: taken over from {had}; what that has not saved is lost")
    return 0


def _map(args: argparse.Namespace) -> int:
    from pramfs.offline import frame_map

    drawn = frame_map.frame_map_of(args.target, file=args.file, node=args.node, name=args.name)
    if args.svg is not None:
        _write_file(args.svg, frame_map.as_svg(drawn))
    if args.json:
        print(frame_map.as_json(drawn))
    elif args.svg is None:
        print("\n".join(frame_map.on_terminal(drawn, colour=sys.stdout.isatty())))
    return 0


def _write_file(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise PramError(f"{path}: {exc.strerror}") from exc


def _dump(args: argparse.Namespace) -> int:
    from pramfs.offline import dump
    from pramfs.storage.image import open_image

    with open_image(args.image, writable=False) as image:
        if args.pfn is not None:
            lines = dump.dump_page(image, args.pfn)
        else:
            lines = dump.dump_image(image, node=args.node, links=args.links)
        for line in lines:
            print(line)
    return 0
