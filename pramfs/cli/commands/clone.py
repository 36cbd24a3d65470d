"""The command that copies within a mount without copying: clone."""

import argparse

from pramfs.cli.parser import Commands, a_path, add_command
from pramfs.system.text import complain


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    clone = add_command(commands, "clone", _clone, "copy a file or a tree, sharing its pages")
    clone.add_argument("source", metavar="SOURCE", type=a_path)
    clone.add_argument("copy", metavar="TARGET", type=a_path)


def _clone(args: argparse.Namespace) -> int:
    from pramfs.control.clone import clone
    from pramfs.system.progress import Bar

    with Bar("cloning", 0, unit_bytes=1) as bar:
        done = clone(args.source, args.copy, bar)
    for reason, times in done.not_set.items():
        complain(f"not set, {times} times: {reason}")
    return 0
