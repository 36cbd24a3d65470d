"""Saves that go to another image, where the tree goes on: `pramfs save --to`, without a mount."""

import contextlib
import itertools

import pytest

from pramfs.errors import ImageOverwritten, MoveFailed, SaveFailed
from pramfs.saves.save import SaveState
from pramfs.storage.layout import PAGE_SIZE
from tests.support.image_audit import check_bans
from tests.support.tree_volume import Volume
from tests.support.watched_image import WatchedImage, frames_between, image_of, watched

PAGE = b"page" * (PAGE_SIZE // 4)


@pytest.fixture
def volume(arena: str) -> Volume:
    volume = Volume(arena=arena)
    volume.create("saved", PAGE * 5)
    volume.create("removed", PAGE)
    volume.save(final=False)
    volume.create("new", PAGE * 3)
    volume.unlink("removed")
    return volume


def target(volume: Volume) -> WatchedImage:
    image = image_of(b"")
    image.guarded = False  # it is blank: there is no save in it to guard
    image.grow(len(volume.pram.arena.table))
    return image


def move(volume: Volume, image: WatchedImage) -> None:
    volume.saver.start(lambda frames: None, image)
    volume.saver.settle()


def frames_of(volume: Volume, path: str) -> list[int]:
    pages = volume.file(path).pages
    assert pages is not None
    return [pfn for _, pfns in pages.chunks() for pfn in pfns]


def test_everything_goes_on_in_the_other_image(volume: Volume) -> None:
    old, image = volume.image, target(volume)
    before, content, pfns = volume.facts(), old.content(), frames_of(volume, "new")
    generation = volume.pram.current.generation
    move(volume, image)
    assert volume.saver.error is None
    assert watched(volume.pram) is image
    assert volume.pram.current.generation == generation + 1
    assert volume.facts() == before
    old.guarded = False
    volume.create("later", PAGE)
    volume.save()
    after = volume.facts()
    assert old.content() == content or volume.arena == "image"  # where "new" is there already
    assert volume.reopen().facts() == after
    assert frames_of(volume, "new") == pfns
    volume.check()


def test_what_is_written_while_it_is_copied_is_there(volume: Volume) -> None:
    image = target(volume)
    orphan = volume.create("orphan", PAGE * 2)
    orphan.refs += 1
    volume.unlink("orphan")
    volume.saver.start(lambda frames: None, image)
    volume.create("meanwhile", PAGE * 4)
    volume.tree.write(volume.file("saved"), 10, b"changed")
    volume.unlink("new")
    volume.saver.settle()
    assert volume.saver.error is None
    assert volume.read("meanwhile") == PAGE * 4
    assert volume.read("saved")[10:17] == b"changed"
    assert bytes(volume.tree.data.read(orphan, 0, PAGE_SIZE)) == PAGE
    volume.save()
    volume.check(orphans=True)


def test_a_move_that_fails_leaves_everything_as_it_was(volume: Volume) -> None:
    old = volume.image
    for step in itertools.count():
        image = target(volume)
        with image.failing(step):
            volume.create(f"file {step}", PAGE)
            move(volume, image)
        if volume.saver.error is None:
            break
        assert isinstance(volume.saver.error, MoveFailed)
        assert volume.saver.state is SaveState.FAILED
        assert watched(volume.pram) is old
        volume.check()
        volume.save(final=False)
        volume.check()
    assert step > 3


def test_a_doubt_about_the_old_image_is_no_obstacle(volume: Volume) -> None:
    old = volume.image
    old.guarded = False
    doubt(volume)
    volume.create("more", PAGE)
    failing = target(volume)
    with failing.failing(1):
        move(volume, failing)
    assert volume.saver.status.state is SaveState.IN_DOUBT
    with old.failing(0) if volume.arena == "memory" else contextlib.nullcontext():
        move(volume, target(volume))
    assert volume.saver.error is None
    before = volume.facts()
    volume.save()
    assert volume.reopen().facts() == before
    volume.check()


def test_a_move_that_fails_leaves_a_doubt_to_be_resolved(volume: Volume) -> None:
    doubt(volume)
    volume.unlink("saved")
    volume.create("more", PAGE)
    failing = target(volume)
    with failing.failing(1):
        move(volume, failing)
    volume.create("and more", PAGE * 8)
    volume.save()
    before = volume.facts()
    assert volume.reopen().facts() == before
    volume.check()


def doubt(volume: Volume) -> None:
    """Save so that the sync of the super block fails."""
    for step in itertools.count(1):
        with volume.image.failing(step):
            volume.create(f"in doubt {step}", PAGE)
            with contextlib.suppress(SaveFailed):
                volume.save(final=False)
        if volume.saver.state is SaveState.IN_DOUBT:
            return


def test_a_doubt_is_not_resolved_over_what_another_program_has_put_there(volume: Volume) -> None:
    volume.save(final=False)
    doubt(volume)
    image = volume.image
    image.guarded = False
    for pfn in (volume.pram.current.pfn, volume.pram.current.other_pfn):
        image.write(pfn * PAGE_SIZE, b"restored" * (PAGE_SIZE // 8))
    with pytest.raises(ImageOverwritten, match="another program has written to"):
        volume.save(final=False)
    assert volume.saver.foreign_change() is not None
    for pfn in (volume.pram.current.pfn, volume.pram.current.other_pfn):
        assert image.read(pfn) == b"restored" * (PAGE_SIZE // 8)


def test_pages_that_are_lost_are_named(volume: Volume) -> None:
    volume.save(final=False)
    old = volume.image
    old.guarded = False
    old.write(frames_of(volume, "saved")[2] * PAGE_SIZE, b"damage")
    move(volume, target(volume))
    assert "saved" in str(volume.saver.error)
    assert watched(volume.pram) is old
    volume.unlink("saved")
    volume.save(final=False)
    move(volume, target(volume))
    assert volume.saver.error is None
    volume.check()


def test_banned_frames_stay_empty(volume: Volume) -> None:
    volume.save()
    banned = frames_between(20, 60)
    volume.reopen(banned=banned)
    volume.create("after", PAGE * 9)
    move(volume, target(volume))
    assert volume.saver.error is None
    check_bans(volume.pram, volume.pram.nodes)
    volume.check()
