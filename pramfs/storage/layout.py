"""The image format, version 1, and nothing else: magics, structs, flags, limits, page checksums.

This is a contract. Any change to a struct, a constant or a meaning moves VERSION or a feature bit,
and docs/format.md with it. Everything is little-endian; a page is 4,096 bytes; frame N of the image
is the page at byte N * 4096. Every metadata page starts with {u32 magic, u32 csum}. Its csum is the
CRC-32C of the image's uuid, the page's own pfn (u64) and bytes 8..4095 of the page, so that a page
in the wrong place or from another image never passes. The csum of a data page is the plain CRC-32C of
its 4,096 bytes.

Super block                     Node                            Link
  0 u32 magic                     0 u32 magic                     0 u32 magic
  4 u32 csum                      4 u32 csum                      4 u32 csum
  8 u64 node_pfn                  8 u32 flags                     8 u32 len
 16 u32 version                  12 u32 type                     12 u32 pad
 20 u32 compatible               16 u64 data_len                 16 u64 link_pfn
 24 u32 incompatible             24 u64 link_pfn                 24 entry[169], 24 bytes each:
 28 u32 flags                    32 u64 node_pfn                     0 u32 flags
 32 u8  uuid[16]                 40 u8  name[256]                    4 u32 csum
 48 u64 pfn                     296 u64 links                        8 u64 pfn
 56 u64 other_pfn               304 u64 entries                     16 u64 index
 64 u64 generation              312 i64 saved_ns                 4080 u8 zero[16]
 72 u64 frames                  320 u8 zero[3776]
 80 u64 frames_used
 88 u64 nodes
 96 i64 saved_ns
104 u8  run[16]
120 u8  saved_by[32]
152 u8  machine[16]
168 u8  boot[16]
184 i64 since_ns
192 u8  host[64]
256 u8  zero[3840]

A tree's metadata is a byte stream of variable-length records:

Tree header                     Inode record                    Directory entry
  0 u8  magic[8]                  0 u64 ino                       0 u64 ino
  8 u32 version                   8 u32 generation                8 u16 name_len
 12 u32 flags                    12 u32 mode                     10 u8  name[name_len]
 16 u64 next_ino                 16 u32 uid
 24 u64 inodes                   20 u32 gid                     Xattr
 32 u64 pages                    24 u32 nlink                     0 u16 name_len
                                 28 u32 atime_nsec                2 u32 value_len
                                 32 u32 mtime_nsec                6 u8  name[name_len]
                                 36 u32 ctime_nsec                  u8  value[value_len]
                                 40 i64 atime_sec
                                 48 i64 mtime_sec
                                 56 i64 ctime_sec
                                 64 u64 size
                                 72 u64 pages
                                 80 u32 xattrs
                                 84 u32 flags
                                 88 entries or target, then xattrs

What a reader of a tree may do without is another byte stream, see docs/format.md:

More header                     Birth                           Reserved range
  0 u8  magic[8]                  0 u64 ino                       0 u64 ino
  8 u32 version                   8 i64 born_ns                   8 u64 first
 12 u32 generation                                               16 u64 pages
 16 u64 births
 24 u64 reserved
"""

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from crc32c import crc32c

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
ZEROS = bytes(PAGE_SIZE)  # a data page without contents
ZEROS_CSUM = crc32c(ZEROS)

VERSION = 1
COMPATIBLE = 0

# Incompatible feature bits.
SHARED = 1  # entries of page streams may name a frame that another one names, too
INCOMPATIBLE = SHARED  # all that are known

SUPER_MAGIC = 0x70726D73
NODE_MAGIC = 0x70726D6E
LINK_MAGIC = 0x7072616D

# Super block flags.
SUPER_FINAL = 1  # published by an unmount, not by a checkpoint
SUPER_SUSPECT = 2  # the run that published it had met an internal error
SUPER_INCOMPLETE = 4  # it lacks what the kernel had taken from programs and the run could not take
SUPER_CHANGED = (
    8  # in the slot that is not in force: its run has changed the tree since the other save
)
SUPER_PAIR = 16  # other_pfn holds a super block too; without it, that frame may be anybody's
SUPER_MOUNTED = (
    32  # in the slot that is not in force: its machine has the image mounted for writing
)
SUPER_CUT_OFF = 64  # the mount was cut off by force: it may lack what programs had written last

# Node flags: the access mode (patch 2 of the 2013 series). A published node is in neither mode.
ACCMODE_SAVE = 1
ACCMODE_LOAD = 2
ACCMODE_MASK = 3

# Further flags of a node with the metadata of a tree, as those of the super block of the save that made it.
NODE_INCOMPLETE = 4
NODE_CUT_OFF = 8

# Stream types.
PAGE_STREAM = 1
BYTE_STREAM = 2
STREAM_TYPES = {PAGE_STREAM: "page stream", BYTE_STREAM: "byte stream"}

PAGE_DATA = 2  # entry flag (the 2013 file system)

# Slots are the frames in which super blocks lie, and nothing else ever does: two at every multiple of
# SLOT_SPACING frames and, so that small images have some too, two at every power of two. So a search for
# super blocks never looks at pages that a user of the file system has written.
SLOT_SPACING = 4096

NAME_MAX = 256  # of a node, including the NUL
TREE_NAME_MAX_BYTES = NAME_MAX - 1 - len("-meta")  # whose nodes are called NAME-meta and so on
FRAMES_MAX = 1 << 32  # pfns are kept in 32 bits in memory

SUPER = Struct("<IIQIIII16sQQQQQQq16s32s16s16sq64s")
NODE = Struct("<IIIIQQQ256sQQq")
LINK = Struct("<IIIIQ")
ENTRY = Struct("<IIQQ")
LINK_ENTRIES_MAX = (PAGE_SIZE - LINK.size) // ENTRY.size

TREE_MAGIC = b"PRAMTREE"
TREE_VERSION = 1
TREE_HEADER = Struct("<8sIIQQQ")
INODE = Struct("<QIIIIIIIIqqqQQII")
DIRENT = Struct("<QH")
XATTR = Struct("<HI")

MORE_MAGIC = b"PRAMMORE"
MORE_VERSION = 1
MORE_HEADER = Struct("<8sIIQQ")
BIRTH = Struct("<Qq")
RESERVED = Struct("<QQQ")

_SALT = Struct("<16sQ")
_CSUM = Struct("<I")


class SuperBlock(NamedTuple):
    """Where a load starts: of all valid ones in slots, the one of the highest generation is in force."""

    magic: int
    csum: int
    node_pfn: int  # first node of the list, 0 = none
    version: int
    compatible: int
    incompatible: int
    flags: int
    uuid: bytes
    pfn: int  # the slot this super block was written to
    other_pfn: int  # the slot of the previous and the next generation
    generation: int
    frames: int  # of the whole image
    frames_used: int  # by this save, the two slots included
    nodes: int
    saved_ns: int
    run: bytes  # id of the run of the daemon or tool that published it
    saved_by: bytes
    # Who has it mounted. In the slot in force only of a save that is not final, in the other with MOUNTED.
    machine: bytes = bytes(16)  # zeros: nobody, or unknown
    boot: bytes = bytes(16)
    since_ns: int = 0
    host: bytes = b""  # the name of the machine


class NodePage(NamedTuple):
    """The page of a node: a named stream in persistent memory."""

    magic: int
    csum: int
    flags: int
    type: int
    data_len: int  # bytes, only for byte streams
    link_pfn: int  # first link, 0 = no data
    node_pfn: int  # next node of the list, 0 = last
    name: bytes
    links: int
    entries: int
    saved_ns: int


class LinkHeader(NamedTuple):
    """The header of a link page; `len` entries follow."""

    magic: int
    csum: int
    len: int
    pad: int
    link_pfn: int  # next link of the chain, 0 = last


class TreeHeader(NamedTuple):
    """The start of a tree's metadata stream."""

    magic: bytes
    version: int
    flags: int
    next_ino: int
    inodes: int
    pages: int


class MoreHeader(NamedTuple):
    """The start of the stream with what a reader of a tree may do without."""

    magic: bytes
    version: int
    generation: int  # of the root of the tree
    births: int
    reserved: int


class InodeRecord(NamedTuple):
    """The fixed part of an inode's record."""

    ino: int
    generation: int
    mode: int
    uid: int
    gid: int
    nlink: int
    atime_nsec: int
    mtime_nsec: int
    ctime_nsec: int
    atime_sec: int
    mtime_sec: int
    ctime_sec: int
    size: int  # file: bytes; directory: entries; symlink: target bytes; device: rdev
    pages: int  # data pages of a regular file
    xattrs: int
    flags: int  # of chattr(1); version 0.1 writes 0


def is_slot(pfn: int) -> bool:
    """Return whether `pfn` is a slot, a frame in which only a super block may lie."""
    base = pfn & ~1
    return base % SLOT_SPACING == 0 or base & (base - 1) == 0


def slot_bases(frames: int) -> Iterator[int]:
    """Yield the first slot of each pair below `frames`, in order."""
    yield 0
    base = 2
    while base < min(frames, SLOT_SPACING):
        yield base
        base *= 2
    yield from range(SLOT_SPACING, frames, SLOT_SPACING)


def slots_below(frames: int) -> int:
    """Return the number of slots among the first `frames` frames."""
    return sum(min(2, frames - base) for base in slot_bases(frames))


def page_csum(uuid: bytes, pfn: int, page: bytes | bytearray | memoryview) -> int:
    """Return the csum that the metadata page `page` (4,096 bytes) must have at `pfn` of image `uuid`."""
    return crc32c(memoryview(page)[8:PAGE_SIZE], crc32c(_SALT.pack(uuid, pfn)))


def seal_page(uuid: bytes, pfn: int, page: bytearray | memoryview) -> None:
    """Write the csum of the metadata page `page` into it."""
    _CSUM.pack_into(page, 4, page_csum(uuid, pfn, page))
