"""Hash flooding: images whose numbers were chosen to collide in a dict. No command takes quadratic time.

The commands have a few times the processor's time that they take, and end when that is used up. It is less
than half of what it takes to put these numbers into a dict.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.colliding_image import MANY, inode_numbers, inodes_image, pages_image
from tests.support.dict_collisions import forge

PROCESSOR_TIME_S = 15
CHUNK_BITS = 42  # in the number of a chunk of a file of 8 EiB

COMMANDS = {
    "info": ["info"],
    "check": ["check"],
    "ls": ["ls", "--recover"],
    "dump": ["dump"],
    "map": ["map", "--json"],
}


@pytest.fixture(scope="module")
def inodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of as many files, whose inode numbers meet."""
    image = tmp_path_factory.mktemp("inodes") / "image"
    inodes_image(image, inode_numbers())
    return image


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of a sparse file with as many pages, whose chunks meet."""
    image = tmp_path_factory.mktemp("pages") / "image"
    pages_image(image, forge(MANY, bits=CHUNK_BITS))
    return image


def pramfs(command: str, *arguments: str | Path) -> str:
    """What a command says that ends well within the processor's time it has."""
    limit = ["prlimit", f"--cpu={PROCESSOR_TIME_S}", "--"]
    program = [sys.executable, "-m", "pramfs", *COMMANDS.get(command, [command])]
    ended = subprocess.run(
        [*limit, *program, *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        check=False,
    )
    assert ended.returncode == 0, (ended.returncode, ended.stderr.decode()[-500:])
    return ended.stdout.decode()


@pytest.mark.parametrize("command", COMMANDS)
def test_inode_numbers_that_meet(inodes: Path, command: str) -> None:
    said = pramfs(command, inodes)
    if command == "ls":
        assert len(said.splitlines()) == len(inode_numbers())


@pytest.mark.parametrize("command", COMMANDS)
def test_places_in_a_file_that_meet(pages: Path, command: str) -> None:
    pramfs(command, pages)


def test_files_whose_inode_numbers_meet_are_extracted(inodes: Path, tmp_path: Path) -> None:
    chosen = {str(number) for number in inode_numbers()[-3:]}
    pramfs("extract", "-C", tmp_path / "out", inodes, *chosen)
    assert {path.name for path in (tmp_path / "out").iterdir()} == chosen
