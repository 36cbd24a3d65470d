"""The tier with real servers on this machine: one start for all tests, a place of its own for each."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import LONG
from tests.mounted.harness import MIB, Volume, pramfs
from tests.mounted.sample_trees import Snapshot, noise, plant_everything, snapshot
from tests.remote import real_places
from tests.remote.real_places import RemotePlace, Servers

TOOLS = ("apt-get", "chroot", "debootstrap", "setpriv", "unshare")
KINDS = {
    "s3": real_places.bucket,
    "sftp": real_places.ssh_folder,
    "directory": real_places.directory,
}
FAR_KINDS = ("s3", "sftp")  # behind a link
_counted = iter(range(10_000))


def in_short_form(*kinds: str, of: str = "far_place") -> pytest.MarkDecorator:
    """Try a test with these kinds of places only, unless the long form is asked for."""
    every_kind = FAR_KINDS if of == "far_place" else KINDS
    return pytest.mark.parametrize(of, every_kind if LONG else kinds, indirect=True)


class Source(NamedTuple):
    """An image with two snapshots, and what is in each."""

    image: Path
    one: Snapshot
    two: Snapshot


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; run scripts/setup --dev")
    if os.geteuid() != 0:
        pytest.skip("the servers are in a chroot, which takes root")
    with real_places.running_servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def name() -> str:
    """Of a bucket or a folder that no other test has."""
    return f"test-{next(_counted)}"


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """The home directory of who runs pramfs."""
    user = tmp_path / "user"
    user.mkdir()
    return user


@pytest.fixture
def new_volume(tmp_path: Path) -> Iterator[Callable[..., Volume]]:
    """Make volumes below directories of their own."""
    with contextlib.ExitStack() as stack:

        def make(name: str, size: str = "64M") -> Volume:
            (tmp_path / name).mkdir()
            volume = Volume(tmp_path / name, "image", size)
            stack.callback(volume.finish)
            return volume

        yield make


@pytest.fixture(params=KINDS)
def place(
    request: pytest.FixtureRequest, servers: Servers, name: str, user: Path
) -> Iterator[RemotePlace]:
    """Each kind of place that can be sent to."""
    with KINDS[request.param](servers, name, user) as place:
        yield place


@pytest.fixture(params=FAR_KINDS)
def far_place(
    request: pytest.FixtureRequest, servers: Servers, name: str, user: Path
) -> Iterator[RemotePlace]:
    """Each kind that is behind a link."""
    with KINDS[request.param](servers, name, user) as place:
        yield place


@pytest.fixture
def bucket(servers: Servers, name: str, user: Path) -> Iterator[RemotePlace]:
    with real_places.bucket(servers, name, user) as place:
        yield place


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """An image that is only read: four pieces of 8 MiB, and for the second snapshot one more."""
    volume = Volume(tmp_path_factory.mktemp("source"), "image", "128M")
    try:
        root = volume.mount()
        plant_everything(root)
        (root / "large").write_bytes(noise(20 * MIB))
        one = take(root, "one")
        (root / "new").write_bytes(noise(5 * MIB, seed=1))
        (root / "large").write_bytes(noise(MIB, seed=2))
        shutil.rmtree(root / "names")
        two = take(root, "two")
        volume.umount()
    finally:
        volume.finish()
    return Source(volume.image, one, two)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with two snapshots of next to nothing, which is only read."""
    volume = Volume(tmp_path_factory.mktemp("small"), "image", "16M")
    try:
        root = volume.mount()
        for number in ("one", "two"):
            (root / number).write_text(number)
            take(root, number)
        volume.umount()
    finally:
        volume.finish()
    return volume.image


@pytest.fixture(scope="session")
def tree_of_receivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with a file in it and no snapshots."""
    volume = Volume(tmp_path_factory.mktemp("receivers"), "image", "64M")
    try:
        (volume.mount() / "mine").write_text("mine")
        volume.umount()
    finally:
        volume.finish()
    return volume.image


@pytest.fixture
def receiver(tree_of_receivers: Path, tmp_path: Path) -> Path:
    """An image of the test's own, to receive into: the only file in it is "mine"."""
    return Path(shutil.copy(tree_of_receivers, tmp_path / "receiver"))


def take(root: Path, name: str) -> Snapshot:
    """Take a snapshot; return what is in it."""
    pramfs("snapshot", root, name).succeeded()
    return snapshot(root / ".snapshots" / name)
