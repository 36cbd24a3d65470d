"""What every tier of the tests shares: no silent skips in CI, long forms on demand, both arenas.

Fixtures that mount belong to the tier that mounts.
"""

import contextlib
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer

from tests.support import lanes

LONG_TIMEOUT_S = 36_000
LONG = os.environ.get("PRAMFS_LONG") == "1"
SKIPS_FAIL = os.environ.get("CI") == "true"

# No deadline: how long an example takes says more about the machine's other work than about pramfs.
hypothesis.settings.register_profile("short", deadline=None, max_examples=100)
hypothesis.settings.register_profile("long", deadline=None, max_examples=5000)
hypothesis.settings.load_profile("long" if LONG else "short")

# A job that a script starts in the background ignores SIGINT, one under nohup SIGHUP, and so would every
# program that a test starts and interrupts. With a handler that does nothing this process still ignores
# them, while programs that it starts get the default.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


@pytest.fixture(scope="session")
def long() -> bool:
    """Whether the long form of a test was asked for: `scripts/test --long`."""
    return LONG


@pytest.fixture(params=["image", "memory"], ids=["arena=image", "arena=memory"])
def arena(request: pytest.FixtureRequest) -> str:
    """Both ways to hold fresh frames."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Fail a test that starts a process and does not wait for its end.

    What a fixture of a wider scope started is there before the test, and may stay.
    """
    before = _children()
    yield
    left = {pid: name for pid, name in _children().items() if pid not in before}
    assert not left, f"processes left behind, running or not waited for: {left}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests for several processors, and let long forms take hours.

    pyproject.toml's limit is made for the short ones.
    """
    items.sort(key=lambda item: lanes.place(item.nodeid))
    for item in items if LONG else ():
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skipped test as failed in CI: there everything that a test needs is installed."""
    report = yield
    # What was printed or logged may hold names of any bytes, which a worker of pytest-xdist cannot send.
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    if report.skipped and not hasattr(report, "wasxfail"):
        _fail_in_ci(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Do the same for a module that skips itself while it is imported."""
    report = yield
    if report.skipped:
        _fail_in_ci(report)
    return report


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> lanes.Lanes | None:
    """Give the tests to processors by lanes, where `scripts/test` asks for that."""
    return lanes.Lanes(config, log) if config.getoption("dist") == "loadscope" else None


def _children() -> dict[int, str]:
    """The child processes of this one, those that have ended among them, with their names."""
    found = {}
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            for pid in Path(f"/proc/self/task/{task}/children").read_text().split():
                found[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


def _fail_in_ci(report: pytest.TestReport | pytest.CollectReport) -> None:
    if SKIPS_FAIL:
        report.outcome = "failed"
        report.longrepr = f"A skip is a failure in CI. {report.longreprtext}"
