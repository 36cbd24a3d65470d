"""The guest as a whole: Debian, and on a disk of its own this checkout of pramfs with what it needs.

pramfs's disk is small, so a change of the code costs a second, not a new Debian.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kexeclib import base, cache, shell
from kexeclib.shell import run

CHECKOUT = Path(__file__).parents[2]
# Debian's own, whatever python3 is first in PATH: the compiled packages have to fit the guest.
PYTHON = "/usr/bin/python3"
_REQUIREMENTS = CHECKOUT / "requirements"
_FILES = Path(__file__).parent / "guest"


@dataclass(frozen=True)
class Guest:
    """What a machine boots from. Nothing writes to these files."""

    kernel: Path
    initrd: Path
    root: Path
    pramfs: Path


def prepare() -> Guest:
    """The guest for this checkout, built as far as it is not in the cache. Raises FailureError."""
    with ThreadPoolExecutor() as pool:  # both wait for the network most of the time
        building = pool.submit(cache.artefact, "guest-packages", package_inputs(), _build_packages)
        try:
            debian = cache.artefact("guest-debian", base.INPUTS, base.build)
            packages = building.result()
        except BaseException:
            shell.kill_all()
            raise
    inputs = [*package_inputs(), *pramfs_inputs()]
    pramfs = cache.artefact("guest-pramfs", inputs, lambda result: _build_pramfs(packages, result))
    return Guest(
        debian / "vmlinuz", debian / "initrd", debian / "root.ext4", pramfs / "pramfs.ext4"
    )


def package_inputs() -> list[Path]:
    """The files that decide which Python packages are installed, and how."""
    return [Path(__file__), _REQUIREMENTS / "build.lock", _REQUIREMENTS / "runtime.lock"]


def pramfs_inputs() -> Iterator[Path]:
    """The files on pramfs's disk, besides the packages, and what makes the disk."""
    yield Path(base.__file__)
    yield from sorted((CHECKOUT / "pramfs").rglob("*.py"))
    yield from sorted(path for path in _FILES.iterdir() if path.is_file())


def _build_packages(result: Path) -> None:
    """Install the locked packages, compiled with Debian's Python, into the directory."""
    environment = result.parent / "build"
    run(PYTHON, "-m", "venv", environment)
    pip = (environment / "bin/python", "-m", "pip", "install", "--quiet", "--no-input")
    locked = (*pip, "--require-hashes", "--requirement")
    run(*locked, _REQUIREMENTS / "build.lock")
    # The wheels of the build's own environment are on the path of the build: no isolation.
    run(*locked, _REQUIREMENTS / "runtime.lock", "--no-build-isolation", "--target", result)


def _build_pramfs(packages: Path, result: Path) -> None:
    tree = result.parent / "tree"
    shutil.copytree(packages, tree / "packages")
    shutil.copytree(
        CHECKOUT / "pramfs", tree / "packages/pramfs", ignore=shutil.ignore_patterns("__pycache__")
    )
    # Compiled here, since the guest's disks are read-only and its processor is slow.
    run(PYTHON, "-m", "compileall", "-q", "-s", tree, "-p", "/opt", tree / "packages")
    for source in _FILES.iterdir():
        if source.is_file():
            shutil.copy(source, tree / source.name)
    (tree / "modules").write_text("\n".join([*base.GUEST_MODULES, ""]))
    base.make_disk(tree, result / "pramfs.ext4")
