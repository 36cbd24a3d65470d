"""The commands that bring trees to other machines: send, receive. Each imports only what it needs."""

import argparse
import functools
import io
import os
import sys
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, a_place, add_command
from pramfs.errors import UsageError
from pramfs.system.text import complain, counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from pramfs.stream.encode import Data
    from pramfs.stream.format import Header
    from pramfs.stream.receive import Target


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    send = add_command(commands, "send", _send, "write a tree to standard output as a stream")
    send.add_argument("--since", metavar="SNAPSHOT", help="only what is not in that one")
    send.add_argument(
        "--to", metavar="URL|PATH", type=a_place, help="a place that keeps it, not standard output"
    )
    send.add_argument(
        "--incremental",
        action="store_true",
        help="since the newest snapshot that the place has, too; all if there is none",
    )
    send.add_argument("--keep", metavar="N|TIME", help="drop older ones of the tree from the place")
    send.add_argument("--compress", choices=["zstd"], help="for slow networks")
    send.add_argument("--name", metavar="TREE", help="which tree (default: pramfs)")
    send.add_argument("target", metavar="IMAGE|MOUNTPOINT[@SNAPSHOT]", type=a_path)
    receive = add_command(
        commands, "receive", _receive, "take a tree that send has written from standard input"
    )
    receive.add_argument(
        "--from",
        dest="place",
        metavar="URL|PATH[@STREAM]",
        type=a_place,
        help="a place that keeps streams, not standard input",
    )
    receive.add_argument("--as", dest="new_name", metavar="NAME", help="the name that it gets")
    receive.add_argument("--size", metavar="SIZE", help="of the image, as with mount -o size=")
    receive.add_argument("target", metavar="IMAGE|MOUNTPOINT", type=a_path)


def _send(args: argparse.Namespace) -> int:
    from pramfs.stream.compression import compressor

    if args.incremental and args.since:
        raise UsageError("--incremental and --since: only one of them")
    if args.to is None and (args.incremental or args.keep is not None):
        raise UsageError("--incremental and --keep need a place: --to")
    compress = compressor() if args.compress else None
    if args.to is None:
        return _send_to_output(args, compress)
    from pramfs.cli.commands.places import send_to

    return send_to(args, compress)


def _send_to_output(args: argparse.Namespace, compress: "Callable[[Data], bytes] | None") -> int:
    from pramfs.stream.source import source_at
    from pramfs.system.descriptors import widen_pipe
    from pramfs.system.progress import Bar

    descriptor = sys.stdout.fileno()
    if os.isatty(descriptor):
        raise UsageError("a stream is not for a terminal: send it to a file or a program")
    widen_pipe(descriptor)
    with source_at(args.target, args.since, args.name or "") as sending:
        for warning in sending.warnings:
            complain(warning)
        with Bar("sending", sending.pages) as bar:
            sending.to(functools.partial(os.writev, descriptor), bar, compress)
    return 0


def _receive(args: argparse.Namespace) -> int:
    from pramfs.system.descriptors import widen_pipe

    if args.place is not None:
        from pramfs.cli.commands.places import receive_from

        return receive_from(args, functools.partial(_take, args))
    descriptor = sys.stdin.fileno()
    if os.isatty(descriptor):
        raise UsageError("a stream does not come from a terminal: give a file or a pipe as input")
    widen_pipe(descriptor)
    _take(args, io.FileIO(descriptor, closefd=False), args.new_name or "")
    return 0


def _take(args: argparse.Namespace, source: io.RawIOBase, new_name: str) -> None:
    """Receive one stream as `new_name`."""
    from pramfs.saves.tree_nodes import lack_of
    from pramfs.stream.compression import decompressor
    from pramfs.stream.decode import StreamReader
    from pramfs.stream.receive import receive
    from pramfs.system.progress import Bar

    reader = StreamReader(source, decompressor)
    with (
        _target(args, reader.header) as target,
        Bar("receiving", reader.header.pages) as bar,
    ):
        received = receive(reader, target, new_name, bar)
    told = f"received {received.name}, {counted(len(received.csums), 'page')}"
    print(printable(f"{args.target}: {told}"), file=sys.stderr)
    if received.marks:
        complain(f"received as it is: {received.name} is {lack_of(received.marks)}")


def _target(args: argparse.Namespace, header: "Header") -> "AbstractContextManager[Target]":
    """Return the image or mount that receives a stream."""
    from pramfs.options import parse_options
    from pramfs.stream.image_target import image_target
    from pramfs.stream.mount_target import mount_target
    from pramfs.system import mountinfo

    if not mountinfo.mount_at(args.target):
        frames = parse_options([f"size={args.size}"]).frames if args.size else 0
        return image_target(args.target, header, frames)
    if args.size:
        raise UsageError(f"{args.target}: mounted; --size is for an image that is not")
    return mount_target(args.target)
