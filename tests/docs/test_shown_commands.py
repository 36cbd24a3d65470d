"""Every command that the README, docs/ and the help texts show works, and prints what a transcript shows.

All that one document shows is run in its order, in one shell, by a root who starts out with an empty
/mnt and /dev/shm, a project in the home directory, and a /dev/pmem0.
"""

import itertools
import os
import re
import shlex
from collections.abc import Iterator

import pytest

from pramfs.cli import helptext
from pramfs.cli.completion import flags
from pramfs.cli.main import build_parser
from pramfs.options import parse_options
from tests.docs.code_blocks import PROMPT, Block, Line, blocks, commands, documents, is_transcript
from tests.docs.run_elsewhere import ELSEWHERE, NO_COMMANDS
from tests.mounted.admin_shell import Shell
from tests.mounted.harness import MIB
from tests.mounted.system import loop_device
from tests.support.checkout import CHECKOUT, VENV

COMMANDS = build_parser().commands()
BLOCKS = {str(document): blocks(document) for document in documents()}
BLOCKS["help"] = [
    [
        Line(f"help of {name}", line.strip())
        for name, text in {"pramfs": helptext.PROGRAM, **helptext.TEXTS}.items()
        for line in text.splitlines()
        if line.startswith(" ")
    ]
]

READER = """\
set -e
exec 2>&1
trap 'echo "$at: exit code $?: $BASH_COMMAND"' ERR
sudo() { env "$@"; }
ssh() { shift; "$@"; }  # to this machine
PID=$$
"""
DUMPS = """\
mkdir /mnt/keep /mnt/dump
pramfs mount /dev/shm/dump.pram /mnt/dump
mkdir /mnt/dump/monday /mnt/dump/project
pramfs snapshot /mnt/dump monday
rmdir /mnt/dump/project
pramfs snapshot /mnt/dump tuesday
cd
"""
UPGRADED = """\
mkdir /srv/data /mnt/old /mnt/test
pramfs mount /dev/shm/keep.pram /srv/data
mkdir /srv/data/etc
touch /srv/data/etc/app.conf
"""
MIGRATING = """\
mkdir /mnt/keep
pramfs mount /dev/shm/here.pram /mnt/keep
pramfs snapshot /mnt/keep old
echo more > /mnt/keep/more
pramfs snapshot /mnt/keep new
"""
BEFORE = {
    "help": DUMPS,
    "docs/deduplication.md": "mkdir /mnt/keep; pramfs mount /dev/shm/keep.pram /mnt/keep",
    "docs/snapshots.md": UPGRADED,
    "docs/scale.md": "mkdir /mnt/dump",
    "docs/stream.md": MIGRATING,
    "docs/remote.md": DUMPS,
    "docs/kexec.md": "pramfs mount -o size=16M /dev/shm/keep.pram /mnt",
}
AFTER = {"README.md": "diff -r ~/project /mnt/keep/project"}
PLACES = """\
set -e
mount -t overlay overlay -o lowerdir="$1":/dev /dev
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs /mnt
mount -t tmpfs tmpfs /srv
"""


@pytest.fixture
def reader(shell: Shell) -> Iterator[Shell]:
    """A shell with everything in it that the documents take for granted."""
    devices = shell.home / "devices"
    devices.mkdir()
    (shell.home / "project").mkdir()
    (shell.home / "project/README.md").write_text("worth keeping\n" * 1000)
    with loop_device(shell.home / "pmem0", 64 * MIB) as loop:
        for name, device in {"pmem0": loop, "fuse": shell.home / "fuse"}.items():
            status = device.stat()
            os.mknod(devices / name, status.st_mode, status.st_rdev)
        shell.run("sh", "-c", PLACES, "sh", devices).succeeded()
        yield shell
        shell.unmount_all()


def runnable(document: str) -> list[Block]:
    return [block for block in BLOCKS[document] if not is_no_commands(document, block)]


def is_no_commands(document: str, block: Block) -> bool:
    return any(f"{document}: {block[0].text}".startswith(start) for start in NO_COMMANDS)


def script(document: str) -> str:
    """A script of all that the document shows; it says at which line it fails."""
    lines = [READER, BEFORE.get(document, "")]
    for block in runnable(document):
        for line, command in commands(block):
            other = ELSEWHERE.get(command)
            if is_transcript(block):
                lines.append(f"echo {shlex.quote(PROMPT + command)}")
            lines.append(f"at={shlex.quote(line.place)}\n{other.instead if other else command}")
    return "\n".join([*lines, AFTER.get(document, ""), ""])


def comparable(text: str) -> str:
    """The text without what differs from one run to the next: numbers, and the room that they take."""
    return re.sub(r" +", " ", re.sub(r"\d+", "N", text))


@pytest.mark.parametrize("document", [name for name in BLOCKS if runnable(name)])
def test_every_command_shown_works(reader: Shell, document: str) -> None:
    path = f"{reader.home}/install/usr/local/bin:{VENV}/bin:{os.environ['PATH']}"
    env = {"HOME": str(reader.home), "PATH": path, "DESTDIR": str(reader.home / "elsewhere")}
    typed = reader.run("bash", "-c", f'cd "$1"\n{script(document)}', "bash", CHECKOUT, env=env)
    assert typed.code == 0, typed.text
    for block in filter(is_transcript, runnable(document)):
        assert comparable("\n".join(line.text for line in block)) in comparable(typed.text)


def test_the_tables_name_nothing_that_is_not_shown() -> None:
    shown = {
        command
        for document in BLOCKS
        for block in runnable(document)
        for _, command in commands(block)
    }
    assert set(ELSEWHERE) <= shown
    starts = [
        f"{document}: {block[0].text}" for document in BLOCKS for block in BLOCKS[document] if block
    ]
    assert all(any(start.startswith(known) for start in starts) for known in NO_COMMANDS)


@pytest.mark.parametrize("command", ELSEWHERE)
def test_what_cannot_be_run_here_is_run_elsewhere(command: str) -> None:
    file, _, text = ELSEWHERE[command].tested.partition("::")
    assert text in (CHECKOUT / file).read_text()


def inline() -> list[str]:
    """Command lines of pramfs within the text of the documents."""
    texts = [(CHECKOUT / document).read_text() for document in documents()]
    return sorted({span for text in texts for span in re.findall(r"`(pramfs [^`]+)`", text)})


@pytest.mark.parametrize("span", inline())
def test_words_of_commands_within_the_text_are_known(span: str) -> None:
    _, command, *words = shlex.split(span)
    known = {word for action in flags(COMMANDS[command]) for word in action.option_strings}
    assert {word for word in words if word.startswith("-")} <= known
    for flag, value in itertools.pairwise(words):
        if flag == "-o":
            parse_options([value.replace("PFN", "1").replace("SECONDS", "1")])
