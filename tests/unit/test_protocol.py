"""The messages of /dev/fuse: their sizes are those of <linux/fuse.h>, and nothing is lost in them."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pramfs.fuse import protocol
from pramfs.fuse.attributes_out import NO_ENTRY, attributes, entry, listed_entry
from pramfs.fuse.protocol import ATTR_OUT, DIRENT, ENTRY_OUT, IN_HEADER
from pramfs.fuse.request import OddRequestError, Request, error_reply, reply
from pramfs.tree.inodes import File

# sizeof() of each struct, by a C compiler from the header of Linux 6.1.
SIZES = {
    "IN_HEADER": 40,
    "OUT_HEADER": 16,
    "ATTR_OUT": 104,
    "ENTRY_OUT": 128,
    "SETATTR_IN": 88,
    "GETATTR_IN": 16,
    "STATX_IN": 24,
    "STATX_OUT": 288,
    "IOCTL_IN": 32,
    "IOCTL_OUT": 16,
    "IOC_FLAGS": 4,
    "FSXATTR": 28,
    "FALLOCATE_IN": 32,
    "LSEEK_IN": 24,
    "LSEEK_OUT": 8,
    "COPY_FILE_RANGE_IN": 56,
    "COPY_FILE_RANGE_64_OUT": 8,  # which that header has not got yet
    "SETXATTR_IN": 8,
    "GETXATTR_IN": 8,
    "GETXATTR_OUT": 8,
    "FORGET_IN": 8,
    "BATCH_FORGET_IN": 8,
    "FORGET_ONE": 16,
    "MKNOD_IN": 16,
    "MKDIR_IN": 8,
    "LINK_IN": 8,
    "RENAME_IN": 8,
    "RENAME2_IN": 16,
    "CREATE_IN": 16,
    "OPEN_IN": 8,
    "OPEN_OUT": 16,
    "RELEASE_IN": 24,
    "READ_IN": 40,
    "WRITE_IN": 40,
    "WRITE_OUT": 8,
    "DIRENT": 24,
    "INTERRUPT_IN": 8,
    "INVAL_INODE_OUT": 24,
    "INVAL_ENTRY_OUT": 16,
    "INIT_FLAGS": 4,
    "INIT_OUT_CONGESTION": 2,
    "INIT_OUT_MAX_WRITE": 4,
}

names = st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"\0", b"x"))
bits = {width: st.integers(0, (1 << width) - 1) for width in (16, 32, 64)}
integers = {
    "H": bits[16], "I": bits[32], "Q": bits[64],
    "i": st.integers(-(1 << 31), (1 << 31) - 1), "q": st.integers(-(1 << 63), (1 << 63) - 1),
}  # fmt: skip
times = st.integers(-(1 << 63), (1 << 63) - 1)


def message(body: bytes, opcode: int = 1, unique: int = 2, nodeid: int = 3) -> memoryview:
    """A request as it comes."""
    header = IN_HEADER.pack(IN_HEADER.size + len(body), opcode, unique, nodeid, 4, 5, 6)
    return memoryview(header + body)


def test_every_struct_has_the_size_of_the_kernels() -> None:
    structs = {
        name: value for name, value in vars(protocol).items() if isinstance(value, struct.Struct)
    }
    assert {name: value.size for name, value in structs.items()} == SIZES


@given(bits[32], bits[64], bits[64], bits[32], bits[32], bits[32], st.binary(max_size=200))
def test_a_request_is_taken_apart(
    opcode: int, unique: int, nodeid: int, uid: int, gid: int, pid: int, body: bytes
) -> None:
    header = IN_HEADER.pack(IN_HEADER.size + len(body), opcode, unique, nodeid, uid, gid, pid)
    request = Request(memoryview(header + body))
    assert (request.opcode, request.unique, request.nodeid) == (opcode, unique, nodeid)
    assert (request.uid, request.gid, request.pid) == (uid, gid, pid)
    assert bytes(request.body) == body
    assert request.length == len(header + body)


@given(st.lists(names, min_size=1, max_size=2), bits[64])
def test_names_follow_a_struct(listed: list[bytes], number: int) -> None:
    body = protocol.RENAME_IN.pack(number) + b"".join(name + b"\0" for name in listed)
    request = Request(message(body))
    assert request.fields(protocol.RENAME_IN) == (number,)
    assert request.names(len(listed), protocol.RENAME_IN) == listed


@pytest.mark.parametrize("name", [name for name in SIZES if name.endswith(("_IN", "_ONE"))])
@given(data=st.data(), rest=st.binary(max_size=100))
def test_every_struct_of_a_request_comes_back_as_it_was_sent(
    name: str, data: st.DataObject, rest: bytes
) -> None:
    shape: struct.Struct = getattr(protocol, name)
    fields = tuple(data.draw(integers[letter]) for letter in shape.format if letter in integers)
    request = Request(message(shape.pack(*fields) + rest))
    assert request.fields(shape) == fields
    assert bytes(request.body[shape.size :]) == rest


@given(st.lists(names, min_size=1, max_size=2))
def test_names_that_do_not_end_are_odd(listed: list[bytes]) -> None:
    request = Request(message(b"\0".join(listed)))
    with pytest.raises(OddRequestError):
        request.names(len(listed))


@given(st.binary(max_size=39))
def test_a_struct_that_is_cut_off_is_odd(body: bytes) -> None:
    with pytest.raises(OddRequestError):
        Request(message(body)).fields(protocol.WRITE_IN)


@given(bits[64], st.binary(max_size=200))
def test_a_reply_says_how_long_it_is(unique: int, payload: bytes) -> None:
    told = reply(unique, payload)
    assert protocol.OUT_HEADER.unpack_from(told) == (len(told), 0, unique)
    assert told[16:] == payload
    assert protocol.OUT_HEADER.unpack(error_reply(unique, 5)) == (16, -5, unique)


@given(times, times, times, bits[16], bits[32], bits[32], bits[32])
def test_attributes_are_all_there(
    atime: int, mtime: int, ctime: int, mode: int, uid: int, gid: int, nlink: int
) -> None:
    file = File(7, 8, mode, uid, gid, 0)
    file.atime, file.mtime, file.ctime, file.nlink, file.length = atime, mtime, ctime, nlink, 9
    attr = told(ATTR_OUT.unpack(attributes(file))[3:])
    assert attr == told(ENTRY_OUT.unpack(entry(file))[6:])
    assert attr == {
        "ino": 7, "size": 9, "blocks": 0, "atime": atime, "mtime": mtime, "ctime": ctime,
        "mode": mode, "nlink": nlink, "uid": uid, "gid": gid, "rdev": 0, "blksize": 4096,
    }  # fmt: skip
    assert ENTRY_OUT.unpack(entry(file))[:2] == (7, 8)


def told(attr: tuple[Any, ...]) -> dict[str, int]:
    """What struct fuse_attr says."""
    times_ns = [seconds * 10**9 + ns for seconds, ns in zip(attr[3:6], attr[6:9], strict=True)]
    fields = ("ino", "size", "blocks", "atime", "mtime", "ctime", "mode", "nlink", "uid", "gid")
    return dict(zip((*fields, "rdev", "blksize"), (*attr[:3], *times_ns, *attr[9:15]), strict=True))


@given(names, bits[32])
def test_an_entry_of_a_listing_is_padded(name: bytes, position: int) -> None:
    file = File(7, 8, 0o100644, 0, 0, 0)
    listed = listed_entry(name, file, position)
    assert not len(listed) % 8
    assert listed.startswith(entry(file))
    at = ENTRY_OUT.size + DIRENT.size
    assert DIRENT.unpack_from(listed, ENTRY_OUT.size) == (7, position, len(name), 8)
    assert listed[at:].rstrip(b"\0") == name.rstrip(b"\0")


def test_a_name_that_is_not_there_has_no_inode() -> None:
    assert ENTRY_OUT.unpack(NO_ENTRY)[0] == 0
