"""A small image with one of everything in it, two saves deep, and where its pages lie."""

import functools
import random
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from crc32c import crc32c

from pramfs.saves.save import Saver
from pramfs.saves.tree_nodes import DATA_SUFFIX
from pramfs.storage import layout
from pramfs.storage.layout import ENTRY, LINK, PAGE_SIZE
from pramfs.tree import file_flags
from pramfs.tree.attributes import Changes
from pramfs.tree.file_calls import KEEP_SIZE
from pramfs.tree.tree import Owner, Tree
from tests.support.image_audit import walk
from tests.support.load_verdict import NAME, TreeState, tree_state
from tests.support.watched_image import image_of, new_pram, watched

FRAMES = 80
_CSUM = struct.Struct("<I")


@dataclass(frozen=True)
class SampleImage:
    """The bytes of an image, the trees it may load as, and which frame holds what."""

    content: bytes
    tree: TreeState
    older: TreeState  # the save before
    uuid: bytes
    supers: tuple[int, ...]
    metadata: tuple[int, ...]  # nodes and links
    stream: tuple[int, ...]  # data pages of the streams of metadata
    data: tuple[int, ...]  # data pages of files
    entries: dict[int, list[tuple[int, int]]]  # data page -> link and place there of each entry

    def page(self, pfn: int) -> bytes:
        return self.content[pfn * PAGE_SIZE : (pfn + 1) * PAGE_SIZE]

    def with_pages(
        self, pages: Mapping[int, bytes | bytearray], *, sealed: bool = False
    ) -> bytearray:
        """The image with other pages; `sealed`: with checksums made right again."""
        content = bytearray(self.content)
        for pfn, page in pages.items():
            content[pfn * PAGE_SIZE : (pfn + 1) * PAGE_SIZE] = page
        if sealed:
            for pfn in sorted(pages, key=lambda pfn: pfn not in self.entries):
                self._seal(content, pfn)
        return content

    def _seal(self, content: bytearray, pfn: int) -> None:
        page = memoryview(content)[pfn * PAGE_SIZE : (pfn + 1) * PAGE_SIZE]
        if pfn not in self.entries:
            layout.seal_page(self.uuid, pfn, page)
            return
        for link, place in self.entries[pfn]:
            at = link * PAGE_SIZE + LINK.size + place * ENTRY.size + 4
            _CSUM.pack_into(content, at, crc32c(page))
            self._seal(content, link)


@functools.cache
def sample_image(snapshot: str = "") -> SampleImage:
    """Make it: the second save changes a little of the first, and holds that as a snapshot, if named."""
    pram = new_pram(2 * FRAMES if snapshot else FRAMES)
    tree = Tree(pram.arena, inodes_max=10_000, generation=77)
    tree.make_root(0o755, Owner(0, 0))
    saver = Saver(pram, NAME, tree)
    _plant(tree)
    saver.save(final=False, progress=lambda frames: None)
    older = tree_state(tree)
    if snapshot:
        saver.save(final=False, progress=lambda pages: None, snapshot=f"{NAME}@{snapshot}")
        older = tree_state(tree)
    _change(tree)
    saver.save(final=True, progress=lambda frames: None)
    newer = tree_state(tree)
    content = watched(pram).content()
    pram.close()
    pram.image.close()
    return _dissected(content, newer, older)


def _plant(tree: Tree) -> None:
    root, owner = tree.root, Owner(1000, 100)
    rng = random.Random(1)
    sub = tree.create(root, b"sub", stat.S_IFDIR | 0o755, owner)
    deep = tree.create(tree.directory(sub.ino), b"deep", stat.S_IFDIR | 0o700, owner)
    for number, size in enumerate((0, 1, PAGE_SIZE, 3 * PAGE_SIZE + 5, 6 * PAGE_SIZE)):
        parent = tree.directory((root.ino, sub.ino, deep.ino)[number % 3])
        file = tree.create(parent, f"file{number}".encode(), stat.S_IFREG | 0o644, owner)
        tree.write(tree.file(file.ino), 0, rng.randbytes(size))
    sparse = tree.file(tree.create(root, b"sparse", stat.S_IFREG | 0o600, owner).ino)
    tree.write(sparse, 10 * PAGE_SIZE, b"island")
    tree.setattr(sparse, Changes(size=1 << 40, mtime=-5))
    tree.fallocate(sparse, KEEP_SIZE, 9 * PAGE_SIZE, 3 * PAGE_SIZE)
    tree.fallocate(sparse, KEEP_SIZE, 1 << 40, 2 * PAGE_SIZE)
    tree.link(sparse, tree.directory(sub.ino), b"twin")
    tree.setxattr(sparse, b"user.comment", b"value")
    tree.set_flags(tree.lookup(root, b"file0"), file_flags.ALL, 0)
    tree.set_flags(sub, file_flags.NODUMP, 0)
    tree.create(root, b"link", stat.S_IFLNK | 0o777, owner, target=b"sub/file1")
    clone = tree.create(root, b"clone", stat.S_IFREG | 0o600, owner)
    tree.copy_range(tree.lookup(tree.directory(deep.ino), b"file2"), 0, clone, 0, 1 << 20)
    tree.copy_range(tree.lookup(root, b"file3"), 0, clone, 2 * PAGE_SIZE, 1 << 20)
    tree.create(root, b"device", stat.S_IFBLK | 0o660, owner, rdev=0x801)
    tree.create(root, b"fifo", stat.S_IFIFO | 0o660, owner)
    for number in range(60):  # makes the metadata stream some pages long
        tree.create(tree.directory(deep.ino), b"n%d" % number, stat.S_IFREG | 0o644, owner)


def _change(tree: Tree) -> None:
    sub = tree.directory(tree.lookup(tree.root, b"sub").ino)
    tree.write(tree.file(tree.lookup(sub, b"file1").ino), 0, b"changed")
    tree.unlink(tree.root, b"fifo")


def _dissected(content: bytes, newer: TreeState, older: TreeState) -> SampleImage:
    with image_of(content) as image:
        save = walk(image)
    entries: dict[int, list[tuple[int, int]]] = {}
    data: dict[int, None] = {}
    stream: list[int] = []
    metadata: list[int] = []
    for node in save.nodes:
        metadata += [node.pfn, *node.links]
        pfns = [entry.pfn for entry in node.entries]
        if node.name.endswith(DATA_SUFFIX):
            data |= dict.fromkeys(pfns)
        else:
            stream += pfns
        for number, entry in enumerate(node.entries):
            link = node.links[number // layout.LINK_ENTRIES_MAX]
            entries.setdefault(entry.pfn, []).append((link, number % layout.LINK_ENTRIES_MAX))
    return SampleImage(
        content,
        newer,
        older,
        save.block.uuid,
        (save.block.pfn, save.block.other_pfn),
        tuple(metadata),
        tuple(stream),
        tuple(data),
        entries,
    )
