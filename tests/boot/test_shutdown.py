"""An orderly shutdown loses nothing, whoever mounted, though saves take longer than systemd's time-outs."""

import re

import pytest

from tests.boot.orderly_shutdown import WAYS, OrderlyShutdown, Way


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_everything_written_is_in_the_image(shutdown: OrderlyShutdown, way: Way) -> None:
    assert shutdown.saved(way) == shutdown.written(way)


def test_no_unit_of_a_mount_runs_into_its_timeout(shutdown: OrderlyShutdown) -> None:
    timed_out = re.findall(r"\S+: \w+ timed out", shutdown.console)
    assert timed_out == []
