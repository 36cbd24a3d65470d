"""The backing store: opened, created, locked, grown, read, written, searched past its holes."""

import fcntl
import mmap
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs.errors import NotAnImage, PramError, SystemFault
from pramfs.storage.frames import FREE, Extent, FrameTable
from pramfs.storage.holes import Holes
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import PAGE_SIZE

F_ADD_SEALS = 1033
F_SEAL_GROW = 4

PAGE = b"p" * PAGE_SIZE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image"


@pytest.fixture
def image(path: Path) -> Iterator[Image]:
    with open_image(path, writable=True, create=True) as image:
        yield image


def sealed_image(frames: int) -> Image:
    """An image whose medium has no room for one byte more."""
    fd = os.memfd_create("sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, frames * PAGE_SIZE)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_GROW)
    return Image(Path("sealed"), fd, writable=True)


# --- opening -------------------------------------------------------------------------------------


def test_a_missing_image_is_created_empty_and_for_its_owner_only(image: Image, path: Path) -> None:
    assert image.frames == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_missing_image_is_not_created_unasked(path: Path) -> None:
    with pytest.raises(PramError, match="cannot open the image: No such file"):
        open_image(path, writable=True)
    assert not path.exists()


def test_a_directory_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(NotAnImage, match="neither a regular file nor a block device"):
        open_image(tmp_path, writable=False)


def test_a_fifo_is_no_image_and_opening_it_does_not_hang(path: Path) -> None:
    os.mkfifo(path)
    for writable in (False, True):
        with pytest.raises(NotAnImage, match="neither a regular file nor a block device"):
            open_image(path, writable=writable)


def test_a_file_longer_than_pfns_can_count_is_no_image() -> None:
    fd = os.memfd_create("long", os.MFD_CLOEXEC)
    os.truncate(fd, (1 << 44) + PAGE_SIZE)
    with pytest.raises(NotAnImage, match="more than 4294967296 frames"):
        open_image(f"/proc/self/fd/{fd}", writable=False)
    os.close(fd)


def test_an_image_that_was_opened_for_reading_cannot_be_written(path: Path) -> None:
    path.write_bytes(PAGE)
    with open_image(path, writable=False) as image, pytest.raises(OSError, match="Bad file"):
        image.write(0, b"x")
    assert path.read_bytes() == PAGE


# --- locks ---------------------------------------------------------------------------------------


def test_an_image_is_locked_for_one_and_free_after_it_is_closed(path: Path) -> None:
    first = open_image(path, writable=True, create=True)
    with open_image(path, writable=True) as second:
        assert first.try_lock()
        assert not second.try_lock()
        first.close()
        assert second.try_lock()


def test_the_process_that_serves_an_image_is_named_until_it_says_that_it_only_saves(
    image: Image, path: Path
) -> None:
    program = """
import sys
from pramfs.storage.image import open_image
image = open_image(sys.argv[1], writable=True)
image.mark_serving()
print(flush=True)
sys.stdin.readline()
image.unmark_serving()
print(flush=True)
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdout.readline()
        assert image.serving_pid() == server.pid
        server.stdin.write(b"\n")
        server.stdin.flush()
        server.stdout.readline()
        assert image.serving_pid() is None
        server.stdin.close()
    assert server.returncode == 0


# --- size ----------------------------------------------------------------------------------------


def test_a_grown_image_is_sparse_and_reads_as_zeros(image: Image, path: Path) -> None:
    image.grow(1000)
    assert image.frames == 1000
    assert path.stat().st_blocks == 0
    assert image.read(999) == bytes(PAGE_SIZE)


def test_an_image_never_shrinks(image: Image) -> None:
    image.grow(10)
    image.write(9 * PAGE_SIZE, PAGE)
    image.grow(5)
    assert image.read(9) == PAGE


def test_an_image_that_cannot_grow_says_so() -> None:
    with sealed_image(2) as image, pytest.raises(PramError, match="cannot grow to 12288 bytes"):
        image.grow(3)


def test_frames_are_counted_whole(image: Image, path: Path) -> None:
    path.write_bytes(PAGE + b"tail")
    with open_image(path, writable=False) as reopened:
        assert reopened.frames == 1


# --- reading and writing -------------------------------------------------------------------------


def test_what_was_written_is_read_back(image: Image) -> None:
    image.grow(4)
    image.write(PAGE_SIZE + 10, memoryview(b"hello"))
    assert image.read(1)[10:15] == b"hello"
    assert image.read_bytes(PAGE_SIZE + 10, 5) == b"hello"


def test_reading_past_the_end_is_an_error_and_never_short(image: Image) -> None:
    image.grow(2)
    with pytest.raises(SystemFault, match="pfn:1 is past the end"):
        image.read(1, 2)
    assert image.read_bytes(PAGE_SIZE, 2 * PAGE_SIZE) == bytes(PAGE_SIZE)


def test_a_write_that_the_medium_cuts_short_raises_the_reason() -> None:
    with sealed_image(2) as image, pytest.raises(OSError, match="not permitted"):
        image.write(PAGE_SIZE, PAGE * 2)


def test_what_is_given_back_takes_no_space_and_reads_as_zeros() -> None:
    """With pages as this kernel has them: the space that a file takes is counted in those."""
    size = mmap.PAGESIZE // PAGE_SIZE
    first, frames = 80 * size, 84 * size  # no frames there that only super blocks may take
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        image = open_image(file.name, writable=True)
        image.grow(frames)
        image.write(0, PAGE * frames)
        table = FrameTable(frames)
        for pfn in (first + size - 1, first + 3 * size):
            table.reserve(pfn, 1, "data page")
        mapping = image.map_for_holes(frames)
        assert mapping is not None
        holes = Holes(mapping, image.page_bytes)
        holes.give_back(table, [FREE], [Extent(first, 4 * size)])
        holes.close()
        assert os.stat(file.name).st_blocks == (frames - 2 * size) * PAGE_SIZE // 512
        kept = first + size
        assert image.read_bytes(0, frames * PAGE_SIZE) == (
            PAGE * kept + bytes(2 * size * PAGE_SIZE) + PAGE * (frames - kept - 2 * size)
        )
        image.close()


def test_a_read_only_image_cannot_be_punched(path: Path) -> None:
    path.write_bytes(PAGE)
    with open_image(path, writable=False) as image:
        assert image.map_for_holes(1) is None


def test_an_image_on_a_tmpfs_is_in_memory() -> None:
    with (
        tempfile.NamedTemporaryFile(dir="/dev/shm") as file,
        open_image(file.name, writable=False) as image,
    ):
        assert image.in_memory()


# --- searching -----------------------------------------------------------------------------------


def test_a_search_reads_the_data_and_skips_the_holes(image: Image) -> None:
    image.grow(1 << 20)
    for pfn in (0, 1, 5000, (1 << 20) - 1):
        image.write(pfn * PAGE_SIZE, PAGE)
    found = list(image.data_ranges())
    assert sum(len(data) for _, data in found) < 1 << 20
    for pfn in (0, 1, 5000, (1 << 20) - 1):
        (page,) = (
            data[(pfn - first) * PAGE_SIZE :][:PAGE_SIZE]
            for first, data in found
            if first <= pfn < first + len(data) // PAGE_SIZE
        )
        assert page == PAGE


@pytest.mark.parametrize("block", [512, 1024, 2048])
def test_pages_are_found_whole_where_the_file_system_has_smaller_blocks(
    image: Image, block: int
) -> None:
    """A copy that keeps holes leaves some in the middle of a page there, even at its start."""

    class SmallBlocks(Image):
        def _seek(self, offset: int, whence: int, *, at_end: int, unsupported: int) -> int:
            while offset < self.size_bytes:
                data = bool(self.read_bytes(offset, block).strip(b"\0"))
                if data == (whence == os.SEEK_DATA):
                    return offset
                offset = (offset // block + 1) * block
            return at_end

    image.grow(6)
    image.write(PAGE_SIZE, b"begins")
    image.write(3 * PAGE_SIZE + 2048, b"ends")
    small = SmallBlocks(image.path, os.dup(image._fd), writable=False)
    found = dict(small.data_ranges())
    assert {pfn: (len(data), data.strip(b"\0")) for pfn, data in found.items()} == {
        1: (PAGE_SIZE, b"begins"),
        3: (PAGE_SIZE, b"ends"),
    }
    small.close()


def test_an_image_of_zeros_is_blank_whether_they_are_holes_or_not(image: Image) -> None:
    image.grow(100)
    assert image.is_blank()
    image.write(0, bytes(PAGE_SIZE))
    assert image.is_blank()
    image.write(50 * PAGE_SIZE + 7, b"\1")
    assert not image.is_blank()


def test_a_tail_of_less_than_a_page_counts_when_it_is_asked_whether_an_image_is_blank(
    path: Path,
) -> None:
    path.write_bytes(bytes(PAGE_SIZE) + b"tail")
    with open_image(path, writable=False) as image:
        assert not image.is_blank()
