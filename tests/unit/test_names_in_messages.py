"""Whatever an image or a snapshot is called, a command says what it has to say in one line."""

import os
from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.errors import EXIT_FAILED
from pramfs.system.text import say
from tests.support.image_files import make_stream_image


def test_a_verdict_of_check_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = make_stream_image(tmp_path / "im\nage")
    assert main(["check", str(image)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/im\\nage: clean, ")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", "a\\nb"), ("a  b", "a  b"), (os.fsdecode(b"\xff\x1b"), "\\xff\\x1b")],
)
def test_a_name_in_an_error_is_shown_as_it_is(
    name: str, shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = make_stream_image(tmp_path / "image")
    assert main(["rollback", str(image), name]) == EXIT_FAILED
    told = f"pramfs: {image}: no snapshot '{shown}' of tree 'pramfs'; there are: none\n"
    assert capsys.readouterr().err == told


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("/mnt: saved to im\nage")
    assert capsys.readouterr().out == "/mnt: saved to im\\nage\n"
