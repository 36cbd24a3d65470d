"""The command line: entry points and nothing else. Each command imports what it alone needs."""

import argparse
import io
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pramfs import helptext
from pramfs.errors import (
    CHECK_CLEAN,
    CHECK_DAMAGED,
    CHECK_UNREADABLE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SYSTEM,
    EXIT_USAGE,
    PramError,
    UsageError,
)

if TYPE_CHECKING:
    from pramfs.image import Image
    from pramfs.pram import Pram
    from pramfs.rescue import Rescue

_COPY_BYTES = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run `pramfs` with these arguments; returns the exit code."""
    args = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may be any bytes, and what is said of them must not fail over that.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return int(args.run(args))
    except PramError as exc:
        _complain(str(exc))
        return exc.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough; say nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as exc:
        _complain(f"{exc.filename or 'standard input or output'}: {exc.strerror}")
        return EXIT_SYSTEM
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def build_parser() -> "_Parser":
    """The parser of all commands, from which help, man pages and completion are made."""
    parser = _Parser(
        prog="pramfs",
        description=helptext.wrapped(helptext.PROGRAM),
        epilog="pramfs COMMAND --help tells more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say what versions are here")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    mount = _command(commands, "mount", _mount, "mount an image; returns once it is usable")
    mount.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    mount.add_argument(
        *("-o", "--options"),
        metavar="OPT[,OPT…]",
        action="append",
        default=[],
        help="see below; may be given several times",
    )
    mount.epilog = helptext.mount_options()
    mount.add_argument("image", metavar="IMAGE", type=Path)
    mount.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    umount = _command(commands, "umount", _umount, "unmount and wait until the save is durable")
    umount.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    save = _command(commands, "save", _save, "publish a checkpoint of a mount now")
    save.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    status = _command(commands, "status", _status, "say how a running mount does")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path)
    info = _command(commands, "info", _info, "say what is in an image or a mount")
    info.add_argument("--json", action="store_true", help="for programs")
    info.add_argument("target", metavar="IMAGE|MOUNTPOINT", type=Path)
    check = _command(commands, "check", _check, "verify everything in an image, change nothing")
    check.add_argument("--json", action="store_true", help="for programs")
    check.add_argument("image", metavar="IMAGE", type=Path)
    nodes = _command(commands, "nodes", _nodes, "list the nodes of an image")
    nodes.add_argument("image", metavar="IMAGE", type=Path)
    put = _command(commands, "put", _put, "store standard input as a node")
    get = _command(commands, "get", _get, "write a node to standard output")
    for command in (put, get):
        command.add_argument("image", metavar="IMAGE", type=Path)
        command.add_argument("name", metavar="NAME")
    _add_pictures(commands)
    _add_rescue(commands)
    free = _command(commands, "free", _free, "free a node or tree, or all of them")
    free.add_argument("image", metavar="IMAGE", type=Path)
    free.add_argument("name", metavar="NAME", nargs="?")
    _add_kexec(commands)
    return parser


def _add_pictures(commands: "argparse._SubParsersAction[_Parser]") -> None:
    map_ = _command(commands, "map", _map, "draw where everything lies in an image or a mount")
    map_.add_argument("--json", action="store_true", help="for programs")
    map_.add_argument("--svg", metavar="FILE", type=Path, help="write the picture there instead")
    map_.add_argument("--file", metavar="PATH", help="show the frames of this file of the tree")
    map_.add_argument("--name", metavar="TREE", help="which tree it is in (default: pramfs)")
    map_.add_argument("--node", metavar="NAME", help="show the frames of this node")
    map_.add_argument("target", metavar="IMAGE|MOUNTPOINT", type=Path)
    dump = _command(commands, "dump", _dump, "print the structures of an image field by field")
    dump.add_argument("--node", metavar="NAME", help="this node only")
    dump.add_argument("--links", action="store_true", help="with the links and their entries")
    dump.add_argument("--pfn", metavar="PFN", type=_pfn, help="only this frame, hexadecimal")
    dump.add_argument("image", metavar="IMAGE", type=Path)


def _add_rescue(commands: "argparse._SubParsersAction[_Parser]") -> None:
    list_ = _command(commands, "ls", _ls, "list files of an image without mounting it")
    cat = _command(commands, "cat", _cat, "write files of an image to standard output")
    extract = _command(commands, "extract", _extract, "copy files out of an image, attributes too")
    extract.add_argument(
        *("-C", "--directory"),
        metavar="DIR",
        type=Path,
        default=Path(),
        help="where to: a new or empty directory (default: this one)",
    )
    for command in (list_, cat, extract):
        command.add_argument("--name", metavar="TREE", help="which tree (default: pramfs)")
        command.add_argument("--recover", action="store_true", help="take what is whole")
        command.add_argument("image", metavar="IMAGE", type=Path)
    list_.add_argument("paths", metavar="PATH", nargs="*")
    cat.add_argument("paths", metavar="PATH", nargs="+")
    extract.add_argument("paths", metavar="PATH", nargs="*")


def _add_kexec(commands: "argparse._SubParsersAction[_Parser]") -> None:
    kexec = _command(
        commands, "kexec", _kexec, "start another kernel, and keep what a device holds"
    )
    kexec.add_argument("--load-only", action="store_true", help="leave the start to: kexec -e")
    kexec.add_argument(
        "--dry-run", action="store_true", help="check, say what would be done, do nothing"
    )
    kexec.add_argument("--kernel", metavar="FILE", type=Path, help="default: the one that runs")
    kexec.add_argument("--initrd", metavar="FILE", type=Path, help="default: the kernel's")
    kexec.add_argument(
        "--append", metavar="WORDS", default="", help="for its command line, after the present one"
    )
    kexec.add_argument("device", metavar="IMAGE-DEVICE", type=Path)


def _pfn(text: str) -> int:
    return int(text, 16)


class _Parser(argparse.ArgumentParser):
    """Exits with mount(8)'s code for wrong usage, and with one line."""

    def error(self, message: str) -> NoReturn:
        parsers = self.commands()
        options = [
            word
            for parser in (self, *parsers.values())
            for action in parser._actions
            for word in action.option_strings
        ]
        message = helptext.corrected(message, parsers, options)
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")

    def commands(self) -> "dict[str, _Parser]":
        """The parsers of its commands, by name."""
        return {
            name: parser
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name, parser in action.choices.items()
        }


class _Version(argparse.Action):
    """Finds the versions out only when they are asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        from pramfs.versions import version_lines

        print(version_lines())
        parser.exit()


def _command(
    commands: "argparse._SubParsersAction[_Parser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=helptext.wrapped(helptext.TEXTS[name]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _complain(message: str) -> None:
    print(f"pramfs: {message}", file=sys.stderr)


# --- mounts -------------------------------------------------------------------------------------


def _mount(args: argparse.Namespace) -> int:
    from pramfs.launch import start_mount
    from pramfs.options import parse_options

    options = parse_options(args.options)
    return start_mount(args.image, args.mountpoint, options, foreground=args.foreground)


def _umount(args: argparse.Namespace) -> int:
    from pramfs.umount import umount

    print(umount(args.mountpoint))
    return 0


def _save(args: argparse.Namespace) -> int:
    from pramfs import follow

    status = follow.save(args.mountpoint)
    print(f"{args.mountpoint}: saved to {status['image']}, generation {status['generation']}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from pramfs import control

    status = control.read_status(args.mountpoint)
    status["saved_age_seconds"] = max(0.0, time.time() - status["saved_ns"] / 10**9)
    if args.json:
        print(json.dumps(status, indent=2))
    else:
        print("\n".join(_status_lines(status)))
    return 0


def _status_lines(status: dict[str, Any]) -> Iterator[str]:
    frames = status["frames"]
    age = _duration(status["saved_age_seconds"])
    yield f"mountpoint:  {_printable(status['mountpoint'])}"
    yield f"image:       {_printable(status['image'])}, tree {_printable(status['name'])}"
    yield f"process:     {status['pid']}, log {_printable(status['log'])}"
    yield f"last save:   {age} ago, generation {status['generation']}, super block pfn {status['pfn']}"
    if status["read_only"]:
        yield "unpublished: nothing, the mount is read-only"
    else:
        changed = "" if status["changed"] else "; nothing has changed since"
        yield f"unpublished: {status['unpublished_pages']} pages{changed}"
    yield f"frames:      {_frame_counts(frames)} of {frames['total']}"
    yield f"inodes:      {status['inodes']}"
    suspect = "internal errors, see the log" if status["suspect"] else ""
    yield f"errors:      {'; '.join(filter(None, (status['error'], suspect))) or 'none'}"


def _frame_counts(frames: dict[str, int]) -> str:
    return ", ".join(f"{frames[key]} {key}" for key in ("used", "free", "banned", "reserved"))


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


# --- images -------------------------------------------------------------------------------------


def _info(args: argparse.Namespace) -> int:
    from pramfs import control, mounts
    from pramfs.image import open_image
    from pramfs.inspect import image_info

    status = control.read_status(args.target) if mounts.mount_at(args.target) else None
    with open_image(str(status["image"]) if status else args.target, writable=False) as image:
        info = image_info(image) | {"last_run": _last_run(image)}
    if status is not None:
        info |= {"frames": status["frames"], "mount": status}
    if args.json:
        print(json.dumps(info, indent=2))
    else:
        print("\n".join(_info_lines(info)))
    return 0


def _info_lines(info: dict[str, Any]) -> Iterator[str]:
    frames = info["frames"]
    yield f"image:       {info['image']}"
    yield f"size:        {info['size']:,} bytes, {frames['total']} frames"
    yield f"frames:      {_frame_counts(frames)}"
    yield f"generation:  {info['generation']}, super block pfn {info['pfn']}"
    yield f"saved:       {_when(info['saved_ns'])} by {info['saved_by']}, {_kind_of_save(info)}"
    yield f"trees:       {', '.join(info['trees']) or 'none'}"
    yield f"last run:    {_printable(info['last_run'] or 'nothing is known of it')}"
    mount = info.get("mount")
    if mount is not None:
        state = "changed since the last save" if mount["changed"] else "as saved"
        yield f"mounted:     {mount['mountpoint']}, tree {mount['name']}, process {mount['pid']}, {state}"
    yield from _node_lines(info["nodes"])


def _last_run(image: "Image") -> str:
    """What is known of the run that had the image last; "" when nothing is."""
    from pramfs import rundir, superblock

    pid = image.serving_pid()
    state = rundir.read_state(rundir.state_path(superblock.require(image).uuid))
    if pid is not None:
        return f"process {pid} has it mounted"
    if state is None:
        return ""
    if state.phase == rundir.SAVING and state.is_running:
        return (
            f"process {state.pid} is saving it now, {state.pages_done} of {state.pages_total} pages"
        )
    return state.ended_badly or f"saved at unmount by process {state.pid}"


def _node_lines(nodes: list[dict[str, Any]]) -> Iterator[str]:
    if nodes:
        yield f"{'node':<24} {'type':<12} {'bytes':>16} {'pages':>10} {'links':>8}  saved"
    for node in nodes:
        yield (
            f"{_printable(node['name']):<24} {node['type']:<12} {node['size']:>16,} {node['pages']:>10} "
            f"{node['links']:>8}  {_when(node['saved_ns'])}"
        )


def _kind_of_save(info: dict[str, Any]) -> str:
    kind = "at unmount" if info["final"] else "as a checkpoint"
    return kind + (", by a run that met an internal error" if info["suspect"] else "")


def _when(nanoseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(nanoseconds / 10**9))


def _printable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _check(args: argparse.Namespace) -> int:
    from pramfs.image import open_image
    from pramfs.inspect import check_image
    from pramfs.progress import Bar

    try:
        with open_image(args.image, writable=False) as image:
            check = check_image(image, Bar)
    except PramError as exc:
        _complain(str(exc))
        return CHECK_UNREADABLE
    if args.json:
        print(
            json.dumps(
                {
                    "image": str(args.image),
                    "clean": not check.damage,
                    "generation": check.generation,
                    "pages": check.pages,
                    "damage": check.damage,
                }
            )
        )
    else:
        for line in check.damage:
            print(f"{args.image}: {_printable(line)}")
        verdict = f"{len(check.damage)} damaged" if check.damage else "clean"
        print(
            f"{args.image}: {verdict}, generation {check.generation}, {check.pages} pages verified"
        )
    return CHECK_DAMAGED if check.damage else CHECK_CLEAN


# --- pictures ---------------------------------------------------------------------------------


def _map(args: argparse.Namespace) -> int:
    from pramfs import picture

    drawn = picture.picture_of(args.target, file=args.file, node=args.node, name=args.name)
    if args.svg is not None:
        _write_file(args.svg, picture.as_svg(drawn))
    if args.json:
        print(json.dumps(picture.as_json(drawn)))
    elif args.svg is None:
        print("\n".join(picture.on_terminal(drawn, colour=sys.stdout.isatty())))
    return 0


def _write_file(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as exc:
        raise PramError(f"{path}: {exc.strerror}") from exc


def _dump(args: argparse.Namespace) -> int:
    from pramfs import dump
    from pramfs.image import open_image

    with open_image(args.image, writable=False) as image:
        if args.pfn is not None:
            lines = dump.dump_page(image, args.pfn)
        else:
            lines = dump.dump_image(image, node=args.node, links=args.links)
        for line in lines:
            print(line)
    return 0


# --- reading a tree without mounting it ---------------------------------------------------------


@contextmanager
def _rescue(args: argparse.Namespace) -> "Iterator[Rescue]":
    from pramfs.image import open_image
    from pramfs.options import DEFAULT_NAME
    from pramfs.rescue import Rescue

    with open_image(args.image, writable=False) as image:
        yield Rescue(image, args.name or DEFAULT_NAME)


def _ls(args: argparse.Namespace) -> int:
    from pramfs import rescue

    with _rescue(args) as tree:
        listed = rescue.listing(tree, args.paths)
        damaged = tree.damaged([entry for entry, _ in listed]) if args.recover else {}
    for entry, shown in listed:
        print(rescue.list_line(entry, shown))
    for line in rescue.damage_lines(damaged):
        _complain(f"damaged: {line}")
    return CHECK_DAMAGED if damaged else 0


def _cat(args: argparse.Namespace) -> int:
    from pramfs import rescue

    with _rescue(args) as tree:
        files = rescue.files(tree, args.paths)
        damaged = tree.damaged([entry for entry, _ in files])
        rescue.refuse_damaged(tree, {} if args.recover else damaged)
        for entry, file in files:
            if entry.path not in damaged:
                for piece in tree.bytes_of(file):
                    sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return _left_out(rescue.damage_lines(damaged))


def _extract(args: argparse.Namespace) -> int:
    from pramfs import rescue

    with _rescue(args) as tree:
        done = rescue.extract(tree, args.paths, args.directory, recover=args.recover)
    for reason, times in done.not_set.items():
        _complain(f"not set, {times} times: {reason}")
    return _left_out(done.left_out)


def _left_out(lines: Sequence[str]) -> int:
    for line in lines:
        _complain(f"left out: {line}")
    return CHECK_DAMAGED if lines else 0


# --- nodes --------------------------------------------------------------------------------------


@contextmanager
def _open(path: Path, *, writable: bool, create: bool = False) -> "Iterator[Pram]":
    """The persistent memory in the image at `path`, for this command alone if it is to write."""
    from pramfs.errors import ImageInUse
    from pramfs.image import open_image
    from pramfs.options import MountOptions
    from pramfs.pram import Pram

    with open_image(path, writable=writable, create=create) as image:
        if writable and not image.try_lock():
            raise ImageInUse(path, "a mount or another command")
        if create and image.size_bytes == 0:
            pram = Pram.create(image, MountOptions().frames)
        else:
            pram = Pram.open(image)
        try:
            yield pram
        finally:
            pram.close()


def _nodes(args: argparse.Namespace) -> int:
    from pramfs.inspect import node_info

    with _open(args.image, writable=False) as pram:
        print("\n".join(_node_lines([node_info(node) for node in pram.nodes.values()])))
    return 0


def _put(args: argparse.Namespace) -> int:
    from pramfs.layout import BYTE_STREAM
    from pramfs.progress import Bar

    if sys.stdin is None:
        raise UsageError("put: standard input is closed")
    with _open(args.image, writable=True, create=True) as pram:
        status = os.fstat(sys.stdin.fileno())
        total = status.st_size if stat.S_ISREG(status.st_mode) else 0
        with (
            Bar("storing", total, unit_bytes=1) as bar,
            pram.prepare_save(args.name, BYTE_STREAM) as stream,
        ):
            while data := sys.stdin.buffer.read(_COPY_BYTES):
                stream.write(data)
                bar(len(data))
        pram.publish()
    return 0


def _get(args: argparse.Namespace) -> int:
    from pramfs.layout import BYTE_STREAM, PAGE_SHIFT
    from pramfs.progress import Bar

    if sys.stdout is None:
        raise UsageError("get: standard output is closed")
    with _open(args.image, writable=False) as pram:
        stream = pram.prepare_load(args.name, pram.node(args.name).type)
        node = pram.node(args.name)
        with Bar("fetching", node.entries) as bar:
            if node.type == BYTE_STREAM:
                while data := stream.read(_COPY_BYTES):
                    sys.stdout.buffer.write(data)
                    bar(len(data) >> PAGE_SHIFT)
            else:
                while page := stream.load_page():
                    sys.stdout.buffer.write(page[0])
                    bar(1)
        stream.keep()
        sys.stdout.buffer.flush()
    return 0


def _free(args: argparse.Namespace) -> int:
    from pramfs.persist import DATA_SUFFIX, META_SUFFIX, tree_names

    with _open(args.image, writable=True) as pram:
        if args.name is None:
            names = list(pram.nodes)
        elif args.name in tree_names(pram.nodes):
            names = [args.name + META_SUFFIX, args.name + DATA_SUFFIX]
        else:
            names = [args.name]
        for name in names:
            pram.free(name)
        pram.publish()
    return 0


# --- kexec --------------------------------------------------------------------------------------


def _kexec(args: argparse.Namespace) -> int:
    from pramfs import kexec

    with kexec.prepared(args.device, args.kernel, args.initrd, args.append) as plan:
        print("\n".join(plan.lines()), flush=True)
        if args.dry_run:
            return 0
        print(f"loaded:   {kexec.load(plan)}", flush=True)
        if not args.load_only:
            print("starting the new kernel", flush=True)
            kexec.start()
    return 0
