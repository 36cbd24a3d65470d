"""What is cut off for good leaves no stream, and nothing at the receiver; the next attempt works."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.conftest import LONG
from tests.mounted.harness import Volume, content_of
from tests.remote.conftest import FAR_KINDS, Source, in_short_form
from tests.remote.faulty_link import Fault
from tests.remote.real_places import RemotePlace

pytestmark = pytest.mark.timeout(1500)  # the first test may wait for the servers to be installed

FAILED = 32
INTERRUPTED = 8
MIB = 1 << 20
MOMENTS = range(15) if LONG else [8]
NewVolume = Callable[[str], Volume]


def assert_works_now(place: RemotePlace, source: Source, image: Path) -> None:
    """Assert that nothing looks whole in the place, and that the next upload is."""
    if place.is_far:
        place.link.set(Fault())
    receive = ("receive", "--from", place.url, "--size", "128M", image)
    listed, received = place.listed_beside(*receive)
    assert listed == []
    received.refused(FAILED, "none")
    assert not image.exists()
    place.send(f"{source.image}@one").succeeded()
    listed, received = place.listed_beside(*receive)
    assert listed == ["pramfs@one"]
    received.succeeded()
    place.pramfs("check", image).succeeded()


@pytest.mark.parametrize("moment", MOMENTS)
@in_short_form("s3", "sftp", of="place")
def test_an_upload_that_is_killed(
    place: RemotePlace, source: Source, tmp_path: Path, moment: int
) -> None:
    """At a random moment; the next sender removes what it has left."""
    random = Random(moment)
    if place.is_far:
        place.link.set(Fault(bytes_per_s=8 * MIB))
    else:
        Path(place.url).mkdir(parents=True)  # else there is no place when it is killed early
    sending = place.start("send", "--to", place.url, f"{source.image}@one")
    if place.is_far:
        place.link.wait_for_bytes(random.randrange(1, 24 * MIB))
    else:
        time.sleep(random.uniform(0.1, 1))
    os.kill(sending.pid, signal.SIGKILL)
    code = place.end_of(sending).code
    if code == 0 or any(name.endswith(".json") for name in place.files.names()):
        assert not place.is_far, "it was over before it was killed"
        # With a manifest it looks whole, so it has to be.
        assert place.listed() == ["pramfs@one"]
        place.receive("--size", "128M", tmp_path / "new.pram").succeeded()
        place.pramfs("check", tmp_path / "new.pram").succeeded()
        return
    assert code == -signal.SIGKILL
    assert_works_now(place, source, tmp_path / "new.pram")
    place.let_days_pass()
    place.send(f"{source.image}@two").succeeded()
    whole = {stream["id"] for stream in place.streams()}
    assert {re.split("[/.]", name)[0] for name in place.files.names()} == whole


@in_short_form("s3")
def test_an_upload_that_is_interrupted_is_taken_back(
    far_place: RemotePlace, source: Source, tmp_path: Path
) -> None:
    far_place.link.set(Fault(bytes_per_s=8 * MIB))
    sending = far_place.start("send", "--to", far_place.url, f"{source.image}@one")
    far_place.link.wait_for_bytes(20 * MIB)
    far_place.link.set(Fault())
    os.kill(sending.pid, signal.SIGINT)
    assert far_place.end_of(sending).code == INTERRUPTED
    assert far_place.files.names() == []
    assert_works_now(far_place, source, tmp_path / "new.pram")


@in_short_form("sftp")
def test_ctrl_c_does_not_wait_for_a_silent_server(
    far_place: RemotePlace, source: Source, tmp_path: Path
) -> None:
    far_place.hurry()
    far_place.send(f"{source.image}@one").succeeded()
    new = tmp_path / "new.pram"
    for words in (
        ("send", "--to", far_place.url, f"{source.image}@two"),
        ("receive", "--from", far_place.url, "--size", "128M", new),
    ):
        before = far_place.link.faults
        far_place.link.set(Fault(stalls_after=2 * MIB))
        running = far_place.start(*words)
        while far_place.link.faults == before:
            assert running.poll() is None
            time.sleep(0.01)
        far_place.link.set(Fault())
        os.kill(running.pid, signal.SIGINT)
        running.wait(timeout=40)  # it waits a minute for an answer, otherwise
        told = far_place.end_of(running)
        assert (told.code, told.err) == (INTERRUPTED, "")
    assert far_place.listed() == ["pramfs@one"]
    assert not new.exists()


@in_short_form("sftp")
def test_an_upload_whose_connections_all_fail(
    far_place: RemotePlace, source: Source, tmp_path: Path
) -> None:
    far_place.hurry()
    far_place.link.set(Fault(cut_after=3 * MIB))
    far_place.send(f"{source.image}@one").refused(FAILED, far_place.url)
    assert far_place.link.faults >= 5
    assert_works_now(far_place, source, tmp_path / "new.pram")


@pytest.mark.parametrize(
    ("far_place", "after", "patient"),
    [
        ("s3", 2 * MIB, False),
        ("sftp", 0, False),
        *([(kind, after, True) for kind in FAR_KINDS for after in (0, 2 * MIB)] if LONG else ()),
    ],
    indirect=["far_place"],
)
def test_a_server_that_falls_silent(
    far_place: RemotePlace, source: Source, tmp_path: Path, after: int, *, patient: bool
) -> None:
    """It accepts connections and never answers, or stops in the middle: pramfs gives up, and says so."""
    new = tmp_path / "new.pram"
    far_place.send(f"{source.image}@one").succeeded()
    far_place.be_patient(patient=patient)
    far_place.link.set(Fault(stalls_after=after))
    told = far_place.all_at_once(
        [
            ("send", "--to", far_place.url, f"{source.image}@two"),
            ("receive", "--from", far_place.url, "--size", "128M", new),
            *([("snapshots", far_place.url)] if not after else []),
        ]
    )
    for outcome in told:
        outcome.refused(FAILED, far_place.url)
    assert not new.exists()
    far_place.be_patient(patient=True)
    far_place.link.set(Fault())
    assert far_place.listed() == ["pramfs@one"]


@in_short_form("s3")
def test_an_upload_whose_server_goes_away(
    far_place: RemotePlace, source: Source, tmp_path: Path
) -> None:
    far_place.hurry()
    far_place.link.set(Fault(bytes_per_s=8 * MIB))
    sending = far_place.start("send", "--to", far_place.url, f"{source.image}@one")
    far_place.link.wait_for_bytes(12 * MIB)
    far_place.link.close()
    far_place.end_of(sending).refused(FAILED, far_place.url)
    far_place.link.reopen()
    assert_works_now(far_place, source, tmp_path / "new.pram")


@in_short_form("s3")
def test_a_download_that_is_cut_off_changes_nothing(
    far_place: RemotePlace, source: Source, new_volume: NewVolume
) -> None:
    """Neither an image with snapshots nor one that is not there; a mount is as it was."""
    far_place.hurry()
    far_place.send(f"{source.image}@two").succeeded()
    volume = new_volume("receiver")
    volume.mount()
    (volume.root / "mine").write_text("mine")
    volume.umount()
    before = content_of(volume.image)
    new = volume.home / "new.pram"
    far_place.link.set(Fault(cut_after=2 * MIB))
    both = [("receive", "--from", far_place.url, target) for target in (volume.image, new)]
    for outcome in far_place.all_at_once(both):
        outcome.refused(FAILED, far_place.url)
    assert content_of(volume.image) == before
    assert not new.exists()
    far_place.link.set(Fault(bytes_per_s=8 * MIB))
    receiving = far_place.start("receive", "--from", far_place.url, volume.image)
    far_place.link.wait_for_bytes(far_place.link.passed + 8 * MIB)
    os.kill(receiving.pid, signal.SIGKILL)
    assert far_place.end_of(receiving).code == -signal.SIGKILL
    far_place.link.set(Fault())
    root = volume.mount()
    assert os.listdir(root / ".snapshots") == []
    assert (root / "mine").read_text() == "mine"
    far_place.receive(root).succeeded()
    assert os.listdir(root / ".snapshots") == ["two"]
    assert os.listdir(root) == ["mine"]
