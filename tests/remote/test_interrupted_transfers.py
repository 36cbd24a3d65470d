"""What is cut off for good leaves no stream, and nothing at the receiver; the next attempt works."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import LONG
from tests.mounted.harness import Volume, content_of
from tests.remote.conftest import Source
from tests.remote.faulty_link import Fault
from tests.remote.real_places import RemotePlace

pytestmark = pytest.mark.timeout(1500)  # the first test may wait for the servers to be installed

FAILED = 32
INTERRUPTED = 8
MIB = 1 << 20
# Bytes that have gone out. The long form waits for all time-outs as well.
MOMENTS = [n * MIB for n in range(0, 30, 2)] if LONG else [0, 18 * MIB]
LASTING = [Fault(cut_after=3 * MIB), *([Fault(stalls_after=2 * MIB)] if LONG else [])]
NewVolume = Callable[[str], Volume]


def assert_works_now(place: RemotePlace, source: Source, image: Path) -> None:
    """Assert that nothing looks whole in the place, and that the next upload is."""
    place.link.set(Fault())
    assert place.listed() == []
    place.receive("--size", "128M", image).refused(FAILED, "none")
    assert not image.exists()
    place.send(f"{source.image}@one").succeeded()
    assert place.listed() == ["pramfs@one"]
    place.receive("--size", "128M", image).succeeded()
    place.pramfs("check", image).succeeded()


@pytest.mark.parametrize("after", MOMENTS)
def test_an_upload_that_is_killed(
    far_place: RemotePlace, source: Source, tmp_path: Path, after: int
) -> None:
    far_place.link.set(Fault(bytes_per_s=8 * MIB))
    sending = far_place.start("send", "--to", far_place.url, f"{source.image}@one")
    far_place.link.wait_for_bytes(after + 1)
    os.kill(sending.pid, signal.SIGKILL)
    assert far_place.end_of(sending).code == -signal.SIGKILL
    assert_works_now(far_place, source, tmp_path / "new.pram")


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


@pytest.mark.parametrize("fault", LASTING, ids=["cut", "silent"][: len(LASTING)])
def test_an_upload_whose_connections_all_fail(
    far_place: RemotePlace, source: Source, tmp_path: Path, fault: Fault
) -> None:
    far_place.link.set(fault)
    far_place.send(f"{source.image}@one").refused(FAILED, far_place.url)
    assert far_place.link.faults >= 5
    assert_works_now(far_place, source, tmp_path / "new.pram")


def test_an_upload_whose_server_goes_away(
    far_place: RemotePlace, source: Source, tmp_path: Path
) -> None:
    far_place.link.set(Fault(bytes_per_s=8 * MIB))
    sending = far_place.start("send", "--to", far_place.url, f"{source.image}@one")
    far_place.link.wait_for_bytes(12 * MIB)
    far_place.link.close()
    far_place.end_of(sending).refused(FAILED, far_place.url)
    far_place.link.reopen()
    assert_works_now(far_place, source, tmp_path / "new.pram")


def test_a_download_that_is_cut_off_changes_nothing(
    far_place: RemotePlace, source: Source, new_volume: NewVolume
) -> None:
    """Neither an image with snapshots nor one that is not there; a mount is as it was."""
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
