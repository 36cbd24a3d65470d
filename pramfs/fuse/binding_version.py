"""The versions of pyfuse3 with which the seam is tested: `session` replaces a part of it."""

import pyfuse3

from pramfs.errors import PramError

TESTED = ("3.5.0",)


def refuse_untested() -> None:
    """Raise PramError if another version is installed."""
    version = getattr(pyfuse3, "__version__", "of unknown version")
    if version not in TESTED:
        raise PramError(
            f"pyfuse3 {version} is installed, and pramfs works with {' or '.join(TESTED)} only"
        )
