"""All that a tree in memory holds, and what a load makes of the bytes of an image. No mount, no root."""

import contextlib
import hashlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple

from pramfs.errors import DamagedPage, PramError
from pramfs.pram.pram import Pram
from pramfs.saves.load import Recovered, load_tree
from pramfs.saves.save import Saver
from pramfs.saves.tree_nodes import tree_names
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.inodes import Directory, File, Inode, Symlink
from pramfs.tree.tree import Tree
from tests.support.watched_image import WatchedImage, image_of

NAME = "pramfs"
DEADLINE_S = 20  # of processor time, for what takes milliseconds

# All fields of an inode, last what is in it. That is for a file the digests of its pages by index, None for
# a page that a lazy load found damaged.
Fields = tuple[object, ...]
TreeState = dict[str, Fields]  # by path


class Verdict(NamedTuple):
    """What came of a load: a tree, or the message of a refusal."""

    tree: TreeState | None
    left_out: list[str]
    refusal: str
    damaged: frozenset[int] = frozenset()  # frames whose pages could not be read, with `lazy`
    more_lost: str = ""  # why there are no births and no reserved room, with `recover`


def load(
    content: bytes | bytearray,
    *,
    recover: bool = False,
    lazy: bool = False,
    save: bool = False,
    name: str = NAME,
) -> Verdict:
    """Load the tree of an image. Only a PramError is a refusal; any other exception is a bug.

    With `save` the tree is saved again, and must look the same when it is loaded then.
    """
    with deadline(), contextlib.closing(image_of(bytes(content))) as image:
        image.guarded = False  # it is not sane enough for that
        try:
            pram = Pram.open(image, arena="memory", accept_truncated=recover)
        except PramError as exc:
            return Verdict(None, [], _told(exc))
        try:
            return _load(pram, image, recover=recover, lazy=lazy, save=save, name=name)
        finally:
            pram.close()


def load_all(content: bytes | bytearray) -> tuple[dict[str, TreeState], str]:
    """Load every tree of an image, by name; and the message of a refusal, "" if there is none."""
    with contextlib.closing(image_of(bytes(content))) as image:
        try:
            pram = Pram.open(image, arena="memory")
        except PramError as exc:
            return {}, _told(exc)
        names = tree_names(pram.nodes)
        pram.close()
    verdicts = {name: load(content, name=name) for name in names}
    refusals = [verdict.refusal for verdict in verdicts.values() if verdict.tree is None]
    trees = {name: verdict.tree for name, verdict in verdicts.items() if verdict.tree is not None}
    return trees, "; ".join(refusals)


def tree_state(tree: Tree, damaged: set[int] | None = None) -> TreeState:
    """All that there is to see of a tree. Frames with damaged pages are added to `damaged`."""
    found: TreeState = {}
    unvisited: list[tuple[str, Inode]] = [("", tree.root)]
    while unvisited:
        path, inode = unvisited.pop()
        fields = (inode.ino, inode.generation, inode.mode, inode.uid, inode.gid, inode.nlink,
                  inode.flags)  # fmt: skip
        times = (inode.atime, inode.mtime, inode.ctime, inode.born)
        reserved = list(inode.reserved or ()) if isinstance(inode, File) else []
        xattrs = sorted((inode.xattrs or {}).items())
        found[path or "/"] = (
            *fields, *times, inode.rdev, inode.size, reserved, xattrs, _body(tree, inode, damaged)
        )  # fmt: skip
        if isinstance(inode, Directory):
            for name, child in inode.entries.items():
                unvisited.append((f"{path}/{name.decode(errors='surrogateescape')}", child))
    return found


def _load(
    pram: Pram, image: WatchedImage, *, recover: bool, lazy: bool, save: bool, name: str
) -> Verdict:
    tree = Tree(pram.arena, inodes_max=1 << 20, generation=1)
    recovered = Recovered() if recover else None
    try:
        load_tree(pram, name, tree, lazy=lazy, recover=recovered)
    except PramError as exc:
        return Verdict(None, [], _told(exc))
    damaged: set[int] = set()
    found = tree_state(tree, damaged if lazy else None)
    if save:
        _save_again(pram, image, tree, found, lazy)
    left_out, more_lost = (recovered.left_out, recovered.more_lost) if recovered else ([], "")
    return Verdict(found, left_out, "", frozenset(damaged), more_lost)


def _save_again(pram: Pram, image: WatchedImage, tree: Tree, found: TreeState, lazy: bool) -> None:
    try:
        Saver(pram, NAME, tree).save(final=True, progress=lambda frames: None)
    except PramError:
        return  # no room: a refusal too
    verdict = load(image.content(), lazy=lazy)
    assert verdict.tree == found, verdict.refusal


def _body(tree: Tree, inode: Inode, damaged: set[int] | None) -> object:
    if isinstance(inode, Symlink):
        return inode.target
    if not isinstance(inode, File):
        return None
    pages: dict[int, bytes | None] = {}
    for start, pfns in inode.pages.chunks() if inode.pages is not None else ():
        for index, pfn in enumerate(pfns, start):
            if pfn:
                pages[index] = _page(tree, inode, index, damaged)
    return pages


def _page(tree: Tree, file: File, index: int, damaged: set[int] | None) -> bytes | None:
    """The digest of a page; None for a damaged one, where there may be such."""
    try:
        return hashlib.sha256(tree.data.read(file, index * PAGE_SIZE, PAGE_SIZE)).digest()
    except DamagedPage as exc:
        if damaged is None:
            raise
        damaged.add(exc.args[0])
        return None


def _told(exc: PramError) -> str:
    told = str(exc)
    assert told, f"{type(exc).__name__} without a word"
    return told


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """Fail what goes round for ever, and say in which case."""

    def expire(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"a load took more than {DEADLINE_S} s")

    before = signal.signal(signal.SIGPROF, expire)
    signal.setitimer(signal.ITIMER_PROF, DEADLINE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
