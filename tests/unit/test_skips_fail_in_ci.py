"""The rule that CI knows no skipped test, seen from a pytest run of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT

CONFTEST = CHECKOUT / "tests/conftest.py"

SKIPPING_TEST = """
import pytest

def test_that_skips():
    pytest.skip("no such device")
"""

SKIPPING_MODULE = """
import pytest

pytest.skip("no such device", allow_module_level=True)
"""

FAILING_AS_EXPECTED = """
import pytest

@pytest.mark.xfail(reason="known")
def test_known_failure():
    raise RuntimeError
"""


def run_pytest(folder: Path, source: str, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    tier = folder / "tests/unit"
    tier.mkdir(parents=True)
    (tier / "test_sample.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", folder, folder],
        env=os.environ | {"CI": ci, "PYTHONPATH": str(CHECKOUT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("source", [SKIPPING_TEST, SKIPPING_MODULE], ids=["test", "module"])
def test_a_skip_is_a_failure_in_ci(tmp_path: Path, source: str) -> None:
    run = run_pytest(tmp_path, source, ci="true")
    assert run.returncode in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    assert "no such device" in run.stdout


def test_a_skip_is_a_skip_elsewhere(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, SKIPPING_TEST, ci="")
    assert run.returncode == pytest.ExitCode.OK
    assert "1 skipped" in run.stdout


def test_an_expected_failure_is_none_in_ci(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, FAILING_AS_EXPECTED, ci="true").returncode == pytest.ExitCode.OK
