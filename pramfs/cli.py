"""The program: finds the command, runs it, and turns what went wrong into a line and an exit code."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from pramfs import cmd_files, cmd_images, cmd_kexec, cmd_mounts, cmd_nodes, helptext, mounts
from pramfs.errors import PramError
from pramfs.parser import Parser
from pramfs.show import complain, with_standard_streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pramfs` with these arguments; returns the exit code."""
    return with_standard_streams(lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.run is None:
        parser.error("a command is needed")
    try:
        _refuse_mounts(args)
        return int(args.run(args))
    except PramError as exc:
        complain(str(exc))
        return int(args.failure_code or exc.exit_code)


def _refuse_mounts(args: argparse.Namespace) -> None:
    """Raise PramError for a dead mount, and for a mount where only an image will do."""
    if hasattr(args, "image"):
        mounts.refuse_as_image(args.image)
    elif hasattr(args, "target"):
        mounts.refuse_dead(args.target)


def build_parser() -> Parser:
    """The parser of all commands, from which help, man pages and completion are made."""
    parser = Parser(
        prog="pramfs",
        description=helptext.wrapped(helptext.PROGRAM),
        epilog="pramfs COMMAND --help tells more of each.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say what versions are here")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="COMMAND")
    for room in (cmd_mounts, cmd_images, cmd_files, cmd_nodes, cmd_kexec):
        room.add_commands(commands)
    return parser


class _Version(argparse.Action):
    """Finds the versions out only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        from pramfs.versions import version_lines

        print(version_lines())
        parser.exit()
