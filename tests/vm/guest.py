"""A guest as a whole: Debian, and on a disk of its own this checkout of pramfs with what it needs.

pramfs's disk is small, so a change of the code costs a second, not a new Debian.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.vm import cache, debian, packages, shell
from tests.vm.debian import Debian
from tests.vm.hardware import Hardware
from tests.vm.kernel import Kernel
from tests.vm.shell import run

CHECKOUT = Path(__file__).parents[2]
_FILES = Path(__file__).parent / "files"
# By the guest's own Python, and where the guest has the files. Arguments: root disk, a directory, the tree.
_COMPILE = """\
mkdir "$1/system"
mount -o loop,ro "$0" "$1/system"
mount --bind "$2" "$1/system/opt"
chroot "$1/system" python3 -m compileall -q /opt/packages
"""


@dataclass(frozen=True)
class Recipe:
    """What a guest is made of.

    `files` are put into its /opt, which is in its PATH; `parts` of the checkout into /opt/checkout.
    """

    name: str
    debian: Debian
    hardware: Hardware
    files: tuple[Path, ...] = ()
    parts: tuple[str, ...] = ()

    def prepare(self) -> "Guest":
        """The guest for this checkout, built as far as it is not in the cache. Raises FailureError."""
        with ThreadPoolExecutor() as pool:  # both wait for the network most of the time
            building = pool.submit(
                cache.artefact, f"{self.name}-packages", self.package_inputs(), self._build_packages
            )
            try:
                system = cache.artefact(
                    f"{self.name}-debian", self.debian_inputs(), self._build_debian
                )
                installed = building.result()
            except BaseException:
                shell.kill_all()
                raise
        inputs = [*self.debian_inputs(), *self.package_inputs(), *self.pramfs_inputs()]
        pramfs = cache.artefact(
            f"{self.name}-pramfs",
            inputs,
            lambda result: self._build_pramfs(installed, system / "root.ext4", result),
        )
        return Guest(
            self.hardware,
            system / "vmlinuz",
            system / "initrd",
            system / "root.ext4",
            pramfs / "pramfs.ext4",
        )

    def debian_inputs(self) -> list[Path | str]:
        """What decides what is on the root disk."""
        kernel = self.debian.kernel
        built = kernel.inputs() if isinstance(kernel, Kernel) else []
        return [repr(self.debian), *debian.INPUTS, *built]

    def package_inputs(self) -> list[Path | str]:
        """What decides which Python packages are installed, and how."""
        return [f"{self.debian.suite} {self.debian.architecture}", *packages.INPUTS]

    def pramfs_inputs(self) -> Iterator[Path | str]:
        """What is on pramfs's disk besides the packages."""
        yield self.hardware.agent_port
        yield Path(__file__)
        yield from _sources()
        yield from self._files()
        for source in self._parts():
            yield from (str(source.relative_to(CHECKOUT)), source)

    def _build_debian(self, result: Path) -> None:
        debian.build(self.debian, result)

    def _build_packages(self, result: Path) -> None:
        packages.install(self.debian, result)

    def _build_pramfs(self, installed: Path, root: Path, result: Path) -> None:
        tree = result.parent / "tree"
        shutil.copytree(installed, tree / "packages")
        for source in _sources():
            target = tree / "packages" / source.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        compiled = not self.debian.is_foreign
        if compiled:
            # Compiled here, since the guest's disks are read-only and its processor is slow.
            run("sh", "-euc", _COMPILE, root, result.parent, tree, confined=True)
        for file in self._files():
            shutil.copy(file, tree / file.name)
        for source in self._parts():
            target = tree / "checkout" / source.relative_to(CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        (tree / "modules").write_text("".join(f"{module}\n" for module in self.debian.modules))
        (tree / "environment").write_text(
            f"AGENT_PORT={self.hardware.agent_port}\n"
            # Else compiled once in each boot.
            f"PYTHONPYCACHEPREFIX={'' if compiled else '/run/python'}\n"
            f"PYTHONDONTWRITEBYTECODE={'1' if compiled else ''}\n"
        )
        debian.make_disk(tree, result / "pramfs.ext4")

    def _files(self) -> list[Path]:
        return [*sorted(path for path in _FILES.iterdir() if path.is_file()), *self.files]

    def _parts(self) -> Iterator[Path]:
        for part in self.parts:
            yield from sorted(_files_below(CHECKOUT / part))


@dataclass(frozen=True)
class Guest:
    """What a machine boots from. Nothing writes to these files."""

    hardware: Hardware
    kernel: Path
    initrd: Path
    root: Path
    pramfs: Path


def _sources() -> list[Path]:
    return sorted((CHECKOUT / "pramfs").rglob("*.py"))


def _files_below(path: Path) -> Iterator[Path]:
    """The file, or all files in the directory and below."""
    yield from [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())
