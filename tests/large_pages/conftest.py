"""A machine whose kernel has larger pages than pramfs's frames: one boot for all tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.large_pages.guest_16k import COMMAND_LINE, RECIPE
from tests.vm.machine import Machine

TOOLS = ("qemu-system-aarch64", "aarch64-linux-gnu-gcc", "cpio", "modprobe", "mke2fs", "setpriv")
EXCHANGE_BYTES = 64 << 20


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """Let the machine go on from test to test; leaving it ends its process."""


@pytest.fixture(scope="session")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk over which images go: a file here, /dev/vdd in the guest."""
    disk = tmp_path_factory.mktemp("exchange") / "disk"
    with disk.open("wb") as file:
        file.truncate(EXCHANGE_BYTES)
    return disk


@pytest.fixture(scope="session")
def machine(exchange: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine, on, with an ext4 file system at /srv."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("building the guest takes root")
    guest, directory = RECIPE.prepare(), tmp_path_factory.mktemp("machine")
    with Machine(guest, directory, disk_mib=128, disks=[exchange]) as machine:
        machine.boot(COMMAND_LINE)
        machine.run("mount /dev/vdc /srv")
        yield machine
