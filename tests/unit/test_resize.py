"""Images made as short as what they hold, and as long again."""

import errno
import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from pramfs.errors import PramError
from pramfs.offline.check import check_image
from pramfs.offline.reader import files_at, open_tree
from pramfs.pram import resize
from pramfs.pram.pram import Pram
from pramfs.storage import layout, superblock
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE
from tests.support.image_files import BIG, flip, frames_of, make_image
from tests.support.page_images import page_image
from tests.support.watched_image import kernel_with_pages

FRAMES = 4096


def spread_image(path: Path) -> Path:
    """An image of 16 MiB with much at its end: what was below that is gone."""
    content = bytes(range(250)) * 8 * PAGE_SIZE
    make_image(path, frames=FRAMES)
    with Pram.open(path) as pram:
        for name in ("gone", "kept"):
            with pram.prepare_save(name, BYTE_STREAM) as stream:
                stream.write(content if name == "kept" else bytes(1500 * PAGE_SIZE))
        pram.publish()
        pram.free("gone")
        pram.publish()
    return path


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return open_image(spread_image(tmp_path / "image"), writable=True)


def fail(*args: object) -> bytes:
    raise AssertionError(args)


def content_of(path: Path) -> bytes:
    with open_tree(path) as reader:
        ((_, file),) = files_at(reader, ["/big"])
        return b"".join(reader.bytes_of(file))


def stream_of(image: Image, name: str) -> bytes:
    with Pram.open(image) as pram:
        stream = pram.prepare_load(name, BYTE_STREAM)
        stream.keep()
        return stream.read(1 << 30)


def test_an_image_gets_as_short_as_what_it_holds(image: Image) -> None:
    before = stream_of(image, "kept")
    used = superblock.require(image).frames_used
    resize.shorten(image)
    block = superblock.require(image)
    assert used <= block.frames <= used * 1.05
    assert image.path.stat().st_size == block.frames * PAGE_SIZE
    assert check_image(image).clean
    assert stream_of(image, "kept") == before


def test_both_super_blocks_know_the_new_length(image: Image) -> None:
    resize.shorten(image)
    block = superblock.require(image)
    image.write(block.pfn * PAGE_SIZE, bytes(PAGE_SIZE))
    assert superblock.require(image).frames == block.frames


def test_it_gets_as_long_again_and_takes_new_nodes(image: Image) -> None:
    resize.shorten(image)
    resize.lengthen(image, FRAMES)
    assert superblock.require(image).frames == FRAMES
    assert check_image(image).clean
    with Pram.open(image) as pram:
        with pram.prepare_save("more", BYTE_STREAM) as stream:
            stream.write(bytes(1500 * PAGE_SIZE))
        pram.publish()
    assert check_image(image).clean


def test_getting_longer_reads_super_blocks_and_nothing_else(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim after a kexec has little memory, however large the image is."""
    resize.shorten(image)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "read", fail)
        resize.lengthen(image, FRAMES)
    assert superblock.require(image).frames == FRAMES
    assert check_image(image).clean


def test_what_was_known_of_the_save_is_known_of_the_longer_one(image: Image) -> None:
    with Pram.open(image) as pram:
        pram.publish(flags=layout.SUPER_INCOMPLETE)
    resize.lengthen(image, FRAMES * 2)
    assert superblock.require(image).flags == layout.SUPER_INCOMPLETE | layout.SUPER_PAIR


def test_an_image_that_was_cut_gets_no_longer(image: Image) -> None:
    size = image.size_bytes - PAGE_SIZE
    image.cut(size)
    with pytest.raises(PramError, match="truncated"):
        resize.lengthen(image, FRAMES)
    assert image.path.stat().st_size == size


@pytest.mark.parametrize("step", ["second publish", "cut"])
def test_it_gets_as_long_again_when_shortening_has_failed(
    image: Image, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is as long as it was, and the save in force says otherwise."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    publish, calls = Pram.publish, iter(range(10))

    def fail(*args: object) -> None:
        if step == "cut" or next(calls) == 1:
            raise full
        publish(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        if step == "cut":
            patch.setattr(Image, "cut", fail)
        else:
            patch.setattr(Pram, "publish", fail)
        with pytest.raises(OSError, match="No space left"):
            resize.shorten(image)
    resize.lengthen(image, FRAMES)
    assert superblock.require(image).frames == FRAMES
    assert check_image(image).clean


def test_shortening_twice_changes_nothing_more(image: Image) -> None:
    resize.shorten(image)
    frames = image.frames
    resize.shorten(image)
    assert frames * 0.99 <= image.frames <= frames


def test_a_tree_comes_along(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image")
    with open_image(path, writable=True) as image:
        resize.shorten(image)
        assert image.frames < 512
        assert check_image(image).clean
    assert content_of(path) == BIG


def test_a_damaged_page_stays_damaged_and_is_named(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image")
    flip(path, frames_of(path, "big")[7])
    with open_image(path, writable=True) as image:
        resize.shorten(image)
        assert any("/big" in line for line in check_image(image).damage)


def test_what_is_no_image_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"x" * 8 * PAGE_SIZE)
    with open_image(path, writable=True) as image, pytest.raises(PramError, match="not a pram"):
        resize.shorten(image)
    assert path.read_bytes() == b"x" * 8 * PAGE_SIZE


def scattered(pages: int, holders: int) -> list[int]:
    numbers = list(range(pages)) * holders
    random.Random(1).shuffle(numbers)
    return numbers


# The numbers of the pages of each stream: pages of one number share a frame.
SHARING: dict[str, list[Sequence[int]]] = {
    "nothing shared": [range(3000)],
    "a file and 8 clones": [[*range(2000)] * 9],
    "a file and 20 clones": [[*range(1000)] * 21],
    "a file and 300 clones": [[*range(300)] * 301],
    "snapshots": [range(1000)] * 30,
    "many small snapshots": [range(at, at + 3) for at in range(1200)],
    "equal pages": [[0] * 20_000, range(600)],
    "equal pages, scattered": [scattered(700, 40)],
}


def content(image: Image) -> dict[str, list[bytes]]:
    """The pages of all streams; their first bytes."""
    with Pram.open(image) as pram:
        return {
            name: [image.read(pfn)[:8] for pfn in node.chain.entries.pfns]
            for name, node in pram.nodes.items()
            if node.chain is not None
        }


def shared_image(path: Path, sharing: str, room: float, gap: float) -> Image:
    """An image of that many times the frames that are in use, the first ones of which are free."""
    streams = SHARING[sharing]
    pages = 1 + max(max(stream) for stream in streams)
    used = pages + sum(-(-len(stream) // 169) + 1 for stream in streams)
    frames = int(used * room) + layout.slots_below(int(used * room))
    page_image(path, streams, frames, filled=True, gap=int(used * gap))
    return open_image(path, writable=True)


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize(("room", "gap"), [(1, 0), (1.1, 0), (1.1, 0.05), (1.3, 0.3), (4, 2.9)])
def test_it_gets_as_short_however_many_share_its_pages(
    tmp_path: Path, sharing: str, room: float, gap: float
) -> None:
    with shared_image(tmp_path / "image", sharing, room, gap) as image:
        before = content(image)
        used = superblock.require(image).frames_used
        resize.shorten(image)
        block = superblock.require(image)
        assert block.frames_used == used
        assert used <= block.frames <= used * 1.05
        assert image.path.stat().st_size == block.frames * PAGE_SIZE
        assert check_image(image).clean
        assert content(image) == before
        resize.lengthen(image, FRAMES * 4)
        with Pram.open(image) as pram:
            with pram.prepare_save("more", BYTE_STREAM) as stream:
                stream.write(bytes(PAGE_SIZE))
            pram.publish()
        assert check_image(image).clean


def test_a_stream_without_pages_has_no_links_to_move(tmp_path: Path) -> None:
    """As the data of an empty tree."""
    with shared_image(tmp_path / "image", "a file and 300 clones", 1.3, 0.3) as image:
        with Pram.open(image) as pram:
            with pram.prepare_save("empty", BYTE_STREAM):
                pass
            pram.publish()
        before = content(image)
        resize.shorten(image)
        assert image.frames <= superblock.require(image).frames_used * 1.05
        assert check_image(image).clean
        assert content(image) == before


def shorten_until_killed(image: Image, saves: int) -> None:
    """Shorten it in a process that ends after so many saves, or after all, before it cuts the file."""
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        return
    publish, left = Pram.publish, [saves]

    def counted(pram: Pram) -> None:
        if not left[0]:
            os._exit(0)
        left[0] -= 1
        publish(pram)

    try:
        Pram.publish = counted  # type: ignore[method-assign, assignment]
        Image.cut = lambda *args: os._exit(0)  # type: ignore[method-assign]
        resize.shorten(image)
    finally:
        os._exit(1)


@pytest.mark.parametrize("saves", range(4))
@pytest.mark.parametrize("sharing", ["nothing shared", "a file and 20 clones"])
def test_a_shortening_that_was_killed_is_made_good_by_the_next(
    tmp_path: Path, sharing: str, saves: int
) -> None:
    with shared_image(tmp_path / "image", sharing, 1.3, 0.1) as image:
        before = content(image)
        shorten_until_killed(image, saves)
    with open_image(tmp_path / "image", writable=True) as image:
        assert check_image(image).clean
        assert content(image) == before
        resize.shorten(image)
        block = superblock.require(image)
        assert block.frames == image.frames <= block.frames_used * 1.05
        image.write(block.pfn * PAGE_SIZE, bytes(PAGE_SIZE))
        assert superblock.require(image).frames == image.frames
        assert content(image) == before


def test_it_gets_as_short_where_the_kernel_has_large_pages(tmp_path: Path) -> None:
    with (
        kernel_with_pages(64 << 10),
        shared_image(tmp_path / "image", "a file and 20 clones", 1.3, 0.1) as image,
    ):
        before = content(image)
        resize.shorten(image)
        assert image.frames <= superblock.require(image).frames_used * 1.05
        assert check_image(image).clean
        assert content(image) == before


@pytest.mark.parametrize("pages", range(1, 600, 37))
def test_a_small_image_has_its_slots_besides(tmp_path: Path, pages: int) -> None:
    path = page_image(tmp_path / "image", [range(pages)], 1024, gap=300)
    with open_image(path, writable=True) as image:
        resize.shorten(image)
        used = superblock.require(image).frames_used
        assert image.frames <= (used * 1.05 if used >= 320 else used + 16)
        assert check_image(image).clean


def test_shortening_that_fails_at_any_write_leaves_the_image_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs to be longer for a while. What it holds is the same and sound, and it is as long as before."""
    real, left = Image.write, [0]

    def write(image: Image, offset: int, data: bytes) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(image, offset, data)

    monkeypatch.setattr(Image, "write", write)
    for at in range(1, 1000):
        with shared_image(tmp_path / f"image-{at}", "a file and 20 clones", 1.06, 0) as image:
            before, length = content(image), image.frames
            left[0] = at
            try:
                resize.shorten(image)
                break
            except (OSError, PramError):
                left[0] = 0
            assert check_image(image).clean
            assert content(image) == before
            assert image.path.stat().st_size == length * PAGE_SIZE
    assert at > 5
