"""A failed fdatasync(2): the kernel takes pages for written that are not, and says so only once."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from pramfs.errors import DamagedPage, SaveFailed
from pramfs.pram.pram import Pram
from pramfs.storage.image import Image, open_image
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE
from pramfs.storage.piped import Data
from tests.support.tree_volume import Volume

DATA = bytes(range(256)) * 160


class Medium(Image):
    """An image of which a sync fails, once, and which remembers what is written to it afterwards."""

    fails = False
    passes = 0  # syncs before that
    fails_early = False  # not a sync, but when its pages are written out before that

    def __init__(self, plain: Image) -> None:
        super().__init__(plain.path, plain._fd, writable=True)
        self.written: list[int] = []

    def in_memory(self) -> bool:
        return False  # whatever /tmp is

    def write(self, offset_bytes: int, data: Data) -> None:
        super().write(offset_bytes, data)
        self.written.extend(range(offset_bytes >> 12, (offset_bytes + len(data)) >> 12))

    def wait_for_write_out(self, pfn: int, frames: int) -> None:
        super().wait_for_write_out(pfn, frames)
        if self.fails_early:
            self.fails_early = False
            self.written = []
            raise OSError(errno.EIO, "Input/output error")

    def sync(self) -> None:
        if self.fails and self.passes:
            self.passes -= 1
        elif self.fails:
            self.fails = False
            self.written = []
            raise OSError(errno.EIO, "Input/output error")
        super().sync()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Image]:
    """The image, to change what the kernel has of it."""
    with open_image(tmp_path / "image", writable=True, create=True) as image:
        yield image


@pytest.fixture
def medium(plain: Image) -> Medium:
    """The same image, of which syncs fail."""
    return Medium(plain)


def check_a_page_written_anew(pram: Pram, pfn: int) -> None:
    """Once the page is written again a save takes it, and it is read as it is then."""
    pram.arena.write(pfn, DATA[:PAGE_SIZE])
    pram.publish()
    assert pram.arena.read(pfn) == DATA[:PAGE_SIZE]
    pram.close()


def test_after_a_failed_sync_the_next_save_writes_every_page_again(medium: Medium) -> None:
    pram = Pram.create(medium, 1000, arena="image")
    with pram.prepare_save("node", BYTE_STREAM) as stream:
        stream.write(DATA)
    medium.fails = True
    with pytest.raises(SaveFailed, match="Input/output error"):
        pram.publish()
    pages = {
        pfn for run in pram.nodes["node"].owned for pfn in range(run.pfn, run.pfn + run.frames)
    }
    assert not pages & set(medium.written)
    pram.publish()
    assert pages <= set(medium.written)
    pram.close()


@pytest.mark.parametrize("arena", ["image", "memory"])
def test_pages_that_could_not_be_written_out_before_the_sync_are_written_again(
    medium: Medium, monkeypatch: pytest.MonkeyPatch, arena: str
) -> None:
    """The sync would succeed: the kernel tells of such an error once."""
    monkeypatch.setattr("pramfs.storage.write_out._WINDOW_FRAMES", 4)
    pram = Pram.create(medium, 1000, arena=arena)
    with pram.prepare_save("node", BYTE_STREAM) as stream:
        stream.write(DATA)
    medium.fails_early = True
    with pytest.raises(SaveFailed, match="Input/output error"):
        pram.publish()
    generation = pram.current.generation
    pram.publish()
    assert pram.current.generation == generation + 1
    owned = pram.nodes["node"].owned
    assert {pfn for run in owned for pfn in range(run.pfn, run.pfn + run.frames)} <= set(
        medium.written
    )
    pram.close()


def test_a_page_that_was_lost_with_a_failed_sync_is_refused_until_it_is_written_anew(
    plain: Image, medium: Medium
) -> None:
    """And a save that holds it is refused: the one before has what the page was then."""
    pram = Pram.create(medium, 1000, arena="image")
    arena = pram.arena
    (run,) = arena.allocate(1)
    arena.write(run.pfn, DATA[:PAGE_SIZE])
    arena.csums(run.pfn, 1)
    medium.fails = True
    with pytest.raises(SaveFailed, match="Input/output error"):
        pram.publish()
    assert arena.read(run.pfn) == DATA[:PAGE_SIZE]
    plain.write(run.pfn * PAGE_SIZE, bytes(PAGE_SIZE))
    for touch in (
        lambda: arena.read(run.pfn),
        lambda: arena.view(run.pfn, 1),
        lambda: arena.write(run.pfn, b"a part", 100),
    ):
        with pytest.raises(DamagedPage, match="the medium failed"):
            touch()
    with pytest.raises(SaveFailed, match="lost pages that no save holds"):
        pram.publish()
    check_a_page_written_anew(pram, run.pfn)


def test_a_page_that_was_lost_with_the_sync_of_a_super_block_is_refused_too(
    plain: Image, medium: Medium
) -> None:
    """It was written after the pages of that save were durable, which itself can still be put in force."""
    pram = Pram.create(medium, 1000, arena="image")
    arena = pram.arena
    publication = pram.begin_publish(0)
    medium.passes, medium.fails = 1, True
    error = publication.write(lambda frames: None)
    (run,) = arena.allocate(1)
    arena.write(run.pfn, DATA[:PAGE_SIZE])
    publication.finish(error)
    plain.write(run.pfn * PAGE_SIZE, bytes(PAGE_SIZE))
    for _ in range(2):
        with pytest.raises(DamagedPage, match="the medium failed"):
            arena.read(run.pfn)
        with pytest.raises(SaveFailed, match="lost pages that no save holds"):
            pram.publish()
    check_a_page_written_anew(pram, run.pfn)


def test_a_lost_page_of_a_file_that_is_removed_but_open_fails_its_readers_and_no_save(
    plain: Image, medium: Medium
) -> None:
    volume = Volume(pram=Pram.create(medium, 1000, arena="image"))
    volume.save()
    for name in ("kept", "lost"):
        volume.create(f"/{name}", DATA)
    medium.fails = True
    with pytest.raises(SaveFailed, match="Input/output error"):
        volume.save()
    lost, kept = volume.file("/lost"), volume.file("/kept")
    assert lost.pages is not None
    plain.write(lost.pages.get(0) * PAGE_SIZE, bytes(PAGE_SIZE))
    lost.refs += 1
    volume.unlink("/lost")
    for _ in range(2):
        volume.save()
        with pytest.raises(DamagedPage):
            volume.tree.data.read(lost, 0, PAGE_SIZE)
        assert volume.tree.data.read(lost, PAGE_SIZE, PAGE_SIZE) == DATA[PAGE_SIZE : 2 * PAGE_SIZE]
        assert volume.tree.data.read(kept, 0, len(DATA)) == DATA
    volume.tree.forget(lost)
    volume.save()
    volume.pram.close()
