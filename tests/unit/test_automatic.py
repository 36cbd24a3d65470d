"""The snapshots of the last saves (`keep=`): how many there are, and when they go."""

import errno
import os
import re
import time

import pytest

from pramfs.errors import FramesHeld, NoRoomForSnapshot, UsageError
from pramfs.options import parse_options
from pramfs.saves.automatic import AutomaticSnapshots, Keep
from pramfs.saves.snapshots import (
    AUTOMATIC_PREFIX,
    check_name,
    new_name,
    require_new,
    snapshots_of,
)
from pramfs.storage.layout import PAGE_SIZE
from tests.support.tree_volume import NAME, Volume


class Kept(Volume):
    """A volume whose saves are kept."""

    def __init__(self, keep: Keep, frames: int = 1024) -> None:
        super().__init__(frames)
        self.keep = keep
        self.automatic = AutomaticSnapshots(self.pram, self.saver, self.tree, keep)
        self.create("file", b"0")

    def again(self, *, keep: Keep) -> None:
        """Go on in the next mount."""
        self.reopen()
        self.automatic = AutomaticSnapshots(self.pram, self.saver, self.tree, keep)

    def save_counted(self) -> None:
        """Save as at unmount, by command, and at intervals."""
        name = self.automatic.next_one()
        for _ in self.automatic.make_room() if name else ():
            self.save_for_room()
        self.automatic.note_save()
        self.saver.save(final=False, progress=lambda pages: None, snapshot=name)
        if name:
            self.automatic.note_kept()

    def save_for_room(self) -> None:
        self.automatic.note_save()
        self.save(final=False)

    def change(self, content: bytes = b"x") -> None:
        self.tree.write(self.file("file"), 0, content)

    @property
    def names(self) -> list[str]:
        return [snapshot.name for snapshot in snapshots_of(self.pram, NAME)]


def test_the_last_saves_are_kept() -> None:
    volume = Kept(Keep(saves=3))
    seen = []
    for number in range(6):
        volume.change(b"%d" % number)
        volume.save_counted()
        volume.check()
        seen.append(volume.names[-1])
    assert volume.names == seen[-3:]
    assert len(set(seen)) == 6


def test_of_many_some_go_at_once() -> None:
    """To free the oldest writes the pages of all that are newer: not with every save."""
    volume = Kept(Keep(saves=40), frames=4096)
    there = []
    for number in range(60):
        volume.change(b"%d" % number)
        volume.save_counted()
        there.append(len(volume.names))
    assert there[:40] == list(range(1, 41))
    assert set(there[40:]) == {40, 41, 42}
    assert there.count(40) > 5
    volume.check()


def test_names_tell_the_time_and_that_they_are_automatic() -> None:
    volume = Kept(Keep(saves=1))
    volume.save_counted()
    (snapshot,) = snapshots_of(volume.pram, NAME)
    assert snapshot.name.startswith("auto-")
    told = time.strptime(re.sub(r"\.\d{3}Z$", "", snapshot.name), "auto-%Y%m%dT%H%M%S")
    assert abs(time.time() - time.mktime((*told[:8], 0)) + time.timezone) < 3600


def test_a_save_without_a_change_is_not_kept() -> None:
    volume = Kept(Keep(saves=3))
    volume.save_counted()
    volume.save_counted()
    volume.again(keep=Keep(saves=3))
    volume.save_counted()
    assert len(volume.names) == 1


def test_what_other_saves_have_saved_is_kept_by_the_next_that_counts() -> None:
    volume = Kept(Keep(saves=3))
    volume.save_counted()
    volume.change()
    volume.save_for_room()
    assert len(volume.names) == 1
    volume.again(keep=Keep(saves=3))
    volume.save_counted()
    assert len(volume.names) == 2


def test_saves_of_a_time_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Kept(Keep(seconds=3600))
    now_ns = time.time_ns()
    for minutes in (0, 30, 59, 61, 100):
        monkeypatch.setattr(time, "time_ns", lambda at=minutes: now_ns + at * 60 * 10**9)
        volume.change(b"%d" % minutes)
        volume.save_counted()
    minutes_kept = [
        (one.saved_ns - now_ns) // (60 * 10**9) for one in snapshots_of(volume.pram, NAME)
    ]
    assert minutes_kept == [59, 61, 100]


def test_without_the_option_nothing_is_kept_and_nothing_goes() -> None:
    volume = Kept(Keep(saves=3))
    volume.save_counted()
    volume.again(keep=Keep())
    volume.change()
    volume.save_counted()
    assert len(volume.names) == 1


def test_a_full_image_gives_up_the_oldest_first_and_never_one_with_a_name() -> None:
    volume = Kept(Keep(saves=100))
    volume.saver.save(
        final=False, progress=lambda pages: None, snapshot=require_new(volume.pram, NAME, "mine")
    )
    seen = []
    for _ in range(4):
        volume.change(os.urandom(100 * PAGE_SIZE))
        volume.save_counted()
        seen.append(volume.names[-1])
    file = volume.create("large")
    data = os.urandom(650 * PAGE_SIZE)
    done = 0
    while done < len(data):
        try:
            # Not the patient one, which waits for room in its own way.
            volume.tree.note_change(file)
            done += volume.tree.data.write(file, done, data[done:])
        except FramesHeld as held:
            done += held.written
            volume.automatic.give_up()
            volume.save_for_room()
            volume.check()
    left = volume.names
    assert left[0] == "mine"
    assert 0 < len(left[1:]) < 4
    assert left[1:] == seen[-len(left[1:]) :]
    volume.save_counted()
    volume.check()


def test_when_there_is_nothing_to_give_up_the_writer_is_refused() -> None:
    volume = Kept(Keep(saves=100), frames=256)
    volume.save_counted()
    file, data = volume.file("file"), os.urandom(400 * PAGE_SIZE)
    refused: list[int | None] = []
    while not refused:
        try:
            volume.tree.note_change(file)
            volume.tree.data.write(file, 0, data)
        except FramesHeld:
            volume.automatic.give_up()
            volume.save_for_room()
        except OSError as exc:
            refused.append(exc.errno)
    assert refused == [errno.ENOSPC]
    assert volume.names == []
    volume.save(final=False)
    volume.check()


def test_a_save_that_has_no_room_to_be_kept_is_made_all_the_same() -> None:
    volume = Kept(Keep(saves=2), frames=64)
    for number in range(100):
        volume.change(b"%d" % number * PAGE_SIZE)
        try:
            volume.save_counted()
        except NoRoomForSnapshot:
            volume.save_for_room()
        volume.check()


@pytest.mark.parametrize(
    ("text", "saves", "seconds"),
    [
        ("0", 0, 0),
        ("5", 5, 0),
        ("90s", 0, 90),
        ("30m", 0, 1800),
        ("24h", 0, 86400),
        ("7d", 0, 604800),
    ],
)
def test_the_option(text: str, saves: int, seconds: int) -> None:
    options = parse_options([f"keep={text}"])
    assert (options.keep_saves, options.keep_seconds) == (saves, seconds)


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "h", "1y", "24 h", "9999999", "1h30m"])
def test_wrong_values_of_the_option(text: str) -> None:
    with pytest.raises(UsageError, match="option 'keep': a number or a time such as 24h expected"):
        parse_options([f"keep={text}"])


def test_nothing_is_kept_of_a_read_only_mount() -> None:
    with pytest.raises(UsageError, match="options 'ro' and 'keep' exclude each other"):
        parse_options(["ro,keep=5"])
    with pytest.raises(UsageError, match="options 'snapshot' and 'keep' exclude each other"):
        parse_options(["snapshot=s,keep=5"])


def test_every_tree_that_may_be_mounted_to_keep_saves_has_names_for_them() -> None:
    longest = parse_options([f"name={'n' * 220}", "keep=5"]).name
    stem = new_name(longest, AUTOMATIC_PREFIX, ())
    check_name(longest, f"{stem}-999", automatic=True)
    with pytest.raises(UsageError, match="the name has 221 bytes, and at most 220 leave room"):
        parse_options([f"name={'n' * 221}", "keep=5"])
