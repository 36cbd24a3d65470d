"""docs/design.md names every module of the program, and where each opcode of FUSE is answered."""

import functools
import inspect
import re
from collections import Counter

from pramfs.fuse.engine import UNSUPPORTED
from pramfs.fuse.operations import CARRIED, Operations
from pramfs.fuse.protocol import Opcode
from tests.support.checkout import CHECKOUT
from tests.unit.test_front import Mount


def test_the_table_names_each_module_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*?\|(.*)\|$", _table(), re.MULTILINE)
    named = {(package, name) for package, cell in rows for name in re.findall(r"`([a-z_]+)`", cell)}
    assert named == {*_modules(), ("cli", "commands")}


def test_the_table_of_opcodes_is_the_code() -> None:
    handlers = Mount().engine.front._handlers
    answered = {f"fuse.{_module(handlers[number])}": set[str]() for number in handlers}
    for number in handlers:
        answered[f"fuse.{_module(handlers[number])}"].add(Opcode(number).name)
    answered["fuse.operations"] = {opcode.name for opcode in CARRIED}
    answered["nobody"] = {opcode.name for opcode in UNSUPPORTED}
    written = _opcodes_by_place()
    assert {place: written[place] for place in answered} == answered
    counted = Counter(name for names in written.values() for name in names)
    assert counted == dict.fromkeys((opcode.name for opcode in Opcode), 1)


def test_pyfuse3_has_a_handler_for_what_is_carried_and_no_other() -> None:
    handlers = {name for name in vars(Operations) if not name.startswith("_")}
    told = {"supports_dot_lookup", "enable_acl"}
    assert handlers - told == {opcode.name.lower() for opcode in CARRIED - {Opcode.DESTROY}}


def _module(handler: object) -> str:
    if isinstance(handler, functools.partial):  # what is put off
        handler = handler.args[0]
    return inspect.getmodule(handler).__name__.rpartition(".")[2]  # type: ignore[union-attr]


def _opcodes_by_place() -> dict[str, set[str]]:
    """Return what the table says: names of opcodes by the first word of the place."""
    rows = re.findall(
        r"^\| `?([\w.]+)[^|]*\| ([A-Z0-9_, ]+) \|$", _table("| answered by |"), re.MULTILINE
    )
    return {place: set(names.split(", ")) for place, names in rows}


def _table(heading: str = "| package |") -> str:
    page = (CHECKOUT / "docs/design.md").read_text()
    start = page.index(heading)
    return page[start : page.index("\n\n", start)]


def _modules() -> set[tuple[str, str]]:
    """Return the package and the name of each module, those of `pramfs.cli.commands` left out."""
    files = [*CHECKOUT.glob("pramfs/*.py"), *CHECKOUT.glob("pramfs/*/*.py")]
    return {(file.parent.name, file.stem) for file in files if not file.stem.startswith("__")}
