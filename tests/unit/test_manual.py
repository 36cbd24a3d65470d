"""Help, manual pages and completion: made from the program, kept in `share`, and current."""

import re
import subprocess

import pytest

from pramfs import errors
from pramfs.cli.helptext import TEXTS
from pramfs.cli.main import build_parser, main
from pramfs.cli.manual import manual_files
from pramfs.options import KERNEL_FLAGS, OPTIONS, WITHOUT_EFFECT
from tests.support.checkout import CHECKOUT

SHARE = CHECKOUT / "share"
FILES = manual_files()
COMMANDS = build_parser().commands()


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_current(name: str) -> None:
    assert (SHARE / name).read_text() == FILES[name], "run: python -m pramfs.cli.manual"


def test_nothing_else_is_kept_there() -> None:
    files = {path.relative_to(SHARE) for path in SHARE.rglob("*") if path.is_file()}
    written_by_hand = {path for path in files if path.parts[0] in {"schema", "systemd"}}
    assert {str(path) for path in files - written_by_hand} == set(FILES)


def test_every_command_has_a_text_and_no_other() -> None:
    assert set(TEXTS) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("columns", ["40", "200"])
def test_help_tells_what_the_command_does(
    command: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert " ".join(TEXTS[command].split("\n\n")[0].split()) in text


def test_help_of_mount_describes_every_option() -> None:
    text = COMMANDS["mount"].format_help()
    for option in OPTIONS:
        assert f"\n  {option.name}" in text
    for word in (*KERNEL_FLAGS, *WITHOUT_EFFECT):
        assert re.search(rf"\b{word}(,|\n)", text)


def test_the_manual_describes_every_command_option_and_exit_code() -> None:
    page = FILES["man/pramfs.1"]
    for command in COMMANDS:
        assert f'.SS "pramfs {command} ' in page
    for option in OPTIONS:
        assert f"\n\\fB{option.name}" in page
    codes = {value for name, value in vars(errors).items() if name.startswith(("EXIT_", "CHECK_"))}
    status = page.partition(".SH EXIT STATUS")[2].partition(".SH FILES")[0]
    assert {int(code) for code in re.findall(r"fB(\d+)", status)} == codes | {0}


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("man/")])
def test_groff_has_no_complaint(name: str) -> None:
    run = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z", SHARE / name],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mout"], "unknown command 'mout'; did you mean 'mount'?"),
        (["xyzzy"], "unknown command 'xyzzy'; see"),
        (["send", "--compress", "gzip", "image"], "argument --compress: invalid choice: 'gzip'"),
        (["info", "--jsn", "image"], "unknown option '--jsn'; did you mean '--json'?"),
        (["info", "--js", "image"], "pramfs info: unknown option '--js'; did you mean '--json'?"),
        (["extract", "--d", "out"], "unknown option '--d'; did you mean '--directory'?"),
        (["info", "--svg", "image"], "pramfs info: unknown option '--svg'; see pramfs info --help"),
        (["--versoin"], "pramfs: unknown option '--versoin'; did you mean '--version'?"),
        (["info", "one", "two"], "too many arguments: two; see"),
        (["mount", "--", "a", "b", "-o", "ro"], "pramfs mount: too many arguments: -o ro; see"),
        (["info", "one", ""], "pramfs info: too many arguments: ''; see"),
        (["info", "one", " ", "two\nlines"], "too many arguments: ' ' two\\nlines; see"),
    ],
    ids=[
        *("command", "no-command", "value", "option", "abbreviation", "short-abbreviation"),
        *("option-of-another-command", "option-of-the-program", "argument", "option-after-the-end"),
        *("empty-argument", "strange-arguments"),
    ],
)
def test_a_wrong_word_gets_a_suggestion(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == errors.EXIT_USAGE
    assert message in capsys.readouterr().err


def test_check_has_the_code_of_fsck_for_wrong_usage() -> None:
    for words in (["check"], ["check", "--jsn", "image"], ["check", "one", "two"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == errors.CHECK_USAGE


def test_version_names_all_that_matters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    lines = [line.rpartition(" ") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["pramfs", "image format", "pyfuse3", "libfuse", "Linux"]
    assert all(line[2] for line in lines)
