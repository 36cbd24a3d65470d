"""The commands that read a tree without mounting it: ls, cat, extract. Each imports only what it needs."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, a_path_in_tree, add_command
from pramfs.errors import CHECK_DAMAGED
from pramfs.system.text import complain

if TYPE_CHECKING:
    from pramfs.offline.reader import TreeReader


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    list_ = add_command(commands, "ls", _ls, "list files of an image without mounting it")
    list_.add_argument(
        "-l", "--long", action="store_true", help="with flags of chattr(1) and birth times"
    )
    list_.add_argument("--json", action="store_true", help="for programs")
    cat = add_command(commands, "cat", _cat, "write files of an image to standard output")
    extract = add_command(
        commands, "extract", _extract, "copy files out of an image, attributes too"
    )
    extract.add_argument(
        *("-C", "--directory"),
        metavar="DIR",
        type=a_path,
        default=".",
        help="where to: a new or empty directory (default: this one)",
    )
    for command in (list_, cat, extract):
        command.add_argument("--name", metavar="TREE", help="which tree (default: pramfs)")
        command.add_argument("--recover", action="store_true", help="take what is whole")
        command.add_argument("image", metavar="IMAGE", type=a_path)
        many = "+" if command is cat else "*"
        command.add_argument("paths", metavar="PATH", type=a_path_in_tree, nargs=many, default=[])


def _ls(args: argparse.Namespace) -> int:
    from pramfs.offline.listing import listed_files, listing, listing_lines
    from pramfs.offline.reader import damage_lines

    with _reader(args) as reader:
        sections = listing(reader, args.paths)
        listed = [entry for section in sections for entry, _ in section.entries]
        damaged = reader.damaged(listed) if args.recover else {}
    if args.json:
        files = map(asdict, listed_files(sections, damaged))
        print(json.dumps({"tree": reader.name, "files": list(files)}, indent=2))
    else:
        for line in listing_lines(sections, long=args.long):
            print(line)
    for line in damage_lines(damaged):
        complain(f"damaged: {line}")
    births_lost = reader.births_lost if args.long or args.json or args.recover else ""
    if births_lost:
        complain(f"damaged: birth times: {births_lost}")
    return CHECK_DAMAGED if damaged or births_lost else 0


def _cat(args: argparse.Namespace) -> int:
    from pramfs.offline.reader import damage_lines, files_at, refuse_damaged

    with _reader(args) as reader:
        files = files_at(reader, args.paths)
        damaged = reader.damaged([entry for entry, _ in files])
        refuse_damaged(reader, {} if args.recover else damaged)
        for entry, file in files:
            if entry.path not in damaged:
                for piece in reader.bytes_of(file):
                    sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return _left_out(damage_lines(damaged))


def _extract(args: argparse.Namespace) -> int:
    from pramfs.offline.extract import extract

    with _reader(args) as reader:
        done = extract(reader, args.paths, args.directory, recover=args.recover)
    for reason, times in done.not_set.items():
        complain(f"not set, {times} times: {reason}")
    if done.flags_not_set:
        complain(f"flags of chattr(1) not set, of {done.flags_not_set} files: {done.flags_refused}")
    return _left_out(done.left_out)


def _reader(args: argparse.Namespace) -> AbstractContextManager["TreeReader"]:
    from pramfs.offline.reader import open_tree
    from pramfs.options import DEFAULT_NAME

    return open_tree(args.image, args.name or DEFAULT_NAME)


def _left_out(lines: Sequence[str]) -> int:
    for line in lines:
        complain(f"left out: {line}")
    return CHECK_DAMAGED if lines else 0
