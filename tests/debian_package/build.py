"""Builds the packages, each in a chroot with its Debian. `scripts/build-deb` runs this."""

import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from pramfs import __version__
from tests.debian_package import trees
from tests.debian_package.trees import RELEASES, Release
from tests.support.checkout import CHECKOUT
from tests.vm.shell import FailureError

_CHANGELOG = """\
pramfs ({version}) {suite}; urgency=medium

  * What is new is in CHANGELOG.md, beside this file.

 -- The pramfs authors <pramfs@pramfs.invalid>  {date}
"""
_BUILD = """\
dpkg-buildpackage --build=binary --no-sign >/tmp/log 2>&1 || { tail -n 50 /tmp/log; exit 1; }
mv ../pramfs_* /tmp
lintian --allow-root --display-info --fail-on=error,warning,info $SUPPRESSED /tmp/*.changes 2>&1
"""
# Only that of Debian 12 knows it, and what the units do without systemd is for the commands to do.
_SUPPRESSED = {12: "--suppress-tags=package-supports-alternative-init-but-no-init.d-script"}


def main() -> int:
    """Build all packages into dist/; returns the exit code."""
    if os.geteuid() != 0:
        print("build-deb: needs root", file=sys.stderr)
        return 1
    dist = CHECKOUT / "dist"
    dist.mkdir(exist_ok=True)
    try:
        for release in RELEASES:
            print(f"build-deb: building for Debian {release.number}", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="pramfs-deb-") as place:
                built = build(release, Path(place))
                print(shutil.copy(built, dist))
    except FailureError as exc:
        print(f"build-deb: {exc}", file=sys.stderr)
        return 1
    return 0


def build(release: Release, place: Path) -> Path:
    """Build the package for a release below `place`, and return its file. Raises FailureError.

    That is also raised if lintian has anything to say.
    """
    debian = trees.builder(release, place)
    version = f"{__version__}~deb{release.number}"
    (debian.checkout / "debian/changelog").write_text(
        _CHANGELOG.format(
            version=version, suite=release.suite, date=format_datetime(datetime.now(UTC))
        )
    )
    variables = (
        f"DEPENDENCIES={trees.DEPENDENCIES}",
        f"SUPPRESSED={_SUPPRESSED.get(release.number, '')}",
    )
    debian.run("env", *variables, "sh", "-ec", _BUILD)
    (built,) = debian.tmp.glob(f"pramfs_{version}_*.deb")
    return built


if __name__ == "__main__":
    sys.exit(main())
