"""Standard input, output and error that are closed, full, or without a reader."""

import sys
from pathlib import Path

import pytest

from tests.mounted.harness import Outcome, run
from tests.support.image_files import make_stream_image

PROGRAM = f"{sys.executable} -m pramfs"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_stream_image(tmp_path / "image")


def told(line: str) -> Outcome:
    """What comes of a line of shell, with output that is buffered as it is for everybody."""
    return run("bash", "-c", f"set -o pipefail; {line}", env={"PYTHONUNBUFFERED": ""})


@pytest.mark.parametrize("command", ["info", "nodes", "map", "dump", "check", "--version"])
def test_output_that_cannot_be_written_is_a_failure(image: Path, command: str) -> None:
    words = command if command == "--version" else f"{command} {image}"
    told(f"{PROGRAM} {words} >/dev/full").refused(2, "standard input or output", "no space left")
    told(f"{PROGRAM} {words} >&-").refused(2, "standard input or output", "bad file descriptor")


def test_output_that_nobody_reads_is_no_news(image: Path) -> None:
    outcome = told(f"{PROGRAM} info {image} | true")
    assert not outcome.err
    assert outcome.code in (0, 32)  # it may have been faster


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_image_is_taken_for_a_stream_that_is_closed(image: Path, closed: str) -> None:
    before = image.read_bytes()
    told(f"{PROGRAM} free {image} nothing {closed}")
    told(f"{PROGRAM} put {image} node {closed}")
    assert image.read_bytes() == before
    told(f"{PROGRAM} check {image}").succeeded()


def test_nothing_is_read_or_written_through_a_stream_that_is_closed(image: Path) -> None:
    told(f"{PROGRAM} put {image} other <&-").refused(2, "bad file descriptor")
    told(f"{PROGRAM} get {image} node >&-").refused(2, "bad file descriptor")
    assert told(f"{PROGRAM} get {image} node 2>&-").succeeded().out == b"line\n"
