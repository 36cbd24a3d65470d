"""Bars of progress: one line of the terminal, however narrow it is."""

import fcntl
import os
import struct
import sys
import termios

import pytest

from pramfs.system import progress


def drawn(monkeypatch: pytest.MonkeyPatch, columns: int, label: str) -> str:
    """What is to be seen of a bar that is half done, in a terminal of that width."""
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setattr(progress, "_QUIET_S", 0.0)
    with os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress.Bar(label, 1000) as bar:
            bar(500)
            text = os.read(ours, 4096).decode()
    os.close(ours)
    return text.removeprefix("\r").removesuffix("\x1b[K")


@pytest.mark.parametrize("columns", [1, 2, 10, 40, 60, 80, 300])
def test_a_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    assert len(drawn(monkeypatch, columns, "checking a-node-of-some-name")) < columns


def test_a_bar_shows_how_much_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (0, 70, 100):  # 0: it does not know
        text = drawn(monkeypatch, columns, "saving")
        assert text.startswith("saving [###")
        assert " 50% " in text
        assert text.endswith(" left")


def test_a_name_cannot_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in drawn(monkeypatch, 80, "checking \x1b[2J")
