"""The command kexec."""

import argparse

from pramfs.cli.parser import Commands, a_path, add_command


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    kexec = add_command(
        commands, "kexec", _kexec, "start another kernel, and keep what a device holds"
    )
    kexec.add_argument("--load-only", action="store_true", help="leave the start to: kexec -e")
    kexec.add_argument(
        "--dry-run", action="store_true", help="check, say what would be done, do nothing"
    )
    kexec.add_argument("--kernel", metavar="FILE", type=a_path, help="default: the one that runs")
    kexec.add_argument("--initrd", metavar="FILE", type=a_path, help="default: the kernel's")
    kexec.add_argument(
        "--append", metavar="WORDS", default="", help="for its command line, after the present one"
    )
    kexec.add_argument("device", metavar="IMAGE-DEVICE", type=a_path)


def _kexec(args: argparse.Namespace) -> int:
    from pramfs.offline import kexec

    with kexec.prepared(args.device, args.kernel, args.initrd, args.append) as plan:
        print("\n".join(plan.lines()), flush=True)
        if args.dry_run:
            return 0
        print(f"loaded:   {kexec.load(plan)}", flush=True)
        if not args.load_only:
            print("starting the new kernel", flush=True)
            kexec.start()
    return 0
