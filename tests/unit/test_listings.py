"""Listings of open directories: positions belong to names, and outlast a listing that nothing changed."""

import itertools

import pytest

from pramfs.fuse.dir_handles import Listing, OpenDirectories
from pramfs.fuse.protocol import (
    FOPEN_CACHE_DIR,
    FOPEN_KEEP_CACHE,
    OPEN_IN,
    OPEN_OUT,
    READ_IN,
    RELEASE_IN,
    Opcode,
)
from pramfs.tree.inodes import ROOT_INO, Directory
from tests.support.tree_volume import Volume
from tests.unit.test_front import Mount

NAMES = [f"n{number}" for number in range(10)]


@pytest.fixture
def volume() -> Volume:
    volume = Volume()
    for name in NAMES:
        volume.create(name)
    return volume


def read(listing: Listing, start: int = 0, count: int | None = None) -> list[tuple[int, str]]:
    """What is listed behind a position: positions and names. From the start as READDIRPLUS does."""
    if not start:
        listing.begin()
    entries = itertools.islice(listing.entries(start), count)
    return [(position, name.decode()) for position, name, _ in entries]


def names(entries: list[tuple[int, str]]) -> list[str]:
    return [name for _, name in entries]


def positions(entries: list[tuple[int, str]]) -> dict[str, int]:
    return {name: position for position, name in entries}


def test_reading_goes_on_behind_any_position(volume: Volume) -> None:
    listing = Listing(volume.tree.root)
    everything = read(listing)
    assert names(everything) == [".", "..", *NAMES]
    for at, (position, _) in enumerate(everything):
        assert read(listing, position) == everything[at + 1 :]


def test_names_keep_their_positions_while_others_come_and_go(volume: Volume) -> None:
    listing = Listing(volume.tree.root)
    before = positions(read(listing))
    position = before["n5"]
    for name in ("n2", "n5", "n6"):
        volume.unlink(name)
    volume.create("n6")
    volume.create("new")
    assert names(read(listing, position)) == ["n6", "n7", "n8", "n9"]
    after = positions(read(listing))
    assert set(after) == {".", "..", *NAMES, "new"} - {"n2", "n5"}
    assert all(after[name] == before[name] for name in after if name in before)
    assert names(read(listing, position)) == ["n6", "n7", "n8", "n9", "new"]


def test_a_listing_that_begins_in_the_middle_goes_on_where_another_was(volume: Volume) -> None:
    position, _ = read(Listing(volume.tree.root), count=6)[-1]
    assert names(read(Listing(volume.tree.root), position)) == NAMES[4:]


def test_all_who_have_a_directory_open_share_its_positions(volume: Volume) -> None:
    directories = OpenDirectories()
    first = directories.open(volume.tree.root, 1)
    position, _ = read(directories[first], count=6)[-1]
    volume.unlink("n0")
    second = directories.open(volume.tree.root, 2)
    assert names(read(directories[second]))[:3] == [".", "..", "n1"]
    directories.close(first)
    assert names(read(directories[second], position)) == NAMES[4:]


def test_what_the_kernel_may_keep_has_the_positions_of_the_next_listing(volume: Volume) -> None:
    """It may after a listing in the order of the tree, until a name comes or goes."""
    listing = Listing(volume.tree.root)

    def listed() -> bool:
        return volume.tree.root.listed

    assert not listed()
    read(listing)
    assert listed()
    volume.unlink("n3")
    assert not listed()
    read(listing)
    assert not listed(), "there is a gap where the next listing will have none"
    read(Listing(volume.tree.root))
    assert listed()
    volume.create("new")
    assert not listed()


def test_a_directory_that_was_moved_has_another_parent_to_list(volume: Volume) -> None:
    volume.mkdir("a")
    volume.mkdir("b")
    volume.mkdir("a/sub")
    moved = volume.inode("a/sub")
    assert isinstance(moved, Directory)
    read(Listing(moved))
    volume.rename("a/sub", "b/sub")
    assert not moved.listed


def test_the_kernel_caches_what_is_listed_again_unchanged() -> None:
    mount = Mount()

    def listed() -> int:
        """List the root as the kernel does, and return the flags that it was told."""
        mount.serve(Opcode.OPENDIR, OPEN_IN.pack(0, 0), ROOT_INO)
        handle, flags, _ = OPEN_OUT.unpack(mount.kernel.replies[-1][2])
        mount.serve(Opcode.READDIRPLUS, READ_IN.pack(handle, 0, 4096, 0, 0, 0, 0), ROOT_INO)
        mount.serve(Opcode.RELEASEDIR, RELEASE_IN.pack(handle, 0, 0, 0), ROOT_INO)
        return int(flags)

    cached = FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE
    assert [listed() for _ in range(3)] == [0, cached, cached]
    mount.serve(Opcode.UNLINK, b"file\0", ROOT_INO)
    assert [listed() for _ in range(3)] == [0, cached, cached]
