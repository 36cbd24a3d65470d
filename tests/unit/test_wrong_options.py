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


@pytest.mark.parametrize(
    "words",
    [
        "kexec --undo IMAGE",
        "kexec --undo --dry-run",
        "kexec --undo --load-only",
        "kexec --undo --checkpoint",
        "claim --list IMAGE",
        "claim --list --to FILE",
        "restore --hold MOUNTPOINT",
        "restore --hold --json",
    ],
)
def test_what_would_be_left_unsaid_is_refused(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that needs none beside it ignores none, least of all --dry-run."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert main(words.split()) == 1
    told = capsys.readouterr().err
    assert "nothing goes with --" in told
    assert told.count("\n") == 1
