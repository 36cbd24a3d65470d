"""The guest that goes from kernel to kernel: Debian 12, whose CRIU fits its kernel."""

from pathlib import Path

from tests.vm.debian import Debian
from tests.vm.guest import Recipe
from tests.vm.hardware import AMD64

RECIPE = Recipe(
    name="kexec",
    debian=Debian(
        suite="bookworm",
        architecture="amd64",
        kernel="linux-image-amd64",
        packages=(
            *("attr", "busybox-static", "criu", "e2fsprogs", "fuse3", "iproute2", "kexec-tools"),
            *("kmod", "procps", "python3"),
        ),
        # The memory device, FUSE, what criu asks of the kernel, RAM disks.
        modules=(
            *("nd_e820", "nd_pmem", "fuse", "tun", "brd", "nfnetlink", "nf_tables"),
            *("unix_diag", "tcp_diag", "udp_diag", "raw_diag", "netlink_diag", "af_packet_diag"),
        ),
    ),
    hardware=AMD64,
    files=(Path(__file__).parent / "workload.py",),
)
