"""Places that cannot be used, and what is damaged in them: one clear line, and nothing has changed."""

from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.mounted.harness import content_of
from tests.remote import real_places
from tests.remote.conftest import Source, in_short_form
from tests.remote.real_places import RemotePlace, Servers

pytestmark = pytest.mark.timeout(1500)  # the first test may wait for the servers to be installed

FAILED = 32


def assert_refused(
    place: RemotePlace, source: Source, receiver: Path, *words: str, **changes: str
) -> None:
    """Assert that nothing can be sent, listed or received, and that the receiver stays as it is.

    In the short form nothing is listed: what sends and what receives has to do that first.
    """
    before = content_of(receiver)
    new = receiver.with_name("new.pram")
    commands: list[tuple[str | Path, ...]] = [
        ("send", "--to", place.url, f"{source.image}@one"),
        ("receive", "--from", place.url, receiver),
    ]
    if LONG:
        commands += [("snapshots", place.url), ("receive", "--from", place.url, new)]
    for outcome in place.all_at_once(commands, **changes):
        outcome.refused(FAILED, *words)
    assert content_of(receiver) == before
    assert not new.exists()


def test_wrong_and_missing_credentials(bucket: RemotePlace, source: Source, receiver: Path) -> None:
    for changes in (
        {"AWS_SECRET_ACCESS_KEY": "not-the-secret-of-the-test"},
        {"AWS_ACCESS_KEY_ID": "test:nobody"},
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
    ):
        assert_refused(bucket, source, receiver, bucket.url, **changes)
    assert bucket.files.names() == []


def test_a_key_that_the_ssh_server_does_not_know(
    servers: Servers, name: str, user: Path, source: Source, receiver: Path
) -> None:
    with real_places.ssh_folder(servers, name, user) as place:
        configuration = user / ".ssh/config"
        configuration.write_text(configuration.read_text().replace("/key\n", "/stranger\n"))
        assert_refused(place, source, receiver, place.url, "permission denied")


def test_an_ssh_server_that_is_not_the_one_it_was(
    servers: Servers, name: str, user: Path, source: Source, receiver: Path
) -> None:
    with real_places.ssh_folder(servers, name, user) as place:
        known = user / ".ssh/known_hosts"
        names, kind, _ = known.read_text().split()
        other = (user / ".ssh/stranger.pub").read_text().split()[1]
        for text in ("", f"{names} {kind} {other}\n"):
            known.write_text(text)
            assert_refused(place, source, receiver, place.url, "host key")


def test_no_such_bucket(bucket: RemotePlace, source: Source, receiver: Path) -> None:
    bucket.url = "s3://nobody-has-made-this/dump"
    assert_refused(bucket, source, receiver, bucket.url, "bucket")


@in_short_form("s3", "sftp", of="place")
def test_a_file_is_no_place(place: RemotePlace, source: Source, tmp_path: Path) -> None:
    """Neither a stream that somebody has put there, nor what belongs to one that is.

    In the short form each is tried with one command, in the long form with all.
    """
    place.send(f"{source.image}@one").succeeded()
    place.files.write("dump.stream", b"PRAMSEND and so on")
    (manifest,) = [name for name in place.files.names() if name.endswith(".json")]
    part = f"a part of a stream, not a directory with streams; name the directory: {place.url}\n"
    no_streams = "not a directory with streams; a stream in a file is for"
    commands, expected = [], []
    for number, (name, words) in enumerate(
        (("dump.stream", no_streams), (manifest, part), (manifest.removesuffix(".json"), part))
    ):
        url = f"{place.url}/{name}"
        every_command: list[tuple[str | Path, ...]] = [
            ("snapshots", url),
            ("receive", "--from", url, tmp_path / "new"),
            ("send", "--to", url, f"{source.image}@two"),
        ]
        some = every_command if LONG else every_command[number : number + 1]
        commands += some
        expected += [(url, words)] * len(some)
    for told, (url, words) in zip(place.all_at_once(commands), expected, strict=True):
        told.refused(FAILED, url, words)
    assert place.listed() == ["pramfs@one"]


@in_short_form("sftp")
def test_a_server_that_is_not_there(far_place: RemotePlace, source: Source, receiver: Path) -> None:
    far_place.hurry()
    far_place.link.close()
    assert_refused(far_place, source, receiver, far_place.url)


def test_what_is_damaged_in_a_place_is_not_received(
    place: RemotePlace, source: Source, receiver: Path
) -> None:
    place.send(f"{source.image}@one").succeeded()
    before = content_of(receiver)
    files = place.files.names()
    (manifest,) = [name for name in files if name.endswith(".json")]
    pieces = [name for name in files if name != manifest]
    assert len(pieces) > 2
    for number, name in enumerate((pieces[1], pieces[-1], manifest)):
        content = place.files.read(name)
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 16]) + content[middle + 1 :]
        kinds = (flipped, content[:-1], b"")
        for damaged in kinds if LONG else kinds[number : number + 1]:
            place.files.write(name, damaged)
            place.receive(receiver).refused(FAILED, "damaged", name)
            assert content_of(receiver) == before
        place.files.write(name, content)
    place.files.remove(pieces[0])
    new = receiver.with_name("new.pram")
    both = [("receive", "--from", place.url, target) for target in (receiver, new)]
    for told in place.all_at_once(both):
        told.refused(FAILED, "damaged", pieces[0], "missing")
    assert content_of(receiver) == before
    assert not new.exists()


@in_short_form("s3", of="place")
def test_old_streams_are_dropped_but_never_what_is_built_on(
    place: RemotePlace, source: Source, tmp_path: Path
) -> None:
    one, two = f"{source.image}@one", f"{source.image}@two"
    place.send(one).succeeded()
    place.send("--since", "one", "--keep", "1", two).succeeded()
    receive = ("receive", "--from", place.url, "--size", "128M")
    listed, received = place.listed_beside(*receive, tmp_path / "both.pram")
    assert listed == ["pramfs@one", "pramfs@two"]
    received.succeeded()
    # A mount's tree of now, as a whole: nothing is built on the others any more.
    place.send("--keep", "1", source.image).succeeded()
    (kept,) = place.streams()
    assert (kept["name"], kept["base"]) == ("pramfs", "")
    assert {name.partition("/")[0].partition(".")[0] for name in place.files.names()} == {
        kept["id"]
    }
    place.pramfs(*receive, tmp_path / "new.pram").succeeded()
    place.pramfs("check", tmp_path / "new.pram").succeeded()
