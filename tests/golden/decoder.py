"""An independent reader of pram images, written from docs/format.md alone: it shares no code with pramfs.

It takes a whole image as bytes, checks everything that the document says a reader checks, and raises
FormatError for the first thing that is not so. Slow and simple; not for real work.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

PAGE = 4096
PAGE_STREAM, BYTE_STREAM = 1, 2
SHARED = 1  # incompatible feature
FILE, DIRECTORY, SYMLINK = 0o100000, 0o040000, 0o120000
SPECIAL = (0o020000, 0o060000, 0o010000, 0o140000)
ROOT = 1


class FormatError(Exception):
    """Something in the image is not as docs/format.md says."""


@dataclass
class SuperBlock:
    pfn: int
    other_pfn: int
    node_pfn: int
    version: int
    compatible: int
    incompatible: int
    flags: int
    uuid: bytes
    generation: int
    frames: int
    frames_used: int
    nodes: int
    saved_ns: int
    run: bytes
    saved_by: bytes


@dataclass
class Page:
    pfn: int
    flags: int
    index: int
    data: bytes
    is_first: bool = True  # False: an entry before has named its frame


@dataclass
class Node:
    pfn: int
    name: bytes
    type: int
    data_len: int
    saved_ns: int
    links: list[int] = field(default_factory=list)
    pages: list[Page] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        """The bytes of a byte stream."""
        return b"".join(page.data for page in self.pages)[: self.data_len]


class Time(NamedTuple):
    sec: int
    nsec: int


@dataclass
class Inode:
    ino: int
    generation: int
    mode: int
    uid: int
    gid: int
    nlink: int
    atime: Time
    mtime: Time
    ctime: Time
    size: int = 0  # of a regular file
    pages: dict[int, bytes] = field(default_factory=dict)
    entries: dict[bytes, int] = field(default_factory=dict)
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


@dataclass
class Tree:
    next_ino: int
    inodes: dict[int, Inode]


@dataclass
class Save:
    super_block: SuperBlock
    nodes: dict[bytes, Node]
    trees: dict[bytes, Tree]


def decode(image: bytes) -> Save:
    """Everything in the image. Raises FormatError."""
    block = find_super_block(image)
    nodes = {node.name: node for node in _read_nodes(image, block)}
    names = [name.removesuffix(b"-meta") for name in nodes if name.endswith(b"-meta")]
    trees = {name: read_tree(nodes, name) for name in names if name + b"-data" in nodes}
    return Save(block, nodes, trees)


# --- section 2: checksums -----------------------------------------------------------------------


def _crc_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


_CRC_TABLE = [_crc_of_byte(byte) for byte in range(256)]


def crc32c(data: bytes) -> int:
    """The CRC-32C of `data`."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[crc & 0xFF ^ byte]
    return crc ^ 0xFFFFFFFF


def metadata_csum(uuid: bytes, pfn: int, page: bytes) -> int:
    """The csum of a super block, node or link."""
    return crc32c(uuid + pfn.to_bytes(8, "little") + page[8:])


# --- section 3: super block ---------------------------------------------------------------------


def find_super_block(image: bytes) -> SuperBlock:
    """The super block in force. Raises FormatError."""
    block = _choose_super_block(image)
    _require(block.version == 1, f"version {block.version}")
    _require(not block.incompatible & ~SHARED, f"incompatible features {block.incompatible:x}")
    _require(3 <= block.frames <= 1 << 32, f"{block.frames} frames")
    _require(len(image) >= block.frames * PAGE, "truncated")
    _require(block.pfn != block.other_pfn, "both super blocks in one frame")
    _require(block.other_pfn < block.frames and is_slot(block.other_pfn), "no slot")
    _require(block.pfn < block.frames, "in force past the end")
    return block


def is_slot(pfn: int) -> bool:
    """Whether only a super block may lie in that frame."""
    even = pfn - pfn % 2
    return even % 4096 == 0 or even.bit_count() == 1


def _choose_super_block(image: bytes) -> SuperBlock:
    slots = filter(is_slot, range(len(image) // PAGE))
    found = [block for slot in slots if (block := _parse_super_block(image, slot))]
    _require(bool(found), "no super block")
    _require(len({block.uuid for block in found}) == 1, "super blocks of several images")
    return max(found, key=lambda block: block.generation)


def _parse_super_block(image: bytes, pfn: int) -> SuperBlock | None:
    """The super block in the slot `pfn`, None if there is none."""
    page = _page(image, pfn)
    if _u32(page, 0) != 0x70726D73:
        return None
    block = SuperBlock(
        node_pfn=_u64(page, 8),
        version=_u32(page, 16),
        compatible=_u32(page, 20),
        incompatible=_u32(page, 24),
        flags=_u32(page, 28),
        uuid=page[32:48],
        pfn=_u64(page, 48),
        other_pfn=_u64(page, 56),
        generation=_u64(page, 64),
        frames=_u64(page, 72),
        frames_used=_u64(page, 80),
        nodes=_u64(page, 88),
        saved_ns=_i64(page, 96),
        run=page[104:120],
        saved_by=page[120:152].rstrip(b"\0"),
    )
    if block.pfn != pfn or block.generation > 1 << 62:
        return None
    return block if _u32(page, 4) == metadata_csum(block.uuid, pfn, page) else None


# --- sections 4 and 5: nodes, links, entries ----------------------------------------------------


class _Claims:
    """The frames that have a use."""

    def __init__(self, block: SuperBlock) -> None:
        self._frames = block.frames
        self._claimed: set[int] = set()
        self._data: set[int] = set()
        self._may_share = bool(block.incompatible & SHARED)

    def check_bounds(self, pfn: int) -> None:
        _require(pfn < self._frames, f"pfn:{pfn:x} is past the end")

    def claim(self, pfn: int) -> None:
        _require(not is_slot(pfn), f"pfn:{pfn:x} is a slot")
        _require(pfn not in self._claimed, f"pfn:{pfn:x} has two uses")
        self._claimed.add(pfn)

    def claim_data(self, pfn: int) -> bool:
        """Claim a data page of a page stream; whether it is the first claim of that frame."""
        if self._may_share and pfn in self._data:
            return False
        self.claim(pfn)
        self._data.add(pfn)
        return True


def _read_nodes(image: bytes, block: SuperBlock) -> Iterator[Node]:
    claims = _Claims(block)
    names: set[bytes] = set()
    frames_used = 2
    pfn = block.node_pfn
    while pfn:
        claims.check_bounds(pfn)
        page = _page(image, pfn)
        node = _parse_node(block, pfn, page)
        claims.claim(pfn)
        _require(node.name not in names, f"two nodes {node.name!r}")
        names.add(node.name)
        _read_chain(image, block, claims, node, _u64(page, 24))
        _require(len(node.links) == _u64(page, 296), f"node {node.name!r}: links")
        _require(len(node.pages) == _u64(page, 304), f"node {node.name!r}: entries")
        frames_used += 1 + len(node.links) + sum(page.is_first for page in node.pages)
        yield node
        pfn = _u64(page, 32)
    _require(len(names) == block.nodes, f"{len(names)} nodes, not {block.nodes}")
    _require(frames_used == block.frames_used, f"{frames_used} frames used")


def _parse_node(block: SuperBlock, pfn: int, page: bytes) -> Node:
    what = f"node at pfn:{pfn:x}"
    _require(_u32(page, 0) == 0x70726D6E, f"{what}: magic")
    _require(_u32(page, 4) == metadata_csum(block.uuid, pfn, page), f"{what}: csum")
    _require(not _u32(page, 8) & 3, f"{what}: is in use")
    name, nul, rest = page[40:296].partition(b"\0")
    _require(bool(name) and bool(nul) and not rest.strip(b"\0"), f"{what}: name")
    type_, data_len, entries = _u32(page, 12), _u64(page, 16), _u64(page, 304)
    _require(type_ in (PAGE_STREAM, BYTE_STREAM), f"{what}: type {type_}")
    if type_ == BYTE_STREAM:
        _require(entries == -(-data_len // PAGE), f"{what}: {data_len} bytes, {entries} entries")
    else:
        _require(data_len == 0, f"{what}: a page stream with a length")
    return Node(pfn, name, type_, data_len, _i64(page, 312))


def _read_chain(
    image: bytes, block: SuperBlock, claims: _Claims, node: Node, link_pfn: int
) -> None:
    while link_pfn:
        claims.check_bounds(link_pfn)
        page = _page(image, link_pfn)
        what = f"link at pfn:{link_pfn:x}"
        _require(_u32(page, 0) == 0x7072616D, f"{what}: magic")
        _require(_u32(page, 4) == metadata_csum(block.uuid, link_pfn, page), f"{what}: csum")
        count = _u32(page, 8)
        _require(1 <= count <= 169, f"{what}: {count} entries")
        claims.claim(link_pfn)
        node.links.append(link_pfn)
        for at in range(24, 24 + 24 * count, 24):
            node.pages.append(_read_entry(image, claims, node.type, page[at : at + 24]))
            if node.type == BYTE_STREAM:
                _require(node.pages[-1].index == len(node.pages) - 1, f"{what}: index")
        link_pfn = _u64(page, 16)


def _read_entry(image: bytes, claims: _Claims, type_: int, entry: bytes) -> Page:
    pfn = _u64(entry, 8)
    claims.check_bounds(pfn)
    is_first = True
    if type_ == PAGE_STREAM:
        is_first = claims.claim_data(pfn)
    else:
        claims.claim(pfn)
    data = _page(image, pfn)
    _require(crc32c(data) == _u32(entry, 4), f"data page at pfn:{pfn:x}: csum")
    return Page(pfn, _u32(entry, 0), _u64(entry, 16), data, is_first)


# --- section 7: trees ---------------------------------------------------------------------------


def read_tree(nodes: dict[bytes, Node], name: bytes) -> Tree:
    """The tree NAME. Raises FormatError."""
    meta, data = nodes[name + b"-meta"], nodes[name + b"-data"]
    _require(meta.type == BYTE_STREAM and data.type == PAGE_STREAM, f"types of tree {name!r}")
    metadata = _Metadata(meta.content)
    _require(metadata.take(8) == b"PRAMTREE", "magic of a tree")
    _require(metadata.u32() == 1, "version of a tree")
    _require(metadata.u32() == 0, "flags of a tree")
    tree = Tree(metadata.u64(), {})
    _require(tree.next_ino <= 1 << 63, f"next_ino {tree.next_ino}")
    inodes, pages = metadata.u64(), metadata.u64()
    _require(inodes * 88 <= metadata.left, f"{inodes} inodes")
    counts: dict[int, int] = {}
    for _ in range(inodes):
        inode, count = _read_inode(metadata, tree.next_ino)
        _require(inode.ino not in tree.inodes, f"inode {inode.ino} twice")
        tree.inodes[inode.ino] = inode
        counts[inode.ino] = count
    _require(metadata.left == 0, "bytes follow the last inode")
    _require(pages == sum(counts.values()) == len(data.pages), "pages of a tree")
    _distribute(tree, counts, data.pages)
    _check_shape(tree)
    return tree


class _Metadata:
    """A metadata stream, taken from its front."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        _require(size <= self.left, "metadata ends within a record")
        self._at += size
        return self._data[self._at - size : self._at]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        return _u32(self.take(4), 0)

    def u64(self) -> int:
        return _u64(self.take(8), 0)


def _read_inode(metadata: _Metadata, next_ino: int) -> tuple[Inode, int]:
    """The next inode, and how many data pages it has."""
    record = metadata.take(88)
    inode = Inode(
        ino=_u64(record, 0),
        generation=_u32(record, 8),
        mode=_u32(record, 12),
        uid=_u32(record, 16),
        gid=_u32(record, 20),
        nlink=_u32(record, 24),
        atime=Time(_i64(record, 40), _u32(record, 28)),
        mtime=Time(_i64(record, 48), _u32(record, 32)),
        ctime=Time(_i64(record, 56), _u32(record, 36)),
    )
    size, pages, xattrs = _u64(record, 64), _u64(record, 72), _u32(record, 80)
    what = f"inode {inode.ino}"
    _require(0 < inode.ino < next_ino, f"{what}: number")
    _require(inode.mode < 1 << 16, f"{what}: mode")
    for time in (inode.atime, inode.mtime, inode.ctime):
        _require(time.nsec < 10**9, f"{what}: {time.nsec} nanoseconds")
    _require(pages == 0 or _kind(inode) == FILE, f"{what}: pages")
    _read_body(metadata, inode, size)
    for _ in range(xattrs):
        _read_xattr(metadata, inode)
    return inode, pages


def _read_body(metadata: _Metadata, inode: Inode, size: int) -> None:
    kind, what = _kind(inode), f"inode {inode.ino}"
    if kind == FILE:
        _require(size < 1 << 63, f"{what}: size")
        inode.size = size
    elif kind == DIRECTORY:
        for _ in range(size):
            _read_directory_entry(metadata, inode)
    elif kind == SYMLINK:
        _require(1 <= size <= 4095, f"{what}: target")
        inode.target = metadata.take(size)
        _require(b"\0" not in inode.target, f"{what}: target")
    else:
        _require(kind in SPECIAL, f"{what}: kind")
        _require(size < 1 << 32, f"{what}: device number")
        inode.rdev = (size >> 8 & 0xFFF, size & 0xFF | size >> 20 << 8)


def _read_directory_entry(metadata: _Metadata, directory: Inode) -> None:
    ino, name_len = metadata.u64(), metadata.u16()
    _require(1 <= name_len <= 255, f"a name of {name_len} bytes")
    name = metadata.take(name_len)
    _require(b"\0" not in name and b"/" not in name, f"name {name!r}")
    _require(name not in (b".", b".."), f"name {name!r}")
    _require(name not in directory.entries, f"name {name!r} twice in {directory.ino}")
    directory.entries[name] = ino


def _read_xattr(metadata: _Metadata, inode: Inode) -> None:
    name_len, value_len = metadata.u16(), metadata.u32()
    _require(1 <= name_len <= 255, f"an attribute's name of {name_len} bytes")
    _require(value_len <= 65536, f"an attribute of {value_len} bytes")
    name = metadata.take(name_len)
    _require(b"\0" not in name, f"attribute {name!r}")
    _require(name not in inode.xattrs, f"attribute {name!r} twice in {inode.ino}")
    inode.xattrs[name] = metadata.take(value_len)


def _distribute(tree: Tree, counts: dict[int, int], pages: list[Page]) -> None:
    """Give every file its data pages."""
    at = 0
    for ino, count in counts.items():
        inode, last = tree.inodes[ino], -1
        for page in pages[at : at + count]:
            what = f"inode {ino}, page {page.index}"
            _require(page.flags == 2, f"{what}: flags")
            _require(last < page.index, f"{what}: order")
            _require(page.index * PAGE < inode.size, f"{what}: past the end")
            inode.pages[page.index] = page.data
            last = page.index
        at += count


def _check_shape(tree: Tree) -> None:
    """Check that the inodes are one tree, and the link counts."""
    _require(ROOT in tree.inodes and _kind(tree.inodes[ROOT]) == DIRECTORY, "root directory")
    names = dict.fromkeys(tree.inodes, 0)
    subdirectories = dict.fromkeys(tree.inodes, 0)
    for inode in tree.inodes.values():
        for ino in inode.entries.values():
            _require(ino in tree.inodes, f"entry for inode {ino}")
            names[ino] += 1
            subdirectories[inode.ino] += _kind(tree.inodes[ino]) == DIRECTORY
    for ino, inode in tree.inodes.items():
        if _kind(inode) == DIRECTORY:
            _require(names[ino] == (ino != ROOT), f"directory {ino} has {names[ino]} names")
            _require(inode.nlink == 2 + subdirectories[ino], f"directory {ino}: nlink")
        else:
            _require(inode.nlink == names[ino] > 0, f"inode {ino}: nlink")
    _require({ino for _, ino in walk(tree)} == set(tree.inodes), "directories hang in the air")


def walk(tree: Tree) -> Iterator[tuple[bytes, int]]:
    """Every path and the inode it names; the root's path is empty."""
    unvisited = [(b"", ROOT)]
    while unvisited:
        path, ino = unvisited.pop()
        yield path, ino
        entries = tree.inodes[ino].entries
        unvisited.extend((path + b"/" + name, child) for name, child in entries.items())


# --- helpers ------------------------------------------------------------------------------------


def _kind(inode: Inode) -> int:
    return inode.mode & 0o170000


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise FormatError(what)


def _page(image: bytes, pfn: int) -> bytes:
    return image[pfn * PAGE : (pfn + 1) * PAGE]


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _u64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _i64(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little", signed=True)
