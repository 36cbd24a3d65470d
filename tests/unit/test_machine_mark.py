"""Which machine may have an image that several can reach: the marks in super blocks, and the rules."""

import os
import uuid
from pathlib import Path

import pytest

from pramfs.errors import HeldByMachine, ImageOverwritten, TakenOver
from pramfs.pram.pram import Pram
from pramfs.storage import layout, machine_mark, superblock
from pramfs.storage.layout import BYTE_STREAM, PAGE_SHIFT, PAGE_SIZE, SUPER, SuperBlock
from pramfs.storage.machine_mark import is_elsewhere
from pramfs.storage.superblock import NOBODY, MachineMark
from pramfs.system import machine
from tests.support.watched_image import new_pram, reopen, watched

HERE = MachineMark(b"h" * 16, b"1" * 16, 1, b"here")
THERE = MachineMark(b"t" * 16, b"2" * 16, 2, b"there")
UNKNOWN = bytes(16)


@pytest.fixture
def pram(monkeypatch: pytest.MonkeyPatch) -> Pram:
    """An image as on a disk that several machines reach, with a final save, seen from HERE."""
    monkeypatch.setattr(machine_mark, "mark_of_this_machine", lambda: HERE)
    pram = new_pram()
    watched(pram).is_shared = True
    put(pram, "first")
    pram.publish()
    return pram


def put(pram: Pram, name: str) -> None:
    with pram.prepare_save(name, BYTE_STREAM) as stream:
        stream.write(name.encode() * 2000)


def seen_from(mark: MachineMark, pram: Pram, monkeypatch: pytest.MonkeyPatch) -> Pram:
    """The image, opened to write by a process of that machine."""
    monkeypatch.setattr(machine_mark, "mark_of_this_machine", lambda: mark)
    image = watched(pram).reopen()
    image.is_shared = True
    return Pram.open(image)


def other_slot(pram: Pram) -> SuperBlock:
    page = pram.image.read(pram.current.other_pfn)
    return SuperBlock._make(SUPER.unpack_from(page))


# --- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark", "here", "refused"),
    [
        (THERE, HERE, True),
        (NOBODY, HERE, False),
        (HERE, HERE, False),  # there are locks
        (HERE._replace(boot=b"0" * 16), HERE, False),  # of an earlier boot, nothing runs any more
        (THERE._replace(boot=HERE.boot), HERE, False),  # a container: one kernel, and locks
        (THERE._replace(boot=UNKNOWN), HERE, True),
        (THERE._replace(boot=UNKNOWN), HERE._replace(boot=UNKNOWN), True),
        (THERE._replace(machine=UNKNOWN), HERE, False),
        (THERE, HERE._replace(machine=UNKNOWN), False),
    ],
)
def test_who_is_refused(mark: MachineMark, here: MachineMark, *, refused: bool) -> None:
    assert is_elsewhere(mark, here) is refused


def test_a_marked_image_is_for_its_machine(pram: Pram, monkeypatch: pytest.MonkeyPatch) -> None:
    pram.publisher.mark_mounted(HERE)
    with pytest.raises(HeldByMachine, match=r"here \(machine 68686868\).*takeover"):
        seen_from(THERE, pram, monkeypatch)
    seen_from(HERE._replace(boot=b"3" * 16), pram, monkeypatch)


def test_a_checkpoint_says_who_goes_on(pram: Pram, monkeypatch: pytest.MonkeyPatch) -> None:
    pram.publisher.mark_mounted(HERE)
    for name in ("second", "third"):
        put(pram, name)
        pram.publish(flags=0)
        with pytest.raises(HeldByMachine):
            seen_from(THERE, pram, monkeypatch)


@pytest.mark.parametrize("checkpoints", [0, 1, 2])
def test_a_final_save_lets_go(
    pram: Pram, checkpoints: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pram.publisher.mark_mounted(HERE)
    for number in range(checkpoints):
        put(pram, f"file {number}")
        pram.publish(flags=0)
    pram.publish(flags=layout.SUPER_FINAL)
    seen_from(THERE, pram, monkeypatch).publish()


def test_what_says_nobody_lets_go(pram: Pram, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the save in force is that of a mount: a later mount of it has failed."""
    pram.publisher.mark_mounted(HERE)
    put(pram, "second")
    pram.publish(flags=0)
    pram.publisher.mark_mounted(NOBODY)
    seen_from(THERE, pram, monkeypatch)


def test_a_file_is_neither_marked_nor_refused(pram: Pram, monkeypatch: pytest.MonkeyPatch) -> None:
    pram.publisher.mark_mounted(HERE)
    marked = watched(pram).reopen()
    monkeypatch.setattr(machine_mark, "mark_of_this_machine", lambda: THERE)
    there = Pram.open(marked)  # what was copied into a file is another image
    before = marked.content()
    there.publisher.mark_mounted(THERE)
    assert marked.content() == before


# --- the mark ------------------------------------------------------------------------------------


def test_the_mark_is_no_save(pram: Pram) -> None:
    in_force = superblock.discover(pram.image)
    pram.publisher.mark_mounted(HERE)
    assert superblock.discover(pram.image) == in_force
    marked = other_slot(pram)
    assert (marked.machine, marked.boot, marked.since_ns) == HERE[:3]
    assert marked.host.rstrip(b"\0") == HERE.host
    assert marked.generation == in_force.generation - 1


def test_a_mark_is_not_a_change(pram: Pram) -> None:
    pram.publisher.mark_mounted(HERE)
    assert not superblock.is_unclean(pram.image, pram.current)
    pram.mark_changed()
    assert superblock.changed_by(pram.image, pram.current) == pram.run
    assert superblock.mounted_by(pram.image, pram.current) == HERE


def test_a_mark_leaves_that_of_a_change_as_it_is(pram: Pram) -> None:
    """A run was killed; the next one, which changes nothing, does not hide that."""
    pram.mark_changed()
    again = reopen(pram)
    again.image.is_shared = True
    again.publisher.mark_mounted(HERE)
    assert superblock.changed_by(again.image, again.current) == pram.run


def test_who_was_taken_over_saves_nothing_more(pram: Pram, monkeypatch: pytest.MonkeyPatch) -> None:
    pram.publisher.mark_mounted(HERE)
    superblock.mark_mounted(pram.image, pram.current, THERE)  # what a takeover writes
    content = watched(pram).content()
    put(pram, "second")
    for attempt in (pram.publisher.require_untouched, pram.mark_changed):
        with pytest.raises(TakenOver, match=r"there \(machine 74747474\) has taken .* over"):
            attempt()
    publication = pram.begin_publish(0)
    assert isinstance(publication.finish(publication.write(lambda frames: None)), TakenOver)
    assert slots(watched(pram).content()) == slots(content)


def test_another_program_is_no_machine(pram: Pram) -> None:
    pram.publisher.mark_mounted(HERE)
    os.pwrite(pram.image.fileno(), b"\xff", pram.current.other_pfn << PAGE_SHIFT)
    with pytest.raises(ImageOverwritten, match="another program"):
        pram.publisher.require_untouched()


def slots(content: bytes) -> bytes:
    return content[: 2 * PAGE_SIZE]


# --- the machine ---------------------------------------------------------------------------------


def test_the_id_is_hashed_as_systemd_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `systemd-id128 machine-id --app-specific=…` prints where that is the id of the machine."""
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    monkeypatch.setattr(machine, "_MACHINE_ID", tmp_path / "machine-id")
    found = machine.this_machine()
    assert found.id.hex() == "942ba98fbaee48e6be4fa7cdbaa8bb77"
    assert uuid.UUID(bytes=found.id).version == 4
    assert found.host == os.fsencode(os.uname().nodename)


@pytest.mark.parametrize("text", [None, "", "uninitialized\n", "0123\n", "0" * 32 + "\n"])
def test_without_an_id_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "machine-id").write_text(text)
    monkeypatch.setattr(machine, "_MACHINE_ID", tmp_path / "machine-id")
    assert machine.this_machine().id == UNKNOWN
    assert machine_mark.mark_of_this_machine() == NOBODY
