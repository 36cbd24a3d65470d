"""A wheel built from the sources installs into environments of its own, and mounts from there.

The locked dependencies are wheels beside it, pyfuse3 compiled for this Python; nothing else is to be
found when pip and pipx install.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs import __version__
from pramfs.cli.manual import manual_files
from tests.mounted.harness import mounts_below
from tests.support.checkout import CHECKOUT

PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
MANUAL = {f"share/man/man{name[-1]}/{Path(name).name}" for name in manual_files() if "man/" in name}
COMPLETION = {
    "share/bash-completion/completions/pramfs.bash",
    "share/zsh/site-functions/_pramfs",
    "share/fish/vendor_completions.d/pramfs.fish",
}
SCHEMAS = {f"share/pramfs/schema/{name.name}" for name in (CHECKOUT / "share/schema").iterdir()}
UNITS = {f"share/pramfs/systemd/{unit.name}" for unit in (CHECKOUT / "share/systemd").iterdir()}


class Installed:
    """An environment with pramfs in it, and the directory from which its commands are called."""

    def __init__(self, environment: Path, commands: Path) -> None:
        self.environment = environment
        self.pramfs = commands / "pramfs"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheels of pramfs and of all that it needs."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = tmp_path_factory.mktemp("sources")
    for name in ("pramfs", "share"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, sources / name, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(CHECKOUT / name, sources)
    lock = CHECKOUT / "requirements/runtime.lock"
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", folder]
    run(*pip_wheel, "--no-deps", sources)
    run(*pip_wheel, "--require-hashes", "--no-build-isolation", "--requirement", lock)
    return folder


@pytest.fixture(scope="module", params=["venv", "pipx"])
def installed(
    request: pytest.FixtureRequest, wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    folder = tmp_path_factory.mktemp(request.param)
    (wheel,) = wheels.glob("pramfs-*.whl")
    only_these = ["--no-index", "--find-links", str(wheels)]
    if request.param == "venv":
        run(PYTHON, "-m", "venv", folder)
        run(folder / "bin/pip", "install", "--quiet", *only_these, wheel)
        return Installed(folder, folder / "bin")
    env = {"PIPX_HOME": f"{folder}/home", "PIPX_BIN_DIR": f"{folder}/bin"}
    pip_args = ["--pip-args", " ".join(only_these)]
    run("pipx", "install", "--python", PYTHON, *pip_args, wheel, env=env)
    venvs = run("pipx", "environment", "--value", "PIPX_LOCAL_VENVS", env=env).strip()
    return Installed(Path(venvs) / "pramfs", folder / "bin")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory, where nothing is left mounted."""
    with tempfile.TemporaryDirectory(prefix="pramfs-test-", dir="/dev/shm") as folder:
        (Path(folder) / "mnt").mkdir()
        yield Path(folder)
        for mountpoint in mounts_below(Path(folder)):
            run("umount", "-i", "-l", mountpoint)


def run(*words: object, env: dict[str, str] | None = None) -> str:
    """Run a command as a user without a checkout: in /, with nothing of the checkout on a path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, cwd="/",
        env=clean | (env or {}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_version_is_the_one_of_the_sources(installed: Installed) -> None:
    lines = run(installed.pramfs, "--version").splitlines()
    assert lines[0] == f"pramfs {__version__}"
    assert not any(line.endswith("not installed") for line in lines)


def test_nothing_comes_from_the_checkout(installed: Installed) -> None:
    code = "import pramfs, pyfuse3, trio; print(pramfs.__file__, pyfuse3.__file__, trio.__file__)"
    for file in run(installed.environment / "bin/python", "-c", code).split():
        assert file.startswith(f"{installed.environment}/")


def test_types_are_part_of_the_package(installed: Installed) -> None:
    code = "import pathlib, pramfs; print(*pathlib.Path(pramfs.__file__).parent.iterdir())"
    files = run(installed.environment / "bin/python", "-c", code).split()
    assert "py.typed" in {Path(file).name for file in files}


def test_files_are_kept_from_one_mount_to_the_next(installed: Installed, place: Path) -> None:
    run(installed.pramfs, "mount", "-o", "size=16M", place / "image", place / "mnt")
    (place / "mnt/kept").write_text("worth keeping\n")
    assert "saved to" in run(installed.pramfs, "umount", place / "mnt")
    run(installed.pramfs, "mount", place / "image", place / "mnt")
    assert (place / "mnt/kept").read_text() == "worth keeping\n"
    run(installed.pramfs, "umount", place / "mnt")
    assert "clean" in run(installed.pramfs, "check", place / "image")


@pytest.mark.parametrize(
    "name",
    ["bin/mount.pramfs", "bin/umount.pramfs", *sorted(MANUAL | COMPLETION | SCHEMAS | UNITS)],
)
def test_helpers_manual_completion_schemas_and_units_are_there(
    installed: Installed, name: str
) -> None:
    assert (installed.environment / name).is_file()
