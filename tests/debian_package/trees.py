"""Two trees of each Debian release that gets a package: one to build it in, one to install it in.

They are cached like the Debian of tests/distributions, and used in the same way.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.distributions import chroot
from tests.distributions.chroot import Debian
from tests.support.checkout import CHECKOUT
from tests.vm import cache
from tests.vm.shell import run

DEPENDENCIES = "/opt/dependencies"  # the locked Python packages, in the tree to build in
_INSIDE = Path(__file__).parent / "prepare"


class Release(NamedTuple):
    """A release of Debian."""

    number: int
    suite: str


RELEASES = (Release(12, "bookworm"), Release(13, "trixie"))


def builder(release: Release, place: Path) -> Debian:
    """Debian with what building the package takes and what it depends on, lintian, and this checkout.

    Of that a copy is made below `place`. Takes root. Raises FailureError.
    """
    return chroot.with_checkout(_trees(release) / "builder", place)


def bare(release: Release, place: Path) -> Debian:
    """Debian without a compiler and without Python; apt has fetched what the package depends on.

    `place` gets a copy of this checkout. Takes root. Raises FailureError.
    """
    return chroot.with_checkout(_trees(release) / "bare", place)


def inputs(release: Release) -> Iterator[Path | str]:
    """What decides what is in the trees."""
    yield from (release.suite, Path(__file__), _INSIDE, Path(chroot.__file__), chroot.ENTER)
    yield from (CHECKOUT / "debian" / name for name in ("control", "install-dependencies"))
    yield from (CHECKOUT / "requirements" / name for name in ("build.lock", "runtime.lock"))


def _trees(release: Release) -> Path:
    return cache.artefact(
        f"package-debian{release.number}", inputs(release), lambda result: _build(release, result)
    )


def _build(release: Release, result: Path) -> None:
    bare, builder = result / "bare", result / "builder"
    chroot.bootstrap(release.suite, bare)
    prepare = f"/srv/pramfs/{_INSIDE.relative_to(CHECKOUT)}"
    place = result.parent / "place"
    chroot.with_checkout(bare, place).change(prepare, "bare")
    run("cp", "--archive", bare, builder)
    Debian(builder, place / "checkout", place / "tmp").change(prepare, "builder", DEPENDENCIES)
