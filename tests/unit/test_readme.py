"""The README names every option, command and exit code that there is, and no other."""

import argparse
import re

import pytest

from pramfs import errors
from pramfs.cli.main import build_parser
from pramfs.options import OPTIONS
from tests.support.checkout import CHECKOUT

README = (CHECKOUT / "README.md").read_text()


def first_cells(heading: str) -> list[str]:
    """The first cell of each row of the table below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [re.split(r" (?<!\\)\| ", row.removeprefix("| "))[0] for row in rows[2:]]


def test_the_table_of_options_is_complete() -> None:
    described = [word for cell in first_cells("Options") for word in re.findall(r"`([^`]+)`", cell)]
    there_are = [f"{option.name}={option.value}".removesuffix("=") for option in OPTIONS]
    assert sorted(word.replace("\\|", "|") for word in described) == sorted(there_are)


def test_every_command_is_described() -> None:
    described = re.findall(r"^    pramfs (\w+) .*  \S", README, re.MULTILINE)
    action = next(
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    assert set(action.choices) == set(described)


def test_every_exit_code_is_described() -> None:
    described = {
        int(code) for cell in first_cells("Exit codes") for code in re.findall(r"\d+", cell)
    }
    there_are = {
        value for name, value in vars(errors).items() if name.startswith(("EXIT_", "CHECK_"))
    }
    assert described == there_are | {0}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)", README))))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (CHECKOUT / target).is_file()


@pytest.mark.parametrize("script", sorted(set(re.findall(r"scripts/[\w-]+", README))))
def test_every_script_is_there(script: str) -> None:
    assert (CHECKOUT / script).stat().st_mode & 0o111
