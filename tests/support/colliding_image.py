"""Images whose numbers were chosen to collide in the dicts of their readers. All checksums are correct."""

import functools
import stat
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

from pramfs.pram.pram import Pram
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX
from pramfs.storage import layout
from pramfs.storage.frames import Extent
from pramfs.storage.image import open_image
from pramfs.storage.layout import BYTE_STREAM, DIRENT, INODE, PAGE_SHIFT, PAGE_STREAM, TREE_HEADER
from pramfs.tree.pagemap import CHUNK_SHIFT
from tests.support.dict_collisions import forge

NAME = "pramfs"
MANY = 170_000  # adding so many colliding keys to a dict takes more than half a minute
_SPARE_FRAMES = 8192  # for the metadata of a tree, twice, and more


@functools.cache
def inode_numbers() -> list[int]:
    """MANY integers that collide in a dict, none of them the number of the root."""
    return [number for number in forge(MANY) if number > 1]


def inodes_image(path: Path, numbers: Sequence[int]) -> None:
    """An image of a tree whose files, all in the root directory, have these inode numbers."""
    files = [(b"%d" % number, number, 0, 0) for number in numbers]
    _write_image(path, metadata_of(files), [])


def pages_image(path: Path, chunks: Iterable[int]) -> None:
    """An image of a tree with one sparse file, which has a page in each of these chunks."""
    indices = [number << CHUNK_SHIFT for number in sorted(chunks)]
    size = (indices[-1] + 1) << PAGE_SHIFT
    _write_image(path, metadata_of([(b"sparse", 2, size, len(indices))]), indices)


def metadata_of(files: Sequence[tuple[bytes, int, int, int]]) -> bytes:
    """The metadata stream of a tree with these files: name, number, size and pages."""
    entries = b"".join(DIRENT.pack(ino, len(name)) + name for name, ino, _, _ in files)
    root = _inode(1, stat.S_IFDIR | 0o755, 2, len(files), 0) + entries
    records = [_inode(ino, stat.S_IFREG | 0o644, 1, size, pages) for _, ino, size, pages in files]
    next_ino = max(ino for _, ino, _, _ in files) + 1
    pages = sum(pages for _, _, _, pages in files)
    header = TREE_HEADER.pack(
        layout.TREE_MAGIC, layout.TREE_VERSION, 0, next_ino, len(files) + 1, pages
    )
    return header + root + b"".join(records)


def _inode(ino: int, mode: int, nlink: int, size: int, pages: int) -> bytes:
    return INODE.pack(ino, 1, mode, 0, 0, nlink, *(0,) * 6, size, pages, 0, 0)


def _write_image(path: Path, metadata: bytes, indices: list[int]) -> None:
    """Publish a tree of this metadata; its data pages are holes of the image, and have these indices."""
    with open_image(path, writable=True, create=True) as image:
        frames = len(indices) * 2 + len(metadata) // 2048 + _SPARE_FRAMES
        pram = Pram.create(image, frames, arena="image")
        with pram.prepare_save(NAME + META_SUFFIX, BYTE_STREAM) as meta:
            meta.write(metadata)
        with pram.prepare_save(NAME + DATA_SUFFIX, PAGE_STREAM) as data:
            extents = pram.arena.table.allocate(len(indices)) if indices else []
            pfns = array("I", (pfn for extent in extents for pfn in _pfns(extent)))
            data.lend_pages(pfns, array("Q", indices))
        pram.publish()
        pram.close()


def _pfns(extent: Extent) -> range:
    return range(extent.pfn, extent.pfn + extent.frames)
