"""Files that are made without a name: they go with their last reference, unless they get a name before."""

import errno
import stat

import pytest

from pramfs.errors import DamagedPage
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree import acl
from pramfs.tree.attributes import Changes
from pramfs.tree.file_flags import IMMUTABLE
from pramfs.tree.inodes import File
from tests.support.refusals import refused
from tests.support.tree_volume import USER, Volume


@pytest.fixture
def volume() -> Volume:
    return Volume()


def unnamed(volume: Volume, content: bytes = b"", *, at: str = "/") -> File:
    """A file without a name that is open."""
    file = volume.tree.create_unnamed(volume.directory(at), 0o640, USER)
    assert isinstance(file, File)
    file.refs = 1
    if content:
        volume.tree.write(file, 0, content)
    return file


def test_a_file_without_a_name_is_a_file(volume: Volume) -> None:
    names = len(volume.tree.root.entries)
    file = unnamed(volume, b"hello")
    assert (file.nlink, file.mode, file.uid) == (0, stat.S_IFREG | 0o640, USER.uid)
    assert bytes(volume.tree.data.read(file, 0, 10)) == b"hello"
    assert volume.tree.get(file.ino) is file
    assert len(volume.tree.root.entries) == names


def test_it_goes_with_its_last_reference(volume: Volume) -> None:
    before = volume.tree.space.metadata_bytes
    file = unnamed(volume, b"x" * 10 * PAGE_SIZE)
    volume.tree.forget(file)
    assert file.ino not in volume.tree.inodes
    assert (volume.tree.space.metadata_bytes, volume.tree.space.pages) == (before, 0)
    assert volume.tree.named_inodes() == 1
    volume.save()
    volume.check()


def test_no_save_holds_it(volume: Volume) -> None:
    file = unnamed(volume, b"hello")
    volume.save(final=False)
    volume.reopen()
    assert file.ino not in volume.tree.inodes
    volume.save()
    volume.check()


def test_a_name_keeps_it(volume: Volume) -> None:
    file = unnamed(volume, b"hello" * PAGE_SIZE)
    volume.save(final=False)
    volume.tree.link(file, volume.tree.root, b"named")
    volume.tree.forget(file)
    assert file.nlink == 1
    for _ in range(2):
        volume.save()
        volume.check(orphans=True)
        volume.reopen()
        assert volume.read("named") == b"hello" * PAGE_SIZE
    volume.link("named", "again")
    volume.unlink("named")
    volume.unlink("again")
    assert len(volume.tree.inodes) == 1


def test_a_file_whose_names_are_gone_gets_no_new_one(volume: Volume) -> None:
    for file in (volume.create("f"), unnamed(volume)):
        if not file.nlink:
            volume.tree.link(file, volume.tree.root, b"f")
        file.refs = 1
        volume.unlink("f")
        with refused(errno.ENOENT):
            volume.tree.link(file, volume.tree.root, b"f")
        volume.tree.forget(file)


def test_it_counts_as_any_other_file(volume: Volume) -> None:
    before = volume.tree.space.metadata_bytes
    file = unnamed(volume)
    volume.tree.setxattr(file, b"user.a", b"value")
    assert volume.tree.space.metadata_bytes == before
    volume.tree.link(file, volume.tree.root, b"f")
    volume.unlink("f")
    volume.tree.forget(file)
    assert volume.tree.space.metadata_bytes == before


def test_no_more_files_than_there_may_be_get_a_name(volume: Volume) -> None:
    file, other = unnamed(volume), unnamed(volume)
    volume.tree.inodes_max = 2
    volume.tree.link(file, volume.tree.root, b"f")
    with refused(errno.ENOSPC):
        volume.tree.link(other, volume.tree.root, b"g")
    with refused(errno.ENOSPC):
        unnamed(volume)
    volume.unlink("f")
    volume.tree.link(other, volume.tree.root, b"g")


def test_it_has_what_a_file_in_its_directory_gets(volume: Volume) -> None:
    directory = volume.mkdir("d", mode=0o755)
    volume.tree.setattr(directory, Changes(mode=0o2755, gid=77))
    entries = [acl.Entry(tag, 7, 0) for tag in (1, 4, 32)]  # of the owner, the group, others
    volume.tree.setxattr(directory, acl.DEFAULT, acl.pack(entries))
    file = unnamed(volume, at="d")
    named = volume.create("d/f", mode=0o640)
    assert (file.gid, file.mode, file.xattrs) == (77, named.mode, named.xattrs)


def test_directories_may_forbid_it(volume: Volume) -> None:
    directory = volume.mkdir("d")
    volume.tree.set_flags(directory, IMMUTABLE, 0)
    with refused(errno.EPERM):
        unnamed(volume, at="d")
    volume.tree.set_flags(directory, 0, 0)
    directory.refs = 1
    volume.rmdir("d")
    with refused(errno.ENOENT):
        volume.tree.create_unnamed(directory, 0o600, USER)


def test_what_the_medium_has_lost_gets_no_name() -> None:
    volume = Volume(arena="image")
    file = unnamed(volume, b"hello")
    volume.pram.arena.mark_writeback_failed()
    volume.tree.data.leave_out_orphan(file)
    assert file.pages is not None
    volume.image.guarded = False
    volume.image.write(file.pages.get(0) * PAGE_SIZE, b"lost!")
    with pytest.raises(DamagedPage):
        volume.tree.link(file, volume.tree.root, b"f")
    assert not file.nlink
