"""Debian 13 with its Python 3.13, libfuse 3.17 and util-linux 2.41: setup, demo and tests pass there."""

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

TIMEOUT_S = (
    3600  # the first test may wait for a whole Debian to be installed, another runs a whole tier
)

pytestmark = pytest.mark.timeout(TIMEOUT_S)


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
    pytest_passes(debian13, "--numprocesses=auto", "tests/unit")


def test_the_mounted_tests_pass(debian13: Debian, long: bool) -> None:
    """In the short form only those that meet mount(8), umount(8) and fusermount3 most."""
    few = ["-k", "test_shell_mount or test_shell_umount or test_remount or fstab"]
    pytest_passes(debian13, *([] if long else few), "tests/mounted")


def test_the_field_tests_pass(debian13: Debian, long: bool) -> None:
    """In the short form only those that meet libfuse and the tools of util-linux in odd places."""
    few = ["-k", "test_own_mount or test_forced_umount or test_verdict_namespaces"]
    pytest_passes(debian13, *([] if long else few), "tests/field")


def pytest_passes(debian13: Debian, *arguments: str) -> None:
    words = ("/opt/venv/bin/python", "-m", "pytest", "-q", *arguments)
    told = debian13.run("sh", "-c", 'exec "$@" 2>&1', "sh", *words)
    assert re.search(r"\d+ passed", told.splitlines()[-1]), told


def test_packages_that_the_pages_name_are_there(debian13: Debian) -> None:
    commands = re.findall(r"apt-get install ([a-z0-9 .+-]+)", "\n".join(map(Path.read_text, PAGES)))
    names = sorted({name for command in commands for name in command.split()})
    assert "fuse3" in names
    debian13.run(
        "sh", "-c", f"apt-get -qq update && apt-get -qq --simulate install {' '.join(names)}"
    )
