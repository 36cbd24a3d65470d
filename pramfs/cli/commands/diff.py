"""The command that compares snapshots: diff. Imports only what it needs."""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pramfs.cli.parser import Commands, a_path, add_command
from pramfs.errors import (
    DIFF_EQUAL,
    DIFF_FOUND,
    DIFF_TROUBLE,
    PramError,
    SaveNotAllowed,
    SaveUnknown,
)
from pramfs.system.text import complain, counted, printable

if TYPE_CHECKING:
    from pramfs.control.status import MountStatus
    from pramfs.offline.diff import Change, Totals, TreeDiff

_LETTERS = {"added": "A", "removed": "D", "renamed": "R", "changed": "M", "attributes": "m"}


def add_commands(commands: Commands) -> None:
    """Add the command to the parser."""
    diff = add_command(commands, "diff", _diff, "say what has changed since a snapshot")
    diff.usage_code = DIFF_TROUBLE
    diff.set_defaults(failure_code=DIFF_TROUBLE)
    diff.add_argument("--json", action="store_true", help="for programs")
    diff.add_argument("target", metavar="IMAGE|MOUNTPOINT", type=a_path)
    diff.add_argument("old", metavar="SNAPSHOT")
    diff.add_argument("new", metavar="SNAPSHOT", nargs="?", help="default: the tree itself")


def _diff(args: argparse.Namespace) -> int:
    from pramfs.control import client
    from pramfs.control.served_image import open_target
    from pramfs.offline.diff import diff_trees
    from pramfs.offline.snapshots import require_snapshots
    from pramfs.options import DEFAULT_NAME
    from pramfs.saves.snapshot_names import snapshot_tree, tree_of

    status, warning = client.status_if_mounted(args.target, "not compared"), ""
    now = status.name if status is not None else DEFAULT_NAME  # a snapshot may be mounted
    old = snapshot_tree(args.old, tree_of(now))
    tree = tree_of(old)
    itself = now if tree_of(now) == tree else tree
    new = itself if args.new is None else snapshot_tree(args.new, tree)
    if status is not None:
        require_snapshots(args.target, (old, new), status)
        if args.new is None:
            status, warning = _saved(args.target, status)
    with open_target(args.target, status) as image:
        if warning:
            complain(warning)
        found = diff_trees(image, old, new)
    if args.json:
        _print_json(found)
    else:
        for change in found.changes():
            print(change_line(change))
        print(_last_line(found.totals), end="")
    return DIFF_FOUND if any(asdict(found.totals).values()) else DIFF_EQUAL


def _saved(mountpoint: Path, before: "MountStatus") -> tuple["MountStatus", str]:
    """Save the mount, so that what is in it now is compared; return its status after that, and a warning."""
    from pramfs.control import client, save_progress

    if before.read_only:
        return before, ""
    try:
        status = save_progress.save(mountpoint, keep=False)
        print(
            printable(f"{mountpoint}: saved first, generation {status.generation}"), file=sys.stderr
        )
    except SaveNotAllowed as exc:
        unseen = f"what has changed since generation {before.generation} is not seen"
        return before, f"{exc}; {unseen}"
    except SaveUnknown:
        raise
    except PramError as exc:
        status = client.read_status(mountpoint)
        if status.generation == before.generation:
            raise
        return status, f"{exc}; what is there is compared, as of generation {status.generation}"
    return status, ""


def change_line(change: "Change") -> str:
    """Return the line that tells a change to people."""
    slash = "/" if change.kind == "directory" else ""
    path = printable(change.path) + slash
    if change.change == "renamed":
        path = f"{printable(change.old_path)}{slash} -> {path}"
    details = ", ".join(_details(change))
    return f"{_LETTERS[change.change]} {path}" + (f" ({details})" if details else "")


def _details(change: "Change") -> Iterator[str]:
    if change.change in ("added", "removed"):
        return
    if change.pages:
        yield counted(change.pages, "page")
    if change.old_size != change.new_size:
        yield f"size {change.old_size} -> {change.new_size}"
    yield from change.what


def _last_line(totals: "Totals") -> str:
    """Return how much differs in all, "" if nothing does."""
    numbers = {
        "added": totals.added,
        "deleted": totals.removed,
        "renamed": totals.renamed,
        "changed": totals.changed,
        "with other attributes": totals.attributes,
    }
    words = [f"{count} {what}" for what, count in numbers.items() if count]
    words += [counted(totals.pages, "page")] if totals.pages else []
    return f"{', '.join(words)}\n" if words else ""


def _print_json(found: "TreeDiff") -> None:
    """Print one value, a change at a time: together their paths may take much memory."""
    head = {
        "old": found.old,
        "new": found.new,
        "generation": found.generation,
        "totals": asdict(found.totals),
    }
    print(json.dumps(head)[:-1] + ', "changes": [', end="")
    for number, change in enumerate(found.changes()):
        print(",\n" if number else "\n", json.dumps(asdict(change)), sep="", end="")
    print("]}")
