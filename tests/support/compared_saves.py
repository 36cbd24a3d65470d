"""Every save of a tree, compared with what it would be if nothing were copied from the last one."""

from collections.abc import Callable
from typing import Any

from pramfs.pram.links import read_stream
from pramfs.pram.nodes import Node
from pramfs.pram.pram import Pram
from pramfs.pram.reserve import chain_of
from pramfs.saves import codec, last_save, more, save, staging
from pramfs.saves.codec import encode_tree
from pramfs.saves.more import apply_births, decode_more
from pramfs.saves.tree_nodes import DATA_SUFFIX, META_SUFFIX, MORE_SUFFIX
from pramfs.tree import attributes
from pramfs.tree.inodes import File
from pramfs.tree.tree import Tree


def compare_saves() -> None:
    """Compare each save in this process from now on; let it copy as much as it can, by tiny groups."""
    saved_groups_users = (attributes, codec, more, staging)
    for module in saved_groups_users:
        module.GROUP_SHIFT = 1  # type: ignore[attr-defined]
    last_save._WORTH_COPYING = 0
    last_save._is_fast = lambda image: True
    save.stage_tree = _stage_and_compare  # type: ignore[attr-defined]


def _stage_and_compare(
    pram: Pram, name: str, tree: Tree, *args: Any, **kwargs: Any
) -> Callable[[], int]:
    unsaved = staging.stage_tree(pram, name, tree, *args, **kwargs)
    require_whole(pram, name, tree)
    return unsaved


def require_whole(pram: Pram, name: str, tree: Tree) -> None:
    """Fail unless the nodes of the tree, which were staged just now, hold all of it."""
    named = [inode for inode in tree.inodes.values() if inode.nlink]
    files = [inode for inode in named if isinstance(inode, File) and inode.pages is not None]
    chunks = [(start, chunk) for file in files for start, chunk in file.pages.chunks()]  # type: ignore[union-attr]
    pages = [(start + at, pfn) for start, chunk in chunks for at, pfn in enumerate(chunk) if pfn]
    metadata = b"".join(encode_tree(tree.next_ino, tree.inodes))
    assert _contents(pram, pram.node(name + META_SUFFIX)) == metadata
    entries = chain_of(pram.arena, pram.current.uuid, pram.node(name + DATA_SUFFIX)).entries
    assert list(zip(entries.indices, entries.pfns, strict=True)) == pages
    assert list(entries.csums) == [pram.arena.csums(pfn, 1)[0] for _, pfn in pages]
    if name + MORE_SUFFIX in pram.nodes:
        births = decode_more(_contents(pram, pram.node(name + MORE_SUFFIX)), len(pram.arena.table))
        born = {inode: inode.born for inode in named}
        apply_births(births, {inode.ino: inode for inode in named})
        assert {inode: inode.born for inode in named} == born


def _contents(pram: Pram, node: Node) -> bytes:
    entries = chain_of(pram.arena, pram.current.uuid, node).entries
    return read_stream(pram.arena.read, entries, node.data_len, node.name)
