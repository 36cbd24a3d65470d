"""What `pramfs --version` says: of everything whose version may explain a difference. Loads no FUSE."""

import ctypes
import os
from importlib import metadata

from pramfs import __version__
from pramfs.storage import layout


def version_lines() -> str:
    """The versions of pramfs, the image format, pyfuse3, libfuse and the kernel."""
    return "\n".join(
        [
            f"pramfs {__version__}",
            f"image format {layout.VERSION}",
            f"pyfuse3 {_pyfuse3()}",
            f"libfuse {_libfuse()}",
            f"Linux {os.uname().release}",
        ]
    )


def _pyfuse3() -> str:
    try:
        return metadata.version("pyfuse3")
    except metadata.PackageNotFoundError:
        return "not installed"


def _libfuse() -> str:
    try:
        version = ctypes.CDLL("libfuse3.so.3").fuse_pkgversion
    except (OSError, AttributeError):
        return "not installed"
    version.restype = ctypes.c_char_p
    return (version() or b"unknown").decode()
