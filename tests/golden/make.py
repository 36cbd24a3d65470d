"""Makes the golden image and its manifest: `python -m tests.golden.make`, from the top of the checkout.

They are committed, and stay as they are: images of version 1 must be readable for ever, by every later
pramfs. Run this again only to add what the image lacks, and look at the differences of the manifest.
The image is made with pramfs, in two sessions with other banned regions between them. The manifest is
made of what was put in, not read from the image.
"""

import itertools
import lzma
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from pramfs.pram.pram import Pram
from pramfs.saves.load import load_tree
from pramfs.saves.save import Saver
from pramfs.saves.staging import stage_tree
from pramfs.storage.image import open_image
from pramfs.storage.layout import BYTE_STREAM, PAGE_STREAM
from pramfs.storage.regions import Region, Regions
from pramfs.tree.tree import Tree
from tests.golden import decoder
from tests.golden.decoder import PAGE, Save, SuperBlock
from tests.golden.manifest import IMAGE, MANIFEST, manifest_of, text_of
from tests.golden.specimen import NS, Specimen, directory, expected, plant, regular, uproot

FRAMES, FRAMES_LATER = 384, 512
BANNED = Regions([Region(0, 7), Region(60, 61), Region(100, 129), Region(140, 140)])
# Both slots move, pages of files are relocated, and nodes, links and metadata go where every second
# frame is banned.
BANNED_LATER = Regions([Region(0, 1), Region(8, 9), Region(40, 59), Region(200, 239)])
for pfn in range(340, FRAMES_LATER, 2):
    BANNED_LATER.add(Region(pfn, pfn))
TREE, EMPTY_TREE = "pramfs", "empty"

FILE_MAX = (1 << 63) - 1
BYTES_1_TO_127 = bytes(byte for byte in range(1, 128) if byte != ord("/"))
BYTES_128_TO_255 = bytes(range(128, 256))
# Version 2, then tag, permissions and id of user::rwx, group::r-x, other::---
DEFAULT_ACL = bytes.fromhex("02000000 01000700ffffffff 04000500ffffffff 20000000ffffffff")

Put = dict[str, bytes]
Paged = dict[str, list[tuple[int, int, bytes]]]  # flags, index, page


# --- what goes in -------------------------------------------------------------------------------


def numbered_pages(first: int, count: int) -> dict[int, bytes]:
    """Pages that differ from each other and compress well."""
    return {index: index.to_bytes(4, "little") * 1024 for index in range(first, first + count)}


def first_tree() -> Specimen:
    sparse_pages = numbered_pages(1, 1) | numbered_pages(3, 2)
    sparse_pages |= {5: b"the end".ljust(PAGE, b"\0")}
    huge_pages = numbered_pages(0, 1) | numbered_pages(513, 1)
    huge_pages |= {FILE_MAX // PAGE: b"far".ljust(PAGE, b"\0")}
    return directory(
        {
            b"hello": regular(b"hello, pram\n"),
            b"empty": regular(b""),
            b"one page": regular(b"\xff" * PAGE),
            b"a page and a byte": regular(b"\x55" * (PAGE + 1)),
            b"holes": Specimen(stat.S_IFREG | 0o600, size=5 * PAGE + 7, pages=sparse_pages),
            b"nothing but a hole": Specimen(stat.S_IFREG | 0o600, size=1 << 20),
            b"huge": Specimen(stat.S_IFREG | 0o600, size=FILE_MAX, pages=huge_pages),
            b"long": Specimen(stat.S_IFREG | 0o644, size=200 * PAGE, pages=numbered_pages(0, 200)),
            b"to be removed": regular(b"in the first save only\n"),
            b"kinds": kinds(),
            b"names": names(),
            b"times": times(),
            b"owners": owners(),
            b"attributes": attributes(),
            b"an empty directory": directory({}),
        }
    )


def kinds() -> Specimen:
    twice = regular(b"three names, one inode\n")
    return directory(
        {
            b"fifo": Specimen(stat.S_IFIFO | 0o622),
            b"socket": Specimen(stat.S_IFSOCK | 0o755),
            b"character device": Specimen(stat.S_IFCHR | 0o666, rdev=os.makedev(1, 3)),
            b"block device": Specimen(stat.S_IFBLK | 0o660, rdev=os.makedev(0xABC, 0xDEF12)),
            b"symlink": Specimen(stat.S_IFLNK | 0o777, target=b"../hello"),
            b"dangling": Specimen(stat.S_IFLNK | 0o777, target=b"/no/\xff\xfe/such"),
            b"longest symlink": Specimen(stat.S_IFLNK | 0o777, target=b"x/" * 2047 + b"x"),
            b"hard link": twice,
            b"below": directory({b"hard link": twice, b"another": twice}),
            b"linked fifo": (fifo := Specimen(stat.S_IFIFO | 0o600)),
            b"linked fifo too": fifo,
        }
    )


def names() -> Specimen:
    odd = [
        BYTES_1_TO_127,
        BYTES_128_TO_255,
        b"n" * 255,
        b" ",
        b"\n",
        b"...",
        b"-rf",
        b"a\tb",
        "Zażółć 猫 🐈".encode(),
        b"\xff\xfe",
        b"%2F",
        b"\\",
        b'"',
    ]
    deep = directory({b"bottom": regular(b"down here\n")})
    for _ in range(20):
        deep = directory({b"down": deep})
    return directory({name: regular(name) for name in odd} | {b"deep": deep})


def times() -> Specimen:
    moments = {
        b"the epoch": 0,
        b"a nanosecond before": -1,
        b"a second before": -NS,
        b"1901": -(1 << 31) * NS - 1,
        b"2038": (1 << 31) * NS + 999_999_999,
        b"the first": -(1 << 63) * NS,
        b"the last": ((1 << 63) - 1) * NS + 999_999_999,
    }
    found = directory({name: regular(name) for name in moments})
    for name, moment in moments.items():
        one = found.entries[name]
        one.atime, one.mtime, one.ctime = moment, moment + NS // 2 * (moment < 0), -moment
    found.entries[b"the first"].ctime = 1
    return found


def owners() -> Specimen:
    modes = (0, 0o644, 0o777, 0o4755, 0o2755, 0o1755, 0o7777)
    made = directory({b"%o" % mode: regular(b"", mode) for mode in modes})
    made.entries |= {b"sticky": directory({}, 0o1777), b"setgid": directory({}, 0o2775)}
    for number, one in enumerate(made.entries.values()):
        one.uid, one.gid = number * 1000, 0xFFFFFFFE - number
    return made


def attributes() -> Specimen:
    file = regular(b"with attributes\n")
    file.xattrs = {
        b"user.empty": b"",
        b"user.text": b"some text",
        b"user." + b"n" * 250: bytes(range(256)),
        b"user.long": b"0123456789abcdef" * 300,
        b"security.capability": bytes.fromhex("0000000200040000000000000000000000000000"),
    }
    link = Specimen(stat.S_IFLNK | 0o777, target=b"file", xattrs={b"trusted.link": b"yes"})
    with_acl = directory({})  # and nothing in it, which would inherit
    with_acl.xattrs = {b"system.posix_acl_default": DEFAULT_ACL}
    return directory({b"file": file, b"symlink": link, b"directory": with_acl})


def change(tree: Tree, root: Specimen) -> None:
    """What the second session does."""
    uproot(tree, root, b"to be removed")
    later = directory({b"made": regular(b"in the second session\n" * 200)})
    root.entries[b"later"] = later
    later.entries[b"hello again"] = root.entries[b"hello"]
    long = root.entries[b"long"]
    long.pages |= dict.fromkeys((0, 90, 199), b"\xaa" * PAGE)
    for index in (0, 90, 199):
        tree.write(tree.file(long.ino), index * PAGE, b"\xaa" * PAGE)
    root.xattrs = {}
    root.mode, root.mtime = stat.S_IFDIR | 0o1777, 1_700_000_000 * NS


PUT: Put = {
    "greeting": b"hello\n",
    "no bytes": b"",
    "one page exactly": b"p" * PAGE,
    "pages and a bit": bytes(range(256)) * 40,
    os.fsdecode(b"\xff\n" + b"n" * 253): b"the longest name there can be",
}
PAGED: Paged = {
    "pages": [
        (2, 7, b"\x07" * PAGE),
        (2, 0, bytes(PAGE)),
        (0x80000002, (1 << 64) - 1, b"\xfe" * PAGE),
        (0, 7, b"a second page 7".ljust(PAGE, b".")),
    ],
    "no pages": [],
}


# --- how it goes in -----------------------------------------------------------------------------


def put(pram: Pram) -> None:
    for name, data in PUT.items():
        with pram.prepare_save(name, BYTE_STREAM) as stream:
            stream.write(data)
    for name, pages in PAGED.items():
        with pram.prepare_save(name, PAGE_STREAM) as stream:
            for flags, index, page in pages:
                frame = pram.arena.table.allocate(1)[0].pfn
                pram.arena.write(frame, page)
                stream.save_page(frame, index, flags)


def first_session(path: Path, root: Specimen, empty: Specimen) -> decoder.Tree:
    """Makes the image; returns what the empty tree is expected to be."""
    with open_image(path, writable=True, create=True) as image:
        pram = Pram.create(image, FRAMES, banned=BANNED, arena="image")
        other = Tree(pram.arena, inodes_max=1 << 20, generation=7)
        plant(other, empty)
        stage_tree(pram, EMPTY_TREE, other)
        put(pram)
        tree = Tree(pram.arena, inodes_max=1 << 20, generation=1)
        plant(tree, root)
        Saver(pram, TREE, tree).save(final=False, progress=lambda frames: None)
        pram.close()
        return expected(other, empty)


def second_session(path: Path, root: Specimen) -> tuple[decoder.Tree, Pram]:
    """Changes the image under other bans; returns what the tree is expected to be, and the closed Pram."""
    with open_image(path, writable=True) as image:
        pram = Pram.open(image, frames=FRAMES_LATER, banned=BANNED_LATER, arena="image")
        tree = Tree(pram.arena, inodes_max=1 << 20, generation=0xFFFFFFFF)
        load_tree(pram, TREE, tree)
        change(tree, root)
        plant(tree, root)
        saver = Saver(pram, TREE, tree)
        for final in (False, False, True):
            saver.save(final=final, progress=lambda frames: None)
        pram.close()
        return expected(tree, root), pram


def expected_nodes(pram: Pram) -> Iterator[decoder.Node]:
    for name, node in pram.nodes.items():
        made = decoder.Node(
            node.pfn, os.fsencode(name), node.type, len(PUT.get(name, b"")), node.saved_ns
        )
        if name in PUT:
            made.pages = [decoder.Page(0, 2, 0, PUT[name])]
        if name in PAGED:
            made.pages = [decoder.Page(0, *page) for page in PAGED[name]]
        yield made


def expected_super_block(pram: Pram) -> SuperBlock:
    fields = pram.current._asdict()
    del fields["magic"], fields["csum"]
    return SuperBlock(**fields)


@contextmanager
def nothing_random() -> Iterator[None]:
    """Random ids count up, and the clock ticks a nanosecond at a time."""
    ids = itertools.count()
    ticks = itertools.count(1_800_000_000 * NS)
    with (
        patch("os.urandom", lambda size: bytes(range(next(ids) * size % 256, 256))[:size]),
        patch("time.time_ns", lambda: next(ticks)),
    ):
        yield


def main() -> None:
    root, empty = first_tree(), directory({}, 0o700)
    with tempfile.TemporaryDirectory() as folder, nothing_random():
        path = Path(folder) / "image"
        empty_tree = first_session(path, root, empty)
        tree, pram = second_session(path, root)
        data = path.read_bytes()
    save = Save(
        expected_super_block(pram),
        {node.name: node for node in expected_nodes(pram)},
        {TREE.encode(): tree, EMPTY_TREE.encode(): empty_tree},
    )
    IMAGE.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    MANIFEST.write_text(text_of(manifest_of(save)))


if __name__ == "__main__":
    main()
