"""The guests that boot systemd: Debian 12 and 13, with pramfs as scripts/install-helpers puts it in place."""

from pathlib import Path

from tests.vm.debian import Debian
from tests.vm.guest import Recipe
from tests.vm.hardware import AMD64

_FILES = Path(__file__).parent / "files"


def recipe(name: str, suite: str) -> Recipe:
    """A guest of this name with that release of Debian."""
    return Recipe(
        name=name,
        debian=Debian(
            suite=suite,
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


DEBIAN_12 = recipe("boot", "bookworm")  # systemd 252
DEBIAN_13 = recipe("boot-trixie", "trixie")  # systemd 257


def command_line(image_size: str) -> str:
    """What the kernel is told, and through it files/boot: how large the images are that systemd mounts."""
    # On a busy host the emulated timer may be late, and the kernel would give up at once.
    console = "console=ttyS0 panic=-1 quiet loglevel=4 no_timer_check systemd.getty_auto=no"
    journal = "systemd.journald.forward_to_console=1 systemd.journald.max_level_console=info"
    return f"{console} {journal} first=/opt/boot size={image_size}"
