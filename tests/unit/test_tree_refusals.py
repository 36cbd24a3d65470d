"""What a tree must not let in: whatever a save could hold, and the next mount would refuse to load."""

import errno
import os
import stat
from collections.abc import Callable
from functools import partial

import pytest

from pramfs.errors import FramesHeld
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.attributes import Changes
from pramfs.tree.pagemap import CHUNK_PAGES
from pramfs.tree.tree import RENAME_NOREPLACE, Owner, Tree
from tests.support.watched_image import new_pram, reopen

ROOT = Owner(0, 0)
FILE, SYMLINK, DEVICE = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600


@pytest.fixture
def tree() -> Tree:
    """A tree with a file."""
    tree = Tree(new_pram().arena, inodes_max=99, generation=1)
    tree.create(tree.make_root(0o755, ROOT), b"file", FILE, ROOT)
    return tree


def check_refused(tree: Tree, error: int, call: Callable[[], object]) -> None:
    """The call fails with that errno, and nothing is changed."""
    before = (len(tree.inodes), dict(tree.root.entries), tree.root.nlink)
    with pytest.raises(OSError, match=r".") as caught:
        call()
    assert caught.value.errno == error
    assert before == (len(tree.inodes), dict(tree.root.entries), tree.root.nlink)


@pytest.mark.parametrize("name", [b"", b"/", b"a/b", b"/a", b"a/", b"\0", b"a\0b", b"a\0"])
def test_no_call_gives_a_name_that_no_directory_can_hold(tree: Tree, name: bytes) -> None:
    root = tree.root
    file = tree.lookup(root, b"file")
    for mode in (FILE, stat.S_IFDIR | 0o755, stat.S_IFIFO | 0o600):
        check_refused(tree, errno.EINVAL, partial(tree.create, root, name, mode, ROOT))
    check_refused(tree, errno.EINVAL, lambda: tree.link(file, root, name))
    for flags in (0, RENAME_NOREPLACE):
        rename = partial(tree.rename, root, b"file", root, name, flags)
        check_refused(tree, errno.EINVAL, rename)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (b"", errno.ENOENT),
        (b"\0", errno.EINVAL),
        (b"a\0b", errno.EINVAL),
        (b"t" * 4096, errno.ENAMETOOLONG),
    ],
)
def test_no_symbolic_link_gets_a_target_that_it_cannot_have(
    tree: Tree, target: bytes, error: int
) -> None:
    check_refused(
        tree, error, lambda: tree.create(tree.root, b"link", SYMLINK, ROOT, target=target)
    )


@pytest.mark.parametrize(("mode", "rdev"), [(1 << 16 | FILE, 0), (DEVICE, 1 << 32), (DEVICE, -1)])
def test_no_inode_gets_a_mode_or_device_number_that_does_not_fit(
    tree: Tree, mode: int, rdev: int
) -> None:
    check_refused(tree, errno.EINVAL, lambda: tree.create(tree.root, b"new", mode, ROOT, rdev=rdev))


def test_no_attribute_gets_a_name_with_a_nul(tree: Tree) -> None:
    file = tree.lookup(tree.root, b"file")
    with pytest.raises(OSError, match=r".") as caught:
        tree.setxattr(file, b"user.a\0b", b"value")
    assert caught.value.errno == errno.EINVAL
    assert not file.xattrs


def test_whatever_is_let_in_can_be_saved_and_loaded() -> None:
    pram = new_pram()
    tree = Tree(pram.arena, inodes_max=99, generation=1)
    root = tree.make_root(0o755, ROOT)
    names = [b"n" * 255, b"\n", b" ", b"...", b"\xff", b"\\"]
    for name in names:
        tree.create(root, name, FILE, ROOT)
    tree.create(root, b"link", SYMLINK, ROOT, target=b"t" * 4095)
    tree.create(root, b"device", DEVICE, ROOT, rdev=os.makedev(0xFFF, 0xFFFFF))
    tree.setattr(root, Changes(mode=0o7777))
    tree.setxattr(root, b"user." + b"x" * 250, bytes(65536))
    Saver(pram, "pramfs", tree).save(final=True, progress=lambda frames: None)
    pram = reopen(pram)
    loaded = Tree(pram.arena, inodes_max=99, generation=2)
    load_tree(pram, "pramfs", loaded)
    assert list(loaded.root.entries) == [*names, b"link", b"device"]


def test_what_was_refused_is_no_longer_missed_once_it_is_written_with_a_wait_for_room() -> None:
    """A write that meets a full arena goes on after a save; both of its parts are taken then."""
    pram = new_pram(128)
    tree = Tree(pram.arena, inodes_max=99, generation=1)
    saver = Saver(pram, "pramfs", tree)
    root = tree.make_root(0o755, ROOT)
    ballast = tree.file(tree.create(root, b"ballast", FILE, ROOT).ino)
    file = tree.file(tree.create(root, b"file", FILE, ROOT).ino)
    tree.write(ballast, 0, bytes(range(1, 65)) * PAGE_SIZE)
    saver.save(final=False, progress=lambda _pages: None)
    start, data = (CHUNK_PAGES - 16) * PAGE_SIZE, bytes(range(1, 97)) * PAGE_SIZE
    tree.data.refused.add(file, start, start + len(data), "No space left on device")
    tree.unlink(root, b"ballast")
    with pytest.raises(FramesHeld) as held:
        tree.write(file, start, data)
    written = held.value.written
    assert 0 < written < len(data)
    saver.save(final=False, progress=lambda _pages: None)
    tree.write(file, start + written, data[written:])
    assert not tree.data.refused.files()
