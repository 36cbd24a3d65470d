"""How long a save would take is known once one has written enough."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from pramfs.daemon.long_save import LongSave, warn_of_long_saves
from pramfs.saves.pace import Pace
from pramfs.saves.save import SaveState


def test_the_pace_of_the_last_large_save_counts() -> None:
    pace = Pace()
    assert pace.seconds_for(1000) == -1
    pace.note(10, 5.0)  # a sync, rather than the medium
    assert pace.seconds_for(1000) == -1
    pace.note(2000, 4.0)
    assert pace.seconds_for(1_000_000) == 2000
    assert pace.seconds_for(0) == 0
    pace.note(4000, 4.0)
    assert pace.seconds_for(1_000_000) == 1000


def test_the_log_says_what_is_left_and_how_long_it_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    times = iter((0.0, 1.0, 2.0, 9.0, 12.0, 21.0, 22.0))
    monkeypatch.setattr("pramfs.daemon.long_save.time.monotonic", lambda: next(times))
    saver: Any = SimpleNamespace(status=None)
    report = LongSave(Path("/srv/data.img"), saver)

    def status(state: SaveState, pages_done: int) -> None:
        saver.status = SimpleNamespace(state=state, pages_done=pages_done, pages_total=30 * 256)
        report.log_progress()

    with caplog.at_level(logging.INFO, logger="pramfs"):
        status(SaveState.STAGING, 0)
        status(SaveState.WRITING, 10 * 256)
        status(SaveState.WRITING, 12 * 256)
        status(SaveState.WRITING, 15 * 256 - 7)
        status(SaveState.WRITING, 16 * 256)
        status(SaveState.WRITING, 30 * 256 + 7)
    assert caplog.messages == [
        "saving /srv/data.img: 16 MiB left, about 30 seconds",
        "saving /srv/data.img: waiting for the disk",
    ]


def test_a_save_that_would_outlast_a_shutdown_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lengths = iter((-1, 1800, 1801, 2500, 10, 7300))
    saver: Any = SimpleNamespace(seconds_to_save=lambda: next(lengths))

    async def watch() -> None:
        with trio.move_on_after(6 * 60 + 1):
            await warn_of_long_saves(saver, trio.lowlevel.checkpoint)

    trio.run(watch, clock=trio.testing.MockClock(autojump_threshold=0))
    assert caplog.messages == [
        f"saving would take about {length} now: systemd ends a shutdown by force after 30 minutes"
        for length in ("30 minutes", "2 hours")
    ]


def test_nothing_is_looked_at_while_no_requests_come() -> None:
    saver: Any = None  # is not asked

    async def watch() -> None:
        with trio.move_on_after(24 * 60 * 60):
            await warn_of_long_saves(saver, trio.sleep_forever)

    trio.run(watch, clock=trio.testing.MockClock(autojump_threshold=0))
