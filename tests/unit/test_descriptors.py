"""Waiting for descriptors: of any number, since a process may inherit many."""

import fcntl
import os
import resource
from collections.abc import Iterator

import pytest

from pramfs.system.descriptors import readable
from tests.support.checkout import CHECKOUT


@pytest.fixture(params=[3, 1500])
def pipe(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """A pipe whose ends have at least that number."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2000), limits[1]))
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, request.param) for end in low]
    yield high[0], high[1]
    for end in (*low, *high):
        os.close(end)
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_what_can_be_read_is_returned(pipe: tuple[int, int]) -> None:
    assert readable([pipe[0]], 0) == []
    os.write(pipe[1], b"x")
    assert readable([pipe[0]], 60) == [pipe[0]]
    assert readable([pipe[0]]) == [pipe[0]]


def test_select_which_takes_low_numbers_only_is_not_used() -> None:
    modules = (CHECKOUT / "pramfs").rglob("*.py")
    assert not [path for path in modules if "select.select(" in path.read_text()]
