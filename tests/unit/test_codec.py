"""A tree's metadata as bytes: whatever is encoded is decoded, and no bytes at all do more than be refused.

Each rule of the format has its own case in test_format_checks.py.
"""

import stat
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pramfs.saves.codec import Decoded, decode_tree, encode_tree
from pramfs.tree.inodes import Directory, File, Inode, Special, Symlink
from pramfs.tree.pagemap import PageMap

names = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {b"/", b"\0"} & {bytes((byte,)) for byte in name} and name not in (b".", b"..")
)
times = st.integers(-(1 << 63) * 10**9, ((1 << 63) - 1) * 10**9)
xattr_names = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)
u32 = st.integers(0, (1 << 32) - 1)


@st.composite
def trees(draw: st.DrawFn) -> dict[int, Inode]:
    """A tree of up to a dozen inodes, with anything in their attributes."""
    inodes: dict[int, Inode] = {}
    root = Directory(1, draw(u32), stat.S_IFDIR | draw(st.integers(0, 0o7777)), 0, 0, 0)
    inodes[1] = root
    for number in range(draw(st.integers(0, 11))):
        parent = draw(st.sampled_from([i for i in inodes.values() if isinstance(i, Directory)]))
        name = draw(names)
        if name in parent.entries:
            continue
        others = [inode for inode in inodes.values() if not isinstance(inode, Directory)]
        if draw(st.booleans()) and others:
            inode = draw(st.sampled_from(others))
            inode.nlink += 1
        else:
            inode = inodes[number + 2] = draw(inode_of(number + 2))
        parent.entries[name] = inode
        if isinstance(inode, Directory):
            inode.parent = parent
            parent.nlink += 1
    for inode in inodes.values():
        inode.atime, inode.mtime, inode.ctime = draw(times), draw(times), draw(times)
        inode.uid, inode.gid = draw(u32), draw(u32)
        inode.xattrs = (
            draw(st.dictionaries(xattr_names, st.binary(max_size=300), max_size=3)) or None
        )
    return inodes


@st.composite
def inode_of(draw: st.DrawFn, ino: int) -> Inode:
    kind, form = draw(
        st.sampled_from(
            [
                (File, stat.S_IFREG),
                (Directory, stat.S_IFDIR),
                (Symlink, stat.S_IFLNK),
                (Special, stat.S_IFIFO),
                (Special, stat.S_IFSOCK),
                (Special, stat.S_IFCHR),
                (Special, stat.S_IFBLK),
            ]
        )
    )
    inode: Inode = kind(ino, draw(u32), form | draw(st.integers(0, 0o7777)), 0, 0, 0)
    if isinstance(inode, File):
        inode.length = draw(st.integers(0, (1 << 63) - 1))
        count = draw(st.integers(0, 3))
        if count:
            inode.pages = PageMap()
            inode.pages.put(0, 1000, count)
    elif isinstance(inode, Symlink):
        inode.target = draw(st.binary(min_size=1, max_size=4095).filter(lambda t: b"\0" not in t))
    elif isinstance(inode, Special):
        inode.rdev = draw(u32)
    return inode


def encoded(inodes: dict[int, Inode]) -> bytes:
    return b"".join(encode_tree(max(inodes) + 1, inodes))


def facts(inode: Inode) -> list[Any]:
    """Everything that a record says of an inode."""
    plain = [
        *(type(inode), inode.ino, inode.generation, inode.mode, inode.uid, inode.gid, inode.nlink),
        *(inode.atime, inode.mtime, inode.ctime, inode.size, inode.rdev, inode.xattrs),
    ]
    if isinstance(inode, Directory):
        entries = [(name, child.ino) for name, child in inode.entries.items()]
        return [*plain, entries, inode.parent.ino]
    return [*plain, inode.target if isinstance(inode, Symlink) else b""]


@given(trees())
def test_a_tree_is_decoded_as_it_was_encoded(inodes: dict[int, Inode]) -> None:
    decoded = decode_tree(encoded(inodes))
    assert decoded.next_ino == max(inodes) + 1
    assert {ino: facts(inode) for ino, inode in decoded.inodes.items()} == {
        ino: facts(inode) for ino, inode in inodes.items()
    }
    pages = {
        inode.ino: inode.pages.count
        for inode in inodes.values()
        if isinstance(inode, File) and inode.pages
    }
    assert {
        file.ino: count for file, count in zip(decoded.files, decoded.pages, strict=True) if count
    } == pages


def test_what_has_no_name_is_not_encoded() -> None:
    root = Directory(1, 0, stat.S_IFDIR | 0o755, 0, 0, 0)
    orphan = File(2, 0, stat.S_IFREG | 0o644, 0, 0, 0)
    orphan.nlink = 0
    assert list(decode_tree(encoded({1: root, 2: orphan})).inodes) == [1]


def test_a_large_tree_comes_in_pieces_that_are_not_large() -> None:
    root = Directory(1, 0, stat.S_IFDIR | 0o755, 0, 0, 0)
    inodes: dict[int, Inode] = {1: root}
    for ino in range(2, 30_000):
        inodes[ino] = root.entries[b"%d" % ino] = File(ino, 0, stat.S_IFREG | 0o644, 0, 0, 0)
    pieces = list(encode_tree(30_000, inodes))
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 3 << 20
    assert len(decode_tree(b"".join(pieces)).inodes) == 29_999


def decoded_or_refused(metadata: bytes) -> Decoded | None:
    try:
        return decode_tree(metadata)
    except ValueError:
        return None


@given(inodes=trees(), data=st.data())
def test_changed_metadata_is_refused_or_a_sound_tree(
    inodes: dict[int, Inode], data: st.DataObject
) -> None:
    """Never anything else: another exception would be a mount that ends in a traceback."""
    metadata = bytearray(encoded(inodes))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(metadata) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                metadata[at] = data.draw(st.integers(0, 255))
            case 1:
                del metadata[at : at + data.draw(st.integers(1, 100))]
            case 2:
                metadata[at:at] = data.draw(st.binary(max_size=20))
            case _:
                value = data.draw(st.sampled_from([0, 1, (1 << 64) - 1, 1 << 63, 1 << 32]))
                metadata[at : at + 8] = value.to_bytes(8, "little")
        if not metadata:
            return
    decoded = decoded_or_refused(bytes(metadata))
    if decoded is not None:
        assert decode_tree(
            b"".join(encode_tree(decoded.next_ino, decoded.inodes))
        ).inodes.keys() == (decoded.inodes.keys())


@given(st.binary(max_size=2000))
def test_bytes_that_are_no_metadata_are_refused(junk: bytes) -> None:
    assert decoded_or_refused(junk) is None
