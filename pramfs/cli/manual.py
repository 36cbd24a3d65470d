"""Manual pages and completion for bash, zsh and fish, made from the parser, the options and the format.

    python -m pramfs.cli.manual [DIRECTORY]      writes them (default: share, where they are kept)

They are committed, so that an installation need not build them; a test compares them with the program.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pramfs import __version__
from pramfs.cli import helptext
from pramfs.cli.completion import MADE_BY, completion_files, flags, operands
from pramfs.cli.main import build_parser
from pramfs.storage import layout

_EXIT_STATUS = (
    ("0", "done; of umount and save: and durable"),
    ("1", "wrong usage, an unknown option; diff: there are differences"),
    ("2", "the system refused something needed; diff: trouble of any kind, such as wrong usage"),
    (
        "4",
        "check: damage found. ls, cat, extract: something is damaged or left out. mount -f: internal error",
    ),
    ("8", "interrupted; check: not a pram image, or unreadable"),
    ("16", "check: wrong usage"),
    (
        "32",
        "it failed, or the save is incomplete or not in the image; the line on standard error says why",
    ),
    ("64", "umount, save, snapshot, free: it is unknown what is saved"),
)
_FILES = (
    ("/run/pramfs/UUID-DEVICE-INODE.log", "what the daemons of this image logged"),
    ("/run/pramfs/UUID-DEVICE-INODE.state", "how its last run goes, or ended"),
)
_FILES_NOTE = (
    "For users other than root these are in $XDG_RUNTIME_DIR/pramfs, or else /tmp/pramfs-UID."
)

_MOUNT_HELPER = """\
What mount(8) calls for the types pramfs and fuse.pramfs: in fstab, and for mount -t pramfs IMAGE DIR.
It mounts the image and returns 0 when the mount is usable. -s ignores unknown options, -f does everything
but the mount, -v says more, -n is the default. A remount may change ro, rw and the kernel's own flags.

  mount -t pramfs -o banned=0-16M /dev/pmem0 /mnt/keep
  /dev/pmem0  /mnt/keep  pramfs  banned=0-16M,nofail  0  0
"""
_UMOUNT_HELPER = """\
What umount(8) calls for a pramfs: it unmounts and waits until the daemon has saved everything. Exit code 0
means durable, but for -l, which detaches and does not wait; on a terminal, or with -v, it says so, too.
Errors go to standard error, and so does the place where it is still mounted. -r makes a busy mount read-only
and leaves it mounted. -f cuts off who uses it, after the kernel has handed over what it can. umount -i and
fusermount3 -u do not call it, and do not wait; the next mount of the image then waits.

  umount /mnt/keep
"""
_FORMAT = """\
An image holds one complete save: a super block names the first node, nodes are linked by pfn, each has a
chain of links, and each link names up to 169 data pages. Numbers are little-endian; pages have 4096 bytes;
page N is frame N, and N is its pfn. Checksums are CRC-32C: of a data page its 4096 bytes; of a metadata page
the image's uuid, the page's pfn as u64, and bytes 8 to 4095. The super block with the highest generation in
any slot is in force; a slot is frame N when N without its lowest bit is 0, a power of two, or a multiple of
4096. docs/format.md of the sources says everything that a reader has to check.
"""


class _Page(NamedTuple):
    """A manual page: its section, its line for whatis(1), and its body."""

    section: int
    summary: str
    body: list[str]


def manual_files() -> dict[str, str]:
    """Return the text of all files, by their path below `share`."""
    pages = {
        "pramfs.1": _Page(1, "a filesystem in memory whose files survive", list(_program())),
        "mount.pramfs.8": _Page(8, "mount a pramfs image", list(_mount_helper())),
        "umount.pramfs.8": _Page(8, "unmount a pramfs and wait for its save", list(_umount())),
        "pramfs.5": _Page(5, "the format of pramfs images", list(_format())),
    }
    files = {f"man/{name}": _roff(name, page) for name, page in pages.items()}
    return files | {f"completion/{name}": text for name, text in completion_files().items()}


def main() -> None:
    """Write all files."""
    share = Path(sys.argv[1] if len(sys.argv) > 1 else "share")
    for name, text in manual_files().items():
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        (share / name).write_text(text)


# --- manual pages -------------------------------------------------------------------------------


def _roff(name: str, page: _Page) -> str:
    title = name.rpartition(".")[0]
    head = [
        rf".\" {MADE_BY}",
        f'.TH {title.upper()} {page.section} "" "pramfs {__version__}"',
        ".SH NAME",
        f"{title} \\- {page.summary}",
    ]
    return "\n".join([*head, *page.body, ""])


def _program() -> Iterator[str]:
    yield from (".SH SYNOPSIS", r".B pramfs", r"\fICOMMAND\fR [\fIARGUMENT\fR...]")
    yield from (".SH DESCRIPTION", *_text(helptext.PROGRAM), ".SH OPTIONS")
    yield from _flag_items(build_parser())
    yield ".SH COMMANDS"
    for name, parser in build_parser().commands().items():
        yield f'.SS "{_escaped(_usage(parser))}"'
        yield from _text(helptext.TEXTS[name])
        yield from _flag_items(parser)
    yield from (".SH MOUNT OPTIONS", *_mount_options(), ".SH EXIT STATUS")
    for code, meaning in _EXIT_STATUS:
        yield from _item(code, meaning)
    yield ".SH FILES"
    for file, meaning in _FILES:
        yield from _item(file, meaning)
    yield from (".PP", _escaped(_FILES_NOTE))
    yield from (".SH SEE ALSO", "mount.pramfs(8), umount.pramfs(8), pramfs(5), kexec(8), criu(8)")


def _flag_items(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in _flags(parser):
        words = ", ".join(action.option_strings)
        yield from _item(f"{words} {action.metavar or ''}".strip(), action.help or "")


def _mount_helper() -> Iterator[str]:
    yield from (".SH SYNOPSIS", ".B mount.pramfs", r"\fIIMAGE DIR\fR [\-sfnv] [\-o \fIOPTIONS\fR]")
    yield from (".SH DESCRIPTION", *_text(_MOUNT_HELPER), ".SH OPTIONS", *_mount_options())
    yield from (".SH SEE ALSO", "pramfs(1), umount.pramfs(8), mount(8), fstab(5)")


def _umount() -> Iterator[str]:
    yield from (".SH SYNOPSIS", ".B umount.pramfs", r"\fIDIR\fR [\-flnrv]")
    yield from (".SH DESCRIPTION", *_text(_UMOUNT_HELPER))
    yield from (".SH SEE ALSO", "pramfs(1), mount.pramfs(8), umount(8)")


def _format() -> Iterator[str]:
    yield from (".SH DESCRIPTION", *_text(_FORMAT), ".SH STRUCTURES")
    _, contract, tables = (layout.__doc__ or "").split("\n\n", 2)
    yield from _text(contract)
    yield from (".nf", ".ft CR", *(_escaped(line) for line in tables.splitlines()), ".ft", ".fi")
    yield from (".SH SEE ALSO", "pramfs(1)")


def _mount_options() -> Iterator[str]:
    for words, meaning in helptext.option_items():
        yield from _item(words, meaning)


def _text(text: str) -> Iterator[str]:
    for part in text.strip("\n").split("\n\n"):
        yield ".PP"
        lines = part.splitlines()
        if part.startswith(" "):
            yield from (".RS", ".nf", *(_escaped(line.strip()) for line in lines), ".fi", ".RE")
        else:
            yield from map(_escaped, lines)


def _item(term: str, meaning: str) -> Iterator[str]:
    yield from (".TP", rf"\fB{_escaped(term)}\fR", _escaped(meaning))


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("…", "...").replace('"', r"\(dq")
    return r"\&" + text if text[:1] in {".", "'"} else text


def _usage(parser: argparse.ArgumentParser) -> str:
    words = [parser.prog]
    words += [
        f"[{action.option_strings[0]} {action.metavar or ''}".strip() + "]"
        for action in _flags(parser)
    ]
    for action in operands(parser):
        name = str(action.metavar)
        many = {"?": "[{}]", "*": "[{}…]", "+": "{}…"}.get(str(action.nargs), "{}")
        words.append(many.format(name))
    return " ".join(words)


def _flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in flags(parser) if "--help" not in action.option_strings]


if __name__ == "__main__":
    main()
