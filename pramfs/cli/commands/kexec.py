"""The commands around a kexec: kexec, claim and restore."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, add_command, perhaps_empty
from pramfs.errors import EXIT_FAILED, PramError, UsageError
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
        "--append",
        metavar="WORDS",
        type=perhaps_empty,
        default="",
        help="for its command line, after the present one",
    )
    kexec.add_argument(
        "--undo", action="store_true", help="take back what --load-only has handed over"
    )
    kexec.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=a_path,
        nargs="?",
        const=Path(),
        help="dump processes first; FILE says which, default: /etc/pramfs/checkpoint.toml",
    )
    kexec.add_argument("images", metavar="IMAGE", type=a_path, nargs="*")
    claim = add_command(
        commands, "claim", _claim, "put back the images that the last kernel has handed over"
    )
    claim.add_argument("--list", action="store_true", help="say which are not in their places, why")
    claim.add_argument("--to", metavar="FILE", type=a_path, help="put the image there instead")
    restore = add_command(
        commands, "restore", _restore, "restore the processes that kexec --checkpoint has dumped"
    )
    restore.add_argument(
        "--hold", action="store_true", help="restore nothing yet, drop packets for these processes"
    )
    restore.add_argument("--json", action="store_true", help="for programs")
    restore.add_argument(
        "mountpoint", metavar="MOUNTPOINT", type=a_path, nargs="?", help="default: of the dumps"
    )
    claim.add_argument("path", metavar="IMAGE", type=a_path, nargs="?", help="default: all of them")


def _kexec(args: argparse.Namespace) -> int:
    from pramfs.liveupdate import handover

    if args.undo:
        if args.images or args.dry_run or args.load_only or args.checkpoint is not None:
            raise UsageError("kexec: nothing goes with --undo, which takes back all images")
        _require_root("kexec")
        for path in handover.take_back():
            print(f"{printable(path)}: taken back")
        return 0
    if args.checkpoint is not None:
        _checkpoint(args)
        return 0
    if not args.images:
        raise UsageError("kexec: an image is needed")
    _jump(args, args.images)
    return 0


def _checkpoint(args: argparse.Namespace) -> None:
    """Dump processes, unmount what they are dumped into, and start another kernel."""
    from pramfs.checkpoint import configuration, dump, restore
    from pramfs.control.umount import umount
    from pramfs.offline import kexec

    def tell(line: str) -> None:
        print(printable(line), flush=True)

    _require_root("kexec")
    named = configuration.DEFAULT if args.checkpoint == Path() else args.checkpoint
    wanted = configuration.read(named)
    images = [restore.image_of(wanted.mountpoint), *args.images]
    kexec.foresee(images, args.kernel, args.initrd)
    found = dump.trial(wanted, tell)
    if args.dry_run:
        return
    with dump.dumped(wanted, found, tell):
        tell(umount(wanted.mountpoint).message)
        _jump(args, images)


def _jump(args: argparse.Namespace, images: Sequence[Path]) -> None:
    """Load another kernel, and start it unless that is left to others."""
    from pramfs.liveupdate import handover
    from pramfs.offline import kexec

    with kexec.prepared(images, args.kernel, args.initrd, args.append) as plan:
        for line in plan.lines():
            print(printable(line), flush=True)
        if args.dry_run:
            return
        if not plan.carried:
            _load(plan)
        else:
            with handover.handed_over(plan.carried) as handed:
                for line in handed.lines:
                    print(f"handed:   {printable(line)}", flush=True)
                _load(plan, handed.descriptor)
        if not args.load_only:
            print("starting the new kernel", flush=True)
            try:
                kexec.start()
            except BaseException as exc:  # it returns only if it has failed
                if plan.carried:
                    try:
                        handover.take_back()
                    except PramError as refused:
                        raise PramError(f"{exc}; {refused}") from exc
                raise


def _require_root(command: str) -> None:
    if os.geteuid() != 0:
        raise UsageError(f"{command}: root is needed")


def _load(plan: "Plan", *descriptors: int) -> None:
    from pramfs.offline import kexec

    print(f"loaded:   {kexec.load(plan, descriptors)}", flush=True)


def _claim(args: argparse.Namespace) -> int:
    from pramfs.liveupdate import claim

    if args.list:
        if args.path is not None or args.to is not None:
            raise UsageError("claim: nothing goes with --list, which shows all images")
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


def _restore(args: argparse.Namespace) -> int:
    from pramfs.checkpoint import held, restore

    _require_root("restore")
    if args.hold:
        if args.json or args.mountpoint is not None:
            raise UsageError("restore: nothing goes with --hold, which restores nothing")
        for line in held.hold_at_boot():
            print(printable(line))
        return 0
    outcome = restore.restore_held(args.mountpoint)
    if args.json:
        print(json.dumps(asdict(outcome)))
    else:
        for line in outcome.lines():
            print(printable(line))
    return EXIT_FAILED if outcome.failed else 0
