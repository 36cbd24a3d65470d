"""A medium that fails at any step of a save: the last save stands, nothing is lost, and the next works."""

import contextlib
import errno
from collections.abc import Iterator

import pytest

from pramfs.errors import PramError, SaveFailed, SystemFault
from pramfs.pram.pram import Pram
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE
from pramfs.tree.attributes import Changes
from tests.support.image_audit import check_owners, check_pram
from tests.support.tree_volume import Facts, Volume
from tests.support.watched_image import frames_between, image_of, new_pram, reopen, watched

Tree = dict[int, Facts]


def prepared(arena: str, *, moving: bool) -> tuple[Volume, Tree]:
    """A volume with changes since the last save, and what that save holds.

    With `moving` the next save leaves banned frames too: pages, a foreign node, the slot.
    """
    volume = Volume(300, arena=arena)
    with volume.pram.prepare_save("other", BYTE_STREAM) as stream:
        stream.write(b"other" * 5000)
    volume.mkdir("dir")
    for number in range(8):
        volume.create(f"dir/{number}", bytes((number + 1,)) * 9000)
    volume.save()
    saved = volume.facts()
    if moving:
        volume.reopen(banned=frames_between(0, 31))
    volume.unlink("dir/3")
    volume.tree.write(volume.file("dir/4"), 100, b"changed" * 1000)
    volume.truncate("dir/5", 5000)
    volume.create("new", b"new" * 9000)
    volume.rename("dir/6", "moved")
    return volume, saved


def after_a_crash(volume: Volume) -> tuple[Tree, bytes]:
    """What the next process would find if this one were killed now."""
    image = image_of(bytes(watched(volume.pram).content()))
    pram = Pram.open(image, arena="image")
    other = pram.prepare_load("other", BYTE_STREAM).read(1 << 20)
    found = Volume(arena="image", pram=pram).reopen().facts()
    return found, other


@pytest.mark.parametrize("torn_bytes", [0, 100, PAGE_SIZE - 1, 1 << 30])
@pytest.mark.parametrize("moving", [False, True], ids=["", "moving"])
def test_a_save_that_fails_at_any_step_loses_nothing(
    arena: str, moving: bool, torn_bytes: int
) -> None:
    """Of the write that fails nothing, a part, or all of it reached the medium."""
    step = 0
    while not survives_failure(arena, step, moving=moving, torn_bytes=torn_bytes):
        step += 1
    assert step > 3, "the save was over before anything failed"


def survives_failure(arena: str, step: int, *, moving: bool, torn_bytes: int) -> bool:
    """Let a save fail at that step, and look at what is left; True when it was over before."""
    volume, saved = prepared(arena, moving=moving)
    now = volume.facts()
    generation = volume.pram.current.generation
    with watched(volume.pram).failing(step, error=errno.ENOSPC, torn_bytes=torn_bytes):
        failure = save_error(volume)
    if failure is None:
        return True
    assert f"generation {generation}) stands" in str(failure)
    assert failure.errno == errno.EIO
    assert volume.pram.current.generation == generation
    assert volume.tree.changed
    assert volume.facts() == now
    check_owners(volume.pram, volume.tree)
    found, other = after_a_crash(volume)
    assert found in (saved, now)
    assert other == b"other" * 5000
    volume.create("later", b"later" * 2000)
    volume.tree.write(volume.file("new"), 5, b"newer")
    later = volume.facts()
    assert after_a_crash(volume)[0] in (saved, now)
    volume.save()
    volume.check()
    assert volume.reopen().facts() == later
    return False


def save_error(volume: Volume) -> SaveFailed | None:
    try:
        volume.save()
    except SaveFailed as error:
        return error
    return None


def test_a_save_in_doubt_is_put_in_force_before_another_one_needs_room(arena: str) -> None:
    """In a full arena there is no room for a third save beside the two that may be in force."""
    for step in range(100):
        volume = Volume(100, arena=arena)
        volume.tree.setxattr(volume.tree.root, b"user.a", b"v" * 60_000)
        with contextlib.suppress(OSError):
            for page in range(100):
                volume.tree.write(
                    volume.file("big") if page else volume.create("big"), page << 12, b"x"
                )
        volume.save()
        volume.tree.setattr(volume.tree.root, Changes(mode=0o700))
        with volume.image.failing(step):
            if save_error(volume) is None:
                break
        with volume.image.failing(0):
            assert save_error(volume) is not None
        volume.save()
        volume.check()
        now = volume.facts()
        assert volume.reopen().facts() == now
    assert step > 2


@pytest.mark.parametrize("failing_saves", [2, 5])
def test_saves_that_fail_one_after_the_other_lose_nothing_either(
    arena: str, failing_saves: int
) -> None:
    for step in range(12):
        volume, saved = prepared(arena, moving=False)
        allowed = [saved]
        for number in range(failing_saves):
            volume.create(f"at try {number}", b"x" * 3000)
            allowed.append(volume.facts())
            with watched(volume.pram).failing((step + number) % 12, torn_bytes=1 << 30):
                if save_error(volume) is None:
                    allowed = allowed[-1:]
            check_owners(volume.pram, volume.tree)
            assert after_a_crash(volume)[0] in allowed
        volume.save()
        volume.check()
        assert volume.reopen().facts() == allowed[-1]


def test_a_write_to_a_full_medium_is_enospc_and_the_tree_goes_on(arena: str) -> None:
    volume, saved = prepared(arena, moving=False)
    before = volume.facts()
    file = volume.file("new")
    with watched(volume.pram).failing(0, error=errno.ENOSPC):
        if arena == "image":
            with pytest.raises(OSError, match="No space left"):
                volume.tree.write(file, 0, b"y" * 50_000, set_times=False)
            assert volume.facts() == before
        else:
            volume.tree.write(file, 0, b"y" * 50_000)
    check_owners(volume.pram, volume.tree)
    volume.tree.write(file, 0, b"z" * 50_000)
    assert after_a_crash(volume)[0] == saved
    volume.save()
    assert volume.reopen().read("new") == b"z" * 50_000


# --- streams -------------------------------------------------------------------------------------


def steps_until_it_works(arena: str) -> Iterator[tuple[Pram, int]]:
    """A Pram with published nodes, over and over, and how many steps go well in it.

    Its free frames are scattered, so that what is written comes in many parts.
    """
    for step in range(200):
        pram = new_pram(128, arena=arena)
        for number in range(24):
            with pram.prepare_save(f"kept {number}", BYTE_STREAM) as stream:
                stream.write(b"kept")
        for number in range(0, 24, 2):
            pram.free(f"kept {number}")
        pram.publish()
        yield pram, step


KEPT = [f"kept {number}" for number in range(1, 24, 2)]


@pytest.mark.parametrize("torn_bytes", [100, PAGE_SIZE, 3 * PAGE_SIZE - 1])
def test_a_write_that_fails_half_way_leaves_a_tree_that_can_be_saved_and_mounted(
    torn_bytes: int,
) -> None:
    """The pages have checksums already, of what was in them before."""
    volume = Volume(arena="image")
    before, after = b"before" * 4096, b"after!" * 4096
    volume.create("file", before)
    while volume.pram.arena.sum_some():
        pass
    with (
        pytest.raises(OSError, match="Input/output"),
        watched(volume.pram).failing(0, torn_bytes=torn_bytes),
    ):
        volume.tree.write(volume.file("file"), 0, after)
    volume.save()
    volume.reopen()
    assert volume.read("file") == after[:torn_bytes] + before[torn_bytes:]


def test_a_stream_that_cannot_be_written_is_discarded_and_gives_its_frames_back(arena: str) -> None:
    for pram, step in steps_until_it_works(arena):
        try:
            with watched(pram).failing(step), pram.prepare_save("new", BYTE_STREAM) as stream:
                stream.write(bytes(range(256)) * 900)
        except OSError:
            assert list(pram.nodes) == KEPT
            check_pram(pram)
            continue
        break
    assert list(pram.nodes) == [*KEPT, "new"]
    assert (step > 5) == (arena == "image")


def test_a_publish_that_fails_leaves_the_published_nodes(arena: str) -> None:
    for pram, step in steps_until_it_works(arena):
        with pram.prepare_save("new", BYTE_STREAM) as stream:
            stream.write(b"new" * 30_000)
        for name in KEPT:
            pram.free(name)
        with contextlib.suppress(SaveFailed), watched(pram).failing(step):
            pram.publish()
            break
        check_owners(pram)
        crashed = Pram.open(image_of(watched(pram).content()), arena="image")
        assert list(crashed.nodes) in (KEPT, ["new"])
        pram.publish()
        check_pram(pram)
        assert list(reopen(pram).nodes) == ["new"]
    assert step > 2


def test_an_image_that_cannot_be_made_is_an_error_of_ours_and_blank_still() -> None:
    for step in range(3):
        image = image_of(b"")
        with image.failing(step, error=errno.ENOSPC), pytest.raises(PramError, match="No space"):
            Pram.create(image, 64)
        if step == 0:
            assert image.is_blank()


def test_a_page_that_cannot_be_read_does_not_keep_its_neighbour_from_being_saved(
    arena: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own checksum is known, and a save has no other use for it."""
    volume = Volume(600, arena=arena)
    volume.create("old", b"old")
    volume.create("new", b"1")
    volume.save()
    volume.tree.write(volume.file("new"), 0, b"2")  # into another frame
    volume.save()
    volume.tree.write(volume.file("new"), 0, b"3")  # and back
    bad = page_of(volume, "old")
    assert page_of(volume, "new") == bad + 1
    with monkeypatch.context() as patch:
        make_unreadable(patch, volume, bad)
        volume.save()
    assert volume.reopen().read("new") == b"3"


def page_of(volume: Volume, path: str) -> int:
    pages = volume.file(path).pages
    assert pages is not None
    return pages.get(0)


def make_unreadable(patch: pytest.MonkeyPatch, volume: Volume, pfn: int) -> None:
    image = watched(volume.pram)
    read = image.read

    def fail(first: int, count: int) -> bytes:
        if first <= pfn < first + count:
            raise SystemFault(f"cannot read at pfn:{pfn:x}: Input/output error")
        return read(first, count)

    patch.setattr(image, "read", fail)
    patch.setattr(image, "guarded", False)  # the guard reads everything
