"""Completion as install-helpers leaves it, found and run by the real shells.

bash and zsh sit at a terminal where a key inserts all completions into the line; fish tells them when
asked.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pramfs.cli.completion import flags
from pramfs.cli.main import build_parser
from pramfs.options import OPTIONS, Option
from tests.mounted.harness import run
from tests.packaging.conftest import System
from tests.packaging.terminal import CompletingShell

COMMANDS = build_parser().commands()
BASH_COMPLETION = "/usr/share/bash-completion/bash_completion"
ALL_AT_ONCE = (
    "zstyle ':completion:*' completer _all_matches _complete; zstyle ':completion:*' insert yes"
)

Complete = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shells run: a home with a file and a directory."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "keep.pram").touch()
    (folder / "keep.dir").mkdir()
    return folder


@pytest.fixture(scope="module", params=["bash", "zsh", "fish"])
def complete(request: pytest.FixtureRequest, system: System, folder: Path) -> Iterator[Complete]:
    """What a shell offers in the place of the last word of a line."""
    path = f"{system.root}/usr/local/bin:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    if request.param == "fish":
        yield lambda line: fish(system, folder, env, line)
        return
    if request.param == "bash":
        argv, key = ["bash", "--norc", "--noprofile", "-i"], b"\x1b*"
        env["XDG_DATA_DIRS"] = str(system.share)
        setup = f"PS1=; . {BASH_COMPLETION}"
    else:
        argv, key = ["zsh", "-f", "-i"], b"\t"
        functions = f"fpath=({system.share}/zsh/site-functions $fpath)"
        setup = f"PS1=; {functions}; autoload -U compinit; compinit -u -D; {ALL_AT_ONCE}"
    shell = CompletingShell(argv, folder, env, setup, key)
    yield shell.complete
    shell.close()


def fish(system: System, folder: Path, env: dict[str, str], line: str) -> list[str]:
    script = f"set fish_complete_path {system.root}/etc/fish/completions; complete -C '{line}'"
    told = run("fish", "--no-config", "-c", script, cwd=folder, env=env).succeeded()
    return [offer.split("\t")[0] for offer in told.text.splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("pramfs mo", ["mount"]),
        ("pramfs --v", ["--version"]),
        ("pramfs info --j", ["--json"]),
        ("pramfs kexec --load", ["--load-only"]),
        ("pramfs mount --op", ["--options"]),
        ("pramfs mount -o ban", ["banned="]),
        ("pramfs mount -o xyz", []),
        ("pramfs mount -o size=1G,nol", ["size=1G,noload"]),
        ("pramfs mount -o verify=l", ["verify=lazy"]),
        ("pramfs mount -f -o size=1G,banned=0-16M:1G-2G,arena=im",
         ["size=1G,banned=0-16M:1G-2G,arena=image"]),
        ("pramfs mount --options=size=1G,rec", ["--options=size=1G,recover"]),
        ("pramfs check keep.p", ["keep.pram"]),
        ("pramfs mount keep.p", ["keep.pram"]),
        ("pramfs map --svg keep.p", ["keep.pram"]),
        ("pramfs umount keep.p", []),
    ],
)  # fmt: skip
def test_a_word_that_can_only_be_one_is_completed(
    complete: Complete, line: str, words: list[str]
) -> None:
    # Where there is nothing to offer, bash and zsh leave the line as it is, fish tells nothing.
    assert complete(line) in ([words] if words else [[], line.split(" ")[-1:]])


@pytest.mark.parametrize("line", ["pramfs umount ke", "pramfs mount keep.pram ke"])
def test_a_mountpoint_is_a_directory(complete: Complete, line: str) -> None:
    assert "keep.dir" in {word.rstrip("/") for word in complete(line)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_offered(complete: Complete, command: str) -> None:
    long = {
        word
        for action in flags(COMMANDS[command])
        for word in action.option_strings
        if word.startswith("--")
    }
    assert set(complete(f"pramfs {command} --")) == long


def test_every_command_is_offered(complete: Complete) -> None:
    letters = {command[0] for command in COMMANDS}
    offered = {word for letter in letters for word in complete(f"pramfs {letter}")}
    assert offered == set(COMMANDS)


@pytest.mark.parametrize("option", OPTIONS, ids=[option.name for option in OPTIONS])
def test_every_mount_option_is_offered(complete: Complete, option: Option) -> None:
    offered = complete(f"pramfs mount -o {option.name[:-1]}")
    assert option.name in {word.partition("=")[0] for word in offered}
