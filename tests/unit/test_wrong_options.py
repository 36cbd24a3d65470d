"""A wrong option is what a command complains of, even where something is missing besides."""

import pytest

from pramfs.cli.main import main


@pytest.mark.parametrize("command", ["mount", "umount", "save", "info", "check", "map"])
def test_a_wrong_option_comes_before_what_is_missing(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--bogus"])
    assert "unknown option '--bogus'" in capsys.readouterr().err
