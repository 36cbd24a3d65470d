"""Seed 002, steps 1 to 4, as scripts/kexec-demo shows it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demolib.shell import make_place
from demolib.story import Story
from kexeclib import scenario
from kexeclib.machine import MEMORY_MIB


@pytest.fixture
def directory() -> Iterator[Path]:
    directory = make_place(MEMORY_MIB << 20)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("guest_files")
def test_processes_go_on_after_three_kexecs_in_a_row(directory: Path) -> None:
    scenario.run(Story(), directory)
