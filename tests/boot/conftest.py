"""The tier that boots systemd, in a virtual machine: what an orderly shutdown does.

The guest is cached outside the checkout, see tests/vm/cache.py.
"""

import os
import shutil

import pytest

from tests.boot.orderly_shutdown import LONG, SHORT, OrderlyShutdown

TOOLS = (
    *("qemu-system-x86_64", "debootstrap", "modprobe", "mke2fs", "debugfs", "e2fsck"),
    *("setpriv", "unshare"),
)


@pytest.fixture(scope="session")
def shutdown(long: bool, tmp_path_factory: pytest.TempPathFactory) -> OrderlyShutdown:
    """A system that was shut down with much that was not saved."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("building the guest takes root")
    shutdown = OrderlyShutdown(LONG if long else SHORT, tmp_path_factory.mktemp("shutdown"))
    shutdown.run("systemctl reboot")
    return shutdown


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """Let the build's threads be; the machine is off when a test begins."""
