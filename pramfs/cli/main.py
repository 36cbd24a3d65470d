"""The program: finds the command, runs it, and turns what went wrong into a line and an exit code."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from pramfs.cli import helptext
from pramfs.cli.commands import files, images, kexec, mounts, nodes
from pramfs.cli.parser import Parser
from pramfs.errors import PramError
from pramfs.system import mountinfo
from pramfs.system.text import complain, with_standard_streams


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
        mountinfo.refuse_as_image(args.image)
    elif hasattr(args, "target"):
        mountinfo.refuse_dead(args.target)


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
    for room in (mounts, images, files, nodes, kexec):
        room.add_commands(commands)
    return parser


class _Version(argparse.Action):
    """Finds the versions out only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        from pramfs.cli.versions import version_lines

        print(version_lines())
        parser.exit()
