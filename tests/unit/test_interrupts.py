"""Ctrl-C at any moment of a command: it ends quietly, and its exit code tells.

A moment is the end of a module's loading, of which Python tells by itself: many before a command has begun,
and some while it runs.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pramfs.errors import EXIT_INTERRUPTED
from tests.support.checkout import CHECKOUT
from tests.support.image_files import make_stream_image

PRAMFS = [sys.executable, "-m", "pramfs"]
MOUNT, UMOUNT = (
    [sys.executable, "-c", f"import sys; from pramfs.cli.entry import {name} as it; sys.exit(it())"]
    for name in ("mount_helper", "umount_helper")
)
COMMANDS = {
    "help": [*PRAMFS, "--help"],
    "check": [*PRAMFS, "check", "image"],
    "map": [*PRAMFS, "map", "image"],
    "status": [*PRAMFS, "status", "."],
    "mount": [*PRAMFS, "mount", "-f", "image", "missing"],
    "mount.pramfs": [*MOUNT, "image", "missing", "-o", "rw"],
    "umount.pramfs": [*UMOUNT, "."],
}
ENDED_EARLY = (-signal.SIGINT, EXIT_INTERRUPTED)  # by Python's default, or by the command itself
_STEP = 8


def interrupted(command: list[str], at: int, cwd: Path) -> tuple[int, int, str]:
    """Exit code, number of moments, and what was said, of a command that gets a SIGINT at one of them.

    They count from the one at which the first module of pramfs is there.
    """
    moments, said = -1, ""
    with subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONPROFILEIMPORTTIME": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if not line.startswith("import time:"):
                said += line
            elif moments >= 0 or line.endswith(" pramfs.cli.entry\n"):
                moments += 1
                if moments == at:
                    process.send_signal(signal.SIGINT)
    return process.returncode, moments, said


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_stream_image(tmp_path / "image")


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_is_quiet_at_any_moment(image: Path, command: str, long: bool) -> None:
    words = COMMANDS[command]
    usual_code, moments, usually_said = interrupted(words, -1, image.parent)
    assert moments > 10 * _STEP
    for at in range(1, moments, 1 if long else _STEP):
        code, _, said = interrupted(words, at, image.parent)
        assert code in (*ENDED_EARLY, usual_code), f"at moment {at}"
        assert said in ("", usually_said), f"at moment {at}"
    code, _, said = interrupted(words, moments // 2, image.parent)
    assert code in ENDED_EARLY, "it went on"
    assert said == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_before_a_command_has_begun_ends_it_as_any_program(
    tmp_path: Path, command: str
) -> None:
    code, _, said = interrupted(COMMANDS[command], 1, tmp_path)
    assert (code, said) == (-signal.SIGINT, "")


def test_nothing_else_is_loaded_before_that() -> None:
    """Python itself answers an interrupt then, with a traceback."""
    program = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); before = set(sys.modules);"
        "import pramfs.cli.entry; print(sorted(set(sys.modules) - before))"
    )
    told = subprocess.run([sys.executable, "-IS", "-c", program], capture_output=True, check=True)
    assert told.stdout.decode().strip() == "['pramfs', 'pramfs.cli', 'pramfs.cli.entry']"


def test_who_ignores_interrupts_goes_on_doing_so(image: Path) -> None:
    script = ["env", "--ignore-signal=INT", *COMMANDS["check"]]
    code, _, said = interrupted(script, 20, image.parent)
    assert (code, said) == (0, "")
