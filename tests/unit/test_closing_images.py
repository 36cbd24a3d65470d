"""`with Pram.open(path)` takes an image for itself and lets go of it, whatever happens; so does a check."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pramfs.errors import ImageInUse, ImageTooSmall, NotAnImage, NotBlank, ReadOnlyImage
from pramfs.offline.check import check_image
from pramfs.pram.pram import Pram
from pramfs.storage.image import open_image
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE
from tests.support.image_files import make_image


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Pram.create(tmp_path / "image", 64) as pram:
        put(pram, "a", b"first")
        pram.publish()
    return tmp_path / "image"


def put(pram: Pram, name: str, data: bytes) -> None:
    with pram.prepare_save(name, BYTE_STREAM) as stream:
        stream.write(data)


def get(pram: Pram, name: str) -> bytes:
    with pram.prepare_load(name, BYTE_STREAM) as stream:
        return stream.read(1 << 20)


def held(path: Path) -> list[str]:
    """What of this process still has the file: descriptors and mappings."""
    links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [word for word in (*links, *maps) if word.endswith(str(path))]


def test_what_is_published_is_there_the_next_time(path: Path) -> None:
    with Pram.open(path) as pram:
        put(pram, "b", b"second")
        pram.publish()
    with Pram.open(str(path), writable=False) as pram:
        assert (get(pram, "a"), get(pram, "b")) == (b"first", b"second")
        assert get(pram, "a") == b"first"  # reading has left the node there, and free for others


def test_nothing_holds_an_image_that_was_closed(path: Path) -> None:
    with Pram.open(path) as pram:
        assert held(path)
    assert not held(path)
    pram.close()  # once more does no harm


def test_an_exception_closes_the_image_and_forgets_what_was_not_published(path: Path) -> None:
    def fail_half_way() -> None:
        with Pram.open(path) as pram:
            put(pram, "b", b"second")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        fail_half_way()
    assert caught.traceback  # keeps all local variables
    assert not held(path)
    with Pram.open(path) as pram:
        assert list(pram.nodes) == ["a"]


def test_who_writes_is_alone_and_who_reads_is_not(path: Path) -> None:
    in_use = f"in use by process {os.getpid()}"
    with Pram.open(path):
        for writable in (False, True):
            with pytest.raises(ImageInUse, match=in_use):
                Pram.open(path, writable=writable)
    with Pram.open(path, writable=False) as pram, Pram.open(path, writable=False):
        with pytest.raises(ImageInUse, match=in_use):
            Pram.open(path)
        with pytest.raises(ReadOnlyImage):
            put(pram, "b", b"second")


def test_an_image_that_was_passed_open_stays_open(path: Path) -> None:
    with open_image(path, writable=True) as image:
        with Pram.open(image):
            pass
        assert held(path)
        assert image.read(0)


def too_small(path: Path) -> None:
    with pytest.raises(ImageTooSmall):
        Pram.create(path, 2)


def not_blank(path: Path) -> None:
    with pytest.raises(NotBlank, match="holds something already; nothing was changed"):
        Pram.create(path, 64)


def no_image(path: Path) -> None:
    with pytest.raises(NotAnImage):
        Pram.open(path)


@pytest.mark.parametrize(
    ("content", "attempt"),
    [(None, too_small), (b"", too_small), (b"mine", not_blank), (b"mine", no_image)],
    ids=["missing", "empty", "not blank", "no image"],
)
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, content: bytes | None, attempt: Callable[[Path], None]
) -> None:
    path = tmp_path / "image"
    if content is not None:
        path.write_bytes(content)
    attempt(path)
    assert not held(path)
    assert path.exists() == (content is not None)
    assert content is None or path.read_bytes() == content


def test_zeros_become_an_image_but_an_image_does_not_become_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(16 * PAGE_SIZE))
    Pram.create(path, 64).close()
    not_blank(path)
    with Pram.open(path) as pram:
        assert pram.current.frames == 64


def test_a_check_that_is_broken_off_lets_go_of_the_image(tmp_path: Path) -> None:
    path = make_image(tmp_path / "image")

    def progress(label: str, pages: int) -> Callable[[int], None]:
        raise KeyboardInterrupt

    with open_image(path, writable=False) as image:
        before = held(path)
        with pytest.raises(KeyboardInterrupt) as caught:
            check_image(image, progress)
        assert caught.traceback  # keeps all local variables
        assert held(path) == before
