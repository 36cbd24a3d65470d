"""The guest's Debian: a kernel, an initramfs that finds the disks, and a read-only root disk.

Nothing of pramfs is on it, so it is built once, and again when what it is made from changes.
"""

import gzip
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.vm.shell import FailureError, run

# The initramfs needs these to reach the disks.
_DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4")
_NOT_NEEDED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt")
_MOUNTPOINTS = ("mnt", "opt", "srv")
_INIT = Path(__file__).parent / "files/init"
_MIB = 1 << 20

INPUTS = (Path(__file__), _INIT)


@dataclass(frozen=True)
class Debian:
    """A release of Debian, what is installed of it, and the modules that the running guest loads."""

    suite: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]


def build(debian: Debian, result: Path) -> None:
    """Put `vmlinuz`, `initrd` and `root.ext4` into the directory. Needs root, and Debian's archive."""
    if os.geteuid() != 0:
        raise FailureError("the guest can only be built by root: debootstrap needs chroot")
    if platform.freedesktop_os_release().get("VERSION_CODENAME") != debian.suite:
        raise FailureError(
            f"the guest gets this system's kernel and Python: {debian.suite} is needed"
        )
    work = result.parent
    tree = work / "tree"
    include = f"--include={','.join(debian.packages)}"
    run("debootstrap", "--variant=minbase", include, debian.suite, tree, confined=True)
    kernel = _unpack_kernel(work)
    release = next((kernel / "lib/modules").iterdir()).name
    run("depmod", "--basedir", kernel, release)
    for name in _NOT_NEEDED:
        shutil.rmtree(tree / name)
    for name in _MOUNTPOINTS:
        (tree / name).mkdir(exist_ok=True)
    shutil.copy(kernel / f"boot/vmlinuz-{release}", result / "vmlinuz")
    _make_initrd(kernel, release, tree / "bin/busybox", work / "initramfs", result / "initrd")
    shutil.copy(result / "vmlinuz", tree / f"boot/vmlinuz-{release}")
    shutil.copy(result / "initrd", tree / f"boot/initrd.img-{release}")
    _copy_modules(kernel, release, debian.modules, tree)
    run("depmod", "--basedir", tree, release)
    make_disk(tree, result / "root.ext4")


def make_disk(tree: Path, disk: Path) -> None:
    """Make an ext4 image of a tree, without mounting anything, with little room to spare."""
    used = int(run("du", "--summarize", "--block-size=1", tree).split()[0])
    size_mib = used * 5 // 4 // _MIB + 8
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, disk, f"{size_mib}M")


def _unpack_kernel(work: Path) -> Path:
    """The newest kernel of the suite, unpacked only: nothing of it is to run on the host."""
    run("apt-get", "-qq", "update")
    depends = run("apt-cache", "depends", "linux-image-amd64").split()
    package = next(word for word in depends if word.startswith("linux-image-6"))
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=work)
    kernel = work / "kernel"
    run("dpkg-deb", "--extract", next(work.glob("linux-image-*.deb")), kernel)
    return kernel


def _make_initrd(kernel: Path, release: str, busybox: Path, tree: Path, initrd: Path) -> None:
    for name in ("bin", "dev", "proc", "sys", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin/busybox")
    shutil.copy(_INIT, tree / "init")
    order = _copy_modules(kernel, release, _DISK_MODULES, tree)
    (tree / "modules").write_text("".join(f"/{path}\n" for path in order))
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    archive = tree.with_name("initramfs.cpio")
    run(busybox, "cpio", "-o", "-H", "newc", "-F", archive, cwd=tree, text=names)
    initrd.write_bytes(gzip.compress(archive.read_bytes(), compresslevel=6))


def _copy_modules(kernel: Path, release: str, names: tuple[str, ...], tree: Path) -> list[Path]:
    """Copy these modules and what they depend on; returns them in the order of loading."""
    order: list[Path] = []
    for name in names:
        command = ("modprobe", "--dirname", kernel, "--set-version", release, "--show-depends")
        for line in run(*command, name).splitlines():
            word, _, path = line.partition(" ")
            module = Path(path.strip()).relative_to(kernel) if word == "insmod" else None
            if module is not None and module not in order:
                order.append(module)
    for module in order:
        (tree / module).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kernel / module, tree / module)
    return order
