"""Other users get no access: to the image, the mount, bytes of deleted files, the control attributes."""

import errno
import fcntl
import functools
import os
import random
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pramfs.control.control_xattrs import Setting, encode_setting
from tests.mounted.harness import KIB, MIB, PAGE, Volume, pramfs, run, wait_until
from tests.mounted.posix.scene import ALICE, errno_of, run_as, write
from tests.mounted.system import syncfs

SECRET = b"\xa5"
SAVE = b"user.pramfs.save", b""
FREE = b"user.pramfs.free", b"pramfs@kept"
PERMIT = b"p" * 16


def test_an_image_is_its_owners_alone(volume: Volume) -> None:
    volume.mount()
    assert stat.S_IMODE(volume.image.stat().st_mode) == 0o600
    volume.remount()
    assert stat.S_IMODE(volume.image.stat().st_mode) == 0o600


def test_without_allow_other_another_user_sees_nothing(volume: Volume) -> None:
    root = volume.mount("mode=777")
    _open_up(volume.home)
    (root / "file").write_bytes(b"x")
    calls: list[Callable[[], object]] = [
        lambda: os.listdir(root),
        root.stat,
        lambda: os.open(root / "file", os.O_RDONLY),
    ]
    for call in calls:
        assert run_as(ALICE, functools.partial(errno_of, call)) == "EACCES"


@pytest.mark.parametrize("options", [(), ("direct_io",)], ids=["cached", "direct_io"])
def test_no_byte_of_a_deleted_file_is_ever_read_again(
    volume: Volume, options: tuple[str, ...]
) -> None:
    """Frames are filled with a secret, given up, and used again: in holes, behind ends, in new pages.

    With direct_io the daemon answers each read, and nothing that the kernel knows to be zeros hides a byte.
    """
    root = volume.mount("size=16M", *options)
    rng = random.Random(3)
    for number in range(4):
        (root / "secret").write_bytes(SECRET * 6 * MIB)
        syncfs(root)
        if number % 2:
            volume.save()
        (root / "secret").unlink()
        for name in range(40):
            _sparse(root / f"f{name}", rng)
        _assert_no_secret(root)
        volume.remount("size=16M", *options)
        _assert_no_secret(root)


def test_an_extended_file_is_zeros_after_a_remount(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(SECRET * 3 * PAGE)
    os.truncate(root / "file", 100)
    volume.remount()
    os.truncate(root / "file", 3 * PAGE)
    assert (root / "file").read_bytes() == SECRET * 100 + bytes(3 * PAGE - 100)


def test_who_may_not_write_to_a_view_gives_no_orders_by_it(volume: Volume) -> None:
    """For an ioctl(2) the kernel does not ask whether the view is read-only, but it must be."""
    root, view = volume.mount(), volume.home / "view"
    view.mkdir()
    (root / "part").mkdir()
    pramfs("snapshot", root, "kept").succeeded()
    for part in (root, root / "part", root / ".snapshots/kept"):
        run("mount", "--bind", "-o", "ro", part, view).succeeded()
        try:
            assert errno_of(lambda: _order(view, bytes(16), *FREE)) == "EPERM"
            assert errno_of(lambda: _permit(view)) == "EROFS"
            # As with fsync(2), which makes a save on the root alone.
            on_root = "" if part == root else "EPERM"
            assert errno_of(lambda: _order(view, bytes(16), *SAVE)) == on_root
        finally:
            run("umount", "-i", view).succeeded()
    assert "kept" in pramfs("snapshots", root).succeeded().text


def test_a_permit_is_for_one_order_of_the_one_who_has_set_it(volume: Volume) -> None:
    root = volume.mount("allow_other", "mode=777")
    _open_up(volume.home)
    (root / "part").mkdir()
    for name in ("kept", "kept-too"):
        pramfs("snapshot", root, name).succeeded()
    assert errno_of(lambda: os.setxattr(root, "user.pramfs.permit", bytes(15))) == "EINVAL"
    assert run_as(ALICE, lambda: errno_of(lambda: _permit(root))) == "EPERM"
    assert run_as(ALICE, lambda: errno_of(lambda: _order(root, PERMIT, *SAVE))) == "EPERM"
    _permit(root)
    assert errno_of(lambda: _order(root, bytes(16), *FREE)) == "EPERM"
    assert run_as(ALICE, lambda: errno_of(lambda: _order(root, PERMIT, *FREE))) == "EPERM"
    assert errno_of(lambda: _order(root, PERMIT, *FREE)) == ""
    assert errno_of(lambda: _order(root, PERMIT, FREE[0], b"pramfs@kept-too")) == "EPERM"
    assert "kept-too" in pramfs("snapshots", root).succeeded().text
    _permit(root)
    for _ in range(64):
        os.setxattr(root, "user.pramfs.permit", os.urandom(16))
    assert errno_of(lambda: _order(root / "part", PERMIT, *SAVE)) == "EPERM"  # too many newer ones


def _permit(place: Path) -> None:
    os.setxattr(place, "user.pramfs.permit", PERMIT)


def _order(place: Path, permit: bytes, name: bytes, value: bytes) -> None:
    """Set a control attribute by ioctl(2)."""
    encoded = encode_setting(Setting(permit, name, value))
    assert encoded is not None
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(directory, *encoded)
    finally:
        os.close(directory)


def test_the_controls_obey_ownership(volume: Volume) -> None:
    root = volume.mount("allow_other", "mode=777")
    _open_up(volume.home)
    generation = volume.generation
    save = lambda: os.setxattr(root, "user.pramfs.save", b"1")  # noqa: E731
    assert run_as(ALICE, lambda: errno_of(save)) in {"EPERM", "EACCES"}
    assert volume.generation == generation
    assert errno_of(save) == ""
    assert volume.generation == generation + 1
    dedup = lambda: os.setxattr(root, "user.pramfs.dedup", b"")  # noqa: E731
    assert run_as(ALICE, lambda: errno_of(dedup)) == "EPERM"
    assert errno_of(dedup) == ""
    assert errno_of(lambda: os.setxattr(root, "user.pramfs.pid", b"1")) == "EACCES"
    remove = lambda: os.removexattr(root, "user.pramfs.pid")  # noqa: E731
    assert run_as(ALICE, lambda: errno_of(remove)) == "EPERM"
    assert errno_of(remove) == "EACCES"
    assert int(os.getxattr(root, "user.pramfs.pid")) == volume.pid


@pytest.mark.parametrize("again", ["", "nosuid,nodev"])
def test_what_an_image_brings_along_is_inert(volume: Volume, again: str) -> None:
    """A set-uid program and a device, made where they work, are harmless under the default flags."""
    root = volume.mount("allow_other", "suid", "dev")
    _open_up(volume.home)
    (root / "id").write_bytes(Path("/usr/bin/id").read_bytes())
    (root / "id").chmod(0o4755)
    os.mknod(root / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (root / "zero").chmod(0o666)
    assert run_as(ALICE, lambda: run(root / "id", "-u").text) == "0\n"
    assert run_as(ALICE, lambda: errno_of(lambda: os.open(root / "zero", os.O_RDONLY))) == ""
    volume.remount("allow_other", *again.split(",") if again else ())
    assert run_as(ALICE, lambda: run(root / "id", "-u").text) == f"{ALICE.uid}\n"
    assert errno_of(lambda: os.open(root / "zero", os.O_RDONLY)) == "EACCES"


@pytest.mark.parametrize("mode", [0o6777, 0o6766])
@pytest.mark.parametrize("direct", ["direct_io", "noatime"])
def test_a_write_leaves_set_id_bits_as_on_tmpfs(volume: Volume, mode: int, direct: str) -> None:
    """Root keeps them, others take them away; with direct_io the kernel leaves that to the daemon."""
    root = volume.mount("allow_other", "mode=777", direct)
    _open_up(volume.home)

    def modes_after_writes(file: Path) -> list[int]:
        file.write_bytes(b"content")
        file.chmod(mode)
        file.read_bytes()
        found = [file.stat().st_mode]
        write(file)
        found.append(file.stat().st_mode)
        run_as(ALICE, lambda: write(file))
        return [*found, file.stat().st_mode]

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        Path(directory).chmod(0o777)
        expected = modes_after_writes(Path(directory, "file"))
    assert expected[1] != expected[2]
    assert modes_after_writes(root / "file") == expected


def _open_up(home: Path) -> None:
    """Let other users come as far as the mountpoint."""
    for directory in (home, *home.parents):
        directory.chmod(directory.stat().st_mode | 0o011)


def _sparse(path: Path, rng: random.Random) -> None:
    """A file with a little of everything: holes, odd ends, cuts and extensions."""
    with path.open("w+b", buffering=0) as file:
        for _ in range(5):
            os.pwrite(file.fileno(), b"x" * rng.randrange(1, 200), rng.randrange(64 * KIB))
        os.ftruncate(file.fileno(), rng.randrange(64 * KIB))
        os.ftruncate(file.fileno(), rng.randrange(96 * KIB))


def _assert_no_secret(root: Path) -> None:
    for path in root.iterdir():
        content = path.read_bytes()
        assert SECRET not in content, f"{path} at {content.find(SECRET)}"


# Asks mount_setattr(2) for an idmapped mount and prints the errno. Arguments: mountpoint, pid of a process in
# the user namespace whose map is to count.
IDMAP = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
AT_EMPTY_PATH, OPEN_TREE_CLONE, MOUNT_ATTR_IDMAP = 0x1000, 1, 0x100000
tree = libc.syscall(428, -100, os.fsencode(sys.argv[1]), OPEN_TREE_CLONE)
assert tree >= 0, os.strerror(ctypes.get_errno())
users = os.open(f"/proc/{sys.argv[2]}/ns/user", os.O_RDONLY)
attr = struct.pack("=QQQQ", MOUNT_ATTR_IDMAP, 0, 0, users)
done = libc.syscall(442, tree, b"", AT_EMPTY_PATH, attr, len(attr))
print(0 if not done else ctypes.get_errno())
"""


def test_an_idmapped_mount_is_refused_as_the_limits_say(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").touch()
    words = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as other:
        maps = [Path(f"/proc/{other.pid}/{name}") for name in ("uid_map", "gid_map")]
        wait_until(lambda: all("1000" in path.read_text() for path in maps), "a user namespace")
        refused = run(sys.executable, "-c", IDMAP, root, str(other.pid)).succeeded()
        allowed = run(sys.executable, "-c", IDMAP, "/dev/shm", str(other.pid)).succeeded()
    assert (int(refused.text), int(allowed.text)) == (errno.EINVAL, 0)
    assert (root / "file").stat().st_uid == 0
