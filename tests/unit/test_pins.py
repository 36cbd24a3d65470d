"""Pinned frames stay as they are, whatever becomes of the nodes that held them."""

import os

import pytest

from pramfs.pram.pins import Pin
from pramfs.saves.snapshots import drop_snapshot
from pramfs.saves.tree_nodes import nodes_of
from pramfs.storage.layout import PAGE_SIZE, SHARED
from pramfs.storage.regions import Region, Regions
from tests.support.image_audit import check_pram
from tests.support.tree_volume import NAME, Volume

CONTENT = os.urandom(8 * PAGE_SIZE)
SNAPSHOT = f"{NAME}@one"


@pytest.fixture
def volume(arena: str) -> Volume:
    """A volume with a file, and a snapshot of it."""
    volume = Volume(512, arena=arena)
    volume.create("file", CONTENT)
    volume.saver.save(final=False, progress=lambda pages: None, snapshot=SNAPSHOT)
    return volume


def frames_of(volume: Volume) -> list[int]:
    pages = volume.file("file").pages
    assert pages is not None
    return [pages.get(index) for index in range(8)]


def pin(volume: Volume) -> tuple[Pin, list[None]]:
    """Pin the snapshot; the list grows with each of its nodes that is freed."""
    freed: list[None] = []
    pram = volume.pram
    nodes = [pram.nodes[name] for name in sorted(nodes_of(SNAPSHOT) & pram.nodes.keys())]
    pin = Pin(nodes, lambda: freed.append(None))
    pram.pins.add(pin)
    return pin, freed


def contents(volume: Volume, frames: list[int]) -> bytes:
    return b"".join(volume.pram.arena.read(pfn) for pfn in frames)


def test_a_pin_costs_nothing_while_its_nodes_are_there(volume: Volume) -> None:
    before = volume.pram.arena.table.summary()
    taken, freed = pin(volume)
    assert volume.pram.arena.table.summary() == before
    assert not freed
    volume.pram.pins.release(taken)
    volume.save()
    volume.check()


def test_frames_stay_after_their_nodes_were_freed(volume: Volume) -> None:
    frames = frames_of(volume)
    taken, freed = pin(volume)
    volume.unlink("file")
    drop_snapshot(volume.pram, NAME, "one")
    assert freed
    for number in range(10):
        volume.create(f"{number}", b"x" * 4 * PAGE_SIZE)
        volume.save(final=False)
        volume.check(orphans=True)
        assert contents(volume, frames) == CONTENT
    used = volume.pram.arena.table.summary().used
    volume.pram.pins.release(taken)
    assert volume.pram.arena.table.summary().used < used - 8
    volume.save()
    volume.check()


def test_a_save_does_not_count_what_only_pins_hold(volume: Volume) -> None:
    """Else the image would seem to need a pramfs that knows shared frames."""
    taken, _ = pin(volume)
    drop_snapshot(volume.pram, NAME, "one")
    volume.save(final=False)
    assert not volume.pram.current.incompatible & SHARED
    assert volume.pram.arena.table.repeats  # the file and the pin
    assert check_pram(volume.pram, volume.tree, orphans=True)
    volume.pram.pins.release(taken)
    volume.save()
    volume.check()


def test_frames_that_are_left_because_they_are_banned_stay_for_a_pin(volume: Volume) -> None:
    first = min(frames_of(volume))
    volume.reopen(banned=Regions([Region(first, first + 3)]))
    frames = frames_of(volume)
    link = volume.pram.nodes[f"{SNAPSHOT}-data"].link_pfn  # which somebody may be reading
    before = contents(volume, [link])
    taken, _ = pin(volume)
    volume.save(final=False)
    volume.unlink("file")
    volume.create("other", b"x" * (PAGE_SIZE * (volume.pram.arena.table.unused // 2)))
    volume.save(final=False)
    assert contents(volume, frames) == CONTENT
    assert contents(volume, [link]) == before
    drop_snapshot(volume.pram, NAME, "one")
    volume.save(final=False)
    assert contents(volume, frames) == CONTENT
    volume.pram.pins.release(taken)
    volume.save()
    volume.save()
    volume.check()
