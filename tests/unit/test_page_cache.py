"""Direct writes: which of them wait until the kernel has dropped what it has read before."""

import pytest
import trio

from pramfs.fuse.notices import Notices
from pramfs.fuse.page_cache import PageCache

MIB = 1 << 20
ANSWER = b"answer"


class Told(Notices):
    """Notices that are remembered."""

    def __init__(self) -> None:
        self.dropped: list[tuple[int, int, int]] = []

    async def drop_data(self, ino: int, offset: int, size: int) -> None:
        self.dropped.append((ino, offset, size))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def cache(told: Told) -> PageCache:
    return PageCache(told)


def overwrite(cache: PageCache, ino: int, start: int, end: int) -> None:
    """Write directly, and wait for the answer."""
    answer = cache.overwritten(ino, start, end, ANSWER)
    if callable(answer):
        answer = trio.run(answer)
    assert answer == ANSWER


def test_what_the_kernel_has_nothing_of_is_answered_at_once(cache: PageCache, told: Told) -> None:
    overwrite(cache, 1, 0, 4096)
    cache.filled(2, 0, MIB)
    cache.filled(1, MIB, 2 * MIB)
    overwrite(cache, 1, 0, 4096)
    assert not told.dropped


def test_all_that_it_has_of_the_file_is_dropped_once(cache: PageCache, told: Told) -> None:
    cache.filled(1, MIB, MIB + 4096)
    cache.filled(1, 0, 4096)
    for _ in range(3):
        overwrite(cache, 1, 4096, 8192)
    assert told.dropped == [(1, 0, MIB + 4096)]


def test_what_is_read_again_is_dropped_again(cache: PageCache, told: Told) -> None:
    for _ in range(2):
        cache.filled(1, 0, 4096)
        overwrite(cache, 1, 0, 4096)
    assert len(told.dropped) == 2


def test_a_write_beside_it_in_the_same_page_counts(cache: PageCache, told: Told) -> None:
    cache.filled(1, 0, 100)
    overwrite(cache, 1, 512, 1024)
    assert told.dropped == [(1, 0, 65536)]


def test_a_write_that_comes_before_the_kernel_has_dropped_waits_as_well(
    cache: PageCache, told: Told
) -> None:
    cache.filled(1, 0, 4096)
    first = cache.overwritten(1, 0, 4096, ANSWER)
    second = cache.overwritten(1, 0, 4096, ANSWER)
    assert callable(first)
    assert callable(second)
    trio.run(second)
    trio.run(first)
    assert len(told.dropped) == 2
    assert cache.overwritten(1, 0, 4096, ANSWER) == ANSWER


def test_an_inode_that_the_kernel_has_forgotten_is_not_cached(cache: PageCache, told: Told) -> None:
    cache.filled(1, 0, 4096)
    cache.forgotten(1)
    overwrite(cache, 1, 0, 4096)
    assert not told.dropped
