"""What a mount knows of a network block device whose server is away: it never waits long to tell."""

import threading
from collections.abc import Iterator

import pytest

from pramfs.errors import DeviceGone, DeviceSilent, ImageOverwritten, SaveFailed
from pramfs.pram.pram import Pram
from pramfs.saves import foreign_change
from pramfs.saves.foreign_change import ForeignChanges
from pramfs.storage.image import Image
from pramfs.storage.layout import BYTE_STREAM
from tests.support.watched_image import WatchedImage, new_pram, watched


@pytest.fixture
def pram() -> Pram:
    pram = new_pram()
    watched(pram).is_shared = True
    put(pram, "first")
    pram.publish()
    return pram


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set while the server of the device answers."""
    answers = threading.Event()
    answers.set()
    read = WatchedImage.read_anew

    def read_anew(image: WatchedImage, offset_bytes: int, size_bytes: int) -> bytes:
        answers.wait()
        return read(image, offset_bytes, size_bytes)

    monkeypatch.setattr(WatchedImage, "read_anew", read_anew)
    monkeypatch.setattr(foreign_change, "_WAIT_S", 0.05)
    yield answers
    answers.set()


def put(pram: Pram, name: str) -> None:
    with pram.prepare_save(name, BYTE_STREAM) as stream:
        stream.write(name.encode() * 2000)


def test_a_silent_device_is_told_and_not_waited_for(pram: Pram, server: threading.Event) -> None:
    changes = ForeignChanges(pram)
    assert changes.look() is None
    server.clear()
    for _ in range(3):
        assert isinstance(changes.look(), DeviceSilent)
    server.set()
    looking = [thread for thread in threading.enumerate() if thread.name == "pramfs-look"]
    for thread in looking:
        thread.join()
    assert changes.look() is None


def test_a_save_meanwhile_is_no_change_of_others(
    pram: Pram, server: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ForeignChanges(pram)
    found = ImageOverwritten(pram.image.path, "written to")

    def look() -> ImageOverwritten:
        pram.publish()
        return found

    monkeypatch.setattr(changes, "_look", look)
    assert changes.look() is None


def test_a_device_that_is_gone_is_not_one_that_was_cut_short(
    pram: Pram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is back, the next save is one as always."""
    monkeypatch.setattr(Image, "is_block_device", True)
    monkeypatch.setattr(WatchedImage, "length_now", lambda image: 0)
    changes = ForeignChanges(pram)
    put(pram, "second")
    assert isinstance(changes.look(), DeviceGone)
    with pytest.raises(SaveFailed, match=r"device .* is gone.*previous save .* stands"):
        pram.publish()
    monkeypatch.undo()
    assert changes.look() is None
    pram.publish()


def test_a_device_that_became_smaller_was_cut_short(
    pram: Pram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "is_block_device", True)
    monkeypatch.setattr(WatchedImage, "length_now", lambda image: image.size_bytes - 1)
    with pytest.raises(ImageOverwritten, match="cut short"):
        pram.publisher.require_untouched()
