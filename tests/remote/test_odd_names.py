"""Names that shells, URLs and libraries have other ideas about: they are taken literally, or refused."""

from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.mounted.harness import Volume, pramfs
from tests.remote import real_places
from tests.remote.conftest import in_short_form, take
from tests.remote.real_places import FOLDER, RemotePlace, Servers

pytestmark = pytest.mark.timeout(1500)  # the first test may wait for the servers to be installed

FAILED = 32
USAGE = 1
ODD = """-50%25 a[b]*'q'"r Größe:$HOME;~"""
NAMES = ["a blank", "100%", "Größe", "-dash", "a[b]*", "~", "n" * 200]
SNAPSHOTS = [
    "a 100% Größe?",
    "s" * 128,
    *(["a blank", "100%", "what?", "#1", "Größe"] if LONG else []),
]


@in_short_form("s3", "sftp", of="place")
@pytest.mark.parametrize("odd", [ODD, *NAMES] if LONG else [ODD])
def test_a_place_may_have_any_name(
    place: RemotePlace, small: Path, tmp_path: Path, odd: str
) -> None:
    """What is sent there is there, and what is dropped is dropped there."""
    place.url += f"/{odd}/x"
    for snapshot in ("one", "two"):
        place.send("--keep", "1", f"{small}@{snapshot}").succeeded()
    new = tmp_path / "new.pram"
    listed, received = place.listed_beside("receive", "--from", place.url, "--size", "16M", new)
    assert listed == ["pramfs@two"]
    received.succeeded()
    assert {name.rpartition("/x/")[0] for name in place.files.names()} == {odd}


def test_a_web_server_may_have_folders_of_any_name(
    servers: Servers, name: str, user: Path, small: Path
) -> None:
    with real_places.web_folder(servers, name, user) as (place, folder):
        for odd, in_url in (
            ("a blank", "a blank"),
            ("a blank", "a%20blank"),
            ("50%", "50%25"),
            ("ü", "ü"),
        ):
            pramfs("send", "--to", folder / odd, f"{small}@one").succeeded()
            place.url = f"{place.url.rpartition(FOLDER)[0]}{FOLDER}/{in_url}"
            new = user / "new.pram"
            receive = ("receive", "--from", place.url, "--size", "16M", new)
            listed, received = place.listed_beside(*receive)
            assert listed == ["pramfs@one"]
            received.succeeded()
            new.unlink()


@in_short_form("s3", "sftp", of="place")
def test_a_directory_above_is_one_only_where_there_are_directories(
    place: RemotePlace, small: Path
) -> None:
    above = f"{place.url}/below/../there"
    if place.url.startswith("s3"):
        place.pramfs("send", "--to", above, f"{small}@one").refused(USAGE, "..")
        assert place.files.names() == []
    else:
        place.send(f"{small}@one").succeeded()  # so that the directory is there
        Path(place.files.folder, "below").mkdir()  # type: ignore[attr-defined]
        place.pramfs("send", "--to", above, f"{small}@one").succeeded()
        place.url += "/there"
        assert place.listed() == ["pramfs@one"]


def test_names_that_a_server_does_not_take(
    servers: Servers, bucket: RemotePlace, name: str, user: Path, small: Path
) -> None:
    long = "n" * 300
    with real_places.ssh_folder(servers, f"{name}-ssh", user) as folder:
        for place in (bucket, folder):
            url = f"{place.url}/{long * 4}"
            place.pramfs("send", "--to", url, f"{small}@one").refused(FAILED, url[:40])
            assert place.files.names() == []
    others = ("s3://B_u-c k/x", f"s3://{long}/x", "s3://ü/x")
    commands = [("send", "--to", other, f"{small}@one") for other in others]
    for other, told in zip(others, bucket.all_at_once(commands), strict=True):
        told.refused(FAILED, other[:40])


@in_short_form("s3")
def test_snapshots_and_trees_may_have_any_name(far_place: RemotePlace, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    volume = Volume(tmp_path / "odd", "image")
    try:
        root = volume.mount("name=träe %")
        for number, name in enumerate(SNAPSHOTS):
            (root / str(number)).touch()
            take(root, name)
        volume.umount()
    finally:
        volume.finish()
    words = ["--name", "träe %"]
    for name in SNAPSHOTS:
        far_place.send(*words, "--incremental", f"{volume.image}@{name}").succeeded()
    assert far_place.listed() == [f"träe %@{name}" for name in SNAPSHOTS]
    for name in SNAPSHOTS if LONG else SNAPSHOTS[-1:]:
        new = tmp_path / "new.pram"
        far_place.receive("--size", "16M", new, stream=name).succeeded()
        assert f"träe %@{name} " in pramfs("snapshots", new).succeeded().text
        new.unlink()
