"""The options of `-o`, the same for mount(8), fstab and the command line. OPTIONS describes them all."""

import difflib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pramfs.errors import UsageError
from pramfs.saves.snapshot_names import SNAPSHOT_MARK, snapshot_tree
from pramfs.storage import layout
from pramfs.storage.layout import PAGE_SHIFT, PAGE_SIZE
from pramfs.storage.regions import Regions, parse_regions
from pramfs.system.memory_values import memparse

DEFAULT_NAME = "pramfs"

_BARE_REGION = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)[kKmMgGtTpPeE]?-.*")
_DECIMALS = re.compile(r"[0-9]+\s*[a-zA-Z]{0,3}")
_ID_MAX = (1 << 32) - 2
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_KEEP_DIGITS_MAX = 6
_AUTOMATIC_BYTES = len("@auto-20261129T044042.118Z-999")  # see `saves.snapshots.new_name`


@dataclass(slots=True)
class MountOptions:
    """The parsed options; None where the default depends on the image or the system."""

    size_bytes: int | None = None
    nr_inodes: int | None = None
    mode: int = 0o755
    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)
    banned: Regions = field(default_factory=Regions)
    name: str = DEFAULT_NAME  # of the tree that is mounted
    snapshot: str = ""  # TREE@SNAPSHOT that it is read from at first, "" if that is the tree itself
    noload: bool = False
    pram: int | None = None
    arena: str = "auto"
    verify: str = "full"
    recover: bool = False
    checkpoint: int = 0
    keep_saves: int = 0
    keep_seconds: int = 0
    writeback: int = 30
    dedup: bool = False
    ro: bool = False
    allow_other: bool = False
    noatime: bool = False
    nodiratime: bool = False
    direct_io: bool = False
    check_open: bool = False
    fsync: str = "nothing"
    mount_flags: list[str] = field(default_factory=list)  # for the kernel, in the given order
    words: list[str] = field(default_factory=list)  # of pramfs itself, in the given order

    @property
    def frames(self) -> int:
        """The number of frames for `size=`, or without it for half of RAM, as on tmpfs."""
        size_bytes = ram_bytes() // 2 if self.size_bytes is None else self.size_bytes
        return (size_bytes + PAGE_SIZE - 1) >> PAGE_SHIFT

    @property
    def source(self) -> str:
        """The name of the tree that is read at the mount: of a snapshot, or of the tree itself."""
        return self.snapshot or self.name

    @property
    def grows(self) -> bool:
        """Whether the tree is a new one that grows from a snapshot."""
        return self.source != self.name


class Option(NamedTuple):
    """One option: its name, the name of its value ("" for a flag), its description, and its parser."""

    name: str
    value: str
    help: str
    read: Callable[[MountOptions, str], None]


def parse_options(lists: Sequence[str], *, sloppy: bool = False) -> MountOptions:
    """Parse the comma-separated `lists` of options. Raises UsageError for a wrong one.

    With `sloppy`, unknown ones are ignored (`mount -s`).
    """
    options = MountOptions()
    for word in _words(lists):
        name, equals, value = word.partition("=")
        option = _BY_NAME.get(name)
        if option is None:
            _take_foreign(options, word, name, sloppy)
        elif option.value and not value:
            raise UsageError(f"option '{name}' needs a value: {name}={option.value}")
        elif equals and not option.value:
            raise UsageError(f"option '{name}' takes no value, not '{value}'")
        else:
            option.read(options, value)
            options.words.append(word)
    if options.snapshot:
        _settle_snapshot(options)
    if options.keep_saves or options.keep_seconds:
        _require_names_to_keep(options.name)
    read_only = "snapshot" if options.snapshot else "ro"
    for name, is_set, what in (
        ("checkpoint", options.checkpoint, "saved"),
        ("keep", options.keep_saves or options.keep_seconds, "saved"),
        ("dedup", options.dedup, "changed"),
    ):
        if options.ro and is_set:
            raise UsageError(
                f"options '{read_only}' and '{name}' exclude each other: nothing is {what} read-only"
            )
    return options


def _settle_snapshot(options: MountOptions) -> None:
    """Fill in what `snapshot=` means for the other options. Raises UsageError for those that it excludes."""
    if options.noload:
        raise UsageError("options 'snapshot' and 'noload' exclude each other")
    if not any(word.startswith("name=") for word in options.words):
        options.name = options.snapshot
        options.ro = True
    elif options.ro:
        raise UsageError(
            "options 'ro' and 'name' exclude each other beside 'snapshot': the tree NAME is a new one"
        )


def _require_names_to_keep(name: str) -> None:
    """Raise UsageError unless automatic snapshots of the tree can have names: else no save could be kept."""
    size, fit = len(os.fsencode(name)), layout.TREE_NAME_MAX_BYTES - _AUTOMATIC_BYTES
    if size > fit:
        raise UsageError(
            f"options 'name' and 'keep': the name has {size} bytes, and at most {fit} leave room for "
            "the names of snapshots"
        )


def ram_bytes() -> int:
    """Return the size of RAM in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _words(lists: Sequence[str]) -> list[str]:
    """Split lists into single options, but not at a comma between regions of `banned=`."""
    words: list[str] = []
    for text in lists:
        for word in text.split(","):
            joint = _joint(words[-1], word) if words else ""
            if joint:
                words[-1] += joint + word
            elif word:
                words.append(word)
    return words


def _joint(before: str, word: str) -> str:
    """Return the separator that joins `word` to the option `before`, "" if it is an option of its own.

    A bare X-Y is one more region. Digits after a decimal comma are joined as well, so that the error message
    shows the whole number.
    """
    name, _, value = before.partition("=")
    if name == "banned" and _BARE_REGION.fullmatch(word):
        return ":"
    is_number = name in _BY_NAME and value[-1:].isdigit()
    return "," if is_number and _DECIMALS.fullmatch(word) else ""


def _take_foreign(options: MountOptions, word: str, name: str, sloppy: bool) -> None:
    """Accept an option of mount(8), or refuse an unknown one."""
    if name in {*KERNEL_FLAGS, *WITHOUT_EFFECT} and word != name:
        raise UsageError(f"option '{name}' takes no value, not '{word.partition('=')[2]}'")
    if word in KERNEL_FLAGS:
        options.mount_flags.append(word)
    elif not sloppy and not _is_harmless(name):
        close = difflib.get_close_matches(name, [*_BY_NAME, *KERNEL_FLAGS, *WITHOUT_EFFECT], n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UsageError(f"unknown option '{name}'{hint}")


def _is_harmless(name: str) -> bool:
    return name in {*WITHOUT_EFFECT, *FOR_OTHERS, *_NOTES} or name.startswith(("x-", "X-"))


def _set(attribute: str, parse: Callable[[str], object]) -> Callable[[MountOptions, str], None]:
    """Return a parser that stores the value. A ValueError of `parse` means a wrong value of the option."""

    def read(options: MountOptions, value: str) -> None:
        try:
            setattr(options, attribute, parse(value))
        except ValueError as exc:
            name = next(name for name, option in _BY_NAME.items() if option.read is read)
            raise UsageError(f"option '{name}': {exc}") from exc

    return read


def _flag(attribute: str) -> Callable[[MountOptions, str], None]:
    return _set(attribute, lambda value: True)


def _size(text: str) -> int:
    if not text.endswith("%"):
        size_bytes = memparse(text)
    elif text[:-1].isdecimal():
        size_bytes = ram_bytes() * int(text[:-1]) // 100
    else:
        raise ValueError(f"a percentage of RAM expected, not '{text}'")
    if not 0 < size_bytes <= layout.FRAMES_MAX << PAGE_SHIFT:
        raise ValueError(f"'{text}' is not between 1 and {layout.FRAMES_MAX << PAGE_SHIFT} bytes")
    return size_bytes


def _number(low: int, high: int, base: int = 10) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text, base)
        except ValueError:
            value = -1
        if not low <= value <= high or not text.isalnum():
            kind = {8: "an octal", 10: "a", 16: "a hexadecimal"}[base]
            raise ValueError(
                f"{kind} number from {low} to {_in_base(high, base)} expected, not '{text}'"
            )
        return value

    return parse


def _in_base(number: int, base: int) -> str:
    return {8: f"{number:o}", 10: f"{number}", 16: f"{number:x}"}[base]


def _inodes(text: str) -> int:
    count = memparse(text)
    if count < 1:
        raise ValueError("at least 1 inode is needed, for the root")
    return count


def _name(text: str) -> str:
    size = len(os.fsencode(text))
    if size > layout.TREE_NAME_MAX_BYTES or "\0" in text:
        raise ValueError(f"the name has {size} bytes, at most {layout.TREE_NAME_MAX_BYTES} fit")
    if SNAPSHOT_MARK in text:
        raise ValueError("names with @ are those of snapshots")
    return text


def _snapshot(text: str) -> str:
    """Return the full name of a snapshot, which is one of the default tree unless another is named."""
    full_name = snapshot_tree(text, DEFAULT_NAME)
    if full_name.count(SNAPSHOT_MARK) > 1 or full_name.endswith(SNAPSHOT_MARK) or "\0" in text:
        raise ValueError(f"SNAPSHOT or TREE@SNAPSHOT expected, not '{text}'")
    return full_name


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"{' or '.join(choices)} expected, not '{text}'")
        return text

    return parse


def parse_keep(value: str) -> tuple[int, int]:
    """Return how many saves to keep, or for how many seconds; 0 for what is not said. Raises UsageError."""
    number, unit = (value[:-1], value[-1]) if value[-1:] in _UNITS_S else (value, "")
    if not (number.isascii() and number.isdecimal()) or len(number) > _KEEP_DIGITS_MAX:
        raise UsageError(f"option 'keep': a number or a time such as 24h expected, not '{value}'")
    return (0, int(number) * _UNITS_S[unit]) if unit else (int(number), 0)


def _keep(options: MountOptions, value: str) -> None:
    options.keep_saves, options.keep_seconds = parse_keep(value)


def _ban(options: MountOptions, value: str) -> None:
    for region in parse_regions(value):
        options.banned.add(region)


def _writable(options: MountOptions, value: str) -> None:
    options.ro = False


OPTIONS = (
    Option(
        "size",
        "BYTES",
        "size of the arena, with a suffix K M G T or as N% of RAM (default: half of RAM); an image "
        "that exists keeps its size, and grows when more is asked for",
        _set("size_bytes", _size),
    ),
    Option(
        "nr_inodes",
        "N",
        "most inodes the tree may have, with a suffix (default: one for each frame)",
        _set("nr_inodes", _inodes),
    ),
    Option(
        "mode",
        "OCTAL",
        "mode of the root directory of a new tree (default: 755)",
        _set("mode", _number(0, 0o7777, 8)),
    ),
    Option("uid", "N", "its owner (default: yours)", _set("uid", _number(0, _ID_MAX))),
    Option("gid", "N", "its group (default: yours)", _set("gid", _number(0, _ID_MAX))),
    Option(
        "banned",
        "MIN-MAX",
        "a region of the image that may hold nothing persistent; several as MIN-MAX,MIN-MAX or "
        "MIN-MAX:MIN-MAX or by repeating the option",
        _ban,
    ),
    Option(
        "name",
        "NAME",
        f"name of the tree in the image (default: {DEFAULT_NAME})",
        _set("name", _name),
    ),
    Option(
        "snapshot",
        "SNAPSHOT",
        "mount this snapshot read-only (TREE@SNAPSHOT: one of another tree than the default); with name= "
        "a writable tree of that name, which must be a new one, grows from it",
        _set("snapshot", _snapshot),
    ),
    Option(
        "noload",
        "",
        "start with an empty tree; the next save replaces the one in the image",
        _flag("noload"),
    ),
    Option(
        "pram",
        "PFN",
        "hexadecimal pfn of the super block (default: it is searched for)",
        _set("pram", _number(0, layout.FRAMES_MAX - 1, 16)),
    ),
    Option(
        "arena",
        "auto|image|memory",
        "where new pages are held until they are saved: in the image at once, in memory, or by where "
        "the image lives (default: auto)",
        _set("arena", _choice("auto", "image", "memory")),
    ),
    Option(
        "verify",
        "full|lazy",
        "check every page before the mount is ready, or each when it is read first (default: full)",
        _set("verify", _choice("full", "lazy")),
    ),
    Option(
        "recover", "", "mount what is whole of a damaged tree, and list the rest", _flag("recover")
    ),
    Option(
        "checkpoint",
        "SECONDS",
        "publish a save by itself whenever something changed that long ago (default: 0, never)",
        _set("checkpoint", _number(0, 1 << 31)),
    ),
    Option(
        "keep",
        "N|TIME",
        "keep the last N saves, or those of a time such as 30m, 24h or 7d, as snapshots: of umount, 'pramfs "
        "save' and checkpoint=; when the arena is full the oldest go (default: 0, none)",
        _keep,
    ),
    Option(
        "writeback",
        "SECONDS",
        "on a disk, write pages out before a save when there are more than it can write in that time "
        "(default: 30; 0: leave it alone until a save, unless memory runs short)",
        _set("writeback", _number(0, 1 << 31)),
    ),
    Option(
        "dedup",
        "",
        "have pages with the same bytes share memory, whenever the mount is idle",
        _flag("dedup"),
    ),
    Option("ro", "", "mount read-only; nothing is saved", _flag("ro")),
    Option("rw", "", "mount writable (the default)", _writable),
    Option(
        "allow_other",
        "",
        "let other users in, as far as the permissions let them",
        _flag("allow_other"),
    ),
    Option("noatime", "", "let reading change no access times", _flag("noatime")),
    Option("nodiratime", "", "let listing change none of directories", _flag("nodiratime")),
    Option("direct_io", "", "keep file data out of the kernel's page cache", _flag("direct_io")),
    Option(
        "check_open",
        "",
        "ask at each open of a file, so that what chattr(1) forbids is refused there, and not when the "
        "kernel hands over what was written; opening takes longer",
        _flag("check_open"),
    ),
    Option(
        "fsync",
        "nothing|publish",
        "what fsync(2) of a file does: nothing, as on tmpfs, or publish a save, so that what was written "
        "to it is durable (default: nothing)",
        _set("fsync", _choice("nothing", "publish")),
    ),
)

_BY_NAME = {option.name: option for option in OPTIONS}
# Words of mount(8). For the kernel's mount:
KERNEL_FLAGS = (
    *("suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync"),
    "atime",
)
# Accepted without effect, because they occur in fstab and libfuse cannot pass them on. FUSE has no inode
# versions and no mandatory locks. Access times are kept by pramfs, which in any case does not see reads that
# the page cache answers.
WITHOUT_EFFECT = (
    *("diratime", "relatime", "norelatime", "strictatime", "nostrictatime"),
    *("lazytime", "nolazytime", "iversion", "noiversion", "mand", "nomand", "silent", "loud"),
)
# Accepted without effect: other programs act on them, as mount(8) and fstab(5) describe.
FOR_OTHERS = (
    *("defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail"),
    *("_netdev", "comment", "x-…"),
)
_NOTES = {  # of mount(8) to its helpers, and of libfuse to mount(8)
    *("remount", "helper", "uhelper", "fsname", "subtype", "default_permissions"),
    *("user_id", "group_id"),
}
