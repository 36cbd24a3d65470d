"""The locked Python packages, for a guest's Python."""

import platform
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.vm import archive
from tests.vm.archive import Archive, unpack
from tests.vm.debian import Debian
from tests.vm.shell import FailureError, run

# Debian's own, whatever python3 is first in PATH: the compiled packages have to fit the guest.
PYTHON = "/usr/bin/python3"
_REQUIREMENTS = Path(__file__).parents[2] / "requirements"
_BUILD, _RUNTIME = _REQUIREMENTS / "build.lock", _REQUIREMENTS / "runtime.lock"

INPUTS = (Path(__file__), Path(archive.__file__), _BUILD, _RUNTIME)

# The architectures and Pythons for which a guest was made, and what they are called elsewhere.
_PYTHONS = {"trixie": "3.13", "forky": "3.14"}
_TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
_WHEEL_PLATFORMS = {"amd64": "manylinux2014_x86_64", "arm64": "manylinux2014_aarch64"}


def fits_our_python(debian: Debian) -> bool:
    """Return whether what this machine's Python compiles fits the guest's."""
    ours = platform.freedesktop_os_release().get("VERSION_CODENAME")
    return not debian.is_foreign and debian.suite == ours


def install(debian: Debian, result: Path) -> None:
    """Install the locked packages for this Debian's Python into the directory."""
    work = result.parent
    environment = work / "build"
    run(PYTHON, "-m", "venv", environment)
    pip = [str(environment / "bin/python"), "-m", "pip", "--quiet", "--no-input"]
    # What builds is the build's own environment: no isolation.
    run(*pip, "install", "--require-hashes", "--requirement", _BUILD)
    if not fits_our_python(debian):
        _install_for_another(debian, pip, result)
        return
    locked = ("--require-hashes", "--no-build-isolation", "--requirement", _RUNTIME)
    run(*pip, "install", *locked, "--target", result)


def _install_for_another(debian: Debian, pip: list[str], result: Path) -> None:
    """Install wheels for another Python or architecture, and pyfuse3, which has none, by its compiler."""
    if debian.suite not in _PYTHONS:
        raise FailureError(f"which Python {debian.suite} has is not known here")
    work = result.parent
    ours, others = work / "pyfuse3.lock", work / "others.lock"
    with ours.open("w") as one, others.open("w") as rest:
        for requirement in _requirements(_RUNTIME):
            (one if requirement.startswith("pyfuse3==") else rest).write(requirement)
    locked = ("--require-hashes", "--no-deps", "--requirement")
    wheels = (
        *("--only-binary=:all:", f"--python-version={_PYTHONS[debian.suite]}"),
        f"--platform={_WHEEL_PLATFORMS[debian.architecture]}",
    )
    run(*pip, "install", *locked, others, *wheels, "--target", result)
    run(*pip, "download", *locked, ours, "--no-build-isolation", "--dest", work)
    source = next(work.glob("pyfuse3-*.tar.gz"))
    with tarfile.open(source) as content:
        content.extractall(work, filter="data")
    _compile_pyfuse3(debian, source.with_suffix("").with_suffix(""), result)


def _compile_pyfuse3(debian: Debian, source: Path, result: Path) -> None:
    """Do what its build backend does, by the C source that was published with it."""
    python, triplet = _PYTHONS[debian.suite], _TRIPLETS[debian.architecture]
    system = result.parent / "system"
    archive = Archive(debian.suite, debian.architecture, result.parent / "archive")
    unpack(archive.download("libfuse3-dev", f"libpython{python}-dev"), system)
    if not (system / "lib64").exists():  # as with lib: the linker looks there, on amd64
        (system / "lib64").symlink_to("usr/lib64")
    package = result / "pyfuse3"
    package.mkdir()
    module = package / f"__init__.cpython-{python.replace('.', '')}-{triplet}.so"
    run(
        *(f"{triplet}-gcc", f"--sysroot={system}", "-shared", "-fPIC", "-O2", "-o", module),
        *("-DFUSE_USE_VERSION=32", "-D_FILE_OFFSET_BITS=64", source / "src/pyfuse3/__init__.c"),
        *(f"-I{system}/usr/include/{name}" for name in ("fuse3", f"python{python}")),
        *(f"-I{source}/{name}" for name in ("Include", "src/pyfuse3")),
        *(f"-L{system}/usr/lib/{triplet}", "-lfuse3"),
    )
    for file in (source / "src/pyfuse3").glob("*.py"):
        (package / file.name).write_bytes(file.read_bytes())
    metadata = result / f"{source.name}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_bytes((source / "PKG-INFO").read_bytes())


def _requirements(lock: Path) -> Iterator[str]:
    """The requirements of a lock file, each with its lines of hashes."""
    requirement = ""
    for line in lock.read_text().splitlines(keepends=True):
        if not line[0].isspace() and requirement:
            yield requirement
            requirement = ""
        if not line.lstrip().startswith("#"):
            requirement += line
    if requirement:
        yield requirement
