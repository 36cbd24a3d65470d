"""Trees for tests of the format, written down once: planted with pramfs, expected from a decoder.

A Specimen is one inode with all that the format keeps of it. `plant` makes it in a tree of pramfs;
`expected` says what a decoder must find, in the decoder's own terms; `found` says the same of a tree that
pramfs has loaded. A specimen that stands in two directories is a hard link.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from pramfs.tree.attributes import Changes
from pramfs.tree.inodes import Directory, File, Inode, Special, Symlink
from pramfs.tree.tree import Owner, Tree
from tests.golden import decoder
from tests.golden.decoder import PAGE, Time

NS = 10**9


@dataclass(eq=False)
class Specimen:
    """An inode to be. Times in nanoseconds; `ino` and `generation` are filled in by `plant`."""

    mode: int
    uid: int = 0
    gid: int = 0
    atime: int = 0
    mtime: int = 0
    ctime: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    size: int = 0
    pages: dict[int, bytes] = field(default_factory=dict)  # whole pages, zeros past the end
    target: bytes = b""
    rdev: int = 0
    entries: dict[bytes, "Specimen"] = field(default_factory=dict)
    ino: int = 0
    generation: int = 0


def regular(data: bytes, mode: int = 0o644) -> Specimen:
    """A file without holes."""
    pages = {
        at // PAGE: data[at : at + PAGE].ljust(PAGE, b"\0") for at in range(0, len(data), PAGE)
    }
    return Specimen(stat.S_IFREG | mode, size=len(data), pages=pages)


def directory(entries: dict[bytes, Specimen], mode: int = 0o755) -> Specimen:
    return Specimen(stat.S_IFDIR | mode, entries=entries)


# --- into a tree of pramfs ----------------------------------------------------------------------


def plant(tree: Tree, root: Specimen) -> None:
    """Make `root` and everything below it that is not in `tree` yet; set all attributes."""
    if not root.ino:
        _note_number(root, tree.make_root(root.mode, Owner(0, 0)))
    _plant_below(tree, root)
    for specimen in inodes_below(root):
        _set_attributes(tree, specimen)


def uproot(tree: Tree, parent: Specimen, name: bytes) -> None:
    """Remove a name of something that is no directory."""
    tree.unlink(tree.directory(parent.ino), name)
    del parent.entries[name]


def inodes_below(root: Specimen) -> Iterator[Specimen]:
    """`root` and everything below it, each once."""
    seen: set[int] = set()
    unvisited = [root]
    while unvisited:
        specimen = unvisited.pop()
        if id(specimen) not in seen:
            seen.add(id(specimen))
            yield specimen
            unvisited.extend(specimen.entries.values())


def _plant_below(tree: Tree, parent: Specimen) -> None:
    home = tree.directory(parent.ino)
    for name, specimen in parent.entries.items():
        if name not in home.entries:
            if specimen.ino:
                tree.link(tree.get(specimen.ino), home, name)
            else:
                _create(tree, home, name, specimen)
        _plant_below_if_directory(tree, specimen)


def _plant_below_if_directory(tree: Tree, specimen: Specimen) -> None:
    if stat.S_ISDIR(specimen.mode):
        _plant_below(tree, specimen)


def _create(tree: Tree, home: Directory, name: bytes, specimen: Specimen) -> None:
    inode = tree.create(
        home, name, specimen.mode, Owner(0, 0), rdev=specimen.rdev, target=specimen.target
    )
    _note_number(specimen, inode)
    if isinstance(inode, File):
        for index, page in specimen.pages.items():
            start = index * PAGE
            tree.write(inode, start, page[: min(PAGE, specimen.size - start)])
        tree.setattr(inode, Changes(size=specimen.size))


def _note_number(specimen: Specimen, inode: Inode) -> None:
    specimen.ino, specimen.generation = inode.ino, inode.generation


def _set_attributes(tree: Tree, specimen: Specimen) -> None:
    inode = tree.get(specimen.ino)
    for attribute, value in specimen.xattrs.items():
        tree.setxattr(inode, attribute, value)
    tree.setattr(inode, Changes(uid=specimen.uid, gid=specimen.gid))  # takes set-id bits away
    tree.setattr(
        inode,
        Changes(
            mode=specimen.mode,
            atime=specimen.atime,
            mtime=specimen.mtime,
            ctime=specimen.ctime,
        ),
    )


# --- in the decoder's terms ---------------------------------------------------------------------


def expected(tree: Tree, root: Specimen) -> decoder.Tree:
    """What a decoder must find of `root`, which has been planted in `tree`."""
    specimens = list(inodes_below(root))
    names: dict[int, int] = {}
    for specimen in specimens:
        for child in specimen.entries.values():
            names[child.ino] = names.get(child.ino, 0) + 1
    inodes = {one.ino: _expected_inode(one, names.get(one.ino, 0)) for one in specimens}
    return decoder.Tree(tree.next_ino, inodes)


def _expected_inode(specimen: Specimen, names: int) -> decoder.Inode:
    nlink = names
    if stat.S_ISDIR(specimen.mode):
        nlink = 2 + sum(stat.S_ISDIR(child.mode) for child in specimen.entries.values())
    return decoder.Inode(
        ino=specimen.ino,
        generation=specimen.generation,
        mode=specimen.mode,
        uid=specimen.uid,
        gid=specimen.gid,
        nlink=nlink,
        atime=_time(specimen.atime),
        mtime=_time(specimen.mtime),
        ctime=_time(specimen.ctime),
        size=specimen.size,
        pages=dict(specimen.pages),
        entries={name: child.ino for name, child in specimen.entries.items()},
        target=specimen.target,
        rdev=(os.major(specimen.rdev), os.minor(specimen.rdev)),
        xattrs=dict(specimen.xattrs),
    )


def found(tree: Tree) -> decoder.Tree:
    """What pramfs has in `tree`."""
    return decoder.Tree(
        tree.next_ino, {ino: _found_inode(tree, inode) for ino, inode in tree.inodes.items()}
    )


def _found_inode(tree: Tree, inode: Inode) -> decoder.Inode:
    result = decoder.Inode(
        ino=inode.ino,
        generation=inode.generation,
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        nlink=inode.nlink,
        atime=_time(inode.atime),
        mtime=_time(inode.mtime),
        ctime=_time(inode.ctime),
        xattrs=dict(inode.xattrs or {}),
    )
    if isinstance(inode, File):
        result.size = inode.size
        result.pages = dict(_found_pages(tree, inode))
    elif isinstance(inode, Directory):
        result.entries = {name: child.ino for name, child in inode.entries.items()}
    elif isinstance(inode, Symlink):
        result.target = inode.target
    elif isinstance(inode, Special):
        result.rdev = (os.major(inode.rdev), os.minor(inode.rdev))
    return result


def _found_pages(tree: Tree, file: File) -> Iterator[tuple[int, bytes]]:
    for start, pfns in file.pages.chunks() if file.pages is not None else ():
        for at, pfn in enumerate(pfns):
            if pfn:
                yield start + at, tree.arena.read(pfn)


def _time(ns: int) -> Time:
    return Time(*divmod(ns, NS))
