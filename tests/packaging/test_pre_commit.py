"""Each hook of .pre-commit-config.yaml finds a fault of its kind, with what scripts/setup --dev installed."""

import re
from pathlib import Path

import pytest

from tests.mounted.harness import run
from tests.support.checkout import CHECKOUT, VENV, copy_checkout

FAULTS = {  # the file, what is written to it, what the hook says of that
    "ruff-format": ("pramfs/fault.py", '"""x."""\n\nx = 1;y=2\n', "files were modified"),
    "ruff": ("pramfs/fault.py", '"""x."""\n\nimport os\n', "F401"),
    "mypy": ("pramfs/fault.py", '"""x."""\n\nx: int = ""\n', "fault.py:3: error"),
    "import-linter": ("pramfs/errors.py", '"""x."""\n\nimport pramfs.cli\n', "BROKEN"),
    "shellcheck": ("scripts/fault", "#!/bin/sh\necho $1\n", "SC2086"),
}


def test_these_are_all_hooks() -> None:
    configuration = (CHECKOUT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"- id: (\S+)", configuration) == list(FAULTS)
    assert re.findall(r"- repo: (\S+)", configuration) == ["local"], "nothing from the network"


@pytest.mark.parametrize("hook", FAULTS)
def test_the_hook_finds_a_fault(tmp_path: Path, hook: str) -> None:
    checkout = tmp_path / "pramfs"
    copy_checkout(checkout)
    (checkout / ".venv").symlink_to(VENV)
    run("git", "init", "--quiet", cwd=checkout).succeeded()
    name, text, words = FAULTS[hook]
    (checkout / name).write_text(text)
    (checkout / name).chmod(0o755)
    run("git", "add", "--all", cwd=checkout).succeeded()
    outcome = run(VENV / "bin/pre-commit", "run", hook, "--files", name, cwd=checkout)
    assert outcome.code == 1
    assert words in outcome.text
