"""The commands around a kexec: kexec and claim."""

import argparse
import os
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, add_command
from pramfs.errors import EXIT_FAILED, UsageError
from pramfs.system.text import complain, printable

if TYPE_CHECKING:
    from pramfs.offline.kexec import Plan


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser."""
    kexec = add_command(commands, "kexec", _kexec, "start another kernel, and keep images over it")
    kexec.add_argument("--load-only", action="store_true", help="leave the start to: kexec -e")
    kexec.add_argument(
        "--dry-run", action="store_true", help="check, say what would be done, do nothing"
    )
    kexec.add_argument("--kernel", metavar="FILE", type=a_path, help="default: the one that runs")
    kexec.add_argument("--initrd", metavar="FILE", type=a_path, help="default: the kernel's")
    kexec.add_argument(
        "--append", metavar="WORDS", default="", help="for its command line, after the present one"
    )
    kexec.add_argument(
        "--undo", action="store_true", help="take back what --load-only has handed over"
    )
    kexec.add_argument("images", metavar="IMAGE", type=a_path, nargs="*")
    claim = add_command(
        commands, "claim", _claim, "put back the images that the last kernel has handed over"
    )
    claim.add_argument("--list", action="store_true", help="say which are not in their places, why")
    claim.add_argument("--to", metavar="FILE", type=a_path, help="put the image there instead")
    claim.add_argument("path", metavar="IMAGE", type=a_path, nargs="?", help="default: all of them")


def _kexec(args: argparse.Namespace) -> int:
    from pramfs.liveupdate import handover
    from pramfs.offline import kexec

    if args.undo:
        _require_root("kexec")
        for path in handover.take_back():
            print(f"{printable(path)}: taken back")
        return 0
    if not args.images:
        raise UsageError("kexec: an image is needed")
    with kexec.prepared(args.images, args.kernel, args.initrd, args.append) as plan:
        print("\n".join(plan.lines()), flush=True)
        if args.dry_run:
            return 0
        if not plan.carried:
            _load(plan)
        else:
            with handover.handed_over(plan.carried) as lines:
                for line in lines:
                    print(f"handed:   {printable(line)}", flush=True)
                _load(plan)
        if not args.load_only:
            print("starting the new kernel", flush=True)
            try:
                kexec.start()
            finally:  # it returns only if it has failed
                if plan.carried:
                    handover.take_back()
    return 0


def _require_root(command: str) -> None:
    if os.geteuid() != 0:
        raise UsageError(f"{command}: root is needed")


def _load(plan: "Plan") -> None:
    from pramfs.offline import kexec

    print(f"loaded:   {kexec.load(plan)}", flush=True)


def _claim(args: argparse.Namespace) -> int:
    from pramfs.liveupdate import claim

    if args.list:
        for image in claim.listed():
            size = f"{image.size_bytes >> 10} KiB"
            print(f"{printable(image.path)}: {size}, {image.reason or 'not asked for yet'}")
        return 0
    if args.to is not None and args.path is None:
        raise UsageError("claim: --to needs an image")
    _require_root("claim")
    outcome = claim.claim(args.path, args.to)
    for line in outcome.placed:
        print(printable(line))
    for line in (*outcome.damaged, *outcome.kept):
        complain(printable(line))
    return EXIT_FAILED if outcome.damaged or outcome.kept else 0
