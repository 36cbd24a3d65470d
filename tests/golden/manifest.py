"""What is in a decoded image as JSON: the form of the golden image's manifest.

Names, targets and attributes are percent-encoded bytes, because JSON has only text; data is a SHA-256 of
whole pages.
"""

import json
import re
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from tests.golden.decoder import BYTE_STREAM, Inode, Node, Save, SuperBlock, Tree, walk

FOLDER = Path(__file__).parent
IMAGE = FOLDER / "image-v1.xz"
MANIFEST = FOLDER / "image-v1.json"


def manifest_of(save: Save) -> dict[str, Any]:
    """All that a reader can know of the image, frames of nodes, links and data left out."""
    return {
        "super_block": _super_block(save.super_block),
        "nodes": [_node(node) for _, node in sorted(save.nodes.items())],
        "trees": [_tree(name, tree) for name, tree in sorted(save.trees.items())],
        "inodes": [
            {"tree": _text(name)} | inode
            for name, tree in sorted(save.trees.items())
            for inode in _inodes(tree)
        ],
    }


def text_of(manifest: dict[str, Any]) -> str:
    """The manifest as JSON with a node, tree or inode to a line."""
    text = re.sub(r",\n {3,}", ", ", json.dumps(manifest, indent=1))
    return re.sub(r"\n {3,}|\n {2}(?=[]}])", "", text) + "\n"


def _super_block(block: SuperBlock) -> dict[str, Any]:
    return {
        "version": block.version,
        "uuid": block.uuid.hex(),
        "pfn": block.pfn,
        "other_pfn": block.other_pfn,
        "generation": block.generation,
        "frames": block.frames,
        "flags": block.flags,
        "saved_ns": block.saved_ns,
        "run": block.run.hex(),
        "saved_by": _text(block.saved_by),
    }


def _node(node: Node) -> dict[str, Any]:
    kind = "byte stream" if node.type == BYTE_STREAM else "page stream"
    result: dict[str, Any] = {"name": _text(node.name), "type": kind, "saved_ns": node.saved_ns}
    if node.name.endswith((b"-meta", b"-data")):
        return result  # what is in them is under "inodes"
    if node.type == BYTE_STREAM:
        return result | {"bytes": node.data_len, "sha256": _sha(node.content)}
    pages = [[page.flags, page.index, _sha(page.data)] for page in node.pages]
    return result | {"flags_index_sha256": pages}


def _tree(name: bytes, tree: Tree) -> dict[str, Any]:
    return {"tree": _text(name), "next_ino": tree.next_ino, "inodes": len(tree.inodes)}


def _inodes(tree: Tree) -> list[dict[str, Any]]:
    paths: dict[int, list[str]] = {}
    for path, ino in walk(tree):
        paths.setdefault(ino, []).append(_text(path or b"/"))
    return [{"paths": sorted(paths[ino])} | _inode(one) for ino, one in sorted(tree.inodes.items())]


def _inode(inode: Inode) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ino": inode.ino,
        "generation": inode.generation,
        "mode": f"{inode.mode:06o}",
        "uid": inode.uid,
        "gid": inode.gid,
        "nlink": inode.nlink,
        "atime": list(inode.atime),
        "mtime": list(inode.mtime),
        "ctime": list(inode.ctime),
    }
    if inode.mode & 0o170000 == 0o100000:
        result["size"] = inode.size
        result["first_count_sha256"] = _extents(inode.pages)
    if inode.target:
        result["target"] = _text(inode.target)
    if inode.rdev != (0, 0):
        result["major_minor"] = list(inode.rdev)
    if inode.xattrs:
        result["xattrs"] = {_text(name): _text(value) for name, value in inode.xattrs.items()}
    return result


def _extents(pages: dict[int, bytes]) -> list[list[Any]]:
    """Extents of pages without a hole in between: first page, their number, hash of all their bytes."""
    indices = sorted(pages)
    starts = [indices[0]] if indices else []
    starts += [after for before, after in pairwise(indices) if after != before + 1]
    extents: list[list[Any]] = []
    for start in starts:
        end = start
        while end in pages:
            end += 1
        data = b"".join(pages[index] for index in range(start, end))
        extents.append([start, end - start, _sha(data)])
    return extents


def _sha(data: bytes) -> str:
    return sha256(data).hexdigest()


def _text(data: bytes) -> str:
    return quote_from_bytes(data)
