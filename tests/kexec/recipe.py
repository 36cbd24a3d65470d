"""The guests that go from kernel to kernel.

One has a range of memory that is kept free, and is Debian 12, whose CRIU fits its kernel. One has systemd and
a network besides. Another has live update, and is Debian 13 with a kernel that has the options: Debian's own
has not. The last is that with the userland of Debian's testing release.
"""

from dataclasses import replace
from pathlib import Path

from tests.vm.debian import Debian
from tests.vm.guest import Recipe
from tests.vm.hardware import AMD64
from tests.vm.kernel import Kernel

_PACKAGES = (
    *("attr", "busybox-static", "criu", "e2fsprogs", "fuse3", "iproute2", "kexec-tools"),
    *("kmod", "procps", "python3"),
)

_SYSTEMD_PACKAGES = (*_PACKAGES, "dbus", "nftables", "systemd-sysv", "udev")
_FILES = (
    Path(__file__).parent / "counter.py",
    Path(__file__).parent / "workload.py",
    Path(__file__).parent / "files/prepare-system",
    Path(__file__).parents[1] / "boot/files/commands.service",
)

RECIPE = Recipe(
    name="kexec",
    debian=Debian(
        suite="bookworm",
        architecture="amd64",
        kernel="linux-image-amd64",
        packages=_PACKAGES,
        # The memory device, FUSE, what criu asks of the kernel, RAM disks.
        modules=(
            *("nd_e820", "nd_pmem", "fuse", "tun", "brd", "nfnetlink", "nf_tables"),
            *("unix_diag", "tcp_diag", "udp_diag", "raw_diag", "netlink_diag", "af_packet_diag"),
        ),
    ),
    # 192 MiB are set aside; a process of 256 MiB and its images on tmpfs fit into the rest.
    hardware=replace(AMD64, memory_mib=2048),
    files=(Path(__file__).parent / "workload.py",),
)

CHECKPOINT = Recipe(
    name="checkpoint",
    debian=replace(
        RECIPE.debian,
        packages=_SYSTEMD_PACKAGES,
        modules=(*RECIPE.debian.modules, "autofs4", "virtio_net"),
    ),
    hardware=RECIPE.hardware,
    files=(
        *_FILES,
        Path(__file__).parent / "files/checkpoint-boot",
    ),
    parts=("scripts/install-helpers", "share"),
)

LIVE_UPDATE_KERNEL = Kernel(
    "trixie", "linux-source-7.3", Path(__file__).parent / "files/live-update.config"
)
LIVE_UPDATE = Recipe(
    name="live-update",
    debian=Debian(
        suite="trixie",
        architecture="amd64",
        kernel=LIVE_UPDATE_KERNEL,
        packages=_SYSTEMD_PACKAGES,
    ),
    hardware=replace(AMD64, memory_mib=1024),
    files=(
        *_FILES,
        Path(__file__).parent / "files/checkpoint-boot",
        Path(__file__).parent / "files/live-boot",
    ),
    parts=("scripts/install-helpers", "share"),
)

# Its CRIU dumps TCP sockets on that kernel, as 4.2 and newer do, and its systemd carries descriptors over.
NEWER_DEBIAN = replace(
    LIVE_UPDATE, name="newer-debian", debian=replace(LIVE_UPDATE.debian, suite="forky")
)
