"""A wheel built from the sources installs into an environment of its own, and the programs run from there."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs import __version__
from tests.unit.trees import make_image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new virtual environment with the wheel, and the dependencies of the one that tests run in.

    Those are not installed again: pyfuse3 would have to be compiled.
    """
    folder = tmp_path_factory.mktemp("packaging")
    sources = folder / "sources"
    for name in ("pramfs", "share"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, sources)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, sources)
    (wheel,) = folder.glob("*.whl")
    where = folder / "environment"
    venv.create(where)
    run(sys.executable, "-m", "pip", "--python", where, "install", "--quiet", "--no-deps", wheel)
    packages = where / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (packages / "dependencies.pth").write_text(sysconfig.get_path("platlib"))
    yield where
    shutil.rmtree(folder)


def run(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_version_is_the_one_of_the_sources(environment: Path, tmp_path: Path) -> None:
    lines = run(environment / "bin/pramfs", "--version", cwd=tmp_path).splitlines()
    assert lines[0] == f"pramfs {__version__}"
    assert not any(line.endswith("not installed") for line in lines)


def test_it_runs_from_the_environment(environment: Path, tmp_path: Path) -> None:
    code = "import pramfs; print(pramfs.__file__)"
    where = run(environment / "bin/python", "-c", code, cwd=tmp_path)
    assert where.startswith(str(environment))
    image = make_image(tmp_path / "pram")
    assert run(environment / "bin/pramfs", "cat", image, "small", cwd=tmp_path) == "hello\n"
    assert "clean" in run(environment / "bin/pramfs", "check", image, cwd=tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "bin/mount.pramfs",
        "bin/umount.pramfs",
        "share/man/man1/pramfs.1",
        "share/man/man5/pramfs.5",
        "share/man/man8/mount.pramfs.8",
        "share/bash-completion/completions/pramfs.bash",
    ],
)
def test_helpers_manual_and_completion_are_there(environment: Path, name: str) -> None:
    assert (environment / name).is_file()
