"""Load a tree from its nodes: read its records, verify its pages, and take over its frames."""

import bisect
import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from pramfs.errors import DamagedTree, NoSuchNode, PramError
from pramfs.pram.links import Chain
from pramfs.pram.pram import Pram
from pramfs.pram.verify import FramesRead, Verification
from pramfs.saves import codec
from pramfs.saves.codec import Decoded
from pramfs.saves.file_paths import listed, paths_of
from pramfs.saves.more import More, apply_more, decode_more
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, MORE_SUFFIX, has_tree
from pramfs.storage import layout
from pramfs.storage.arena import Progress
from pramfs.storage.extents import extents_of
from pramfs.storage.layout import BYTE_STREAM, PAGE_DATA, PAGE_STREAM
from pramfs.storage.regions import Regions
from pramfs.tree.inodes import ROOT_INO, Directory, File
from pramfs.tree.pagemap import PageMap
from pramfs.tree.tree import Tree


@dataclass(slots=True)
class Recovered:
    """What a load with `recover` has left out: the paths of files, and why births and reserved room."""

    left_out: list[str] = field(default_factory=list)
    more_lost: str = ""


class TreeLoad:
    """A load of a tree in two steps: entering it starts other processes that verify, `into` fills the tree.

    The caller may do something else in between. Forks, so it must not be entered while other threads run.
    Raises NoSuchNode when there is no such tree, and DamagedTree when its metadata cannot be read. With
    `lazy`, pages are verified when they are first read; with `shared`, the nodes stay a tree of their own.
    What is in `read` is not read again. `progress` is called with numbers of verified pages.
    """

    def __init__(
        self,
        pram: Pram,
        name: str,
        *,
        lazy: bool = False,
        shared: bool = False,
        read: FramesRead | None = None,
        progress: Progress = lambda frames: None,
    ) -> None:
        if not has_tree(pram, name):
            raise NoSuchNode(name)
        self._pram = pram
        self._name = name
        self._lazy = lazy
        self._shared = shared
        with _damage_of(name):
            self._metadata = _read_stream(pram, name + META_SUFFIX)
            data = pram.prepare_load(name + DATA_SUFFIX, PAGE_STREAM)
        data.keep()
        self._chain = data.chain
        if read is None and pram.arena.table.repeats:
            read = FramesRead(len(pram.arena.table))
        chain = Chain() if lazy else self._chain
        self._verification = Verification(pram.image, chain, progress, read)

    def __enter__(self) -> "TreeLoad":
        self._verification.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._verification.__exit__(*exc)

    def into(self, tree: Tree, recover: Recovered | None = None) -> None:
        """Fill the empty `tree`, completely or not at all.

        Raises DamagedTree, naming the files, when a page is damaged. With `recover`, these files are left
        out instead, and listed there.
        """
        pram, name, chain = self._pram, self._name, self._chain
        with _damage_of(name):
            decoded = codec.decode_tree(self._metadata)
            map_pages(decoded, chain)
            more = _read_more(pram, name, recover)
        bad_files = _files_at(self._verification.damaged(), decoded)
        paths = paths_of(decoded.inodes[ROOT_INO], bad_files)
        if paths and recover is None:
            raise DamagedTree(name, f"{len(paths)} damaged: {listed(paths)}")
        _take_over(pram, name, chain, shared=self._shared)
        if self._lazy:
            pram.arena.verify_on_first_read(chain.extents)
        if recover is not None:
            recover.left_out += paths
            _leave_out(pram, decoded, bad_files)
        pages = sum(file.pages.count for file in decoded.files if file.pages is not None)
        tree.adopt(
            decoded.inodes,
            decoded.next_ino,
            metadata_bytes=len(self._metadata),
            pages=pages,
            places=decoded.places if not bad_files else None,
        )
        if more is not None:
            apply_more(more, tree.inodes, tree.data.reservations)
            for ino, _, _ in more.reserved if pram.arena.table.repeats else ():
                file = tree.inodes.get(ino)
                if isinstance(file, File):
                    tree.data.end_shared_promises(file)
        tree.space.relocations = _banned_pages(chain, pram.arena.table.banned)


def load_tree(
    pram: Pram,
    name: str,
    tree: Tree,
    *,
    lazy: bool = False,
    recover: Recovered | None = None,
    read: FramesRead | None = None,
    progress: Progress = lambda frames: None,
) -> None:
    """Fill the empty `tree` with the tree `name` of the image: both steps of a `TreeLoad` in one."""
    with TreeLoad(pram, name, lazy=lazy, read=read, progress=progress) as load:
        load.into(tree, recover)


@contextlib.contextmanager
def _damage_of(name: str) -> Iterator[None]:
    """Turn errors of reading and decoding a tree into DamagedTree."""
    try:
        yield
    except (PramError, ValueError) as exc:
        raise DamagedTree(name, exc) from exc


def _read_stream(pram: Pram, node: str) -> bytes:
    stream = pram.prepare_load(node, BYTE_STREAM)
    try:
        return stream.read(pram.node(node).data_len)
    finally:
        stream.keep()


def _read_more(pram: Pram, name: str, recover: Recovered | None) -> More | None:
    """Return what the tree's node for more holds, None if it has none, or it is damaged and may be lost."""
    node = pram.nodes.get(name + MORE_SUFFIX)
    if node is None:
        return None
    try:
        return decode_more(_read_stream(pram, node.name), len(pram.arena.table))
    except (PramError, ValueError) as exc:
        if recover is None:
            raise
        recover.more_lost = str(exc)
        return None
    finally:
        node.chain = None


def map_pages(decoded: Decoded, chain: Chain) -> None:
    """Map the pages of every file. Raises ValueError if the entries do not match the files."""
    entries = chain.entries
    if sum(decoded.pages) != len(entries) or entries.flags.count(PAGE_DATA) != len(entries):
        raise ValueError(f"{len(entries)} data pages are not those of the files")
    at = 0
    for file, pages in zip(decoded.files, decoded.pages, strict=True):
        if not pages:
            continue
        end = at + pages
        indices = entries.indices[at:end]
        file.pages = PageMap()
        try:
            file.pages.load(indices, entries.pfns[at:end])
        except ValueError as exc:
            raise ValueError(f"inode {file.ino}: {exc}") from exc
        if indices[-1] >= -(-file.length // layout.PAGE_SIZE):
            raise ValueError(f"inode {file.ino} has pages past its end")
        at = end


def _files_at(positions: list[int], decoded: Decoded) -> list[File]:
    """Return the files with data pages at these ascending positions of the chain."""
    ends = list(itertools.accumulate(decoded.pages))
    numbers = (bisect.bisect_right(ends, at) for at in positions)
    return [decoded.files[number] for number, _ in itertools.groupby(numbers)]


def _take_over(pram: Pram, name: str, chain: Chain, *, shared: bool) -> None:
    """Make the tree the owner of the data frames, or a holder beside the node, which keeps its links."""
    node = pram.node(name + DATA_SUFFIX)
    if shared:
        for extent in chain.extents:
            pram.arena.table.share(extent.pfn, extent.frames)
    else:
        node.owned = list(extents_of(chain.links))
    node.chain = pram.node(name + META_SUFFIX).chain = None
    for pfn, csums in chain.csums_by_extent():
        pram.arena.set_csums(pfn, csums)


def _leave_out(pram: Pram, decoded: Decoded, bad_files: list[File]) -> None:
    """Remove damaged files from the tree; the next save frees their frames."""
    bad = set(bad_files)
    for inode in decoded.inodes.values():
        if isinstance(inode, Directory):
            for name in [name for name, child in inode.entries.items() if child in bad]:
                del inode.entries[name]
    for file in bad_files:
        del decoded.inodes[file.ino]
        for extent in file.pages.cut(0) if file.pages is not None else ():
            pram.arena.release(extent.pfn, extent.frames)


def _banned_pages(chain: Chain, banned: Regions) -> int:
    """Count the data pages in banned frames."""
    if not banned:
        return 0
    return sum(
        sum(1 for pfn in range(extent.pfn, extent.pfn + extent.frames) if pfn in banned)
        for extent in chain.extents
        if banned.overlaps(extent.pfn, extent.frames)
    )
