"""The tree as POSIX wants it, without FUSE: names, link counts, times, renames, orphans, a full arena."""

import contextlib
import errno
import stat
from collections.abc import Callable

import pytest

from pramfs.storage.frames import FREE, HELD
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE
from pramfs.storage.regions import Region, Regions
from pramfs.tree.attributes import Changes
from pramfs.tree.inodes import Directory, File, Special, Symlink
from pramfs.tree.pagemap import CHUNK_PAGES
from pramfs.tree.tree import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, Owner
from tests.support.image_audit import check_bans, check_owners
from tests.support.refusals import refused
from tests.support.tree_volume import NAME, USER, Volume
from tests.support.watched_image import new_pram


@pytest.fixture
def volume() -> Volume:
    return Volume()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time that the tree sees, in its only element; it starts long after the epoch."""
    now = [10**18]
    monkeypatch.setattr("pramfs.tree.inodes.clock_gettime_ns", lambda clock: now[0])
    return now


# --- names ---------------------------------------------------------------------------------------


def test_a_new_file_is_found_by_its_name_and_by_its_number(volume: Volume) -> None:
    file = volume.create("file", b"hello")
    assert volume.inode("file") is file
    assert volume.tree.get(file.ino) is file
    assert volume.tree.file(file.ino) is file
    assert (file.mode, file.uid, file.gid) == (stat.S_IFREG | 0o644, USER.uid, USER.gid)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (stat.S_IFREG, File),
        (stat.S_IFDIR, Directory),
        (stat.S_IFIFO, Special),
        (stat.S_IFSOCK, Special),
        (stat.S_IFCHR, Special),
        (stat.S_IFBLK, Special),
    ],
)
def test_there_are_files_of_every_kind(volume: Volume, mode: int, kind: type) -> None:
    inode = volume.mknod("one", mode | 0o4751, rdev=0x1234)
    assert type(inode) is kind
    assert inode.mode == mode | 0o4751
    assert inode.rdev == (0x1234 if kind is Special else 0)


def test_a_kind_that_does_not_exist_is_invalid(volume: Volume) -> None:
    for mode in (0, 0o644, 0o170644, 0o110000):
        with refused(errno.EINVAL):
            volume.mknod("one", mode)
    assert not volume.tree.root.entries


def test_a_symlink_has_its_target(volume: Volume) -> None:
    link = volume.symlink("link", b"a/b\xff")
    assert isinstance(link, Symlink)
    assert volume.tree.readlink(link) == b"a/b\xff"
    assert link.size == 4


def test_only_a_symlink_can_be_read_as_one(volume: Volume) -> None:
    with refused(errno.EINVAL):
        volume.tree.readlink(volume.create("file"))


def test_a_symlink_that_could_not_be_loaded_again_is_refused(volume: Volume) -> None:
    with refused(errno.ENOENT):
        volume.symlink("link", b"")
    with refused(errno.ENAMETOOLONG):
        volume.symlink("link", b"x" * 4096)
    volume.symlink("link", b"x" * 4095)


def test_a_name_that_is_taken_exists(volume: Volume) -> None:
    volume.create("one")
    for name in ("one", ".", ".."):
        with refused(errno.EEXIST):
            volume.create(name)
        with refused(errno.EEXIST):
            volume.link("one", name)


def test_names_have_up_to_255_bytes(volume: Volume) -> None:
    volume.create("x" * 255)
    for operation in (
        lambda: volume.create("x" * 256),
        lambda: volume.link("x" * 255, "y" * 256),
        lambda: volume.rename("x" * 255, "y" * 256),
        lambda: volume.inode("x" * 256),
    ):
        with refused(errno.ENAMETOOLONG):
            operation()


def test_a_name_that_is_not_there_is_not_found(volume: Volume) -> None:
    for operation in (
        lambda: volume.inode("none"),
        lambda: volume.unlink("none"),
        lambda: volume.rmdir("none"),
        lambda: volume.rename("none", "other"),
        lambda: volume.rename("none", "other", RENAME_EXCHANGE),
    ):
        with refused(errno.ENOENT):
            operation()


def test_dot_and_dot_dot_name_the_directory_and_the_one_above(volume: Volume) -> None:
    volume.mkdir("a")
    below = volume.mkdir("a/b")
    assert volume.inode("a/b/.") is below
    assert volume.inode("a/b/..") is volume.inode("a")
    assert volume.inode("..") is volume.tree.root


@pytest.mark.parametrize("name", [".", ".."])
def test_dot_and_dot_dot_cannot_be_removed_or_renamed(volume: Volume, name: str) -> None:
    volume.mkdir("a")
    volume.mkdir("a/b")
    operations: list[Callable[[], None]] = [
        lambda: volume.unlink(f"a/b/{name}"),
        lambda: volume.rmdir(f"a/b/{name}"),
        lambda: volume.rename(f"a/b/{name}", "c"),
        lambda: volume.rename(f"a/b/{name}", "a", RENAME_EXCHANGE),
    ]
    for operation in operations:
        with pytest.raises(OSError, match=r"Errno"):
            operation()
    assert sorted(volume.tree.root.entries) == [b"a"]
    assert sorted(volume.directory("a").entries) == [b"b"]


def test_inode_numbers_are_never_used_again(volume: Volume) -> None:
    seen = set()
    for _ in range(5):
        seen.add(volume.create("file").ino)
        volume.unlink("file")
        volume.save()
        volume.reopen()
    assert len(seen) == 5


def test_a_tree_whose_numbers_are_used_up_is_full_and_can_be_saved(volume: Volume) -> None:
    """Nobody creates that many files, but an image may claim that they were created."""
    volume.tree.next_ino = (1 << 63) - 1
    assert volume.create("last").ino == (1 << 63) - 1
    with refused(errno.ENOSPC):
        volume.create("one more")
    volume.save()
    assert volume.reopen().inode("last").ino == (1 << 63) - 1


# --- link counts ---------------------------------------------------------------------------------


def test_a_directory_counts_its_subdirectories(volume: Volume) -> None:
    top = volume.mkdir("top")
    assert (volume.tree.root.nlink, top.nlink) == (3, 2)
    volume.mkdir("top/a")
    volume.create("top/file")
    assert top.nlink == 3
    volume.rename("top/a", "a")
    assert (volume.tree.root.nlink, top.nlink) == (4, 2)
    volume.rmdir("a")
    assert volume.tree.root.nlink == 3


def test_a_file_counts_its_names_and_lives_until_the_last_is_gone(volume: Volume) -> None:
    file = volume.create("one", b"content")
    volume.link("one", "two")
    assert file.nlink == 2
    volume.unlink("one")
    assert volume.read("two") == b"content"
    volume.unlink("two")
    assert file.ino not in volume.tree.inodes
    check_owners(volume.pram, volume.tree)


def test_a_directory_cannot_have_two_names(volume: Volume) -> None:
    volume.mkdir("dir")
    with refused(errno.EPERM):
        volume.link("dir", "other")


def test_a_link_count_cannot_overflow(volume: Volume) -> None:
    volume.create("one").nlink = (1 << 32) - 1
    with refused(errno.EMLINK):
        volume.link("one", "two")


def test_only_an_empty_directory_can_be_removed(volume: Volume) -> None:
    volume.mkdir("dir")
    volume.create("dir/file")
    with refused(errno.ENOTEMPTY):
        volume.rmdir("dir")
    with refused(errno.EISDIR):
        volume.unlink("dir")
    with refused(errno.ENOTDIR):
        volume.rmdir("dir/file")
    volume.unlink("dir/file")
    volume.rmdir("dir")


def test_nothing_can_be_made_in_a_directory_that_was_removed(volume: Volume) -> None:
    gone = volume.mkdir("dir")
    gone.refs += 1
    volume.create("file")
    volume.rmdir("dir")
    for operation in (
        lambda: volume.tree.create(gone, b"x", stat.S_IFREG, USER),
        lambda: volume.tree.link(volume.inode("file"), gone, b"x"),
        lambda: volume.tree.rename(volume.tree.root, b"file", gone, b"x"),
    ):
        with refused(errno.ENOENT):
            operation()


# --- orphans -------------------------------------------------------------------------------------


def test_an_unlinked_file_that_is_open_can_be_read_and_written(volume: Volume) -> None:
    file = volume.create("file", b"before")
    file.refs += 2
    volume.unlink("file")
    volume.tree.write(file, 6, b" and after")
    assert bytes(volume.tree.data.read(file, 0, 100)) == b"before and after"
    with refused(errno.ENOENT):
        volume.inode("file")
    volume.tree.forget(file)
    assert volume.tree.get(file.ino) is file
    volume.tree.forget(file)
    with refused(errno.ENOENT):
        volume.tree.get(file.ino)
    check_owners(volume.pram, volume.tree)


def test_an_orphan_is_not_in_a_save_and_lives_on_after_it(volume: Volume) -> None:
    file = volume.create("file", b"secret" * 1000)
    file.refs += 1
    volume.unlink("file")
    assert volume.tree.named_inodes() == 1
    volume.save()
    assert bytes(volume.tree.data.read(file, 0, 6)) == b"secret"
    volume.tree.write(file, 0, b"SECRET")
    volume.tree.forget(file)
    volume.save()
    volume.check(orphans=True)
    assert volume.reopen().tree.named_inodes() == 1


def test_an_orphan_cannot_get_a_name_again(volume: Volume) -> None:
    file = volume.create("file")
    file.refs += 1
    volume.unlink("file")
    with refused(errno.ENOENT):
        volume.tree.link(file, volume.tree.root, b"again")


def test_attributes_of_an_orphan_do_not_count_for_the_next_save(volume: Volume) -> None:
    before = volume.tree.space.metadata_bytes
    file = volume.create("file")
    volume.tree.setxattr(file, b"user.a", b"x" * 1000)
    file.refs += 1
    volume.unlink("file")
    assert volume.tree.space.metadata_bytes == before
    volume.tree.setxattr(file, b"user.b", b"y" * 5)
    volume.tree.removexattr(file, b"user.a")
    volume.tree.forget(file)
    assert volume.tree.space.metadata_bytes == before


# --- rename --------------------------------------------------------------------------------------


def test_a_renamed_file_is_the_same_file(volume: Volume) -> None:
    file = volume.create("one", b"content")
    volume.mkdir("dir")
    volume.rename("one", "dir/two")
    assert volume.inode("dir/two") is file
    assert list(volume.tree.root.entries) == [b"dir"]


def test_a_rename_replaces_what_had_the_name(volume: Volume) -> None:
    volume.create("one", b"new" * 2000)
    old = volume.create("two", b"old" * 2000)
    volume.rename("one", "two")
    assert volume.read("two") == b"new" * 2000
    assert old.ino not in volume.tree.inodes
    check_owners(volume.pram, volume.tree)


def test_a_rename_to_another_name_of_the_same_file_does_nothing(volume: Volume) -> None:
    volume.create("one")
    volume.link("one", "two")
    volume.rename("one", "two")
    assert sorted(volume.tree.root.entries) == [b"one", b"two"]
    volume.rename("one", "one")
    assert volume.inode("one").nlink == 2


def test_a_directory_replaces_an_empty_directory_only(volume: Volume) -> None:
    for path in ("a", "b", "full", "full/x"):
        volume.mkdir(path)
    volume.create("file")
    with refused(errno.ENOTEMPTY):
        volume.rename("a", "full")
    with refused(errno.ENOTDIR):
        volume.rename("a", "file")
    with refused(errno.EISDIR):
        volume.rename("file", "a")
    moved = volume.inode("a")
    volume.rename("a", "b")
    assert volume.inode("b") is moved
    assert volume.tree.root.nlink == 4


@pytest.mark.parametrize("flags", [0, RENAME_EXCHANGE, RENAME_NOREPLACE])
def test_a_directory_cannot_move_into_itself(volume: Volume, flags: int) -> None:
    for path in ("a", "a/b", "a/b/c"):
        volume.mkdir(path)
    for target in ("a/x", "a/b/x", "a/b/c/x"):
        if flags == RENAME_EXCHANGE:
            volume.create(target)
        with refused(errno.EINVAL):
            volume.rename("a", target, flags)
    with pytest.raises(OSError, match="Errno"):
        volume.rename("a/b", "a", flags)
    assert volume.inode("a/b/c").ino


def test_noreplace_keeps_what_has_the_name(volume: Volume) -> None:
    volume.create("one")
    volume.create("two", b"kept")
    with refused(errno.EEXIST):
        volume.rename("one", "two", RENAME_NOREPLACE)
    assert volume.read("two") == b"kept"
    volume.rename("one", "three", RENAME_NOREPLACE)
    assert sorted(volume.tree.root.entries) == [b"three", b"two"]


def test_exchange_swaps_two_files_of_any_kind(volume: Volume) -> None:
    volume.mkdir("dir")
    volume.mkdir("dir/sub")
    inside = volume.mkdir("dir/sub/inside")
    file = volume.create("file", b"x")
    volume.rename("file", "dir/sub", RENAME_EXCHANGE)
    assert volume.inode("dir/sub") is file
    assert volume.inode("file/inside") is inside
    assert volume.inode("file/..") is volume.tree.root
    assert (volume.tree.root.nlink, volume.directory("dir").nlink) == (4, 2)


def test_exchange_needs_both(volume: Volume) -> None:
    volume.create("one")
    with refused(errno.ENOENT):
        volume.rename("one", "two", RENAME_EXCHANGE)
    with refused(errno.ENOENT):
        volume.rename("two", "one", RENAME_EXCHANGE)


def test_a_whiteout_takes_the_place_of_what_moves(volume: Volume) -> None:
    volume.mkdir("dir")
    volume.create("dir/one", b"1")
    volume.rename("dir/one", "two", RENAME_WHITEOUT)
    volume.save()
    volume.reopen()
    whiteout = volume.inode("dir/one")
    assert (whiteout.mode, whiteout.rdev, whiteout.nlink) == (stat.S_IFCHR, 0, 1)
    assert (whiteout.uid, whiteout.gid) == (USER.uid, USER.gid)
    assert volume.read("two") == b"1"
    volume.check()


def test_without_room_for_a_whiteout_nothing_moves(volume: Volume) -> None:
    volume.create("one", b"1")
    volume.tree.inodes_max = 2
    with refused(errno.ENOSPC):
        volume.rename("one", "two", RENAME_WHITEOUT)
    assert list(volume.tree.root.entries) == [b"one"]
    volume.rename("one", "two")
    volume.check()


@pytest.mark.parametrize("flags", [3, 6, 8])
def test_unknown_flags_of_a_rename_are_invalid(volume: Volume, flags: int) -> None:
    volume.create("one")
    with refused(errno.EINVAL):
        volume.rename("one", "two", flags)


# --- times ---------------------------------------------------------------------------------------

Step = Callable[[Volume], object]

# What is done to a tree with "file", "dir", "dir/below" and "link", then whose mtime and whose ctime change.
TIMES: list[tuple[str, Step, set[str], set[str]]] = [
    ("create", lambda v: v.create("new"), {"", "new"}, {"", "new"}),
    ("mkdir", lambda v: v.mkdir("dir/new"), {"dir", "dir/new"}, {"dir", "dir/new"}),
    ("link", lambda v: v.link("file", "dir/new"), {"dir"}, {"dir", "file"}),
    ("unlink", lambda v: v.unlink("link"), {""}, {"", "file"}),
    ("rmdir", lambda v: v.rmdir("dir/below"), {"dir"}, {"dir"}),
    ("rename", lambda v: v.rename("file", "dir/f"), {"", "dir"}, {"", "dir", "link"}),
    (
        "exchange",
        lambda v: v.rename("file", "dir/below", RENAME_EXCHANGE),
        {"", "dir"},
        {"", "dir", "file", "dir/below"},
    ),
    ("write", lambda v: v.tree.write(v.file("file"), 0, b"x"), {"file"}, {"file"}),
    ("truncate", lambda v: v.truncate("file", 3), {"file"}, {"file"}),
    ("chmod", lambda v: v.tree.setattr(v.inode("file"), Changes(mode=0o600)), set(), {"file"}),
    ("chown", lambda v: v.tree.setattr(v.inode("file"), Changes(uid=5)), set(), {"file"}),
    ("setxattr", lambda v: v.tree.setxattr(v.inode("file"), b"user.a", b""), set(), {"file"}),
]


@pytest.mark.parametrize(
    ("step", "mtimes", "ctimes"), [case[1:] for case in TIMES], ids=[case[0] for case in TIMES]
)
def test_an_operation_changes_the_times_that_posix_says(
    volume: Volume, clock: list[int], step: Step, mtimes: set[str], ctimes: set[str]
) -> None:
    volume.create("file", b"content")
    volume.link("file", "link")
    volume.mkdir("dir")
    volume.mkdir("dir/below")
    clock[0] += 5 * 10**9
    step(volume)
    now = clock[0]
    paths = {"", "file", "link", "dir", "dir/below", "dir/f", "dir/new", "new"}
    found = {path: volume.inode(path) for path in paths if _exists(volume, path)}
    changed_mtimes = {inode.ino for inode in found.values() if inode.mtime == now}
    changed_ctimes = {inode.ino for inode in found.values() if inode.ctime == now}
    assert changed_mtimes == {found[path].ino for path in mtimes if path in found}
    assert changed_ctimes == {found[path].ino for path in ctimes if path in found} | (
        {volume.inode("link").ino} if "file" in ctimes and "link" in found else set()
    )


def _exists(volume: Volume, path: str) -> bool:
    try:
        volume.inode(path)
    except OSError:
        return False
    return True


def test_writes_that_the_kernel_has_dated_leave_the_times_alone(
    volume: Volume, clock: list[int]
) -> None:
    file = volume.create("file")
    before = (file.mtime, file.ctime)
    clock[0] += 10**9
    volume.tree.write(file, 0, b"x", set_times=False)
    assert (file.mtime, file.ctime) == before


def test_times_can_be_set_to_the_nanosecond_and_before_the_epoch(volume: Volume) -> None:
    file = volume.create("file")
    volume.tree.setattr(file, Changes(atime=-1, mtime=123_456_789, ctime=-(10**18) - 7))
    assert (file.atime, file.mtime, file.ctime) == (-1, 123_456_789, -(10**18) - 7)
    volume.save()
    file = volume.reopen().file("file")
    assert (file.atime, file.mtime, file.ctime) == (-1, 123_456_789, -(10**18) - 7)


def test_a_read_updates_atime_once_after_a_change_and_then_once_a_day(
    volume: Volume, clock: list[int]
) -> None:
    file = volume.create("file")
    clock[0] += 10**9
    volume.tree.touch_atime(file)
    assert file.atime == clock[0]
    first = clock[0]
    clock[0] += 3600 * 10**9
    volume.tree.touch_atime(file)
    assert file.atime == first
    clock[0] += 24 * 3600 * 10**9
    volume.tree.touch_atime(file)
    assert file.atime == clock[0]


# --- attributes ----------------------------------------------------------------------------------


def test_a_mode_keeps_the_kind_of_the_file(volume: Volume) -> None:
    fifo = volume.mknod("fifo", stat.S_IFIFO | 0o644)
    volume.tree.setattr(fifo, Changes(mode=stat.S_IFREG | 0o7777))
    assert fifo.mode == stat.S_IFIFO | 0o7777


def test_a_new_owner_takes_set_id_bits_away_from_files(volume: Volume) -> None:
    file = volume.create("file", mode=0o6755)
    directory = volume.mkdir("dir", mode=0o2775)
    for inode in (file, directory):
        volume.tree.setattr(inode, Changes(uid=7, gid=8))
        assert (inode.uid, inode.gid) == (7, 8)
    assert stat.S_IMODE(file.mode) == 0o755
    assert stat.S_IMODE(directory.mode) == 0o2775


def test_a_set_gid_directory_gives_its_group_to_what_is_made_in_it(volume: Volume) -> None:
    volume.tree.setattr(volume.mkdir("dir"), Changes(gid=77, mode=0o2775))
    file, directory = volume.create("dir/file"), volume.mkdir("dir/sub")
    assert (file.gid, directory.gid) == (77, 77)
    assert directory.mode & stat.S_ISGID
    assert not file.mode & stat.S_ISGID


def test_the_umask_takes_permissions_from_what_is_made(volume: Volume) -> None:
    owner = Owner(1, 2, umask=0o027)
    inode = volume.tree.create(volume.tree.root, b"file", stat.S_IFREG | 0o666, owner)
    assert stat.S_IMODE(inode.mode) == 0o640


def test_an_acl_from_an_image_that_is_none_changes_nothing_and_breaks_no_save(
    volume: Volume,
) -> None:
    """A new file that was half made would be in the next save, and the tree would not load again."""
    volume.create("file").xattrs = {b"system.posix_acl_access": b"junk"}
    volume.mkdir("dir").xattrs = {b"system.posix_acl_default": b"junk"}
    volume.save()
    volume.reopen()
    before = volume.facts()
    with refused(errno.EINVAL):
        volume.tree.setattr(volume.inode("file"), Changes(mode=0o600))
    with refused(errno.EINVAL):
        volume.create("dir/new")
    assert volume.facts() == before
    volume.symlink("dir/link", b"needs no permissions")
    volume.save()
    assert len(volume.reopen().tree.inodes) == 4


def test_only_files_have_a_size_to_be_set(volume: Volume) -> None:
    volume.mkdir("dir")
    with refused(errno.EISDIR):
        volume.truncate("dir", 0)
    volume.mknod("fifo", stat.S_IFIFO)
    with refused(errno.EINVAL):
        volume.truncate("fifo", 0)
    with refused(errno.EISDIR):
        volume.tree.file(volume.inode("dir").ino)
    with refused(errno.ENOTDIR):
        volume.tree.directory(volume.inode("fifo").ino)


def test_a_file_has_up_to_2_to_the_63_minus_1_bytes(volume: Volume, arena: str) -> None:
    file = volume.create("file")
    volume.truncate("file", (1 << 63) - 1)
    with refused(errno.EFBIG):
        volume.truncate("file", 1 << 63)
    with refused(errno.EFBIG):
        volume.tree.write(file, (1 << 63) - 1, b"x")
    volume.tree.write(file, (1 << 63) - 2, b"x")
    volume.save()
    assert bytes(volume.reopen().tree.data.read(volume.file("file"), (1 << 63) - 3, 9)) == b"\0x"


def test_blocks_count_the_pages_and_not_the_holes(volume: Volume) -> None:
    file = volume.create("file", b"x")
    volume.truncate("file", 1 << 30)
    volume.tree.write(file, 1 << 29, b"y" * PAGE_SIZE)
    assert (file.size, file.blocks) == (1 << 30, 16)


def test_xattrs_are_set_read_replaced_and_removed(volume: Volume) -> None:
    file, tree = volume.create("file"), volume.tree
    tree.setxattr(file, b"user.a", b"1")
    tree.setxattr(file, b"user.b", b"")
    tree.setxattr(file, b"user.a", b"\0" * 3)
    assert (tree.getxattr(file, b"user.a"), tree.getxattr(file, b"user.b")) == (b"\0" * 3, b"")
    tree.removexattr(file, b"user.a")
    with refused(errno.ENODATA):
        tree.getxattr(file, b"user.a")
    with refused(errno.ENODATA):
        tree.removexattr(file, b"user.a")


def test_xattrs_have_the_limits_of_linux(volume: Volume) -> None:
    file, tree = volume.create("file"), volume.tree
    tree.setxattr(file, b"user." + b"n" * 250, b"v" * 65536)
    with refused(errno.ERANGE):
        tree.setxattr(file, b"user." + b"n" * 251, b"")
    with refused(errno.E2BIG):
        tree.setxattr(file, b"user.v", b"v" * 65537)
    with refused(errno.EOPNOTSUPP):
        tree.setxattr(file, b"system.unknown", b"")


def test_an_image_that_has_as_many_inodes_as_it_may_is_full_until_one_is_gone() -> None:
    volume = Volume()
    volume.tree.inodes_max = 3
    volume.create("a")
    volume.mkdir("b")
    for operation in (lambda: volume.create("c"), lambda: volume.mkdir("c")):
        with refused(errno.ENOSPC):
            operation()
    assert volume.tree.root.nlink == 3
    volume.unlink("a")
    volume.create("c")


# --- what has changed since the last save --------------------------------------------------------


@pytest.mark.parametrize("step", [case[1] for case in TIMES], ids=[case[0] for case in TIMES])
def test_every_change_is_noticed(volume: Volume, step: Step) -> None:
    volume.create("file", b"content")
    volume.link("file", "link")
    volume.mkdir("dir")
    volume.mkdir("dir/below")
    volume.save()
    assert not has_changed(volume)
    step(volume)
    assert has_changed(volume)


def has_changed(volume: Volume) -> bool:
    return volume.tree.changed


def test_a_write_that_needed_a_checkpoint_for_room_is_noticed(arena: str) -> None:
    """The checkpoint is of the time before the write."""
    volume = Volume(arena=arena)
    big = volume.create("big")
    fill(volume, big)
    volume.save()
    volume.unlink("big")
    volume.create("small")
    room = volume.pram.arena.table.count(FREE)
    volume.tree.write(volume.file("small"), 0, b"x" * (room + 10) * PAGE_SIZE)
    assert volume.tree.changed


# --- a full arena --------------------------------------------------------------------------------


def fill(volume: Volume, file: File, step: int = 7) -> int:
    """Append to `file`, `step` pages at a time and then fewer, until nothing fits; returns its pages."""
    while step:
        start = file.size
        try:
            volume.tree.write(file, start, start.to_bytes(8, "little") * step * 512)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            step //= 2
    return file.size // PAGE_SIZE


@pytest.mark.parametrize("step", [1, 2, 7, 64, 169, 170, 512, 1000])
def test_a_full_arena_can_be_saved_again_and_again(arena: str, step: int) -> None:
    """What the next save needs is kept from the data, and what the save after that needs."""
    volume = Volume(1500, arena=arena)
    volume.create("small", b"x")
    pages = fill(volume, volume.create("big"), step)
    assert pages > 1300
    before = volume.facts()
    for _ in range(3):
        volume.save()
    volume.check()
    volume.reopen()
    assert volume.facts() == before
    for _ in range(3):
        volume.save()
    with refused(errno.ENOSPC):
        volume.tree.write(volume.file("big"), pages * PAGE_SIZE, b"x" * PAGE_SIZE)


@pytest.mark.parametrize("step", [1, 170, 512, 600])
def test_a_full_arena_that_was_saved_can_be_emptied_and_filled_and_saved(
    arena: str, step: int
) -> None:
    """From the second save on there is not one frame too many."""
    volume = Volume(1500, arena=arena)
    pages = fill(volume, volume.create("big"))
    for _ in range(3):
        volume.save()
        volume.truncate("big", (pages - 601) * PAGE_SIZE)
        volume.save()
        assert fill(volume, volume.file("big"), step) >= pages - 10
    volume.save()
    volume.check()


@pytest.mark.parametrize("less", range(8))
def test_a_write_that_only_just_fits_leaves_room_for_the_links_to_its_pages(less: int) -> None:
    volume = Volume(530)
    volume.create("file")
    volume.save()
    room = volume.pram.arena.table.count(FREE) - volume.tree.space.frames_to_keep_free() - less
    assert 400 < room < CHUNK_PAGES, "not one write"
    with contextlib.suppress(OSError):
        volume.tree.write(volume.file("file"), 0, b"x" * room * PAGE_SIZE)
    for _ in range(3):
        volume.save()
    volume.check()


def test_what_needs_no_room_does_not_end_a_checkpoint_that_is_under_way(arena: str) -> None:
    volume = Volume(200, arena=arena)
    fill(volume, volume.create("big"), 1)
    volume.start()
    volume.rename("big", "gib")
    volume.tree.setattr(volume.inode("gib"), Changes(mode=0o600))
    volume.unlink("gib")
    assert volume.saver._running is not None
    volume.save()
    volume.check()


def test_an_arena_full_of_names_and_attributes_can_be_saved(arena: str) -> None:
    volume = Volume(400, arena=arena)
    with refused(errno.ENOSPC):
        for number in range(100_000):
            volume.tree.create(volume.tree.root, b"%d" % number + b"n" * 240, stat.S_IFIFO, USER)
    volume.unlink("1" + "n" * 240)
    with refused(errno.ENOSPC):
        for number in range(1000):
            volume.tree.setxattr(volume.tree.root, b"user.%d" % number, b"v" * 50_000)
    for _ in range(3):
        volume.save()
    volume.check()
    before = volume.facts()
    assert volume.reopen().facts() == before
    volume.save()


def test_a_full_arena_with_many_other_nodes_can_be_saved(arena: str) -> None:
    pram = new_pram(400, arena=arena)
    for number in range(40):
        with pram.prepare_save(f"other {number}", BYTE_STREAM) as stream:
            stream.write(b"data")
    pram.publish()
    volume = Volume(arena=arena, pram=pram)
    fill(volume, volume.create("big"))
    for _ in range(3):
        volume.save()
    assert len(volume.check().nodes) == 43


def test_a_full_arena_in_which_frames_became_banned_can_be_saved(arena: str) -> None:
    volume = Volume(600, arena=arena)
    with volume.pram.prepare_save("other", BYTE_STREAM) as stream:
        stream.write(b"data" * 10_000)
    volume.create("moving", b"x" * 60 * PAGE_SIZE)
    volume.save()
    volume.reopen(banned=Regions([Region(0, 63), Region(70, 75)]))
    fill(volume, volume.create("big"))
    for _ in range(3):
        volume.save()
    volume.check()
    check_bans(volume.pram, [f"{NAME}-meta", f"{NAME}-data", "other"])
    assert volume.reopen().read("moving") == b"x" * 60 * PAGE_SIZE


def test_an_inherited_acl_leaves_room_for_the_save(arena: str) -> None:
    """Every new file copies the default ACL of its directory, twice if it is a directory."""
    volume = Volume(400, arena=arena)
    entries = [(1, 7, 0xFFFFFFFF), *((2, 7, uid) for uid in range(3000)), (4, 7, 0xFFFFFFFF)]
    entries += [(16, 7, 0xFFFFFFFF), (32, 7, 0xFFFFFFFF)]
    value = b"\2\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + one.to_bytes(4, "little")
        for tag, perm, one in entries
    )
    volume.tree.setxattr(volume.tree.root, b"system.posix_acl_default", value)
    fill(volume, volume.create("big"), 64)
    volume.truncate("big", volume.file("big").size - 60 * PAGE_SIZE)
    with refused(errno.ENOSPC):
        for number in range(1000):
            volume.mkdir(str(number))
    for _ in range(3):
        volume.save()
    volume.check()


def test_deleting_gives_the_room_back_although_the_last_save_holds_it(arena: str) -> None:
    """Rule 2: a checkpoint is published, and the writer goes on."""
    volume = Volume(400, arena=arena)
    pages = fill(volume, volume.create("big"))
    volume.save()
    generation = volume.pram.current.generation
    volume.unlink("big")
    assert volume.pram.arena.table.count(HELD) >= pages
    again = fill(volume, volume.create("again"))
    assert again >= pages - 1
    assert volume.pram.current.generation > generation
    volume.save()
    volume.check()


def test_a_file_in_a_full_arena_can_be_rewritten_page_by_page(arena: str) -> None:
    """Every page is written anew; a checkpoint now and then frees the ones before."""
    volume = Volume(200, arena=arena)
    file = volume.create("big")
    pages = fill(volume, file)
    volume.truncate("big", (pages - 20) * PAGE_SIZE)
    volume.save()
    for page in range(pages - 20):
        volume.tree.write(file, page * PAGE_SIZE, b"new!" * 1024)
    assert volume.read("big") == b"new!" * 1024 * (pages - 20)
    volume.save()
    volume.check()


def test_what_needs_no_room_works_in_a_full_arena(arena: str) -> None:
    volume = Volume(200, arena=arena)
    volume.create("file", b"x" * 100)
    volume.mkdir("dir")
    volume.tree.setxattr(volume.inode("file"), b"user.a", b"value")
    fill(volume, volume.create("big"), 1)
    volume.save()
    volume.rename("file", "elif")
    volume.rename("elif", "dir/f")
    volume.rename("big", "dir/f", RENAME_EXCHANGE)
    volume.rename("big", "file")
    volume.tree.setattr(volume.inode("file"), Changes(mode=0o600, uid=3, mtime=5))
    volume.tree.removexattr(volume.inode("file"), b"user.a")
    volume.save()
    volume.unlink("dir/f")
    volume.rmdir("dir")
    volume.save()
    volume.check()
    assert sorted(volume.reopen().tree.root.entries) == [b"file"]
