"""What another program puts into an image under its mount is found at the next look, whenever it came."""

import os
from collections.abc import Callable

import pytest

from pramfs.errors import ImageOverwritten
from pramfs.pram.pram import Pram
from pramfs.storage.layout import BYTE_STREAM, PAGE_SHIFT, PAGE_SIZE
from tests.support.watched_image import WatchedImage, image_of, new_pram, watched

Deed = Callable[[WatchedImage, bytes], None]


def write_zeros(image: WatchedImage, backup: bytes) -> None:
    os.pwrite(image.fileno(), bytes(len(backup)), 0)


def restore_a_backup(image: WatchedImage, backup: bytes) -> None:
    os.pwrite(image.fileno(), backup, 0)


def restore_a_shorter_backup(image: WatchedImage, backup: bytes) -> None:
    os.ftruncate(image.fileno(), 0)
    os.pwrite(image.fileno(), backup[: len(backup) // 2], 0)


def flip_one_slot(image: WatchedImage, backup: bytes) -> None:
    os.pwrite(image.fileno(), b"\xff", PAGE_SIZE - 1)


def empty(image: WatchedImage, backup: bytes) -> None:
    os.ftruncate(image.fileno(), 0)


DEEDS = [write_zeros, restore_a_backup, restore_a_shorter_backup, flip_one_slot, empty]


@pytest.fixture
def pram(arena: str) -> Pram:
    pram = new_pram(arena=arena)
    put(pram, "first")
    pram.publish()
    return pram


def put(pram: Pram, name: str) -> None:
    with pram.prepare_save(name, BYTE_STREAM) as stream:
        stream.write(name.encode() * 2000)


def found_at_once(pram: Pram) -> bool:
    try:
        pram.publisher.require_untouched()
    except ImageOverwritten:
        return True
    return False


@pytest.mark.parametrize("deed", DEEDS)
def test_between_two_saves(pram: Pram, deed: Deed) -> None:
    backup = watched(pram).content()
    put(pram, "second")
    pram.publish()
    assert not found_at_once(pram)
    deed(watched(pram), backup)
    assert found_at_once(pram)


@pytest.mark.parametrize("deed", DEEDS)
def test_while_a_super_block_becomes_durable(
    pram: Pram, deed: Deed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program comes between the write of the super block and the end of the save."""
    backup = watched(pram).content()
    put(pram, "second")
    at_the_sync_of_a_super_block(pram, deed, backup, monkeypatch)
    pram.publish()
    assert found_at_once(pram)


@pytest.mark.parametrize("deed", DEEDS)
def test_while_the_mark_of_a_change_becomes_durable(
    pram: Pram, deed: Deed, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = watched(pram).content()
    put(pram, "second")
    pram.publish()
    at_the_sync_of_a_super_block(pram, deed, backup, monkeypatch)
    pram.mark_changed()
    assert found_at_once(pram)


@pytest.mark.parametrize("deed", [write_zeros, restore_a_backup, flip_one_slot])
def test_after_a_move_to_another_image(pram: Pram, deed: Deed) -> None:
    backup = watched(pram).content()
    other = image_of(b"")
    other.grow(len(backup) >> PAGE_SHIFT)
    put(pram, "second")
    move = pram.publisher.begin_move(0, lambda: 0, {}, other)
    assert move.finish(move.write(lambda *_: None)) is None
    assert not found_at_once(pram)
    deed(other, backup)
    assert found_at_once(pram)


@pytest.mark.parametrize("at", [0, 1])
def test_a_mark_that_failed_is_nobody_elses(pram: Pram, at: int) -> None:
    """The write of the mark may have reached the image or not: neither is another program's."""
    put(pram, "second")
    pram.publish()
    with watched(pram).failing(at, torn_bytes=PAGE_SIZE), pytest.raises(OSError, match="error"):
        pram.mark_changed()
    assert not found_at_once(pram)
    pram.mark_changed()
    put(pram, "third")
    pram.publish()
    assert not found_at_once(pram)


def at_the_sync_of_a_super_block(
    pram: Pram, deed: Deed, backup: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = watched(pram)
    write, sync = image.write, image.sync
    super_block_is_written = False

    def watched_write(offset_bytes: int, data: bytes | bytearray | memoryview) -> None:
        nonlocal super_block_is_written
        write(offset_bytes, data)
        super_block_is_written = offset_bytes >> PAGE_SHIFT in (0, 1)

    def watched_sync() -> None:
        nonlocal super_block_is_written
        sync()
        if super_block_is_written:
            super_block_is_written = False
            deed(image, backup)

    monkeypatch.setattr(image, "write", watched_write)
    monkeypatch.setattr(image, "sync", watched_sync)
