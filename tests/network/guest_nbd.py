"""The guest with network block devices: Debian 12, whose kernel has nbd, and nbd-server and nbd-client."""

from pathlib import Path

from tests.vm.debian import Debian
from tests.vm.guest import Recipe
from tests.vm.hardware import AMD64

# The root may be written to: the other machine is one with other files in /etc.
COMMAND_LINE = "console=ttyS0 panic=-1 quiet loglevel=4 no_timer_check first=/opt/agent"

RECIPE = Recipe(
    name="network",
    debian=Debian(
        suite="bookworm",
        architecture="amd64",
        kernel="linux-image-amd64",
        packages=(
            *("busybox-static", "fuse3", "kmod", "nbd-client", "nbd-server", "procps", "python3"),
        ),
        modules=("fuse", "nbd"),
    ),
    hardware=AMD64,
    files=tuple(sorted((Path(__file__).parent / "files").iterdir())),
)
