"""The commands for nodes: nodes, put, get, free. Each imports only what it needs."""

import argparse
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, add_command
from pramfs.cli.tables import node_lines
from pramfs.errors import UsageError
from pramfs.system.text import counted, say

if TYPE_CHECKING:
    from pramfs.pram.pram import Pram

_COPY_BYTES = 1 << 20


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    nodes = add_command(commands, "nodes", _nodes, "list the nodes of an image")
    put = add_command(commands, "put", _put, "store standard input as a node")
    get = add_command(commands, "get", _get, "write a node to standard output")
    free = add_command(commands, "free", _free, "free a node, tree or snapshot, or all of them")
    put.set_defaults(changes_image=True)
    for command in (nodes, put, get):
        command.add_argument("image", metavar="IMAGE", type=a_path)
    for command in (put, get):
        command.add_argument("name", metavar="NAME")
    free.add_argument("target", metavar="IMAGE|MOUNTPOINT", type=a_path)
    free.add_argument("name", metavar="NAME", nargs="?", help="without it, everything is freed")


def _nodes(args: argparse.Namespace) -> int:
    with open_pram(args.image, writable=False) as pram:
        for line in node_lines([node.info() for node in pram.nodes.values()]):
            print(line)
    return 0


def _put(args: argparse.Namespace) -> int:
    from pramfs.saves.tree_nodes import stem_of, tree_names
    from pramfs.storage.layout import BYTE_STREAM
    from pramfs.system.progress import Bar

    if stem_of(args.name) != args.name:
        raise UsageError(f"'{args.name}': names in -meta, -data and -more are for trees")
    with open_pram(args.image, writable=True, create=True) as pram:
        if args.name in tree_names(pram.nodes):
            raise UsageError(f"'{args.name}': a tree has that name")
        status = os.fstat(sys.stdin.fileno())
        total = status.st_size if stat.S_ISREG(status.st_mode) else 0
        with (
            Bar("storing", total, unit_bytes=1) as bar,
            pram.prepare_save(args.name, BYTE_STREAM) as stream,
        ):
            while data := sys.stdin.buffer.read(_COPY_BYTES):
                stream.write(data)
                bar(len(data))
        pram.publish()
    return 0


def _get(args: argparse.Namespace) -> int:
    from pramfs.storage.layout import BYTE_STREAM, PAGE_SHIFT
    from pramfs.system.progress import Bar

    with open_pram(args.image, writable=False) as pram:
        node = pram.node(args.name)
        with (
            pram.prepare_load(args.name, node.type) as stream,
            Bar("fetching", node.entries) as bar,
        ):
            if node.type == BYTE_STREAM:
                while data := stream.read(_COPY_BYTES):
                    sys.stdout.buffer.write(data)
                    bar(len(data) >> PAGE_SHIFT)
            else:
                while page := stream.load_page():
                    sys.stdout.buffer.write(page[0])
                    bar(1)
        sys.stdout.buffer.flush()
    return 0


def _free(args: argparse.Namespace) -> int:
    from pramfs.saves.file_paths import listed
    from pramfs.system import mountinfo

    if mountinfo.mount_at(args.target):
        return _free_in_mount(args.target, args.name)
    with open_pram(args.target, writable=True) as pram:
        names = list(pram.nodes) if args.name is None else _named(args.name, pram)
        freed, unused = _trees_and_nodes(names), pram.arena.table.unused
        for name in names:
            pram.free(name)
        pram.publish()
        frames, generation = pram.arena.table.unused - unused, pram.current.generation
    say(
        f"{args.target}: freed {listed(freed) or 'nothing'}; {counted(frames, 'frame')} came free, "
        f"generation {generation}"
    )
    return 0


def _free_in_mount(mountpoint: Path, name: str | None) -> int:
    from pramfs.control import save_progress
    from pramfs.offline.snapshots import trees_in_force
    from pramfs.saves.snapshot_names import no_such_snapshot, snapshot_tree, tree_of

    refusal = f"{mountpoint}: mounted; only snapshots can be freed there, as TREE@SNAPSHOT"
    if name is None:
        raise UsageError(refusal)
    status = save_progress.status_to_save(mountpoint, "nothing can be freed")
    if name == status.name:
        raise UsageError(refusal)
    full_name = snapshot_tree(name, tree_of(status.name))
    try:
        status = save_progress.free_snapshot(mountpoint, full_name, status)
    except FileNotFoundError as exc:
        raise no_such_snapshot(mountpoint, full_name, trees_in_force(status)) from exc
    say(f"{mountpoint}: freed {full_name}, generation {status.generation}")
    return 0


def _trees_and_nodes(nodes: Sequence[str]) -> list[str]:
    """Return the names of the trees that these nodes form, and of the nodes that belong to none."""
    from pramfs.saves.tree_nodes import stem_of, tree_names

    trees = dict.fromkeys(tree_names(nodes))
    return [*trees, *(node for node in nodes if stem_of(node) not in trees)]


def _named(name: str, pram: "Pram") -> list[str]:
    """Return the nodes that `name` means: one, or all of a tree or a snapshot.

    Raises UsageError for one of a tree, NoSuchSnapshot.
    """
    from pramfs.options import DEFAULT_NAME
    from pramfs.saves.snapshot_names import SNAPSHOT_MARK, no_such_snapshot, tree_named
    from pramfs.saves.tree_nodes import nodes_of, stem_of, tree_names

    trees = tree_names(pram.nodes)
    stem = stem_of(name)
    if stem != name and stem in trees:
        raise UsageError(f"'{name}' is a part of the tree '{stem}'; free that")
    if name in pram.nodes:
        return [name]
    tree = tree_named(name, trees, DEFAULT_NAME)
    if tree in trees:
        return sorted(nodes_of(tree) & pram.nodes.keys())
    if SNAPSHOT_MARK in name:
        raise no_such_snapshot(pram.image.path, tree, trees)
    return [name]


@contextmanager
def open_pram(path: Path, *, writable: bool, create: bool = False) -> "Iterator[Pram]":
    """Yield the persistent memory in the image at `path`, locked if it is to be written.

    What is wrong with a node is told with that path.
    """
    from pramfs.control.holder import holder_of, refuse_if_mounted
    from pramfs.control.last_run import ended_badly
    from pramfs.errors import ImageInUse, NodeError, NoFrames, PramError
    from pramfs.options import MountOptions
    from pramfs.pram.pram import Pram
    from pramfs.storage.image import open_image
    from pramfs.storage.superblock import steady
    from pramfs.system.text import complain

    with (
        open_image(path, writable=writable, create=create) as image,
        nullcontext() if writable else steady(image),
    ):
        if writable and not image.try_lock():
            refuse_if_mounted(image)
            raise ImageInUse(path, f"process {holder_of(image).pid or '?'}")
        try:
            is_new = create and image.size_bytes == 0
            with Pram.create(image, MountOptions().frames) if is_new else Pram.open(image) as pram:
                told = ended_badly(image, pram.current) if writable else ""
                if told:
                    complain(f"{path}: {told}")
                yield pram
        except BaseException as exc:
            image.unmake()
            if isinstance(exc, NodeError | NoFrames):
                raise PramError(f"{path}: {exc}") from exc
            raise
