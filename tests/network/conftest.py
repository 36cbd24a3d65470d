"""The tier with network block devices, in a virtual machine: one boot for all tests."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.network.guest_nbd import COMMAND_LINE, RECIPE
from tests.vm.machine import Machine

TOOLS = ("qemu-system-x86_64", "debootstrap", "modprobe", "mke2fs", "setpriv", "unshare")


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """Let the machine go on from test to test; leaving it ends its process."""


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine, with a server that has a blank disk, and /mnt/a to mount at."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("building the guest takes root")
    with Machine(RECIPE.prepare(), tmp_path_factory.mktemp("machine")) as machine:
        machine.boot(COMMAND_LINE)
        machine.run("hostname alpha; printf '%032d\\n' 1 >/etc/machine-id; mkdir -p /mnt/a")
        # Before a mount, of which it would have a copy.
        machine.run("network serve; elsewhere true")
        yield machine
