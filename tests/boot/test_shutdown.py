"""An orderly shutdown loses nothing, whoever mounted, though saves take longer than systemd's time-outs."""

import re

import pytest

from tests.boot.orderly_shutdown import WAYS, OrderlyShutdown, Way


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_everything_written_is_in_the_image(shutdown: OrderlyShutdown, way: Way) -> None:
    assert shutdown.saved(way) == shutdown.written(way)


def test_no_unit_of_a_mount_runs_into_its_timeout(shutdown: OrderlyShutdown) -> None:
    """What else of the guest is too slow for four seconds does not matter."""
    units = r"(?:mnt-|home-user-|pramfs|limited\.scope)\S*"
    timed_out = re.findall(rf"{units}: \w+ timed out", shutdown.console)
    assert timed_out == []


def test_the_journal_says_how_much_is_left(shutdown: OrderlyShutdown) -> None:
    assert re.search(r"saving /srv/fstab\.img: \d+ MiB left", shutdown.console)


def test_a_mount_keeps_the_limits_of_the_scope_that_it_was_made_in(
    shutdown: OrderlyShutdown,
) -> None:
    assert shutdown.processes_in_scope


def test_a_daemon_is_out_of_such_a_scope_before_it_is_stopped(shutdown: OrderlyShutdown) -> None:
    """Else it has as long as all units have: by chance that may do."""
    assert "Stopped limited.scope" in shutdown.console
    assert "Stopping limited.scope" not in shutdown.console
