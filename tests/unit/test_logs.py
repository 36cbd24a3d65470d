"""What is logged is one line each that can be shown, whatever names an image holds."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs.control.run_state import RunDirectory
from pramfs.daemon import logs

NAME = os.fsdecode(b"/evil\x1b]0;title\x07\xff\nERROR all is lost")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    handlers, level = logs.log.handlers[:], logs.log.level
    yield
    for handler in set(logs.log.handlers) - set(handlers):
        logs.log.removeHandler(handler)
        handler.close()
    logs.log.setLevel(level)


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """The lines of the log of what is logged, once that has been asked for."""
    descriptor, path = logs.to_background(RunDirectory(tmp_path), "log")
    assert path is not None
    logs.log.setLevel(logging.INFO)
    logs.log.warning("left out, damaged: %s", NAME)
    try:
        raise OSError(5, NAME)
    except OSError:
        logs.log.exception("internal error")
    os.close(descriptor)
    return path.read_text().splitlines()


def test_a_name_makes_no_line_of_its_own_and_no_escape_sequence(lines: list[str]) -> None:
    assert lines[0].endswith(r"damaged: /evil\x1b]0;title\x07\xff\nERROR all is lost")


def test_a_traceback_keeps_its_lines(lines: list[str]) -> None:
    assert lines[1].endswith("internal error")
    assert lines[2].startswith("Traceback")


def test_a_log_that_grows_loses_its_older_half(tmp_path: Path) -> None:
    logs.to_background(RunDirectory(tmp_path), "log")
    logs.log.setLevel(logging.INFO)
    with (tmp_path / "log").open("ab") as dump:  # as SIGUSR1's is
        for number in range(logs.LOG_BYTES_MAX // 500):
            logs.log.info("line %06d %s", number, "x" * 1000)
        dump.write(b"a dump\n")
    text = (tmp_path / "log").read_bytes()
    assert len(text) <= logs.LOG_BYTES_MAX + 2000
    lines = text.splitlines()
    assert lines[-1] == b"a dump"
    assert all(b" line " in line and line.endswith(b"x" * 1000) for line in lines[:-1])


def test_a_log_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    assert logs.to_background(RunDirectory(tmp_path), "log").path is None
    assert logs.to_background(None, "log").path is None


@pytest.mark.parametrize("missing", ["leads_into_pramfs", "socket.socket"])
def test_a_syslog_that_cannot_be_looked_for_is_done_without(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Where /proc was gone, or no descriptor left, a line of the log ended the daemon, with nothing saved."""
    handler = logs.Syslog()
    handler._socket.close()

    def fail(*args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(f"pramfs.daemon.logs.{missing}", fail)
    handler.emit(logging.makeLogRecord({"msg": "a line"}))
    handler.close()
