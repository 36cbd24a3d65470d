"""What each mount option does, seen from the mount."""

import errno
import mmap
import os
import stat
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import (
    MIB,
    MOUNT_FAILED,
    NOBODY,
    PAGE,
    USAGE,
    Outcome,
    Volume,
    content_of,
    mount_entry,
    pramfs,
    run,
    wait_until,
)
from tests.mounted.system import syncfs

IMPOSSIBLE = [  # options, and the words of the message
    ("bogus", "bogus"),
    ("bogus=1", "bogus"),
    ("size=", "size"),
    ("size=many", "size"),
    ("size=-1M", "size"),
    ("size=0", "size"),
    ("size=1M1", "size"),
    ("size=x%", "size"),
    ("size=1000P", "size"),
    ("nr_inodes=", "nr_inodes"),
    ("nr_inodes=many", "nr_inodes"),
    ("nr_inodes=-1", "nr_inodes"),
    ("mode=rwx", "mode"),
    ("mode=888", "mode"),
    ("mode=77777", "mode"),
    ("uid=-2", "uid"),
    ("uid=4294967296", "uid"),
    ("uid=nobody at all", "uid"),
    ("gid=", "gid"),
    ("gid=nobody at all", "gid"),
    ("banned=", "banned"),
    ("banned=x-1M", "banned", "memory value expected"),
    ("banned=1M-", "banned", "memory value expected"),
    ("banned=1M", "banned", "'-' expected"),
    ("banned=1M:2M", "banned", "'-' expected"),
    ("banned=2M-1M", "banned", "end <= start"),
    ("banned=1M-1M", "banned", "end <= start"),
    ("banned=0-1M,2M-1M", "banned", "end <= start"),
    ("name=", "name"),
    ("name=" + "n" * 256, "name"),
    ("snapshot=", "snapshot"),
    ("snapshot=a@b@c", "option 'snapshot'", "TREE@SNAPSHOT expected", "not 'a@b@c'"),
    ("snapshot=pramfs@", "option 'snapshot'", "TREE@SNAPSHOT expected"),
    ("snapshot=a,noload", "'snapshot' and 'noload' exclude each other"),
    ("snapshot=a,checkpoint=60", "'snapshot' and 'checkpoint' exclude each other"),
    ("snapshot=a,name=b,ro", "'ro' and 'name' exclude each other"),
    ("pram=", "pram"),
    ("pram=x", "pram"),
    ("arena=disk", "arena"),
    ("verify=none", "verify"),
    ("checkpoint=soon", "checkpoint"),
    ("checkpoint=-1", "checkpoint"),
    ("noload=1", "noload"),
    ("recover=yes", "recover"),
    ("direct_io=1", "direct_io"),
    ("mode=999", "option 'mode': an octal number from 0 to 7777 expected, not '999'"),
    ("strictatime=1", "option 'strictatime' takes no value"),
    ("lazytim", "unknown option 'lazytim'; did you mean 'lazytime'?"),
    ("size=1.5G", "option 'size'", "not '1.5G'", "a whole number", "such as 1536M"),
    ("size=1,5G", "option 'size'", "not '1,5G'", "such as 1536M"),
    ("size=10 G", "option 'size'", "such as 10G"),
    ("size=1TB", "option 'size'", "such as 1T"),
    ("nr_inodes=0.3k", "option 'nr_inodes'", "such as 308"),
    ("banned=0-1M,5G", "unknown option '5G'"),
    ("mode=755,5", "an octal number", "not '755,5'"),
]


@pytest.mark.parametrize(
    ("option", "words"),
    [pytest.param(option, words, id=option[:40]) for option, *words in IMPOSSIBLE],
)
@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_impossible_options_are_refused(volume: Volume, option: str, words: list[str]) -> None:
    volume.refused(*words, options=[option], code=USAGE)
    assert not volume.image.exists()


@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_without_fuse_nothing_is_made(volume: Volume) -> None:
    missing = "libfuse3.so.3: cannot open shared object file"
    (volume.home / "pyfuse3.py").write_text(f"raise ImportError('{missing}')")  # found first there
    outcome = pramfs("mount", volume.image, volume.root, cwd=volume.home)
    outcome.refused(MOUNT_FAILED, "FUSE cannot be loaded", missing)
    assert not volume.image.exists()


@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_with_an_untested_pyfuse3_nothing_is_made(volume: Volume) -> None:
    (volume.home / "pyfuse3.py").write_text("__version__ = '3.99'")
    outcome = pramfs("mount", volume.image, volume.root, cwd=volume.home)
    outcome.refused(MOUNT_FAILED, "pyfuse3 3.99", "works with 3.5.0")
    assert not volume.image.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bogus"],
        ["mount"],
        ["mount", "image"],
        ["mount", "image", "mountpoint", "more"],
        ["mount", "--bogus", "image", "mountpoint"],
        ["mount", "image", "mountpoint", "-o"],
        ["umount"],
        ["save"],
        ["umount", "a", "b"],
    ],
    ids=" ".join,
)
def test_wrong_words_are_a_usage_error(arguments: list[str]) -> None:
    pramfs(*arguments).refused(USAGE, "--help")


@pytest.mark.parametrize(
    "words",
    [
        "rw,nofail,user,noauto,_netdev,defaults,x-systemd.automount,x-anything=1",
        "relatime,nodiratime,exec,suid,dev,async",
        "noexec,nosuid,nodev,sync,dirsync",
        "noatime,norelatime,diratime,users,owner,group,auto",
        "silent,loud,mand,nomand,iversion,noiversion,lazytime,nolazytime,strictatime,nostrictatime",
    ],
)
@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_what_mount_and_fstab_pass_is_accepted(volume: Volume, words: str) -> None:
    volume.mount(*words.split(","))


def atimes_that_reading_changes(root: Path) -> set[str]:
    """Kinds of files, made with an atime that relatime renews, of which a read renews it."""
    (root / "directory").mkdir()
    (root / "file").write_bytes(b"data")
    (root / "link").symlink_to("file")
    paths = {name: root / name for name in ("directory", "file", "link")}
    for path in paths.values():
        os.utime(path, (1, 1), follow_symlinks=False)
    fd = os.open(root / "file", os.O_RDONLY | os.O_DIRECT)  # past what the kernel has cached
    os.preadv(fd, [mmap.mmap(-1, PAGE)], 0)
    os.close(fd)
    os.listdir(root / "directory")
    os.readlink(root / "link")
    return {name for name, path in paths.items() if path.lstat().st_atime != 1}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["relatime"], ["directory", "file", "link"]),
        (["nodiratime"], ["file", "link"]),
        (["noatime"], []),
    ],
    ids=str,
)
@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_what_reading_does_to_access_times(
    volume: Volume, options: list[str], changed: list[str]
) -> None:
    root = volume.mount("direct_io", *options)
    assert (
        "noatime" in mount_entry(root)[2]
        or "noatime" in run("findmnt", "-no", "OPTIONS", root).text
    ) == ("noatime" in options)
    assert sorted(atimes_that_reading_changes(root)) == changed


@pytest.mark.parametrize("options", [(), ("direct_io",)], ids=["cached", "direct_io"])
@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_a_program_that_is_written_to_loses_its_capabilities(
    volume: Volume, options: tuple[str, ...]
) -> None:
    program = volume.mount(*options) / "program"
    program.write_bytes(b"program")
    os.setxattr(program, "security.capability", sample_trees.XATTRS["security.capability"])
    assert "security.capability" in os.listxattr(program)
    with program.open("ab") as file:
        file.write(b"another")
    assert "security.capability" not in os.listxattr(program)


def test_how_the_mount_is_listed(volume: Volume) -> None:
    root = volume.mount()
    kind, source, options = mount_entry(root)
    assert kind == "fuse.pramfs"
    assert source == str(volume.image)
    assert options >= {"rw", "nosuid", "nodev", "default_permissions"}
    assert "allow_other" not in options


def test_files_are_read_far_ahead(volume: Volume) -> None:
    device = volume.mount().stat().st_dev
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}")
    wait_until(lambda: (bdi / "read_ahead_kb").read_text() == "512\n", "the kernel to be told")


def test_a_new_image_is_private_and_sparse(volume: Volume) -> None:
    volume.mount("size=1G")
    volume.umount()
    status = volume.image.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < MIB


def test_an_empty_file_becomes_an_image(volume: Volume) -> None:
    volume.image.touch()
    (volume.mount() / "file").write_bytes(b"kept")
    volume.remount()
    assert (volume.root / "file").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [("24M", 24 * MIB), ("16384K", 16 * MIB), ("33554432", 32 * MIB), ("0x1000000", 16 * MIB)],
)
def test_size(volume: Volume, size: str, size_bytes: int) -> None:
    root = volume.mount(f"size={size}")
    told = os.statvfs(root)
    assert told.f_blocks * told.f_frsize == pytest.approx(size_bytes, abs=MIB // 4)
    volume.umount()
    assert volume.image.stat().st_size == size_bytes


@pytest.mark.parametrize(("option", "share"), [(["size=1%"], 0.01), ([], 0.5)])
def test_size_is_a_share_of_memory(volume: Volume, option: list[str], share: float) -> None:
    volume.size = "50%"
    root = volume.mount(*option)
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * PAGE
    told = os.statvfs(root)
    assert told.f_blocks * told.f_frsize == pytest.approx(share * memory_bytes, rel=0.02)


def test_the_image_grows_when_a_later_mount_asks_for_more(volume: Volume) -> None:
    volume.size = "16M"
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    before = sample_trees.snapshot(root)
    assert os.statvfs(root).f_blocks * PAGE <= 16 * MIB

    volume.size = "48M"
    volume.remount()
    told = f"{volume.image}: grown from {16 * MIB:,} to {48 * MIB:,} bytes, because of size="
    assert volume.log.count(told) == 1
    sample_trees.assert_same(sample_trees.snapshot(root), before)
    (root / "big").write_bytes(sample_trees.noise(32 * MIB))
    volume.remount()
    assert (root / "big").read_bytes() == sample_trees.noise(32 * MIB)
    volume.umount()
    assert volume.image.stat().st_size == 48 * MIB


def test_nr_inodes_is_a_limit(volume: Volume) -> None:
    root = volume.mount("nr_inodes=20")
    free = os.statvfs(root).f_ffree
    assert 18 <= free <= 20
    for number in range(free):
        (root / f"{number}").touch()
    for make in (Path.touch, Path.mkdir, os.mkfifo, lambda path: path.symlink_to("target")):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what matters
            make(root / "one too many")
        assert caught.value.errno == errno.ENOSPC
    (root / "link").hardlink_to(root / "0")
    (root / "1").unlink()
    (root / "another").mkdir()


def test_mode_uid_and_gid_are_those_of_the_root(volume: Volume) -> None:
    def seen() -> tuple[int, int, int]:
        status = volume.root.stat()
        return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid

    volume.mount("mode=1750", "uid=1234", "gid=5678")
    assert seen() == (0o1750, 1234, 5678)
    volume.remount()
    assert seen() == (0o1750, 1234, 5678)


def test_noload_starts_empty_and_the_next_save_replaces(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 20)
    before = sample_trees.snapshot(root)
    volume.remount("noload")
    assert list(root.iterdir()) == []
    (root / "lost").touch()
    volume.kill()
    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), before)

    volume.remount("noload")
    (root / "new").touch()
    volume.remount()
    assert [path.name for path in root.iterdir()] == ["new"]


def test_ro_creates_no_image(volume: Volume) -> None:
    volume.refused(str(volume.image), options=["ro"])
    assert not volume.image.exists()


def as_nobody(root: Path, *argv: str) -> Outcome:
    """Run a command as another user, in `root`: the directories above may be closed to them."""
    return run(*argv, cwd=root, user=NOBODY)


def test_other_users_need_allow_other(volume: Volume) -> None:
    root = volume.mount("mode=755")
    (root / "public").write_text("public")
    assert as_nobody(root, "cat", "public").code != 0

    volume.remount("allow_other")
    assert as_nobody(root, "cat", "public").succeeded().text == "public"


def test_permissions_hold_for_other_users(volume: Volume) -> None:
    root = volume.mount("allow_other", "mode=755")
    (root / "private").write_text("private")
    (root / "private").chmod(0o600)
    (root / "theirs").mkdir()
    os.chown(root / "theirs", NOBODY, NOBODY)
    assert "Permission denied" in as_nobody(root, "cat", "private").err
    assert "Permission denied" in as_nobody(root, "touch", "new").err
    as_nobody(root, "touch", "theirs/new").succeeded()
    assert (root / "theirs" / "new").stat().st_uid == NOBODY


def test_set_id_bits_and_devices_are_inert(volume: Volume) -> None:
    root = volume.mount("allow_other", "mode=755")
    run("cp", "/usr/bin/id", root / "id").succeeded()
    (root / "id").chmod(0o4755)
    assert as_nobody(root, "./id", "-u").succeeded().text == f"{NOBODY}\n"
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        (root / "null").read_bytes()


def test_pram_names_the_super_block(volume: Volume) -> None:
    root = volume.mount("banned=0-32M")
    sample_trees.plant_files(root, 20)
    before = sample_trees.snapshot(root)
    volume.umount()
    pfn = int(volume.info()["pfn"], 16)
    assert pfn >= 32 * MIB // PAGE
    volume.mount("banned=0-32M", f"pram={pfn:x}")
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_pram_with_a_page_that_is_no_super_block_is_refused(volume: Volume) -> None:
    volume.mount()
    volume.umount()
    volume.refused("super block", options=["pram=3fff"])


@pytest.mark.parametrize("where", ["/dev/shm", "disk"])
@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_arena_auto_goes_by_where_the_image_lives(
    volume: Volume, tmp_path: Path, where: str
) -> None:
    volume.arena = "auto"
    if where == "disk":
        volume.image = tmp_path / "image"
    root = volume.mount()
    volume.save()
    before = content_of(volume.image)
    (root / "file").write_bytes(sample_trees.noise(MIB))
    syncfs(root)
    assert (content_of(volume.image) == before) == (where == "disk")
