"""The commands that inspect an image: info, check, map, dump. Each imports only what it needs."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pramfs.cli.parser import Commands, a_path, add_command
from pramfs.errors import CHECK_CLEAN, CHECK_DAMAGED, CHECK_UNREADABLE, CHECK_USAGE, PramError
from pramfs.system.text import frame_counts, node_lines, printable, when

if TYPE_CHECKING:
    from pramfs.control.holder import Holder
    from pramfs.storage.image import Image


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    info = add_command(commands, "info", _info, "say what is in an image or a mount")
    check = add_command(commands, "check", _check, "verify everything in an image, change nothing")
    map_ = add_command(commands, "map", _map, "draw where everything lies in an image or a mount")
    dump = add_command(commands, "dump", _dump, "print the structures of an image field by field")
    check.usage_code = CHECK_USAGE
    check.set_defaults(failure_code=CHECK_UNREADABLE)
    for command in (info, check, map_):
        command.add_argument("--json", action="store_true", help="for programs")
    map_.add_argument("--svg", metavar="FILE", type=a_path, help="write the picture there instead")
    map_.add_argument("--file", metavar="PATH", help="show the frames of this file of the tree")
    map_.add_argument("--name", metavar="TREE", help="which tree it is in (default: pramfs)")
    map_.add_argument("--node", metavar="NAME", help="show the frames of this node")
    which = dump.add_mutually_exclusive_group()
    which.add_argument("--node", metavar="NAME", help="this node only")
    dump.add_argument("--links", action="store_true", help="with the links and their entries")
    which.add_argument("--pfn", metavar="PFN", type=_pfn, help="only this frame, hexadecimal")
    for command in (info, map_):
        command.add_argument("target", metavar="IMAGE|MOUNTPOINT", type=a_path)
    for command in (check, dump):
        command.add_argument("image", metavar="IMAGE", type=a_path)


def _pfn(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a hexadecimal pfn expected, not '{text}'") from None


def _info(args: argparse.Namespace) -> int:
    from pramfs.control import control_xattrs
    from pramfs.offline.inspect import image_info
    from pramfs.storage.image import open_image
    from pramfs.storage.superblock import steady
    from pramfs.system import mountinfo

    status = control_xattrs.read_status(args.target) if mountinfo.mount_at(args.target) else None
    with open_image(str(status["image"]) if status else args.target, writable=False) as image:
        with steady(image):
            info = image_info(image)
        info["last_run"] = _last_run(image)
    if status is not None:
        info |= {"frames": status["frames"], "mount": status}
    if args.json:
        print(json.dumps(info, indent=2))
    else:
        print("\n".join(map(printable, _info_lines(info))))
    return 0


def _info_lines(info: dict[str, Any]) -> Iterator[str]:
    frames = info["frames"]
    yield f"image:       {info['image']}"
    yield f"size:        {info['size']:,} bytes, {frames['total']} frames"
    yield f"frames:      {frame_counts(frames)}"
    yield f"generation:  {info['generation']}, super block pfn {info['pfn']}"
    yield f"saved:       {when(info['saved_ns'])} by {info['saved_by']}, {_kind_of_save(info)}"
    yield f"trees:       {', '.join(info['trees']) or 'none'}"
    yield f"last run:    {info['last_run'] or 'nothing is known of it'}"
    mount = info.get("mount")
    if mount is not None:
        state = "changed since the last save" if mount["changed"] else "as saved"
        yield f"mounted:     {mount['mountpoint']}, tree {mount['name']}, process {mount['pid']}, {state}"
    yield from node_lines(info["nodes"])


def _last_run(image: "Image") -> str:
    """Return what is known of the last run that had the image, "" if nothing is."""
    from pramfs.control import run_state
    from pramfs.control.holder import holder_of
    from pramfs.storage import superblock

    if image.serving_pid() is not None or not image.try_lock(shared=True):
        return _held_by(holder_of(image))
    state = run_state.last_state(image, superblock.require(image).uuid)
    if state is None:
        return ""
    return state.ended_badly or f"saved at unmount by process {state.pid}"


def _held_by(holder: "Holder") -> str:
    if holder.serves:
        if holder.pid is None:
            return "it is mounted in another pid namespace"
        return f"process {holder.pid} has it mounted"
    if holder.saving is not None:
        done = f"{holder.saving.pages_done} of {holder.saving.pages_total} pages"
        return f"process {holder.saving.pid} is saving it now, {done}"
    return f"process {holder.pid or '?'} loads it, or writes nodes to it"


def _kind_of_save(info: dict[str, Any]) -> str:
    kind = "at unmount" if info["final"] else "as a checkpoint"
    kind += (
        ", incomplete: not all that programs had written was taken" if info["incomplete"] else ""
    )
    return kind + (", by a run that met an internal error" if info["suspect"] else "")


def _check(args: argparse.Namespace) -> int:
    from pramfs.offline.inspect import check_image
    from pramfs.storage.image import open_image
    from pramfs.system.progress import Bar

    with open_image(args.image, writable=False) as image:
        check = check_image(image, Bar)
    if args.json:
        print(
            json.dumps(
                {
                    "image": str(args.image),
                    "clean": not check.damage,
                    "generation": check.generation,
                    "pages": check.pages,
                    "damage": check.damage,
                }
            )
        )
    else:
        for line in check.damage:
            print(f"{args.image}: {printable(line)}")
        verdict = f"{len(check.damage)} damaged" if check.damage else "clean"
        print(
            f"{args.image}: {verdict}, generation {check.generation}, {check.pages} pages verified"
        )
    return CHECK_DAMAGED if check.damage else CHECK_CLEAN


def _map(args: argparse.Namespace) -> int:
    from pramfs.offline import frame_map

    drawn = frame_map.frame_map_of(args.target, file=args.file, node=args.node, name=args.name)
    if args.svg is not None:
        _write_file(args.svg, frame_map.as_svg(drawn))
    if args.json:
        print(json.dumps(frame_map.as_json(drawn)))
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
