"""List all files of an image without mounting it, with the SHA-256 of their data.

    python examples/walk_tree.py IMAGE [TREE]

Shows the files as of the last save. Needs no root and no FUSE; the image may be mounted meanwhile.
"""

import hashlib
import os
import stat
import sys

from pramfs.errors import PramError
from pramfs.offline.reader import File, Symlink, TreeReader, open_tree


def sha256(tree: TreeReader, file: File) -> str:
    """Return the SHA-256 of a file's data, or why it cannot be read."""
    digest = hashlib.sha256()
    try:
        for piece in tree.bytes_of(file):  # in order, holes as zeros, every page verified
            digest.update(piece)
    except PramError as exc:
        return f"damaged: {exc}"
    return digest.hexdigest()


def main() -> None:
    """Print a line for each file: mode, size in bytes, path, and its hash or target."""
    if len(sys.argv) not in {2, 3}:
        sys.exit(__doc__)
    # Names may be any bytes, and printing them must not fail.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with open_tree(*sys.argv[1:]) as tree:
            for entry in tree.walk(tree.find("")):
                inode = entry.inode
                more = ""
                if isinstance(inode, File):
                    more = "  " + sha256(tree, inode)
                elif isinstance(inode, Symlink):
                    more = " -> " + os.fsdecode(inode.target)
                path = "/" + os.fsdecode(entry.path)
                print(f"{stat.filemode(inode.mode)} {inode.size:>10} {path}{more}")
    except PramError as exc:
        sys.exit(f"walk_tree: {exc}")


if __name__ == "__main__":
    main()
