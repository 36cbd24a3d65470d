"""Verification of data pages: every damaged one is found, by one process or by several."""

import os
import signal
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from crc32c import crc32c

from pramfs.pram import verify
from pramfs.pram.links import Chain
from pramfs.storage.extents import extents_of
from pramfs.storage.layout import PAGE_SIZE
from tests.support.watched_image import WatchedImage, image_of

FRAMES = 600


def chain_of(image: WatchedImage, pfns: list[int]) -> Chain:
    """A chain of these pages with true checksums."""
    chain = Chain()
    chain.entries.pfns.extend(pfns)
    chain.entries.csums.extend(crc32c(image.read(pfn)) for pfn in pfns)
    chain.entries.flags.extend([2] * len(pfns))
    chain.entries.indices.extend(range(len(pfns)))
    chain.extents = list(extents_of(pfns))
    return chain


def children() -> set[int]:
    """The process ids of what this thread has forked and not waited for, other tests' among them."""
    return {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}


@pytest.fixture
def image() -> WatchedImage:
    image = image_of(b"".join(pfn.to_bytes(4, "little") * 1024 for pfn in range(FRAMES)))
    image.guarded = False
    return image


@pytest.fixture(params=["one process", "several"], autouse=True)
def _sharing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small checks be shared out too."""
    if request.param == "several":
        monkeypatch.setattr(verify, "_SHARE_FRAMES", 10)
        monkeypatch.setattr(verify, "_BATCH_FRAMES", 70)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})


ORDERS = [list(range(1, FRAMES)), list(range(FRAMES - 1, 0, -1)), [1, 2, 3, 100, 101, 7, 9, 500]]


@pytest.mark.parametrize("pfns", ORDERS)
def test_sound_pages_are_all_sound(image: WatchedImage, pfns: list[int]) -> None:
    told: list[int] = []
    assert verify.damaged_entries(image, chain_of(image, pfns), told.append) == []
    assert sum(told) == len(pfns)


@pytest.mark.parametrize("pfns", ORDERS)
def test_damaged_pages_are_named_by_their_place_in_the_chain(
    image: WatchedImage, pfns: list[int]
) -> None:
    chain = chain_of(image, pfns)
    damaged = [0, len(pfns) // 2, len(pfns) - 1]
    for at in damaged:
        image.write(pfns[at] * PAGE_SIZE + 4095, b"\xff")
    assert verify.damaged_entries(image, chain, lambda pages: None) == damaged


def test_a_page_that_is_all_zeros_is_damaged(image: WatchedImage) -> None:
    chain = chain_of(image, list(range(1, 100)))
    image.write(50 * PAGE_SIZE, bytes(PAGE_SIZE))
    assert verify.damaged_entries(image, chain, lambda pages: None) == [49]


def test_pages_that_cannot_be_read_are_damaged_and_their_neighbours_are_not(
    image: WatchedImage,
) -> None:
    chain = chain_of(image, list(range(1, FRAMES)))
    os.truncate(image._fd, 590 * PAGE_SIZE + 100)
    assert verify.damaged_entries(image, chain, lambda pages: None) == list(range(589, 599))


def test_what_is_done_in_between_ends_the_helpers_when_it_fails(image: WatchedImage) -> None:
    chain = chain_of(image, list(range(1, FRAMES)))
    before = children()
    with (
        pytest.raises(KeyboardInterrupt),
        verify.Verification(image, chain, lambda pages: None),
    ):
        raise KeyboardInterrupt
    assert children() == before


def interrupt(pids: set[int]) -> NoReturn:
    """What ^C does."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    raise KeyboardInterrupt


def test_helpers_of_a_process_that_is_killed_end_too(
    image: WatchedImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()

    def look_slowly(image: WatchedImage, pfn: int, expected: list[int]) -> list[int]:
        os.write(write_end, b".")
        time.sleep(0.005)
        return []

    monkeypatch.setattr(verify, "_damaged_pages", look_slowly)
    chain = chain_of(image, list(range(FRAMES - 1, 0, -1)))  # no page follows another
    child = os.fork()
    if not child:
        verify.damaged_entries(image, chain, lambda pages: os.kill(os.getpid(), signal.SIGKILL))
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        looked = len(pipe.read())  # until the last of them has ended
    os.waitpid(child, 0)
    assert looked < FRAMES // 2


def test_an_interrupt_that_ends_the_helpers_too_stays_an_interrupt(image: WatchedImage) -> None:
    chain = chain_of(image, list(range(1, FRAMES)))
    before = children()
    with (
        pytest.raises(KeyboardInterrupt),
        verify.Verification(image, chain, lambda pages: None),
    ):
        interrupt(children() - before)


def test_nothing_to_verify_is_no_damage(image: WatchedImage) -> None:
    chain = Chain()
    assert chain.entries.pfns == array("I")
    assert verify.damaged_entries(image, chain, lambda pages: None) == []


# --- frames that several entries name -------------------------------------------------------------


@pytest.fixture
def read_pfns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[int]]:
    """Tells the frames that were read since the last call, also by other processes."""
    path = tmp_path / "reads"
    path.touch()
    real = verify._damaged_pages

    def look(image: WatchedImage, pfn: int, expected: list[int]) -> list[int]:
        with path.open("a") as reads:
            reads.write("".join(f"{pfn + at}\n" for at in range(len(expected))))
        return real(image, pfn, expected)

    def told() -> list[int]:
        pfns = [int(line) for line in path.read_text().split()]
        path.write_text("")
        return sorted(pfns)

    monkeypatch.setattr(verify, "_damaged_pages", look)
    return told


REPEATED = [*range(1, 300), 5, 6, 7, *range(100, 400), 5]


def test_a_frame_that_several_entries_name_is_read_once(
    image: WatchedImage, read_pfns: Callable[[], list[int]]
) -> None:
    read = verify.FramesRead(FRAMES)
    counts: list[int] = []
    chains = [chain_of(image, pfns) for pfns in (REPEATED, [9, *range(50, 500)], [3, 2, 1])]
    for chain in chains:
        assert verify.damaged_entries(image, chain, counts.append, read) == []
    assert read_pfns() == list(range(1, 500))
    assert sum(counts) == sum(len(chain.entries) for chain in chains)


def test_damage_of_a_frame_is_that_of_all_entries_that_name_it(image: WatchedImage) -> None:
    read = verify.FramesRead(FRAMES)
    first, second = chain_of(image, REPEATED), chain_of(image, [4, 5, *range(390, 500)])
    for pfn in (5, 395):
        image.write(pfn * PAGE_SIZE, b"damage")
    found = verify.damaged_entries(image, first, lambda pages: None, read)
    assert found == [at for at, pfn in enumerate(REPEATED) if pfn in (5, 395)]
    assert verify.damaged_entries(image, second, lambda pages: None, read) == [1, 7]


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_every_entry_has_to_have_the_checksum_of_its_page(image: WatchedImage, wrong: int) -> None:
    read = verify.FramesRead(FRAMES)
    chain = chain_of(image, [*range(1, 20), 7, *range(30, 60), 7])
    at = [6, 19, 50][wrong]
    chain.entries.csums[at] ^= 1
    assert verify.damaged_entries(image, chain, lambda pages: None, read) == [at]
    again = chain_of(image, [6, 7, 8])
    assert verify.damaged_entries(image, again, lambda pages: None, read) == []
    again.entries.csums[2] ^= 1
    assert verify.damaged_entries(image, again, lambda pages: None, read) == [2]


def test_what_was_not_verified_to_the_end_is_read_again(image: WatchedImage) -> None:
    read = verify.FramesRead(FRAMES)
    chain = chain_of(image, REPEATED)
    image.write(5 * PAGE_SIZE, b"damage")
    with verify.Verification(image, chain, lambda pages: None, read):
        pass  # the metadata of the tree, say, is damaged
    again = chain_of(image, [4, 6])
    again.entries.pfns[1] = 5
    again.extents = list(extents_of(again.entries.pfns))
    assert verify.damaged_entries(image, again, lambda pages: None, read) == [1]
