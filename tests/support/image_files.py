"""Images in files with a small tree of everything in them, for tests of the commands that read images."""

import os
import stat
from pathlib import Path

from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.storage.image import open_image
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE
from pramfs.tree.tree import Tree
from tests.golden.specimen import NS, Specimen, directory, plant, regular

BIG = bytes(range(256)) * 16 * 200  # 200 pages: more than a link names


def some_tree() -> Specimen:
    """One of everything; `twice` and `sub/again` are one file."""
    twice = regular(b"two names\n")
    sparse = Specimen(stat.S_IFREG | 0o600, size=10 * PAGE_SIZE + 5, pages={3: b"\x33" * PAGE_SIZE})
    tagged = regular(b"tagged\n", mode=0o444)
    tagged.xattrs = {b"user.note": b"kept"}
    tagged.atime, tagged.mtime = 123 * NS + 456, -7 * NS + 89
    return directory(
        {
            b"big": regular(BIG),
            b"empty": regular(b""),
            b"fifo": Specimen(stat.S_IFIFO | 0o620),
            b"link": Specimen(stat.S_IFLNK | 0o777, target=b"sub/again"),
            b"small": regular(b"hello\n", mode=0o640),
            b"sparse": sparse,
            b"sub": directory({b"again": twice, b"tagged": tagged}, mode=0o555),
            b"twice": twice,
        },
        mode=0o750,
    )


def make_image(path: Path, *, frames: int = 512, root: Specimen | None = None) -> Path:
    """An image with a tree, `some_tree`, and a byte stream `note` in it, owned by who runs the test."""
    with open_image(path, writable=True, create=True) as image:
        pram = Pram.create(image, frames)
        with pram.prepare_save("note", BYTE_STREAM) as stream:
            stream.write(b"a note of its own")
        tree = Tree(pram.arena, inodes_max=100, generation=1)
        root = root or some_tree()
        _own(root)
        plant(tree, root)
        Saver(pram, "pramfs", tree).save(final=True, progress=lambda pages: None)
        pram.close()
    return path


def make_stream_image(path: Path) -> Path:
    """An image with a byte stream `node` in it, a line, and no tree."""
    with open_image(path, writable=True, create=True) as image:
        pram = Pram.create(image, 512)
        with pram.prepare_save("node", BYTE_STREAM) as stream:
            stream.write(b"line\n")
        pram.publish()
        pram.close()
    return path


def frames_of(path: Path, name: str) -> list[int]:
    """The frames of a file in the root of the image's tree, from the program's own loader."""
    with open_image(path, writable=False) as image:
        pram = Pram.open(image)
        tree = Tree(pram.arena, inodes_max=0, generation=0)
        load_tree(pram, "pramfs", tree)
        file = tree.file(tree.lookup(tree.root, name.encode()).ino)
        pages = file.pages.chunks() if file.pages is not None else ()
        pfns = [pfn for _, chunk in pages for pfn in chunk if pfn]
        pram.close()
    return pfns


def links_of(path: Path, node: str) -> list[int]:
    """The links of a node, in order."""
    with open_image(path, writable=False) as image:
        pram = Pram.open(image)
        chain = pram.node(node).chain
        assert chain is not None
        pram.close()
        return chain.links


def flip(path: Path, pfn: int, at: int = 100) -> None:
    """Flip a bit of a page."""
    with path.open("r+b") as file:
        file.seek(pfn * PAGE_SIZE + at)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes((byte ^ 1,)))


def _own(specimen: Specimen) -> None:
    specimen.uid, specimen.gid = os.geteuid(), os.getegid()
    for below in specimen.entries.values():
        _own(below)
