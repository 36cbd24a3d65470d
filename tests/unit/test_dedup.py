"""Deduplication of a tree: equal pages share frames, pages of zeros become holes, and no content changes."""

import errno
import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from pramfs.saves.snapshots import drop_snapshot, require_new
from pramfs.saves.tree_nodes import DATA_SUFFIX
from pramfs.storage import arena as arena_module
from pramfs.storage.frames import FREE, HELD
from pramfs.storage.layout import BYTE_STREAM, PAGE_SIZE
from pramfs.tree import dedup as dedup_module
from pramfs.tree.csum_index import EQUAL_MAX
from pramfs.tree.dedup import Dedup, DedupCounts
from pramfs.tree.inodes import File
from tests.conftest import LONG
from tests.support.refusals import refused
from tests.support.tree_volume import NAME, Volume

DUMP_PAGES = 65536 if LONG else 16384  # 256 MiB, 64 MiB
ZEROS = bytes(PAGE_SIZE)


def page(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_SIZE)


def pages(*seeds: int) -> bytes:
    return b"".join(page(seed) if seed else ZEROS for seed in seeds)


@pytest.fixture(params=["image", "memory"])
def volume(request: pytest.FixtureRequest) -> Volume:
    return Volume(2048, arena=str(request.param))


def deduplicate(volume: Volume) -> DedupCounts:
    dedup = Dedup(volume.tree)
    assert sum(dedup.look_at_all()) == dedup.counts.pages
    return dedup.counts


def frames_of(file: File) -> list[int]:
    return [pfn for _, pfns in file.pages.chunks() for pfn in pfns] if file.pages else []


def used(volume: Volume) -> int:
    return volume.pram.arena.table.summary().used


def contents(volume: Volume) -> dict[bytes, bytes]:
    return {
        name: bytes(volume.tree.data.read(file, 0, file.length))
        for name, file in volume.tree.root.entries.items()
        if isinstance(file, File)
    }


@pytest.mark.parametrize("saved", [False, True])
def test_equal_pages_share_one_frame(volume: Volume, saved: bool) -> None:
    volume.create("a", pages(1, 2, 3, 2))
    volume.create("b", pages(3, 4, 1))
    if saved:
        volume.save(final=False)
    before, was_used = contents(volume), used(volume)
    counts = deduplicate(volume)
    assert counts == DedupCounts(pages=7, shared=3, freed=3, held=3 if saved else 0)
    assert used(volume) == was_used - 3
    assert volume.pram.arena.table.count(HELD) >= counts.held
    assert contents(volume) == before
    a, b = frames_of(volume.file("a")), frames_of(volume.file("b"))
    assert (a[1], a[0], a[2]) == (a[3], b[2], b[0])
    for _ in range(2):
        volume.save()
        volume.check()
        assert volume.pram.arena.table.repeats == 3
        volume.reopen()
        assert contents(volume) == before


def test_a_page_of_zeros_becomes_a_hole(volume: Volume) -> None:
    file = volume.create("a", pages(1, 0, 2, 0) + bytes(100))
    told: list[File] = []
    dedup = Dedup(volume.tree, told.append)
    list(dedup.look_at_all())
    assert dedup.counts == DedupCounts(pages=5, holes=3, freed=3)
    assert told == [file]
    assert (file.blocks, file.length) == (2 * 8, 4 * PAGE_SIZE + 100)
    assert volume.read("a") == pages(1, 0, 2, 0) + bytes(100)
    assert volume.tree.space.pages == 2
    volume.save()
    volume.check()


def test_a_file_of_zeros_takes_no_frame(volume: Volume) -> None:
    file = volume.create("a", bytes(700 * PAGE_SIZE))
    assert deduplicate(volume).holes == 700
    assert (file.pages, file.length) == (None, 700 * PAGE_SIZE)
    volume.check()


@pytest.mark.parametrize("changed", ["a", "b"])
def test_a_change_of_one_is_no_change_of_the_other(volume: Volume, changed: str) -> None:
    content = pages(*range(1, 20))
    volume.create("a", content)
    volume.create("b", content)
    assert deduplicate(volume).shared == 19
    volume.tree.write(volume.file(changed), 5000, b"changed")
    assert volume.read(changed) == content[:5000] + b"changed" + content[5007:]
    assert volume.read("ab".replace(changed, "")) == content
    volume.save()
    volume.check()


def test_pages_that_are_promised_room_are_left_alone(volume: Volume) -> None:
    for name in "ab":
        file = volume.create(name, pages(1, 2, 0, 3))
        volume.tree.fallocate(file, 0, PAGE_SIZE, 2 * PAGE_SIZE)
    counts = deduplicate(volume)
    assert counts == DedupCounts(pages=4, shared=2, freed=2)
    assert volume.tree.space.promised == 4
    assert all(file.blocks == 4 * 8 for file in map(volume.file, "ab"))
    volume.check()


def test_a_page_that_was_promised_room_since_is_left_alone(volume: Volume) -> None:
    file = volume.create("a", pages(1))
    volume.create("b", pages(1))
    looking = Dedup(volume.tree).look_at_all()
    while not next(looking):
        pass
    volume.tree.fallocate(file, 0, 0, PAGE_SIZE)
    list(looking)
    assert volume.pram.arena.table.repeats == 0


def test_it_needs_no_free_frame(volume: Volume) -> None:
    volume.create("a", pages(1, 2))
    file = volume.create("b", pages(1, 2, 0))
    with refused(errno.ENOSPC):
        volume.tree.write(file, 3 * PAGE_SIZE, bytes(2048 * PAGE_SIZE))
    table = volume.pram.arena.table
    table.allocate(table.count(FREE))
    assert deduplicate(volume).shared == 2
    assert table.count(FREE) > 2


def test_pages_of_nodes_and_files_without_a_name_are_left_alone(volume: Volume) -> None:
    volume.create("a", pages(1))
    gone = volume.create("gone", pages(1))
    gone.refs += 1
    volume.unlink("gone")
    with volume.pram.prepare_save("other", BYTE_STREAM) as node:
        node.write(pages(1))
    assert deduplicate(volume) == DedupCounts(pages=1)


def test_a_damaged_page_is_left_alone(volume: Volume) -> None:
    volume.create("a", pages(1, 2))
    volume.create("b", pages(1, 2))
    volume.save()
    (damaged, _) = frames_of(volume.file("b"))
    os.pwrite(volume.image.fileno(), b"damage", damaged * PAGE_SIZE)
    volume.reopen(lazy=True)
    assert deduplicate(volume).shared == 1
    assert volume.read("a") == pages(1, 2)
    assert frames_of(volume.file("b"))[0] == damaged


@pytest.mark.parametrize("ends", ["commit", "abort"])
def test_pages_of_a_save_under_way(volume: Volume, ends: str) -> None:
    """A save has begun: what is shared then is in force whether it succeeds or not."""
    volume.create("a", pages(1, 2, 3))
    volume.create("b", pages(3, 2, 1))
    publication = volume.saver._begin(lambda pages: None)
    volume.create("c", pages(2, 4))
    before = contents(volume)
    counts = deduplicate(volume)
    assert (counts.shared, counts.held) == (4, 3)
    error = publication.write(lambda pages: None) if ends == "commit" else OSError(5, "no")
    volume.saver._finish(publication, error)
    assert contents(volume) == before
    volume.save()
    volume.check()
    volume.reopen()
    assert contents(volume) == before


def take_snapshot(volume: Volume, name: str) -> None:
    full_name = require_new(volume.pram, NAME, name)
    volume.saver.save(final=False, progress=lambda pages: None, snapshot=full_name)


def test_pages_of_a_snapshot_are_found(volume: Volume) -> None:
    """A dump is kept as a snapshot, removed, and made anew with one other page."""
    volume.create("a", pages(*range(1, 20), 0))
    take_snapshot(volume, "s")
    volume.unlink("a")
    volume.create("a", pages(*range(1, 19), 100))
    volume.create("links", pages(1))
    dedup = Dedup(volume.tree, nodes=volume.pram.nodes)
    list(dedup.look_at_all())
    assert (dedup.counts.shared, dedup.counts.freed) == (19, 19)
    assert volume.read("a") == pages(*range(1, 19), 100)
    for _ in range(2):
        volume.save()
        volume.check()
        volume.reopen()
        assert volume.read("a") == pages(*range(1, 19), 100)
    drop_snapshot(volume.pram, NAME, "s")
    volume.tree.write(volume.file("links"), 0, pages(50))
    volume.save()
    volume.check()
    assert volume.read("a") == pages(*range(1, 19), 100)


def test_a_snapshot_that_is_taken_while_it_goes_on_is_found(volume: Volume) -> None:
    dedup = Dedup(volume.tree, nodes=volume.pram.nodes, own=NAME + DATA_SUFFIX)
    dedup.watch()
    for number in range(4):
        volume.create("a", pages(*range(1, 50), 100 + number))
        list(dedup.look_at_news())
        assert volume.pram.arena.table.repeats == 49 * number
        take_snapshot(volume, f"s{number}")
        volume.unlink("a")
    for number in range(4):
        drop_snapshot(volume.pram, NAME, f"s{number}")
    volume.save()
    volume.check()
    volume.create("a", pages(*range(1, 50)))
    list(dedup.look_at_news())
    assert dedup._noted_nodes == [None] * 3  # the last one came and went unseen


def test_pages_of_a_snapshot_that_is_gone_are_not(volume: Volume) -> None:
    volume.create("a", pages(*range(1, 20)))
    take_snapshot(volume, "s")
    volume.unlink("a")
    volume.create("b", pages(*range(101, 120)))
    dedup = Dedup(volume.tree, nodes=volume.pram.nodes)
    dedup.watch()
    list(dedup.look_at_news())
    drop_snapshot(volume.pram, NAME, "s")
    volume.save()
    volume.create("c", pages(*range(1, 20)))
    list(dedup.look_at_news())
    assert dedup.counts.shared == 0
    volume.save()
    volume.check()
    assert volume.read("c") == pages(*range(1, 20))


def test_the_frame_of_most_holders_stays(volume: Volume) -> None:
    """Else a page that many share, such as all clones, would have to be moved for each of them."""
    volume.create("a", pages(1))
    many = volume.create("b", pages(1))
    for name in ("c", "d", "e"):
        volume.tree.copy_range(many, 0, volume.create(name), 0, PAGE_SIZE)
    (kept,) = frames_of(many)
    assert deduplicate(volume) == DedupCounts(pages=5, shared=1, freed=1)
    assert {pfn for name in "abcde" for pfn in frames_of(volume.file(name))} == {kept}


def test_equal_checksums_are_not_enough(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody makes hundreds of pages with the same checksum: each is compared with a few others only."""
    monkeypatch.setattr(arena_module, "crc32c", lambda data: 7)
    volume.create("a", pages(*range(1, 300)))
    before, reads = contents(volume), 0
    read = volume.pram.arena.read

    def counted(pfn: int, count: int = 1) -> bytes:
        nonlocal reads
        reads += 1
        return read(pfn, count)

    monkeypatch.setattr(volume.pram.arena, "read", counted)
    assert deduplicate(volume) == DedupCounts(pages=299)
    assert reads <= 299 * (EQUAL_MAX + 1)
    assert contents(volume) == before


def test_only_what_was_written_is_looked_at_again(volume: Volume) -> None:
    file = volume.create("a", pages(*range(1, 1200)))
    dedup = Dedup(volume.tree)
    dedup.watch()
    assert sum(dedup.look_at_news()) == 1199
    assert not dedup.has_news()
    volume.tree.write(file, 600 * PAGE_SIZE, page(7))
    assert dedup.has_news()
    assert sum(dedup.look_at_news()) == 512
    assert not dedup.has_news()
    assert frames_of(file)[600] == frames_of(file)[6]
    volume.create("b", pages(1199))
    volume.truncate("b", 100)
    volume.create("c", page(1199)[:100])
    assert sum(dedup.look_at_news()) == 2
    assert frames_of(volume.file("b")) == frames_of(volume.file("c"))
    volume.check()


def test_who_was_found_first_may_change(volume: Volume) -> None:
    """Others still find those that it shared a frame with, and it finds them again itself."""
    content = pages(*range(1, 20))
    dedup = Dedup(volume.tree)
    dedup.watch()
    for name in "ab":
        volume.create(name, content)
        list(dedup.look_at_news())
    volume.tree.write(volume.file("a"), 0, pages(*range(101, 120)))
    volume.create("c", content)
    list(dedup.look_at_news())
    assert used(volume) == 2 * 19
    volume.tree.write(volume.file("a"), 0, content)
    list(dedup.look_at_news())
    assert used(volume) == 19
    volume.check()


def test_a_look_that_was_given_up_is_made_up_for(volume: Volume) -> None:
    volume.create("a", pages(*range(1, 100)))
    volume.create("b", pages(*range(1, 100)))
    dedup = Dedup(volume.tree)
    dedup.watch()
    for looked in dedup.look_at_news():
        if looked:
            break
    assert dedup.has_news()
    list(dedup.look_at_news())
    assert used(volume) == 99
    for name in ("c", "d"):
        volume.create(name, pages(*range(1, 100)))
    next(dedup.look_at_news())
    dedup.look_at_all_again()
    list(dedup.look_at_news())
    assert used(volume) == 99
    volume.check()


def test_many_writes_are_not_noted_one_by_one(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedup_module, "_WRITTEN_MAX", 10)
    dedup = Dedup(volume.tree)
    dedup.watch()
    list(dedup.look_at_news())
    for number in range(100):
        volume.create(str(number), pages(1 + number % 3))
    assert len(dedup._written) <= 10
    list(dedup.look_at_news())
    assert used(volume) == 3


def test_more_pages_than_the_table_was_made_for(volume: Volume) -> None:
    """It is made anew, and then all is found."""
    volume.pram.close()
    volume = Volume(20_000, arena=volume.arena)
    dedup = Dedup(volume.tree)
    told: list[bool] = []
    dedup.watch(lambda: told.append(True))
    list(dedup.look_at_news())
    content = noise(8_000)
    for name in "ab":
        volume.create(name, content)
    while told:
        told.clear()
        list(dedup.look_at_news())
    assert used(volume) == 8_000


def noise(count: int) -> bytes:
    return b"".join(random.Random(count + at).randbytes(PAGE_SIZE) for at in range(count))


def test_what_comes_and_goes_does_not_fill_the_table_for_ever(volume: Volume) -> None:
    """Pages that are gone leave their places: new ones find theirs, and equal ones are found."""
    dedup = Dedup(volume.tree)
    dedup.watch()
    seeds = itertools.count(1)
    for _ in range(20):
        again = pages(*(next(seeds) for _ in range(400)))
        volume.create("a", again)
        volume.create("b", again)
        list(dedup.look_at_news())
        assert used(volume) == 400
        volume.unlink("a")
        volume.unlink("b")


def steps(rng: random.Random, volume: Volume) -> Iterator[None]:
    """Change some files at random, a step at a time."""
    while True:
        name = rng.choice("abcd")
        if name.encode() not in volume.tree.root.entries:
            volume.create(name)
        file = volume.file(name)
        what = rng.random()
        if what < 0.6:
            data = pages(*(rng.randrange(6) for _ in range(rng.randrange(1, 40))))
            volume.tree.write(file, rng.randrange(600) * PAGE_SIZE, data)
        elif what < 0.7:
            volume.truncate(name, rng.randrange(600 * PAGE_SIZE))
        elif what < 0.8:
            volume.tree.fallocate(file, rng.choice([0, 1, 3, 16]), rng.randrange(1 << 20), 50_000)
        elif what < 0.9:
            volume.tree.copy_range(
                file, rng.randrange(300) * PAGE_SIZE, volume.create("e"), 0, 1 << 18
            )
            volume.rename("e", rng.choice("abcd"))
        else:
            volume.unlink(name)
        yield


@pytest.mark.parametrize("seed", range(6))
def test_whatever_changes_between_its_pieces(volume: Volume, seed: int) -> None:
    """Changes come between pieces; at the end each distinct page that may be shared has one frame."""
    rng = random.Random(seed)
    changes = steps(rng, volume)
    for _ in range(20):
        next(changes)
    dedup = Dedup(volume.tree)
    dedup.watch()
    for _ in range(3):
        for _ in dedup.look_at_news():
            if rng.random() < 0.2:
                next(changes)
                before = contents(volume)
            if rng.random() < 0.02:
                volume.save(final=False)
        volume.check()
    before = contents(volume)
    list(dedup.look_at_all())  # also what is no longer promised room
    assert contents(volume) == before
    frames: Counter[bytes] = Counter()
    seen = set()
    for file in volume.tree.root.entries.values():
        assert isinstance(file, File)
        for start, pfns in file.pages.chunks() if file.pages is not None else ():
            for index, pfn in enumerate(pfns, start):
                if pfn and pfn not in seen and index not in (file.reserved or ()):
                    seen.add(pfn)
                    frames[volume.pram.arena.read(pfn)] += 1
    assert ZEROS not in frames
    assert set(frames.values()) <= {1}
    volume.save()
    volume.check()
    volume.reopen()
    assert contents(volume) == before


@pytest.mark.parametrize("arena", ["image", "memory"])
def test_two_dumps_take_hardly_more_than_one(arena: str) -> None:
    """A process is dumped twice, and 1 % of its pages changed between."""
    rng = random.Random(14)
    volume = Volume(DUMP_PAGES * 5 // 2, arena=arena)
    memory = bytearray(b"".join(rng.randbytes(PAGE_SIZE) for _ in range(DUMP_PAGES)))
    volume.create("pages-1.img", bytes(memory))
    one = used(volume)
    for changed in rng.sample(range(DUMP_PAGES), DUMP_PAGES // 100):
        memory[changed * PAGE_SIZE : changed * PAGE_SIZE + 8] = rng.randbytes(8)
    volume.create("pages-2.img", bytes(memory))
    deduplicate(volume)
    assert used(volume) <= 1.05 * one
    assert volume.read("pages-2.img") == memory
    volume.save()
    volume.check()
