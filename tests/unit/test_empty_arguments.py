"""An empty argument is an unset variable of a script: no default, neither this directory nor all there is."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pramfs.cli import mount_helpers
from pramfs.cli.main import build_parser, main
from pramfs.errors import EXIT_USAGE

# What is said of arguments that are no paths. All others are taken for paths here, as new ones will be.
VALUES = dict.fromkeys(("NAME", "TREE", "SNAPSHOT", "SIZE", "N|TIME"), "an empty value")
VALUES |= {"PFN": "a hexadecimal pfn expected"}
# Lists of words, which may be none. An option of mount(8) without its value is refused by its name.
LISTS = {"OPT[,OPT…]", "WORDS"}


class Empty(NamedTuple):
    """A command line with an empty argument, how it ends, and what is said."""

    words: list[str]
    code: int
    told: str


def empty_arguments() -> list[Empty]:
    """Every command with every argument that it takes."""
    return [
        Empty([name, *words_of(arguments, one)], command.usage_code, told_of(one))
        for name, command in build_parser().commands().items()
        for arguments in [[action for action in command._actions if action.nargs != 0]]
        for one in arguments
        if one.metavar not in LISTS
    ]


def told_of(argument: argparse.Action) -> str:
    if argument.choices:
        return "an empty value"
    return VALUES.get(str(argument.metavar), "an empty path")


def words_of(arguments: list[argparse.Action], empty: argparse.Action) -> list[str]:
    """An empty word for one argument, and another word for each that has no option."""
    option = [empty.option_strings[-1], ""] if empty.option_strings else []
    others = [argument for argument in arguments if not argument.option_strings]
    return option + ["" if argument is empty else "missing" for argument in others]


def code_of(words: list[str]) -> int | str | None:
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize(
    "case", empty_arguments(), ids=lambda case: " ".join(map(repr, case.words))
)
def test_an_empty_argument_is_wrong_usage(
    case: Empty,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_of(case.words) == case.code
    told = capsys.readouterr().err
    assert case.told in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("helper", "words", "told"),
    [
        (mount_helpers.mount_helper, ["", "mnt"], "mount.pramfs: SPEC"),
        (mount_helpers.mount_helper, ["image", "", "-o", "ro"], "mount.pramfs: DIR"),
        (mount_helpers.umount_helper, ["-f", ""], "umount.pramfs: DIR"),
    ],
    ids=["image", "mountpoint", "unmount"],
)
def test_an_empty_path_is_wrong_usage_of_the_helpers_of_mount_too(
    helper: Callable[[], int],
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["helper", *words])
    assert helper() == EXIT_USAGE
    assert capsys.readouterr().err == f"{told}: an empty path\n"
