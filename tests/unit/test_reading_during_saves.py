"""What a daemon publishes while its image is read is not taken for damage."""

import os
from collections.abc import Callable

import pytest

from pramfs.errors import DamagedPage, SavedMeanwhile
from pramfs.offline.check import check_image
from pramfs.storage.superblock import steady
from tests.support.tree_volume import Volume

BYTES = 60_000


@pytest.fixture
def volume() -> Volume:
    volume = Volume()
    volume.create("file", os.urandom(BYTES))
    volume.save()
    return volume


def use_all_frames_again(volume: Volume) -> None:
    """Publish until nothing of the save that was in force is left."""
    for _ in range(4):
        # Never twice the same: a frame with what it had before is as good as one that was left alone.
        volume.tree.write(volume.file("file"), 0, os.urandom(BYTES))
        volume.save()


def meet_damage(volume: Volume, meanwhile: Callable[[Volume], None] = lambda volume: None) -> None:
    with steady(volume.image):
        meanwhile(volume)
        raise DamagedPage(7, "data")


def test_damage_that_is_found_while_nothing_is_published_is_damage(volume: Volume) -> None:
    with pytest.raises(DamagedPage):
        meet_damage(volume)


def test_damage_that_is_found_while_a_save_is_published_is_none_for_certain(
    volume: Volume,
) -> None:
    with pytest.raises(SavedMeanwhile, match="try again"):
        meet_damage(volume, use_all_frames_again)


def checked_while(volume: Volume, act: Callable[[], None]) -> list[str]:
    """What a check finds when `act` is done each time it comes to a tree."""

    def progress(label: str, pages: int) -> Callable[[int], None]:
        act()
        return lambda done: None

    return list(check_image(volume.image.reopen(writable=False), progress).damage)


def test_a_check_begins_again_when_a_save_was_published_meanwhile(volume: Volume) -> None:
    rounds = iter([True])

    def act() -> None:
        if next(rounds, False):
            use_all_frames_again(volume)

    assert checked_while(volume, act) == []


def test_a_check_that_never_comes_to_its_end_finds_no_damage(volume: Volume) -> None:
    with pytest.raises(SavedMeanwhile):
        checked_while(volume, lambda: use_all_frames_again(volume))
