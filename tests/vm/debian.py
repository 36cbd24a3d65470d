"""The guest's Debian: a kernel, an initramfs that finds the disks, and a read-only root disk.

Nothing of pramfs is on it, so it is built once, and again when what it is made from changes.
"""

import gzip
import lzma
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.vm import archive
from tests.vm.archive import Archive, unpack
from tests.vm.kernel import Kernel
from tests.vm.shell import FailureError, run

NATIVE = "amd64"

# The initramfs needs these to reach the disks, and to make a root that can be written to.
_DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4", "overlay")
_NOT_NEEDED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var/cache/apt", "var/lib/apt")
_MOUNTPOINTS = ("mnt", "opt", "srv")
_INIT = Path(__file__).parent / "files/init"
_MIB = 1 << 20
# The same for all suites; this machine's debootstrap may not know the newest by name.
_SCRIPT = Path("/usr/share/debootstrap/scripts/sid")

INPUTS = (Path(__file__), Path(archive.__file__), _INIT)


@dataclass(frozen=True)
class Debian:
    """A release of Debian, what is installed of it, and the modules that the running guest loads.

    Its kernel is that of a package, or one that was built for it, which needs no modules.
    """

    suite: str
    architecture: str
    kernel: str | Kernel
    packages: tuple[str, ...]
    modules: tuple[str, ...] = ()

    @property
    def is_foreign(self) -> bool:
        """Whether this machine's processor cannot run its programs."""
        return self.architecture != NATIVE


def build(debian: Debian, result: Path) -> None:
    """Put `vmlinuz`, `initrd` and `root.ext4` into the directory. Needs root, and Debian's archive.

    A foreign Debian is unpacked only, no script of a package runs: enough for programs, not for services.
    """
    if os.geteuid() != 0:
        raise FailureError("the guest can only be built by root: debootstrap needs chroot")
    work = result.parent
    tree = work / "tree"
    source = Archive(debian.suite, debian.architecture, work / "archive")
    if debian.is_foreign:
        _unpack_system(source, debian.packages, tree)
    else:
        include = f"--include={','.join(debian.packages)}"
        command = ("debootstrap", "--variant=minbase", include, debian.suite, tree)
        run(*command, archive.MIRROR, _SCRIPT, confined=True)
    kernel = work / "kernel"
    if isinstance(debian.kernel, Kernel):
        release = debian.kernel.install(kernel)
        disk_modules: tuple[str, ...] = ()
    else:
        unpack([source.download_kernel(debian.kernel)], kernel)
        release = next((kernel / "lib/modules").iterdir()).name
        run("depmod", "--basedir", kernel, release)
        disk_modules = _DISK_MODULES
    for name in _NOT_NEEDED:
        shutil.rmtree(tree / name, ignore_errors=True)
    for name in _MOUNTPOINTS:
        (tree / name).mkdir(exist_ok=True)
    shutil.copy(kernel / f"boot/vmlinuz-{release}", result / "vmlinuz")
    initramfs = work / "initramfs"
    _make_initrd(kernel, release, disk_modules, tree / "bin/busybox", initramfs, result / "initrd")
    shutil.copy(result / "vmlinuz", tree / f"boot/vmlinuz-{release}")
    shutil.copy(result / "initrd", tree / f"boot/initrd.img-{release}")
    (tree / "lib/modules" / release).mkdir(parents=True)
    _copy_modules(kernel, release, debian.modules, tree)
    run("depmod", "--basedir", tree, release)
    make_disk(tree, result / "root.ext4")


def make_disk(tree: Path, disk: Path) -> None:
    """Make an ext4 image of a tree, without mounting anything, with little room to spare."""
    used = int(run("du", "--summarize", "--block-size=1", tree).split()[0])
    size_mib = used * 5 // 4 // _MIB + 8
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, disk, f"{size_mib}M")


def _unpack_system(source: Archive, packages: tuple[str, ...], tree: Path) -> None:
    unpack(source.download(*packages), tree)
    # What base-passwd's script would have done.
    for name in ("passwd", "group"):
        shutil.copy(tree / f"usr/share/base-passwd/{name}.master", tree / f"etc/{name}")


def _make_initrd(
    kernel: Path, release: str, modules: tuple[str, ...], busybox: Path, tree: Path, initrd: Path
) -> None:
    for name in ("bin", "dev", "proc", "sys", "root"):
        (tree / name).mkdir(parents=True)
    shutil.copy(busybox, tree / "bin/busybox")
    shutil.copy(_INIT, tree / "init")
    order = _copy_modules(kernel, release, modules, tree)
    (tree / "modules").write_text("".join(f"/{path}\n" for path in order))
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    archive = tree.with_name("initramfs.cpio")
    run("cpio", "--quiet", "-o", "-H", "newc", "-F", archive, cwd=tree, text=names)
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
    return [_copy_module(kernel, module, tree) for module in order]


def _copy_module(kernel: Path, module: Path, tree: Path) -> Path:
    (tree / module).parent.mkdir(parents=True, exist_ok=True)
    if module.suffix != ".xz":
        return Path(shutil.copy(kernel / module, tree / module)).relative_to(tree)
    # Busybox loads none that are compressed.
    (tree / module.with_suffix("")).write_bytes(lzma.decompress((kernel / module).read_bytes()))
    return module.with_suffix("")
