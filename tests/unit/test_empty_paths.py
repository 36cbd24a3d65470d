"""An empty path is an unset variable of a script: it means neither this directory nor the whole tree."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pramfs.cli import mount_helpers
from pramfs.cli.main import build_parser, main
from pramfs.errors import EXIT_USAGE

# What arguments are that are no paths. All others are taken for paths here, as new ones will be.
NO_PATHS = {"NAME", "TREE", "SNAPSHOT", "OPT[,OPT…]", "WORDS", "PFN", "SIZE", "N|TIME"}


class Empty(NamedTuple):
    """A command line with an empty path."""

    words: list[str]
    code: int


def empty_paths() -> list[Empty]:
    """Every command with every path that it takes."""
    found = []
    for name, command in build_parser().commands().items():
        arguments = [action for action in command._actions if takes_a_value(action)]
        paths = [action for action in arguments if action.metavar not in NO_PATHS]
        found += [Empty([name, *words_of(arguments, path)], command.usage_code) for path in paths]
    return found


def takes_a_value(action: argparse.Action) -> bool:
    return action.nargs != 0 and not action.choices


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


@pytest.mark.parametrize("case", empty_paths(), ids=lambda case: " ".join(map(repr, case.words)))
def test_an_empty_path_is_wrong_usage(
    case: Empty,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert code_of(case.words) == case.code
    told = capsys.readouterr().err
    assert "an empty path" in told
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
