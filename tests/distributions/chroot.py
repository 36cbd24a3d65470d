"""Debian of another release than this machine's, in a chroot that runs on this machine's kernel.

The tree has all that `scripts/setup --dev` installs. It is cached outside the checkout, and built anew when
the package list, the locks or what builds it change.
"""

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.checkout import CHECKOUT, copy_checkout
from tests.vm import cache
from tests.vm.shell import FailureError, run

SUITE = "trixie"
ENTER = Path(__file__).parent / "enter"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Debian:
    """A Debian tree, and this run's own directories in it: a copy of the checkout, and /tmp."""

    tree: Path
    checkout: Path
    tmp: Path

    def run(self, *command: str) -> str:
        """Run a command in /srv/pramfs as root; returns its standard output. Raises FailureError.

        What it changes elsewhere is gone afterwards.
        """
        return run(ENTER, self.tree, self.checkout, self.tmp, *command, confined=True)

    def change(self, *command: str) -> None:
        """Run a command that changes the tree itself. Raises FailureError."""
        run(ENTER, "--change", self.tree, self.checkout, self.tmp, *command, confined=True)


def prepare(place: Path) -> Debian:
    """Debian with a copy of this checkout, which is kept below `place`. Takes root. Raises FailureError."""
    tree = cache.artefact("debian13", inputs(), _build) / "root"
    return with_checkout(tree, place)


def inputs() -> Iterator[Path]:
    """The files that decide what is in the tree."""
    yield from (Path(__file__), ENTER, CHECKOUT / "scripts/setup")
    yield from sorted((CHECKOUT / "requirements").glob("*.lock"))


def _build(result: Path) -> None:
    tree = result / "root"
    bootstrap(SUITE, tree)
    with_checkout(tree, result.parent / "place").change("scripts/setup", "--dev")


def bootstrap(suite: str, tree: Path) -> None:
    """Make a minimal Debian of this suite. Takes root. Raises FailureError."""
    include = "--include=ca-certificates"
    run("debootstrap", "--variant=minbase", include, suite, tree, _mirror(), confined=True)
    # An interrupted build is thrown away, so nothing need be safe on the disk meanwhile.
    (tree / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    if _CERTIFICATES.exists():  # a proxy that this machine is behind may need its own
        shutil.copy(_CERTIFICATES, tree / _CERTIFICATES.relative_to("/"))
        (tree / "etc/pip.conf").write_text(f"[global]\ncert = {_CERTIFICATES}\n")


def _mirror() -> str:
    """Where this machine gets its Debian from. Raises FailureError."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    targets = run("apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)")
    for line in targets.splitlines():
        release, component, uri = line.split(maxsplit=2)
        if (release, component) == (codename, "main"):
            return uri
    raise FailureError(f"apt has no source for the component main of {codename}")


def with_checkout(tree: Path, place: Path) -> Debian:
    """The tree with a copy of this checkout, which is made below `place`."""
    debian = Debian(tree, place / "checkout", place / "tmp")
    copy_checkout(debian.checkout)
    debian.tmp.mkdir()
    debian.tmp.chmod(0o1777)
    return debian
