"""Damaged and hostile images: a tree intact, a named refusal, or with recover what is whole and a true list.

Never a hang, a crash, a traceback, memory without bound, or other bytes than were saved. Metadata is covered
byte by byte in the long form, and by a sample in the short one.
"""

import random
import tracemalloc

import pytest

from pramfs.storage.layout import PAGE_SIZE
from tests.corruption.forgeries import forgeries
from tests.corruption.sample_image import SampleImage, sample_image
from tests.support.load_verdict import Fields, Verdict, load

SAMPLE = 700  # cases of each kind in the short form


def test_a_clean_image_loads_as_it_was_saved() -> None:
    whole = sample_image()
    assert load(whole.content).tree == whole.tree
    assert load(whole.content, recover=True) == Verdict(whole.tree, [], "")
    assert load(whole.content, lazy=True) == Verdict(whole.tree, [], "")


@pytest.mark.timeout(7200)
def test_flipped_bytes_in_metadata(long: bool) -> None:
    whole = sample_image()
    frames = (*whole.supers, *whole.metadata, *whole.stream)
    places = [(pfn, at) for pfn in frames for at in range(PAGE_SIZE)]
    rng = random.Random(1)
    for pfn, at in places if long else rng.sample(places, SAMPLE):
        page = bytearray(whole.page(pfn))
        page[at] ^= rng.choice((0xFF, 1 << rng.randrange(8)))
        _assert_nothing_false(whole, whole.with_pages({pfn: page}), f"byte {at} of pfn {pfn:x}")


@pytest.mark.timeout(7200)
def test_flipped_bits_in_data_name_the_files(long: bool) -> None:
    whole = sample_image()
    rng = random.Random(2)
    for _ in range(20_000 if long else SAMPLE):
        pages = {}
        for pfn in rng.sample(whole.data, rng.choice((1, 1, 2, 5))):
            page = bytearray(whole.page(pfn))
            page[rng.randrange(PAGE_SIZE)] ^= 1 << rng.randrange(8)
            pages[pfn] = bytes(page)
        content = whole.with_pages(pages)
        refused = load(content)
        assert refused.tree is None
        recovered = load(content, recover=True)
        assert recovered.tree is not None
        assert recovered.left_out
        assert all(path in refused.refusal for path in recovered.left_out[:10])
        _assert_undamaged(whole, recovered)


@pytest.mark.timeout(7200)
def test_a_lazy_load_answers_for_all_pages_but_the_damaged_ones(long: bool) -> None:
    """Those that are damaged stay so when the tree is saved again."""
    whole = sample_image()
    rng = random.Random(5)
    for _ in range(20_000 if long else SAMPLE):
        pages = {}
        for pfn in rng.sample(whole.data, rng.choice((1, 2, 5, len(whole.data)))):
            page = bytearray(whole.page(pfn))
            page[rng.randrange(PAGE_SIZE)] ^= 1 << rng.randrange(8)
            pages[pfn] = bytes(page)
        lazily = load(whole.with_pages(pages), lazy=True, save=True)
        assert lazily.damaged == pages.keys()
        _assert_lazily_nothing_false(whole, lazily, "flipped bits")


def test_swapped_repeated_and_blank_pages(long: bool) -> None:
    whole = sample_image()
    frames = [*whole.supers, *whole.metadata, *whole.stream, *whole.data]
    pairs = [(one, other) for one in frames for other in frames if one != other]
    rng = random.Random(3)
    for one, other in pairs if long else rng.sample(pairs, SAMPLE // 2):
        swapped = {one: whole.page(other), other: whole.page(one)}
        _assert_nothing_false(whole, whole.with_pages(swapped), f"{one:x} and {other:x} swapped")
        copied = {one: whole.page(other)}
        _assert_nothing_false(whole, whole.with_pages(copied), f"{other:x} copied to {one:x}")
    for pfn in frames:
        for blank in (bytes(PAGE_SIZE), b"\xff" * PAGE_SIZE, rng.randbytes(PAGE_SIZE)):
            _assert_nothing_false(whole, whole.with_pages({pfn: blank}), f"{pfn:x} blank")


def test_an_image_cut_off_at_every_page() -> None:
    whole = sample_image()
    for frames in range(len(whole.content) // PAGE_SIZE):
        for more in (0, 1, 511):
            content = whole.content[: frames * PAGE_SIZE + more]
            assert load(content).tree in (None, whole.tree)
            recovered = load(content, recover=True)
            if recovered.tree is not None:
                _assert_undamaged(whole, recovered)


@pytest.mark.timeout(7200)
def test_a_hostile_hand_with_true_checksums(long: bool) -> None:
    """Anything may be in such an image, but nothing may come of it than a tree or a refusal."""
    whole = sample_image()
    rng = random.Random(4)
    limit = 2 * _peak(whole.content) + (1 << 20)
    for number, (what, pages) in enumerate(forgeries(whole, rng)):
        if number == (60_000 if long else 2 * SAMPLE):
            return
        content = whole.with_pages(pages, sealed=True)
        try:
            load(content, save=True)
            load(content, recover=True)
            load(content, lazy=True, save=True)
            if not number % 20:
                assert _peak(content) <= limit, "takes more memory than a clean load"
        except BaseException as exc:
            exc.add_note(what)
            raise


def _assert_nothing_false(whole: SampleImage, content: bytearray, what: str) -> None:
    """A load gives one of the two saves or refuses; recover gives no file that is not as it was saved."""
    verdict = load(content)
    assert verdict.tree in (None, whole.tree, whole.older), what
    if verdict.tree is None:
        recovered = load(content, recover=True)
        if recovered.tree is not None:
            _assert_undamaged(whole, recovered, what)
    lazily = load(content, lazy=True)
    if lazily.tree is not None:
        _assert_lazily_nothing_false(whole, lazily, what)


def _assert_lazily_nothing_false(whole: SampleImage, lazily: Verdict, what: str) -> None:
    """Everything is as it was saved, but that damaged pages cannot be read."""
    assert lazily.tree is not None
    for saved in (whole.tree, whole.older):
        readable = {path: _but_damaged(seen, saved.get(path)) for path, seen in lazily.tree.items()}
        if readable == saved:
            return
    raise AssertionError(f"{what}: false bytes beside {sorted(lazily.damaged)}")


def _but_damaged(seen: Fields, saved: Fields | None) -> Fields:
    """What was seen of an inode, with pages that could not be read as they were saved."""
    if saved is None or not isinstance(seen[-1], dict) or not isinstance(saved[-1], dict):
        return seen
    pages = {index: page or saved[-1].get(index) for index, page in seen[-1].items()}
    return *seen[:-1], pages


def _assert_undamaged(whole: SampleImage, recovered: Verdict, what: str = "") -> None:
    """What is there is as it was saved, but for the times of directories, and the rest is listed."""
    assert recovered.tree is not None
    for saved in (whole.tree, whole.older):
        if {*recovered.tree, *recovered.left_out} == {*saved}:
            break
    else:
        raise AssertionError(f"{what}: the list is not exact: {recovered.left_out}")
    for path, seen in recovered.tree.items():
        assert seen[-1] == saved[path][-1], f"{what}: {path}"
        if not recovered.left_out and not recovered.more_lost:
            assert seen == saved[path], f"{what}: {path}"


def _peak(content: bytes | bytearray) -> int:
    """The most memory that a load takes, in bytes."""
    tracemalloc.start()
    load(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
