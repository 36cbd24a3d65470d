"""The commands for snapshots: snapshot, snapshots, rollback. Each imports only what it needs."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, a_path_or_url, add_command
from pramfs.system.text import complain, printable, say, when

if TYPE_CHECKING:
    from pramfs.offline.snapshots import ImageSnapshots


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    snapshot = add_command(commands, "snapshot", _snapshot, "keep what a mount holds now")
    snapshot.add_argument("mountpoint", metavar="MOUNTPOINT", type=a_path)
    snapshot.add_argument("snapshot", metavar="NAME")
    list_ = add_command(
        commands, "snapshots", _snapshots, "list the snapshots of an image or a mount"
    )
    list_.add_argument("--json", action="store_true", help="for programs")
    list_.add_argument("target", metavar="IMAGE|MOUNTPOINT|URL|PATH", type=a_path_or_url)
    rollback = add_command(commands, "rollback", _rollback, "go back to a snapshot")
    rollback.set_defaults(changes_image=True)
    rollback.add_argument("--name", metavar="TREE", help="which tree (default: pramfs)")
    rollback.add_argument("image", metavar="IMAGE", type=a_path)
    rollback.add_argument("snapshot", metavar="SNAPSHOT")


def _snapshot(args: argparse.Namespace) -> int:
    from pramfs.control import save_progress
    from pramfs.saves.snapshots import check_name

    status = save_progress.status_to_save(args.mountpoint, "no snapshot can be taken")
    full_name = check_name(status.name, args.snapshot)
    status = save_progress.take_snapshot(args.mountpoint, args.snapshot, status)
    say(f"{args.mountpoint}: snapshot {full_name}, generation {status.generation}")
    return 0


def _snapshots(args: argparse.Namespace) -> int:
    from pramfs.cli.commands.places import is_place, list_place, refuse_stream
    from pramfs.errors import NotAnImage
    from pramfs.offline.snapshots import image_snapshots

    if is_place(args.target):
        return list_place(str(args.target), as_json=args.json)
    try:
        found = image_snapshots(args.target)
    except NotAnImage:
        refuse_stream(args.target)
        raise
    if args.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        for line in _lines(found):
            print(line)
    return 0


def _lines(found: "ImageSnapshots") -> Iterator[str]:
    from pramfs.storage.superblock import what_it_lacks

    names = [printable(f"{one.tree}@{one.name}") for one in found.snapshots]
    width = max(map(len, names), default=0)
    for name, one in zip(names, found.snapshots, strict=True):
        held = f"{one.alone:>8} frames alone, {one.shared:>8} shared"
        lacks = what_it_lacks(incomplete=one.incomplete, cut_off=one.cut_off, why=False)
        yield "  ".join(filter(None, (f"{name:{width}}", when(one.saved_ns), held, lacks)))


def _rollback(args: argparse.Namespace) -> int:
    from pramfs.cli.commands.nodes import open_pram
    from pramfs.options import DEFAULT_NAME
    from pramfs.saves.snapshot_names import SNAPSHOT_MARK, snapshot_tree
    from pramfs.saves.snapshots import roll_back
    from pramfs.saves.tree_nodes import what_it_lacks

    full_name = snapshot_tree(args.snapshot, args.name or DEFAULT_NAME)
    tree, _, snapshot = full_name.partition(SNAPSHOT_MARK)
    with open_pram(args.image, writable=True) as pram:
        replaced = roll_back(pram, tree, snapshot)
        lacks = what_it_lacks(pram.nodes, tree)
        pram.publish()
        generation = pram.current.generation
    if lacks:
        complain(f"{args.image}: {full_name} is {lacks}")
    was = f"; what it was is the snapshot {tree}@{replaced}" if replaced else ""
    say(f"{args.image}: {tree} is as {full_name} now, generation {generation}{was}")
    return 0
