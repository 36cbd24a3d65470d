"""Whether an image is sound, in little memory: `first_fault` and `check_image` agree on every page."""

import tracemalloc
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs.errors import PramError
from pramfs.offline.check import check_image, first_fault
from pramfs.pram import links, sound, verify
from pramfs.pram.links import Chain
from pramfs.pram.pram import Pram
from pramfs.storage import superblock
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import ENTRY, LINK, PAGE_SHIFT, PAGE_SIZE, SHARED, seal_page
from tests.support.handmade_image import Forge
from tests.support.image_files import make_image
from tests.support.page_images import page_image

PAGES = 400
# Two streams that share pages, in one order and in another, and one of which names pages several times.
SHARING = (
    [*range(PAGES), *range(0, PAGES, 3)],
    [*range(PAGES // 2, PAGES), *range(100), 7, 7],
)


@pytest.fixture(params=["one window", "several windows"])
def _windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "several windows":
        monkeypatch.setattr(sound, "_WINDOW_FRAMES", 61)
        monkeypatch.setattr(sound, "_SHARED_WINDOW_FRAMES", 47)
        monkeypatch.setattr(sound, "_CHUNK_PAGES", 30)


@pytest.fixture(params=["tree", "shared"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Image]:
    path = tmp_path / "image"
    if request.param == "tree":
        make_image(path)
    else:
        page_image(path, SHARING, 512, filled=True)
    with open_image(path, writable=True) as image:
        yield image


@pytest.mark.usefixtures("_windows")
def test_an_image_is_sound_unless_a_page_in_use_has_changed(image: Image) -> None:
    assert first_fault(image) == ""
    told = {True: 0, False: 0}
    for pfn in range(image.frames):
        offset = pfn * PAGE_SIZE + 100
        before = image.read_bytes(offset, 1)
        image.write(offset, bytes([before[0] ^ 1]))
        try:
            clean = check_image(image).clean
            assert (first_fault(image) == "") == clean, f"pfn:{pfn:x}"
        finally:
            image.write(offset, before)
        told[clean] += 1
    assert min(told.values()) > 50


@pytest.mark.usefixtures("_windows")
def test_what_is_wrong_names_the_page(image: Image) -> None:
    with Pram.open(image) as pram:
        pfn = max(max(node.chain.entries.pfns) for node in pram.nodes.values() if node.chain)
    image.write(pfn << PAGE_SHIFT, bytes(range(16)))
    assert first_fault(image).startswith(f"pfn:{pfn:x} corrupted")


@pytest.mark.usefixtures("_windows")
def test_every_page_is_read_once_however_many_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = verify.damaged_entries
    read: list[int] = []

    def counting(image: Image, chain: Chain, *rest: object) -> list[int]:
        read.extend(pfn for first, frames in chain.extents for pfn in range(first, first + frames))
        return real(image, chain, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(verify, "damaged_entries", counting)
    with open_image(page_image(tmp_path / "image", SHARING, 512), writable=True) as image:
        assert first_fault(image) == ""
    assert len(read) == len(set(read)) == PAGES


@pytest.mark.usefixtures("_windows")
def test_an_image_that_was_cut_short_is_not_sound(image: Image) -> None:
    image.cut((image.frames - 1) * PAGE_SIZE)
    assert first_fault(image).startswith("truncated: ")
    assert not check_image(image).clean


def test_what_accounts_for_other_frames_is_not_sound(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    require = superblock.require

    def wrong(*args: object) -> object:
        block = require(*args)  # type: ignore[arg-type]
        return block._replace(frames_used=block.frames_used + 1)

    monkeypatch.setattr(superblock, "require", wrong)
    assert "it accounts for" in first_fault(image)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"x" * 8 * PAGE_SIZE)
    with open_image(path, writable=True) as other, pytest.raises(PramError, match="not a pram"):
        first_fault(other)


class Faults:
    """Metadata with correct checksums that contradicts itself."""

    @staticmethod
    def cycle_of_links(forge: Forge) -> None:
        forge.node(5, link_pfn=10, links=1 << 40, entries=1 << 40)
        forge.link(10, [(20, 0)], link_pfn=11)
        forge.link(11, [(21, 1)], link_pfn=10)

    @staticmethod
    def cycle_of_nodes(forge: Forge) -> None:
        forge.super(5, nodes=3)
        forge.node(5, b"a", node_pfn=6)
        forge.node(6, b"b", node_pfn=5)

    @staticmethod
    def more_nodes_than_told(forge: Forge) -> None:
        forge.node(5, b"a", node_pfn=6)
        forge.node(6, b"b")

    @staticmethod
    def more_entries_than_told(forge: Forge) -> None:
        forge.node(5, link_pfn=10, links=1, entries=1)
        forge.link(10, [(20, 0), (21, 1)])

    @staticmethod
    def a_page_twice(forge: Forge) -> None:
        forge.node(5, link_pfn=10, links=1, entries=2)
        forge.link(10, [(20, 0), (20, 1)])

    @staticmethod
    def a_shared_page_that_is_a_link(forge: Forge) -> None:
        forge.super(5, nodes=1, incompatible=SHARED)
        forge.node(5, link_pfn=10, links=1, entries=2)
        forge.link(10, [(20, 0), (10, 1)])

    @staticmethod
    def a_page_beyond_the_end(forge: Forge) -> None:
        forge.node(5, link_pfn=10, links=1, entries=1)
        forge.link(10, [(64, 0)])

    @staticmethod
    def a_page_in_a_slot(forge: Forge) -> None:
        forge.node(5, link_pfn=10, links=1, entries=1)
        forge.link(10, [(17, 0)])

    @staticmethod
    def slots_alike(forge: Forge) -> None:
        forge.super(5, nodes=1, other_pfn=1)
        forge.node(5)


@pytest.mark.usefixtures("_windows")
@pytest.mark.parametrize("fault", [name for name in vars(Faults) if name[0] != "_"])
def test_metadata_that_contradicts_itself_is_not_sound(fault: str) -> None:
    forge = Forge()
    forge.super(5, nodes=1)
    getattr(Faults, fault)(forge)
    used = superblock.require(forge.image).frames_used
    said = first_fault(forge.image)
    assert said
    assert f"accounts for {used} frames" not in said


@pytest.mark.usefixtures("_windows")
def test_a_frame_with_two_checksums_is_not_sound(tmp_path: Path) -> None:
    """One of them is wrong, although the page has the other."""
    path = page_image(tmp_path / "image", ([0, 1, 2], [1, 2, 0]), 64, filled=True)
    with open_image(path, writable=True) as image:
        with Pram.open(image) as pram:
            node = pram.node("node-0")
            link = node.link_pfn
            page = bytearray(image.read(link))
        page[LINK.size + ENTRY.size + 4] ^= 1
        seal_page(superblock.require(image).uuid, link, page)
        image.write(link << PAGE_SHIFT, page)
        assert not check_image(image).clean
        assert first_fault(image)


@pytest.mark.parametrize(("holders", "in_pieces"), [(1, False), (1, True), (3, False)])
def test_the_memory_does_not_grow_with_the_image(
    tmp_path: Path, holders: int, in_pieces: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_LINKS_AT_ONCE", 4)
    for name in ("_WINDOW_FRAMES", "_SHARED_WINDOW_FRAMES"):
        monkeypatch.setattr(sound, name, 1 << 12)
    monkeypatch.setattr(sound, "_CHUNK_PAGES", 1 << 10)
    monkeypatch.setattr(sound, "_CHUNK_EXTENTS", 1 << 8)

    def most(pages: int) -> int:
        path = tmp_path / f"image-{pages}"
        order = array("I", range(pages))
        if in_pieces:
            order[0::2], order[1::2] = order[: pages // 2], order[pages // 2 :]
        page_image(path, [order] * holders, pages + pages * holders // 100 + 200)
        with open_image(path, writable=True) as image:
            tracemalloc.start()
            try:
                assert first_fault(image) == ""
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    # Reading takes two pieces of 256 KiB, or three: chains and tables would take some 900 KiB more.
    assert most(20_000) - most(5_000) < 500_000


def test_there_is_one_window_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, bytes_a_frame = 1 << 18, 5
    monkeypatch.setattr(sound, "_SHARED_WINDOW_FRAMES", frames)
    path = page_image(tmp_path / "image", [range(3)] * 2, 3 * frames)
    with open_image(path, writable=True) as image:
        tracemalloc.start()
        try:
            assert first_fault(image) == ""
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert most < 1.5 * frames * bytes_a_frame
