"""The guest that boots systemd: Debian 12, with pramfs as scripts/install-helpers puts it in place."""

from pathlib import Path

from tests.vm.debian import Debian
from tests.vm.guest import Recipe
from tests.vm.hardware import AMD64

_FILES = Path(__file__).parent / "files"

RECIPE = Recipe(
    name="boot",
    debian=Debian(
        suite="bookworm",
        architecture="amd64",
        kernel="linux-image-amd64",
        packages=(
            *("busybox-static", "dbus", "e2fsprogs", "fuse3", "iproute2", "kmod"),
            *("libpam-systemd", "procps", "python3", "systemd-sysv", "udev"),
        ),
        modules=("fuse", "autofs4"),
    ),
    hardware=AMD64,
    files=tuple(sorted(_FILES.iterdir())),
    parts=("scripts/install-helpers", "share"),
)


def command_line(image_size: str) -> str:
    """What the kernel is told, and through it files/boot: how large the images are that systemd mounts."""
    console = "console=ttyS0 panic=-1 quiet loglevel=4 systemd.getty_auto=no"
    journal = "systemd.journald.forward_to_console=1 systemd.journald.max_level_console=info"
    return f"{console} {journal} first=/opt/boot size={image_size}"
