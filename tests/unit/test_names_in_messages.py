"""Whatever an image is called, a command says what it has to say in one line."""

from pathlib import Path

import pytest

from pramfs.cli.main import main
from pramfs.system.text import say
from tests.support.image_files import make_stream_image


def test_a_verdict_of_check_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = make_stream_image(tmp_path / "im\nage")
    assert main(["check", str(image)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/im\\nage: clean, ")


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("/mnt: saved to im\nage")
    assert capsys.readouterr().out == "/mnt: saved to im\\nage\n"
