"""docs/design.md names every module of the program in the table of packages."""

import re

from tests.support.checkout import CHECKOUT


def test_the_table_names_each_module_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*?\|(.*)\|$", _table(), re.MULTILINE)
    named = {(package, name) for package, cell in rows for name in re.findall(r"`([a-z_]+)`", cell)}
    assert named == {*_modules(), ("cli", "commands")}


def _table() -> str:
    page = (CHECKOUT / "docs/design.md").read_text()
    start = page.index("| package |")
    return page[start : page.index("\n\n", start)]


def _modules() -> set[tuple[str, str]]:
    """Return the package and the name of each module, those of `pramfs.cli.commands` left out."""
    files = [*CHECKOUT.glob("pramfs/*.py"), *CHECKOUT.glob("pramfs/*/*.py")]
    return {(file.parent.name, file.stem) for file in files if not file.stem.startswith("__")}
