"""The program: find the command, run it, and turn errors into one line and an exit code."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pramfs import __version__
from pramfs.cli import helptext
from pramfs.cli.commands import (
    clone,
    dedup,
    diff,
    files,
    images,
    kexec,
    mounts,
    nodes,
    snapshots,
    streams,
)
from pramfs.cli.parser import Parser
from pramfs.errors import PramError
from pramfs.storage import layout
from pramfs.system import mountinfo
from pramfs.system.text import complain, with_standard_streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pramfs` with these arguments, and return the exit code."""
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
    """Raise PramError for a dead mount, and for a mountpoint where an image is needed."""
    if hasattr(args, "image"):
        mountinfo.refuse_as_image(args.image, to_change=args.changes_image)
    elif isinstance(getattr(args, "target", None), Path):
        mountinfo.refuse_dead(args.target)


def build_parser() -> Parser:
    """Return the parser of all commands, from which help, man pages and completion are made."""
    parser = Parser(
        prog="pramfs",
        description=helptext.wrapped(helptext.PROGRAM),
        epilog="pramfs COMMAND --help tells more of each.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say what versions are here")
    parser.set_defaults(run=None, changes_image=False)
    commands = parser.add_subparsers(metavar="COMMAND")
    for group in (mounts, snapshots, diff, streams, clone, dedup, images, files, nodes, kexec):
        group.add_commands(commands)
    return parser


def version_lines() -> str:
    """Return the versions of everything that may explain a difference. Does not load FUSE."""
    return "\n".join(
        [
            f"pramfs {__version__}",
            f"image format {layout.VERSION}",
            f"pyfuse3 {_pyfuse3()}",
            f"libfuse {_libfuse()}",
            f"Linux {os.uname().release}",
        ]
    )


def _pyfuse3() -> str:
    from importlib import metadata

    try:
        return metadata.version("pyfuse3")
    except metadata.PackageNotFoundError:
        return "not installed"


def _libfuse() -> str:
    """Return the version of the libfuse that pyfuse3 is linked with, whatever its file is called."""
    import ctypes
    from importlib import util

    spec = util.find_spec("pyfuse3")
    if spec is None:
        return "unknown"
    try:
        # Loading the file runs no code of pyfuse3, and finds symbols of the library that it is linked with.
        version = ctypes.CDLL(spec.origin).fuse_pkgversion
    except OSError:
        return "not installed"
    except AttributeError:  # another module of the name pyfuse3
        return "unknown"
    version.restype = ctypes.c_char_p
    return (version() or b"unknown").decode()


class _Version(argparse.Action):
    """Prints the versions, which are found out only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        print(version_lines())
        parser.exit()
