"""The command for deduplication: dedup."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, add_command
from pramfs.system.text import counted, say

if TYPE_CHECKING:
    from pramfs.control.dedup_report import DedupReport

_PAGES_PER_MIB = 256


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    dedup = add_command(commands, "dedup", _dedup, "have equal pages of a mount share memory")
    dedup.add_argument("--json", action="store_true", help="for programs")
    dedup.add_argument("mountpoint", metavar="MOUNTPOINT", type=a_path)


def _dedup(args: argparse.Namespace) -> int:
    from pramfs.control.dedup_run import dedup

    report = dedup(args.mountpoint)
    if args.json:
        print(json.dumps(_for_programs(report), indent=2))
    else:
        say(f"{args.mountpoint}: {_line_of(report)}")
    return 0


def _for_programs(report: "DedupReport") -> dict[str, int]:
    return {name: pages for name, pages in asdict(report).items() if name not in {"done", "total"}}


def _line_of(report: "DedupReport") -> str:
    told = [
        f"{counted(report.pages, 'page')} looked at",
        f"{report.shared} shared",
        f"{report.holes} made holes",
    ]
    told.append(f"{_mib(report.freed)} freed")
    if report.held:
        told.append(f"{_mib(report.held)} of that with the next save")
    return ", ".join(told)


def _mib(pages: int) -> str:
    return f"{pages / _PAGES_PER_MIB:.1f} MiB"
