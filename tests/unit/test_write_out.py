"""The progress of a save is that of its medium: pages are reported once they have been written out."""

from typing import Any

import pytest

from pramfs.storage import write_out
from pramfs.storage.write_out import WriteOut

WINDOW = 8
Event = tuple[str, int] | tuple[str, int, int]


class Recorder:
    """An image that takes note of what is to be written out, and of what has been reported."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def start_write_out(self, pfn: int, frames: int) -> None:
        self.events.append(("start", pfn, frames))

    def wait_for_write_out(self, pfn: int, frames: int) -> None:
        self.events.append(("wait", pfn, frames))

    def report(self, frames: int) -> None:
        self.events.append(("report", frames))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(write_out, "_WINDOW_FRAMES", WINDOW)
    return Recorder()


def test_a_window_is_reported_when_the_next_one_is_on_its_way(recorder: Any) -> None:
    out = WriteOut(recorder, recorder.report)
    for pfn in range(0, 20, 4):
        out.add(pfn, 4)
    out.finish()
    assert recorder.events == [
        ("start", 0, 8),
        ("start", 8, 8),
        ("wait", 0, 8),
        ("report", 8),
        ("start", 16, 4),
        ("wait", 8, 8),
        ("report", 8),
        ("wait", 16, 4),
        ("report", 4),
    ]


def test_a_small_save_is_left_to_the_sync(recorder: Any) -> None:
    out = WriteOut(recorder, recorder.report)
    out.add(5, 3)
    out.finish()
    assert recorder.events == [("report", 3)]


def test_scattered_frames_are_written_out_with_what_lies_between(recorder: Any) -> None:
    out = WriteOut(recorder, recorder.report)
    for pfn in range(0, 80, 10):
        out.add(pfn, 1)
    out.finish()
    assert recorder.events == [("start", 0, 71), ("wait", 0, 71), ("report", 8)]


def test_nothing_to_write_is_nothing_to_report(recorder: Any) -> None:
    WriteOut(recorder, recorder.report).finish()
    assert recorder.events == []
