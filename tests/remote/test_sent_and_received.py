"""Trees that go to each kind of server and come back, every byte and attribute of them."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.mounted.harness import PAGE, Volume, pramfs
from tests.mounted.sample_trees import Snapshot, assert_same, snapshot
from tests.remote import real_places
from tests.remote.conftest import KINDS, Source, in_short_form
from tests.remote.faulty_link import Fault
from tests.remote.real_places import RemotePlace, Servers
from tests.remote.swift import SECRET_KEY

pytestmark = pytest.mark.timeout(1500)  # the first test may wait for the servers to be installed

SHORT = {("s3", "zstd"), ("sftp", "plain")}  # tests/unit/test_remote.py has a directory
NewVolume = Callable[[str], Volume]


def assert_arrived(volume: Volume, *expected: tuple[str, Snapshot]) -> None:
    """Assert that the image of a volume has these snapshots, and nothing else."""
    root = volume.mount()
    assert sorted(os.listdir(root / ".snapshots")) == sorted(name for name, _ in expected)
    for name, tree in expected:
        assert_same(_comparable(snapshot(root / ".snapshots" / name)), _comparable(tree))
    volume.umount()


def _comparable(tree: Snapshot) -> Snapshot:
    """Inode numbers below .snapshots are those of the mount."""
    return {
        name: {field: value for field, value in seen.items() if field != "inode"}
        for name, seen in tree.items()
    }


@pytest.mark.parametrize(
    ("place", "compressed"),
    [(kind, how) for kind in KINDS for how in ("plain", "zstd") if LONG or (kind, how) in SHORT],
    indirect=["place"],
)
def test_a_tree_and_an_increment_come_back(
    place: RemotePlace, source: Source, new_volume: NewVolume, compressed: str
) -> None:
    words = ["--compress", compressed] if compressed != "plain" else []
    place.send(*words, f"{source.image}@one").succeeded()
    place.send(*words, "--since", "one", f"{source.image}@two").succeeded()
    first, second = place.streams()
    assert (first["name"], second["name"]) == ("pramfs@one", "pramfs@two")
    assert second["base"] == first["id"]
    assert second["size"] < first["size"] / 2
    # One after the other, and both at once.
    early, late = new_volume("early"), new_volume("late")
    receive = ("receive", "--size", "128M", "--from")
    for told in place.all_at_once(
        [(*receive, f"{place.url}@one", early.image), (*receive, place.url, late.image)]
    ):
        told.succeeded()
    assert_arrived(early, ("one", source.one))
    place.receive(early.image).succeeded()
    assert_arrived(early, ("one", source.one), ("two", source.two))
    assert_arrived(late, ("one", source.one), ("two", source.two))


@in_short_form("s3")
def test_a_mount_is_sent_and_a_mount_receives(
    far_place: RemotePlace, source: Source, new_volume: NewVolume
) -> None:
    """The increment builds on what the place has, and what the mount shows stays."""
    sender, receiver = new_volume("sender"), new_volume("receiver")
    root, there = sender.mount(), receiver.mount()
    (there / "own").write_text("mine")
    (root / "file").write_bytes(bytes(3 * PAGE) + b"end")
    for number in ("1", "2"):
        (root / number).write_text(number)
        pramfs("snapshot", root, number).succeeded()
        far_place.send("--incremental", f"{root}@{number}").succeeded()
        far_place.receive(there).succeeded()
        seen = snapshot(there / ".snapshots" / number)
        assert_same(_comparable(seen), _comparable(snapshot(root / ".snapshots" / number)))
    assert far_place.streams()[1]["base_name"] == "pramfs@1"
    assert os.listdir(there) == ["own"]


@in_short_form("s3", of="place")
def test_what_the_place_has_is_not_sent_again(place: RemotePlace, source: Source) -> None:
    place.send(f"{source.image}@one").succeeded()
    before = place.files.names()
    assert "already" in place.send(f"{source.image}@one").succeeded().err
    assert "already" in place.send("--incremental", f"{source.image}@one").succeeded().err
    assert place.files.names() == before


def test_a_web_server_gives_what_a_directory_has(
    servers: Servers, name: str, user: Path, source: Source, new_volume: NewVolume
) -> None:
    with real_places.web_folder(servers, name, user) as (place, folder):
        pramfs("send", "--to", folder, f"{source.image}@one").succeeded()
        pramfs("send", "--to", folder, "--since", "one", f"{source.image}@two").succeeded()
        volume = new_volume("new")
        receive = ("receive", "--from", place.url, "--size", "128M", volume.image)
        listed, received = place.listed_beside(*receive)
        assert listed == ["pramfs@one", "pramfs@two"]
        received.succeeded()
        assert_arrived(volume, ("one", source.one), ("two", source.two))
        # By its id, over connections that are cut now and then.
        again = new_volume("again")
        place.link.set(Fault(cut_after=3_000_000), times=3)
        stream = place.streams()[1]["id"]
        place.receive("--size", "128M", again.image, stream=stream).succeeded()
        assert place.link.faults == 3
        assert_arrived(again, ("one", source.one), ("two", source.two))
        place.send(f"{source.image}@one").refused(1, "receive")
        other = str(servers.https.other_certificate)
        place.receive(user / "no.pram", SSL_CERT_FILE=other).refused(32, "certificate")
        assert not (user / "no.pram").exists()


def test_a_bucket_behind_a_certificate(
    servers: Servers, bucket: RemotePlace, source: Source, new_volume: NewVolume
) -> None:
    safe = {
        "AWS_ENDPOINT_URL": f"https://localhost:{servers.https.s3_port}",
        "AWS_CA_BUNDLE": str(servers.https.certificate),
    }
    volume = new_volume("new")
    bucket.send(f"{source.image}@one", **safe).succeeded()
    bucket.receive("--size", "128M", volume.image, **safe).succeeded()
    assert_arrived(volume, ("one", source.one))
    unknown = safe | {"AWS_CA_BUNDLE": str(servers.https.other_certificate)}
    bucket.send(f"{source.image}@two", **unknown).refused(32, "certificate")
    assert bucket.listed() == ["pramfs@one"]


def test_connections_that_are_cut_do_no_harm_in_the_end(
    far_place: RemotePlace, source: Source, new_volume: NewVolume
) -> None:
    volume = new_volume("new")
    far_place.hurry()
    far_place.link.set(Fault(cut_after=3_000_000), times=3)
    far_place.send(f"{source.image}@one").succeeded()
    assert far_place.link.faults == 3
    far_place.link.set(Fault(cut_after=2_000_000), times=3)
    far_place.receive("--size", "128M", volume.image).succeeded()
    assert far_place.link.faults == 6
    assert_arrived(volume, ("one", source.one))
    assert far_place.listed() == ["pramfs@one"]


@in_short_form("s3")
def test_a_slow_link(far_place: RemotePlace, source: Source, new_volume: NewVolume) -> None:
    volume = new_volume("new")
    far_place.link.set(Fault(delay_s=0.02 if LONG else 0.01, bytes_per_s=12_000_000))
    far_place.send(f"{source.image}@one").succeeded()
    far_place.receive("--size", "128M", volume.image).succeeded()
    assert_arrived(volume, ("one", source.one))


@in_short_form("sftp")
def test_a_server_that_is_away_for_a_moment(
    far_place: RemotePlace, source: Source, tmp_path: Path
) -> None:
    far_place.link.set(Fault(bytes_per_s=8_000_000))
    sending = far_place.start("send", "--to", far_place.url, f"{source.image}@one")
    far_place.link.wait_for_bytes(8_000_000)
    far_place.link.close()
    time.sleep(1)
    far_place.link.set(Fault())
    far_place.link.reopen()
    far_place.end_of(sending).succeeded()
    far_place.receive("--size", "128M", tmp_path / "new.pram").succeeded()


def test_nobody_is_told_the_credentials(bucket: RemotePlace, source: Source) -> None:
    """Neither the list of processes nor what is kept in the place has them; outputs never do (places.py)."""
    bucket.link.set(Fault(delay_s=0.01, bytes_per_s=4_000_000))
    sending = bucket.start("send", "--to", bucket.url, f"{source.image}@one")
    bucket.link.wait_for_bytes(4_000_000)
    shown = real_places.command_lines(sending.pid)
    bucket.link.set(Fault())
    bucket.end_of(sending).succeeded()
    assert shown
    assert not any(SECRET_KEY.encode() in text for text in shown)
    (manifest,) = [name for name in bucket.files.names() if name.endswith(".json")]
    assert SECRET_KEY not in json.dumps(json.loads(bucket.files.read(manifest)))
    url = f"sftp://root:{SECRET_KEY}@127.0.0.1/there"
    bucket.pramfs("snapshots", url).refused(1, "password")
    bucket.pramfs("send", "--to", url, source.image).refused(1, "password")
