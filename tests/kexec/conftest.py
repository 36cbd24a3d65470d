"""The tier that replaces kernels: virtual machines, one at a time.

The guest is cached outside the checkout, see tests/vm/cache.py.
"""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import LONG
from tests.kexec.recipe import LIVE_UPDATE, LIVE_UPDATE_KERNEL, RECIPE
from tests.kexec.session import COMMAND_LINE, LiveSession, Session
from tests.vm.guest import Guest
from tests.vm.machine import Machine

TOOLS = ("qemu-system-x86_64", "cpio", "debootstrap", "modprobe", "mke2fs", "setpriv", "unshare")

# That kernel must be built first, which takes up to 25 minutes: only the long form does. The short form uses
# one that is there already, for some of the tests.
HAS_LIVE_UPDATE = LONG or LIVE_UPDATE_KERNEL.is_built()
LIVE_UPDATE_TIMEOUT_S = 3600  # of a test, since the first one may have to wait for that
collect_ignore = [
    *([] if LONG else ["test_newer_systemd.py"]),
    *([] if HAS_LIVE_UPDATE else ["test_live_update.py"]),
]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "short_form: a test of live update that both forms have")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave most tests of live update to the long form."""
    if LONG:
        return
    here = [item for item in items if item.path.name == "test_live_update.py"]
    left_out = [item for item in here if item.get_closest_marker("short_form") is None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say that live update was not tested, and what would."""
    if not HAS_LIVE_UPDATE:
        terminalreporter.write_line(
            "live update was not tested: its kernel is not in the cache; scripts/test --long builds it"
        )


def require_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("building the guest takes root")


@pytest.fixture(scope="session")
def guest_files() -> Guest:
    require_tools()
    return RECIPE.prepare()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine with live update, on or off."""
    require_tools()
    with Machine(LIVE_UPDATE.prepare(), tmp_path_factory.mktemp("live")) as machine:
        yield machine


@pytest.fixture
def live_session(live: Machine, request: pytest.FixtureRequest) -> Iterator[LiveSession]:
    """The machine with live update, on, with no image and nothing handed over. A test may leave it off."""
    if not live.is_on:
        live.boot(LiveSession.command_line)
    failed = request.session.testsfailed
    yield LiveSession(live)
    if request.session.testsfailed > failed:
        live.cut_power()  # its state after a failed test is unknown


@pytest.fixture(scope="session")
def machine(guest_files: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The machine of all tests, on or off: a boot takes as long as most tests do."""
    with Machine(guest_files, tmp_path_factory.mktemp("machine")) as machine:
        yield machine


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """Let the machine go on from test to test; leaving it ends its process."""


@pytest.fixture
def session(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Session]:
    """The machine, on. A test leaves it with an empty image and nothing running, or off."""
    if not machine.is_on:
        machine.forget()
        machine.boot(COMMAND_LINE)
        Session(machine).mount()
        Session(machine).umount()
    failed = request.session.testsfailed
    yield Session(machine)
    if request.session.testsfailed > failed:
        machine.cut_power()  # its state after a failed test is unknown
