"""What a tree is, whatever image and order it is in: its metadata and entries in one form, and their hash.

Inodes are in the order of their numbers, names and attributes in that of their bytes. Two trees are the same
if all that is: names, attributes, times, and the checksum of each page. Which pages share a frame, birth
times and reserved room do not count.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pramfs.errors import DamagedTree
from pramfs.offline.reader import TreeReader, check_entries
from pramfs.offline.scan import scan_image
from pramfs.pram.links import Entries
from pramfs.saves import codec
from pramfs.saves.more import encode_more
from pramfs.saves.tree_nodes import DATA_SUFFIX, marks_of, nodes_of, tree_names
from pramfs.storage.image import Image
from pramfs.stream.format import IDENTITY_BYTES
from pramfs.tree.inodes import Directory, File, Inode
from pramfs.tree.pagemap import PageMap

if TYPE_CHECKING:
    from array import array

_PERSON = b"pramfs tree"


@dataclass(frozen=True, slots=True)
class WholeTree:
    """A tree of an image in the form of streams."""

    name: str
    identity: bytes
    metadata: bytes
    more: bytes  # birth times
    entries: Entries
    births_lost: str  # why there are none although they were saved, "" unless they are lost
    marks: int  # what is known that it lacks, see `mark_tree`


def read_tree(image: Image, name: str) -> WholeTree:
    """Read a tree of an image, without its pages. Raises PramError if there is none or it is damaged."""
    found = scan_image(image, only=nodes_of(name))
    reader = TreeReader(image, name, found)
    reader.read_births(found)
    inodes = dict(sorted(reader.inodes.items()))
    entries = Entries()
    for inode in inodes.values():
        _put_in_order(inode)
        if isinstance(inode, File):
            entries.extend(_entries_of(reader, inode))
    metadata = b"".join(codec.encode_tree(reader.next_ino, inodes))
    more = encode_more(reader.next_ino, inodes, with_reserved=False)
    nodes = {scanned.node.name: scanned.node for scanned in found.nodes.values()}
    return WholeTree(
        name=name,
        identity=identity_of(metadata, entries),
        metadata=metadata,
        more=more,
        entries=entries,
        births_lost=reader.births_lost,
        marks=marks_of(nodes, name),
    )


def find_tree(
    image: Image, identity: bytes, entries: int, name: str, but: str = ""
) -> WholeTree | None:
    """Return the tree of an image with that identity and number of entries, None if there is none.

    The tree `name` is looked at first, and `but` not at all. Raises PramError for one that is damaged.
    """
    nodes = scan_image(image, only=()).nodes
    names = [
        tree
        for tree in tree_names(nodes)
        if tree != but and nodes[tree + DATA_SUFFIX].node.entries == entries
    ]
    for tree in sorted(names, key=lambda tree: tree != name):
        found = read_tree(image, tree)
        if found.identity == identity:
            return found
    return None


def identity_of(metadata: bytes, entries: Entries) -> bytes:
    """Return the hash of a tree: of its metadata, and of the indices and checksums of its pages."""
    return identity_by_parts(metadata, entries.indices, entries.csums)


def identity_by_parts(metadata: bytes, indices: "array[int]", csums: "array[int]") -> bytes:
    """Return the same from its parts."""
    hashed = hashlib.blake2b(digest_size=IDENTITY_BYTES, person=_PERSON)
    hashed.update(len(metadata).to_bytes(8, "little"))
    for part in (metadata, indices, csums):
        hashed.update(part)
    return hashed.digest()


def _put_in_order(inode: Inode) -> None:
    if isinstance(inode, Directory):
        inode.entries = dict(sorted(inode.entries.items()))
    if inode.xattrs:
        inode.xattrs = dict(sorted(inode.xattrs.items()))


def _entries_of(reader: TreeReader, file: File) -> Entries:
    """Return the entries of a file, and map its pages, as the encoder needs to count them."""
    entries = reader.entries(file)
    check_entries(file, entries)
    if len(entries):
        file.pages = PageMap()
        try:
            file.pages.load(entries.indices, entries.pfns)
        except ValueError as exc:
            raise DamagedTree(reader.name, exc) from exc
    return entries
