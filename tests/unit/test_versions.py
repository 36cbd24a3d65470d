"""What `pramfs --version` says of libfuse, whose file has another number in each Debian."""

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pyfuse3
import pytest

from pramfs.cli.main import main
from tests.support.checkout import CHECKOUT

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]


@pytest.fixture
def libfuse_line(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    def said() -> str:
        with pytest.raises(SystemExit):
            main(["--version"])
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "libfuse" in line]
        return line

    return said


def test_the_version_is_that_of_the_libfuse_that_pyfuse3_uses(
    libfuse_line: Callable[[], str],
) -> None:
    assert pyfuse3.__name__ in sys.modules  # so libfuse is mapped
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    (library,) = (name for name in mapped if "/libfuse3.so" in name)
    version = ctypes.CDLL(library).fuse_pkgversion
    version.restype = ctypes.c_char_p
    assert libfuse_line() == f"libfuse {version().decode()}"


def test_a_libfuse_that_is_not_there_is_not_installed(
    libfuse_line: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise OSError("libfuse3.so.3: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert libfuse_line() == "libfuse not installed"


def test_without_pyfuse3_nothing_is_said_of_libfuse(
    libfuse_line: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert libfuse_line() == "libfuse unknown"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_package_that_another_debian_calls_otherwise(page: Path) -> None:
    assert not re.findall(r"libfuse3-\d", page.read_text()), (
        "fuse3 brings the library in all of them"
    )
