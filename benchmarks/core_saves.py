"""Saves in the core, without a mount: `python -m benchmarks.core_saves pages|files COUNT`.

Saves COUNT pages in 16 files, or COUNT files of 512 bytes a hundred to a directory, then five times again
after a change: of 1 % of the pages at random places, or of 100 of the files. Prints the milliseconds of
processor time of the first save and of each later one. With PYTHONPATH at another checkout it measures that
one; run both in alternation.
"""

import os
import random
import sys
import tempfile
import time
from pathlib import Path

from pramfs.pram.pram import Pram
from pramfs.saves.save import Saver
from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.inodes import Directory, File
from pramfs.tree.tree import Owner, Tree

_CHANGES = 5
_BIG_FILES = 16
_PAGES_AT_ONCE = 256
_CHANGED_INVERSE = 100  # one page in so many
_FILES_PER_DIRECTORY = 100
_CHANGED_FILES = 100
_SMALL_BYTES = 512
_OWNER = Owner(0, 0)


def main() -> None:
    """Fill a tree, save it, change and save it again; print what each save took."""
    what, count = sys.argv[1], int(sys.argv[2])
    fill, change = {"pages": (_fill_big, _change_pages), "files": (_fill_many, _change_files)}[what]
    frames = 2 * count + count // 4 + 65_536
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,  # an image in memory
        Pram.create(Path(directory) / "image", frames) as pram,
    ):
        tree = Tree(pram.arena, inodes_max=frames, generation=pram.current.generation)
        files = fill(tree, tree.make_root(0o40755, _OWNER), count)
        saver = Saver(pram, "pramfs", tree)
        took = [_save(saver, pram)]
        numbers = random.Random(0)
        for _ in range(_CHANGES):
            change(tree, files, numbers)
            took.append(_save(saver, pram))
    print(*(f"{ms:.1f}" for ms in took))


def _save(saver: Saver, pram: Pram) -> float:
    """Save, after the checksums that idle time would have computed; return the ms of processor time."""
    while pram.arena.sum_some():
        pass
    start = time.process_time()
    saver.save(final=False, progress=lambda pages: None)
    return (time.process_time() - start) * 1000


def _fill_big(tree: Tree, root: Directory, pages: int) -> list[File]:
    files = [_new_file(tree, root, b"file%d" % number) for number in range(_BIG_FILES)]
    for file in files:
        for first in range(0, pages // _BIG_FILES, _PAGES_AT_ONCE):
            tree.data.write(file, first * PAGE_SIZE, os.urandom(PAGE_SIZE) * _PAGES_AT_ONCE)
    return files


def _change_pages(tree: Tree, files: list[File], numbers: random.Random) -> None:
    each = files[0].length // PAGE_SIZE
    for file in files:
        tree.note_change(file)
        for page in numbers.sample(range(each), each // _CHANGED_INVERSE):
            tree.data.write(file, page * PAGE_SIZE, os.urandom(PAGE_SIZE))


def _fill_many(tree: Tree, root: Directory, count: int) -> list[File]:
    files: list[File] = []
    for first in range(0, count, _FILES_PER_DIRECTORY):
        directory = tree.create(root, b"d%d" % first, 0o40755, _OWNER)
        assert isinstance(directory, Directory)
        for number in range(first, min(first + _FILES_PER_DIRECTORY, count)):
            files.append(_new_file(tree, directory, b"f%d" % number))
            tree.data.write(files[-1], 0, os.urandom(_SMALL_BYTES))
    return files


def _change_files(tree: Tree, files: list[File], numbers: random.Random) -> None:
    for file in numbers.sample(files, _CHANGED_FILES):
        tree.note_change(file)
        tree.data.write(file, 0, os.urandom(_SMALL_BYTES))


def _new_file(tree: Tree, parent: Directory, name: bytes) -> File:
    file = tree.create(parent, name, 0o100644, _OWNER)
    assert isinstance(file, File)
    return file


if __name__ == "__main__":
    main()
