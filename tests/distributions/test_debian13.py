"""Debian 13 with its Python 3.13, libfuse 3.17 and util-linux 2.41: setup, demo and unit tests pass there."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.distributions import chroot
from tests.distributions.chroot import Debian
from tests.support.checkout import CHECKOUT

TOOLS = ("apt-get", "chroot", "debootstrap", "setpriv", "unshare")
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]

BUILD_TIMEOUT_S = 900  # the first test may wait for a whole Debian to be installed

pytestmark = pytest.mark.timeout(BUILD_TIMEOUT_S)


@pytest.fixture(scope="module")
def debian13(tmp_path_factory: pytest.TempPathFactory) -> Debian:
    """Debian 13 with a copy of this checkout, and what scripts/setup puts there."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("a chroot takes root")
    return chroot.prepare(tmp_path_factory.mktemp("debian13"))


def test_the_versions_are_that_debians(debian13: Debian) -> None:
    assert debian13.run("/opt/venv/bin/python", "--version").startswith("Python 3.13.")
    versions = debian13.run("/opt/venv/bin/python", "-m", "pramfs", "--version")
    assert re.search(r"^libfuse 3\.17\.", versions, re.MULTILINE), versions
    assert "not installed" not in versions


def test_the_demo_passes(debian13: Debian) -> None:
    assert "PASS  every byte came back" in debian13.run("scripts/demo")


def test_the_unit_tests_pass(debian13: Debian) -> None:
    told = debian13.run(
        "/opt/venv/bin/python", "-m", "pytest", "-q", "--numprocesses=auto", "tests/unit"
    )
    assert re.search(r"\d+ passed", told.splitlines()[-1]), told


def test_packages_that_the_pages_name_are_there(debian13: Debian) -> None:
    commands = re.findall(r"apt-get install ([a-z0-9 .+-]+)", "\n".join(map(Path.read_text, PAGES)))
    names = sorted({name for command in commands for name in command.split()})
    assert "fuse3" in names
    debian13.run(
        "sh", "-c", f"apt-get -qq update && apt-get -qq --simulate install {' '.join(names)}"
    )
