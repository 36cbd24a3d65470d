"""The tier that replaces kernels: machines made by scripts/kexeclib, one at a time.

The guest is cached outside the checkout, see scripts/kexeclib/cache.py.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from demolib.shell import make_place
from kexeclib import guest
from kexeclib.guest import Guest
from kexeclib.machine import MEMORY_MIB, Machine
from kexeclib.session import COMMAND_LINE, Session

TOOLS = ("qemu-system-x86_64", "debootstrap", "modprobe", "mke2fs", "setpriv")


@pytest.fixture(scope="session")
def guest_files() -> Guest:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("building the guest takes root")
    return guest.prepare()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory for the machine's memory and disks."""
    directory = make_place(MEMORY_MIB << 20)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def machine(guest_files: Guest, place: Path) -> Iterator[Machine]:
    """A machine that runs, shared by the tests of a module; each leaves nothing mounted on it."""
    with Machine(guest_files, place) as machine:
        machine.boot(COMMAND_LINE)
        yield machine


@pytest.fixture
def session(machine: Machine) -> Session:
    return Session(machine)
