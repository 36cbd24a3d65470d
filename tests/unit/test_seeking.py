"""lseek for data and holes: exact to the page, and in as many steps as there are pieces of data."""

import contextlib
import errno
import os

import pytest

from pramfs.storage.layout import PAGE_SIZE
from pramfs.tree.inodes import File
from pramfs.tree.pagemap import PageMap
from tests.support.refusals import refused
from tests.support.tree_volume import Volume

TIB = 1 << 40


@pytest.fixture
def volume() -> Volume:
    return Volume()


def pieces(volume: Volume, file: File) -> list[tuple[int, int]]:
    """The data of the file as cp finds it: (first byte, first byte of the hole behind)."""
    found: list[tuple[int, int]] = []
    at = 0
    with contextlib.suppress(OSError):
        while True:
            start = volume.tree.seek(file, at, os.SEEK_DATA)
            at = volume.tree.seek(file, start, os.SEEK_HOLE)
            found.append((start, at))
    return found


def test_data_and_holes_are_found_to_the_page(volume: Volume) -> None:
    file = volume.create("f")
    volume.tree.write(file, 2 * PAGE_SIZE + 5, b"x")
    volume.tree.write(file, 3 * PAGE_SIZE, b"y" * PAGE_SIZE)
    volume.tree.write(file, 9 * PAGE_SIZE, b"z" * 10)
    volume.truncate("f", 20 * PAGE_SIZE)
    assert pieces(volume, file) == [
        (2 * PAGE_SIZE, 4 * PAGE_SIZE),
        (9 * PAGE_SIZE, 10 * PAGE_SIZE),
    ]
    assert volume.tree.seek(file, 2 * PAGE_SIZE + 7, os.SEEK_DATA) == 2 * PAGE_SIZE + 7
    assert volume.tree.seek(file, 5, os.SEEK_HOLE) == 5


def test_the_end_of_a_file_is_a_hole(volume: Volume) -> None:
    file = volume.create("f", b"hello")
    assert pieces(volume, file) == [(0, 5)]


def test_a_file_without_data_is_one_hole(volume: Volume) -> None:
    file = volume.create("f")
    volume.truncate("f", TIB)
    assert pieces(volume, file) == []
    assert volume.tree.seek(file, 77, os.SEEK_HOLE) == 77


@pytest.mark.parametrize("whence", [os.SEEK_DATA, os.SEEK_HOLE])
@pytest.mark.parametrize("offset", [-1, 5, TIB])
def test_there_is_nothing_outside_of_the_file(volume: Volume, offset: int, whence: int) -> None:
    file = volume.create("f", b"hello")
    with refused(errno.ENXIO):
        volume.tree.seek(file, offset, whence)


def test_no_other_whence_is_known(volume: Volume) -> None:
    with refused(errno.EINVAL):
        volume.tree.seek(volume.create("f", b"hello"), 0, os.SEEK_END)


def test_ten_pages_in_a_tebibyte_are_ten_steps(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = volume.create("f")
    starts = [at * TIB // 10 // PAGE_SIZE * PAGE_SIZE for at in range(10)]
    for start in starts:
        volume.tree.write(file, start, b"x")
    volume.truncate("f", TIB)
    looked_at = []
    look = PageMap._chunk

    def counted(pages: PageMap, number: int) -> object:
        looked_at.append(number)
        return look(pages, number)

    monkeypatch.setattr(PageMap, "_chunk", counted)
    assert pieces(volume, file) == [(start, start + PAGE_SIZE) for start in starts]
    assert len(looked_at) <= 10 * len(starts)


def test_holes_are_found_after_a_load(volume: Volume) -> None:
    file = volume.create("f")
    volume.tree.write(file, 3000 * PAGE_SIZE, b"x")
    volume.tree.write(file, 7 * PAGE_SIZE, b"x")
    volume.save()
    volume.reopen()
    assert pieces(volume, volume.file("f")) == [
        (7 * PAGE_SIZE, 8 * PAGE_SIZE),
        (3000 * PAGE_SIZE, 3000 * PAGE_SIZE + 1),
    ]
