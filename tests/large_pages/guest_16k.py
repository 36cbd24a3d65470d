"""The guest whose kernel has pages of 16 KiB: Debian 13 for arm64, as a Raspberry Pi 5 runs it."""

from pathlib import Path

from tests.vm.debian import Debian
from tests.vm.guest import Recipe
from tests.vm.hardware import ARM64

PAGE_BYTES = 16384
COMMAND_LINE = "console=ttyAMA0 panic=-1 quiet loglevel=4"

RECIPE = Recipe(
    name="large-pages",
    debian=Debian(
        suite="trixie",
        architecture="arm64",
        kernel="linux-image-arm64-16k",
        packages=(
            *("bash", "busybox-static", "coreutils", "dash", "fuse3", "kmod", "libc-bin", "mount"),
            "python3",
        ),
        modules=(),
    ),
    hardware=ARM64,
    files=(Path(__file__).parent / "wear.py",),
)
