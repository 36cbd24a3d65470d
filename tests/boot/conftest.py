"""The tier that boots systemd, in a virtual machine: what an orderly shutdown does.

The guest is cached outside the checkout, see tests/vm/cache.py.
"""

import os
import shutil

import pytest

from tests.boot.guest_systemd import DEBIAN_12, DEBIAN_13
from tests.boot.orderly_shutdown import LONG_SCALE, SHORT_SCALE, OrderlyShutdown
from tests.conftest import LONG

TOOLS = (
    *("qemu-system-x86_64", "debootstrap", "modprobe", "mke2fs", "debugfs", "e2fsck"),
    *("setpriv", "unshare"),
)

# Debian 13 takes as long again, so it has its turn in the long form only.
ENDS = [(DEBIAN_12, "reboot"), *([(DEBIAN_13, "poweroff")] if LONG else [])]


@pytest.fixture(scope="session", params=ENDS, ids=lambda end: f"{end[0].debian.suite}-{end[1]}")
def shutdown(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> OrderlyShutdown:
    """A system that was shut down with much that was not saved."""
    recipe, command = request.param
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("building the guest takes root")
    scale = LONG_SCALE if LONG else SHORT_SCALE
    shutdown = OrderlyShutdown(recipe, scale, tmp_path_factory.mktemp("shutdown"))
    shutdown.run(f"systemctl {command}")
    return shutdown


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """Let the build's threads be; the machine is off when a test begins."""
