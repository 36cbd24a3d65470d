"""Several at one place, and places where not everybody may do everything, or nothing fits any more."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, Volume, content_of
from tests.mounted.sample_trees import noise
from tests.remote import real_places
from tests.remote.conftest import Source, in_short_form, take
from tests.remote.faulty_link import Fault
from tests.remote.real_places import HOST, RemotePlace, Servers
from tests.remote.sshd import FULL

pytestmark = pytest.mark.timeout(1500)  # the first test may wait for the servers to be installed

FAILED = 32


def everything_is_whole(place: RemotePlace) -> list[str]:
    """Return the names of what is there, all of which can be received."""
    streams = place.streams()
    assert not any(one["missing"] for one in streams)
    return [one["name"] for one in streams]


@in_short_form("s3")
def test_several_senders_at_once(far_place: RemotePlace, source: Source, tmp_path: Path) -> None:
    """Each drops what is old, and none what another one has sent in the meantime."""
    far_place.send(f"{source.image}@one").succeeded()
    for told in far_place.all_at_once(
        [
            ("send", "--to", far_place.url, "--keep", "3", f"{source.image}@two"),
            ("send", "--to", far_place.url, "--keep", "3", source.image),
            ("send", "--to", far_place.url, f"{source.image}@two"),
        ]
    ):
        told.succeeded()
    names = everything_is_whole(far_place)
    assert set(names) - {"pramfs@one"} == {"pramfs", "pramfs@two"}
    far_place.receive("--size", "128M", tmp_path / "new.pram", stream="two").succeeded()


@in_short_form("sftp")
def test_a_receiver_while_what_it_receives_is_dropped(
    far_place: RemotePlace, new_volume: Callable[..., Volume]
) -> None:
    """It is told so, and has what it had."""
    volume = new_volume("receiver")
    root = volume.mount()
    (root / "mine").write_text("mine")
    volume.umount()
    before = content_of(volume.image)
    large = new_volume("large", "128M")
    root = large.mount()
    (root / "large").write_bytes(noise(48 * MIB))  # more pieces than are fetched at once
    far_place.send(root).succeeded()
    far_place.link.set(Fault(bytes_per_s=16 * MIB))
    passed = far_place.link.passed
    receiving = far_place.start("receive", "--from", far_place.url, "--as", "@new", volume.image)
    far_place.link.wait_for_bytes(passed + 2 * MIB)
    receiving.send_signal(signal.SIGSTOP)
    far_place.link.set(Fault())
    (root / "large").unlink()
    far_place.send("--keep", "1", root).succeeded()
    receiving.send_signal(signal.SIGCONT)
    told = far_place.end_of(receiving)
    told.refused(FAILED, far_place.url, "pramfs, ", "dropped there meanwhile")
    assert content_of(volume.image) == before
    assert everything_is_whole(far_place) == ["pramfs"]
    far_place.receive("--as", "@new", volume.image).succeeded()


def test_a_user_who_may_not_write_there(
    servers: Servers, name: str, user: Path, source: Source, tmp_path: Path
) -> None:
    """What is there can be listed and received; nothing is added, and nothing is lost."""
    with real_places.ssh_folder(servers, name, user) as place:
        place.send(f"{source.image}@one").succeeded()
        before = place.files.names()
        own = place.url
        place.url = own.replace(HOST, f"nobody@{HOST}")
        send = ("send", "--to", place.url)
        commands = [(*send, *words, f"{source.image}@two") for words in ((), ("--keep", "1"))]
        for told in place.all_at_once(commands):
            told.refused(FAILED, place.url, "permission denied")
        # It has this one already, and there is nothing to drop.
        place.send("--keep", "1", f"{source.image}@one").succeeded()
        receive = ("receive", "--from", place.url, "--size", "128M", tmp_path / "new.pram")
        listed, received = place.listed_beside(*receive)
        assert listed == ["pramfs@one"]
        received.succeeded()
        assert place.files.names() == before
        place.url = own
        place.send(f"{source.image}@two").succeeded()
        place.url = own.replace(HOST, f"nobody@{HOST}")
        told = place.send("--keep", "1", f"{source.image}@two")
        assert told.code == FAILED
        has, not_dropped = told.err.splitlines()
        assert "has pramfs@two already" in has
        assert "sent, but what is old may still be there: cannot remove" in not_dropped
        assert not_dropped.endswith("Permission denied")
        assert everything_is_whole(place) == ["pramfs@one", "pramfs@two"]
        private = servers.sshd.folder / name / "dump"
        private.chmod(0o700)
        for told in place.all_at_once(
            [("snapshots", place.url), ("receive", "--from", place.url, tmp_path / "no")]
        ):
            told.refused(FAILED, place.url, "permission denied")
        assert not (tmp_path / "no").exists()


def test_a_disk_that_is_full(
    servers: Servers, name: str, user: Path, source: Source, small: Path, tmp_path: Path
) -> None:
    """What does not fit is taken back, and what is there stays."""
    with real_places.ssh_folder(servers, name, user) as place:
        place.url = f"sftp://{HOST}{FULL}/{name}"
        place.send(f"{small}@one").succeeded()
        for _ in range(2):  # the second would find no room if something of the first were left
            place.send(f"{source.image}@one").refused(FAILED, place.url, "room")
        receive = ("receive", "--from", place.url, "--size", "16M", tmp_path / "new.pram")
        listed, received = place.listed_beside(*receive)
        assert listed == ["pramfs@one"]
        received.succeeded()
        place.send("--keep", "1", f"{small}@two").succeeded()
        assert place.listed() == ["pramfs@two"]


@pytest.mark.timeout(7200)  # the long form starts three hundred programs, one after the other
@in_short_form("sftp", of="place")
def test_many_snapshots_are_sent_and_the_old_ones_dropped(
    place: RemotePlace, new_volume: Callable[[str], Volume], long: bool
) -> None:
    """All is sent now and then; what an increment that stays builds on stays as long as that."""
    volume = new_volume("many")
    root = volume.mount()
    every = 5 if long else 2
    for number in range(100 if long else 5):
        (root / str(number)).write_text(str(number))
        take(root, str(number))
        words = ["--incremental"] if number % every else []
        place.send("--keep", "2", *words, f"{root}@{number}").succeeded()
        oldest_kept = max(0, number - 1)
        first = oldest_kept - oldest_kept % every
        assert everything_is_whole(place) == [f"pramfs@{one}" for one in range(first, number + 1)]
    kept = {one["id"] for one in place.streams()}
    assert {name.partition("/")[0].partition(".")[0] for name in place.files.names()} == kept
