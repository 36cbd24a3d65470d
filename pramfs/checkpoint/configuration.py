"""What is to be dumped, as a TOML file says it.

mountpoint = "/mnt"
mount_options = "banned=0-16M"

[[dump]]
unit = "web.service"
options = ["--tcp-established"]
"""

import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pramfs.errors import UsageError
from pramfs.options import parse_options

DEFAULT = Path("/etc/pramfs/checkpoint.toml")

_KINDS = ("pid", "unit", "cgroup")
_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """Something to dump: a process with its children, the processes of a unit, or those of a cgroup."""

    kind: str  # one of _KINDS
    what: str  # the pid, the unit's name, or the cgroup below /sys/fs/cgroup
    options: tuple[str, ...]  # for criu dump and criu restore

    @property
    def name(self) -> str:
        """A name for directories and messages."""
        return f"pid-{self.what}" if self.kind == "pid" else self.what.strip("/").replace("/", "-")


@dataclass(frozen=True, slots=True)
class Configuration:
    """Where to dump to, and what, in this order."""

    mountpoint: Path
    mount_options: str  # to mount the image again when the kexec fails
    wanted: tuple[Wanted, ...]


def read(path: Path) -> Configuration:
    """Return the configuration in a file. Raises UsageError, which names the file and what is wrong."""
    try:
        table = tomllib.loads(_text_of(path))
    except OSError as exc:
        raise UsageError(f"{path}: {exc.strerror}") from exc
    except ValueError as exc:
        raise UsageError(f"{path}: not TOML: {exc}") from exc
    try:
        return _configuration(table)
    except (ValueError, UsageError) as exc:
        raise UsageError(f"{path}: {exc}") from exc


def _text_of(path: Path) -> str:
    """Return what the file holds. Raises OSError, ValueError, or UsageError if it is not to be trusted."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            told = "no file; an image comes first: pramfs kexec IMAGE --checkpoint"
            raise UsageError(f"{path}: {told}")
        by_others = stat.S_IWOTH | (stat.S_IWGRP if status.st_gid else 0)
        if status.st_uid not in (0, os.getuid()) or status.st_mode & by_others:
            told = "others may write it, and criu would do as root what they write"
            raise UsageError(f"{path}: {told}; first: chown root, chmod go-w")
        return file.read(_BYTES_MAX).decode()


def _configuration(table: dict[str, object]) -> Configuration:
    _refuse_unknown(table, ("mountpoint", "mount_options", "dump"))
    mountpoint = _text(table, "mountpoint")
    if not mountpoint.startswith("/"):
        raise ValueError("mountpoint: an absolute path is needed")
    options = _text(table, "mount_options") if "mount_options" in table else ""
    parse_options([options])
    entries = table.get("dump")
    if not isinstance(entries, list) or not entries:
        raise ValueError("nothing to dump: at least one [[dump]] is needed")
    wanted = tuple(_wanted(entry) for entry in entries)
    names = [one.name for one in wanted]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"dump: {name} is there twice")
    return Configuration(Path(mountpoint), options, wanted)


def _wanted(entry: object) -> Wanted:
    if not isinstance(entry, dict):
        raise ValueError("dump: write it as [[dump]]")
    _refuse_unknown(entry, (*_KINDS, "options"))
    kinds = [kind for kind in _KINDS if kind in entry]
    if len(kinds) != 1:
        raise ValueError(f"dump: one of {', '.join(_KINDS)} is needed in each")
    (kind,) = kinds
    options = entry.get("options", [])
    if not isinstance(options, list) or not all(isinstance(word, str) for word in options):
        raise ValueError("options: a list of words for criu is needed")
    return Wanted(kind, _pid(entry) if kind == "pid" else _place(entry, kind), tuple(options))


def _pid(entry: dict[str, object]) -> str:
    pid = entry["pid"]
    if type(pid) is not int or pid <= 1:
        raise ValueError("pid: a number greater than 1 is needed")
    return str(pid)


def _place(entry: dict[str, object], kind: str) -> str:
    text = _text(entry, kind)
    if kind == "unit" and ("/" in text or not text.endswith(".service")):
        raise ValueError(f"unit: {text} is not the name of a service, such as web.service")
    if kind == "cgroup" and (".." in text.split("/") or not text.strip("/")):
        raise ValueError(f"cgroup: {text} is not a path below /sys/fs/cgroup")
    return text


def _text(table: dict[str, object], key: str) -> str:
    text = table.get(key)
    if not isinstance(text, str) or not text or "\n" in text or "\0" in text:
        raise ValueError(f"{key}: a line of text is needed")
    return text


def _refuse_unknown(table: dict[str, object], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"unknown key '{key}'; there are: {', '.join(known)}")
