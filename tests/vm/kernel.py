"""A kernel with options that Debian's has not, built from Debian's source package.

All of it is in one file, nothing is a module. A build takes about 25 minutes on two cores, so it is cached
by its configuration and version.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.vm import cache
from tests.vm.archive import Archive, unpack
from tests.vm.shell import FailureError, run

_ARCHITECTURE = "amd64"


@dataclass(frozen=True)
class Kernel:
    """A source package of Debian, and a file of options over `allnoconfig`."""

    suite: str
    package: str
    options: Path = field(repr=False)  # where the checkout is, is no difference

    def install(self, tree: Path) -> str:
        """Put it into /boot of a tree, built if it is not in the cache; returns its release.

        Raises FailureError.
        """
        built = cache.artefact("kernel", self.inputs(), self._build)
        release = (built / "release").read_text().strip()
        (tree / "boot").mkdir(parents=True)
        shutil.copy(built / "vmlinuz", tree / f"boot/vmlinuz-{release}")
        return release

    def is_built(self) -> bool:
        """Whether it is in the cache."""
        return cache.has("kernel", self.inputs())

    def inputs(self) -> list[Path | str]:
        """What decides what is built."""
        return [f"{self.suite} {self.package}", self.options]

    def _build(self, result: Path) -> None:
        work = result.parent
        source = Archive(self.suite, _ARCHITECTURE, work / "archive")
        unpack([source.download_only(self.package)], work / "package")
        (packed,) = (work / "package/usr/src").glob("linux-source-*.tar.xz")
        run("tar", "--extract", "--file", packed, cwd=work)
        tree = work / packed.name.removesuffix(".tar.xz")
        run("make", f"KCONFIG_ALLCONFIG={self.options}", "allnoconfig", cwd=tree)
        self._require_options(tree / ".config")
        jobs = f"--jobs={os.cpu_count()}"
        run("make", "--silent", jobs, "bzImage", cwd=tree, confined=True)
        (tree / "arch/x86/boot/bzImage").rename(result / "vmlinuz")
        (result / "release").write_text(run("make", "--silent", "kernelrelease", cwd=tree))

    def _require_options(self, config: Path) -> None:
        """Raise FailureError if an option was dropped, as one is that needs another."""
        has = set(config.read_text().splitlines())
        wanted = [line for line in self.options.read_text().splitlines() if "CONFIG_" in line]
        dropped = [line for line in wanted if line not in has]
        if dropped:
            raise FailureError(f"{self.options.name}: not in {self.package}: {', '.join(dropped)}")
