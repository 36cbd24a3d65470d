"""A read-only mount refuses every call that would change something, and nothing has changed."""

import errno
import fcntl
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pramfs.system import mount_tools
from tests.mounted import sample_trees
from tests.mounted.harness import Volume, content_of, mount_entry
from tests.mounted.system import RENAME_EXCHANGE, renameat2

FS_IOC_SETFLAGS = 0x40086602
FS_NOATIME_FL = 0x80


def use(path: Path, flags: int, act: Callable[[int], object] = lambda descriptor: None) -> None:
    descriptor = os.open(path, flags)
    try:
        act(descriptor)
    finally:
        os.close(descriptor)


def bind_a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unbound:
        unbound.bind(str(path))


def set_file_flags(path: Path) -> None:
    flags = struct.pack("l", FS_NOATIME_FL)
    use(path, os.O_RDONLY, lambda fd: fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags))


# Each is given the directory that `plant` has filled.
CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: use(root / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY),
    "create without a name": lambda root: use(root, os.O_TMPFILE | os.O_RDWR),
    "mkdir": lambda root: (root / "new").mkdir(),
    "mknod": lambda root: os.mknod(root / "new", stat.S_IFREG | 0o600),
    "mknod of a device": lambda root: os.mknod(root / "new", stat.S_IFCHR, os.makedev(1, 3)),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
    "bind": lambda root: bind_a_socket(root / "new"),
    "symlink": lambda root: (root / "new").symlink_to("file"),
    "link": lambda root: (root / "new").hardlink_to(root / "file"),
    "rename": lambda root: (root / "file").rename(root / "new"),
    "rename over another": lambda root: (root / "file").rename(root / "other"),
    "rename of a directory": lambda root: (root / "directory").rename(root / "new"),
    "rename by exchange": lambda root: renameat2(root / "file", root / "other", RENAME_EXCHANGE),
    "unlink": lambda root: (root / "file").unlink(),
    "unlink of a link": lambda root: (root / "link").unlink(),
    "rmdir": lambda root: (root / "directory").rmdir(),
    "open to write": lambda root: use(root / "file", os.O_WRONLY),
    "open to append": lambda root: use(root / "file", os.O_WRONLY | os.O_APPEND),
    "open to truncate": lambda root: use(root / "file", os.O_RDONLY | os.O_TRUNC),
    "write": lambda root: (root / "file").write_bytes(b"changed"),
    "truncate": lambda root: os.truncate(root / "file", 1),
    "truncate to more": lambda root: os.truncate(root / "file", 1 << 20),
    "ftruncate": lambda root: use(root / "file", os.O_RDWR, lambda fd: os.ftruncate(fd, 1)),
    "fallocate": lambda root: use(
        root / "file", os.O_RDWR, lambda fd: os.posix_fallocate(fd, 0, 1 << 20)
    ),
    "chmod": lambda root: (root / "file").chmod(0o600),
    "chmod of a directory": lambda root: (root / "directory").chmod(0o700),
    "chown": lambda root: os.chown(root / "file", 1, 1),
    "lchown": lambda root: os.lchown(root / "link", 1, 1),
    "utime": lambda root: os.utime(root / "file", (1, 1)),
    "utime of the root": os.utime,
    "setxattr": lambda root: os.setxattr(root / "file", "user.new", b"changed"),
    "setxattr in place": lambda root: os.setxattr(root / "file", "user.old", b"changed"),
    "setxattr of a directory": lambda root: os.setxattr(root / "directory", "user.new", b"changed"),
    "removexattr": lambda root: os.removexattr(root / "file", "user.old"),
    "ioctl": lambda root: set_file_flags(root / "file"),
}


def plant(root: Path) -> None:
    (root / "file").write_bytes(b"kept")
    (root / "file").chmod(0o666)
    os.setxattr(root / "file", "user.old", b"kept")
    (root / "other").write_bytes(b"kept, too")
    (root / "directory").mkdir()
    (root / "link").symlink_to("file")


def assert_refuses_every_change(root: Path) -> None:
    assert "ro" in mount_entry(root)[2]
    before = sample_trees.snapshot(root)
    told = {}
    for name, change in CHANGES.items():
        try:
            change(root)
        except OSError as exc:
            told[name] = errno.errorcode[exc.errno or 0]
        else:
            told[name] = "was done"
    assert told == dict.fromkeys(CHANGES, "EROFS")
    sample_trees.assert_same(sample_trees.snapshot(root), before)


@pytest.mark.parametrize("options", [(), ("direct_io",), ("allow_other",)], ids=str)
def test_a_mount_with_ro_refuses_every_change(volume: Volume, options: tuple[str, ...]) -> None:
    root = volume.mount()
    plant(root)
    before = sample_trees.snapshot(root)
    volume.umount()
    image = content_of(volume.image)

    volume.mount("ro", *options)
    sample_trees.assert_same(sample_trees.snapshot(root), before)
    assert_refuses_every_change(root)
    volume.umount()
    assert content_of(volume.image) == image


def test_a_mount_that_has_become_read_only_refuses_every_change(volume: Volume) -> None:
    root = volume.mount()
    plant(root)
    mount_tools.remount(root, ["ro"])
    assert_refuses_every_change(root)
    volume.save()
    generation = volume.generation
    assert_refuses_every_change(root)
    assert not volume.status()["changed"]
    assert volume.generation == generation
    mount_tools.remount(root, ["rw"])
    (root / "file").unlink()
    volume.remount()
    assert sorted(path.name for path in root.iterdir()) == ["directory", "link", "other"]


def test_everything_can_be_read_in_a_mount_with_ro(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_everything(root)
    before = sample_trees.snapshot(root)
    volume.umount()
    image = content_of(volume.image)
    volume.mount("ro")
    sample_trees.assert_same(sample_trees.snapshot(root), before)
    volume.umount()
    assert content_of(volume.image) == image
