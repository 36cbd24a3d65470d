"""Fixtures of the mounted tests: where images live, and volumes that are audited at the end."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.admin_shell import Disk, Shell
from tests.mounted.failing_medium import Medium, new_medium
from tests.mounted.harness import Volume, mounts_below


@pytest.fixture
def home(arena: str, tmp_path: Path) -> Iterator[Path]:
    """A directory for images: in memory for arena=image, on disk for arena=memory."""
    if arena == "memory":
        yield tmp_path
        return
    directory = Path(tempfile.mkdtemp(prefix="pramfs-test-", dir="/dev/shm"))
    yield directory
    if not mounts_below(directory):
        shutil.rmtree(directory)


@pytest.fixture
def new_volume(home: Path, arena: str) -> Iterator[Callable[[str], Volume]]:
    """Make volumes below directories of their own."""
    with contextlib.ExitStack() as stack:

        def make(name: str) -> Volume:
            (home / name).mkdir()
            volume = Volume(home / name, arena)
            stack.callback(volume.finish)
            return volume

        yield make


@pytest.fixture
def volume(new_volume: Callable[[str], Volume]) -> Volume:
    return new_volume("volume")


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Medium]:
    """A disk that can be told to fail or to stand still."""
    with new_medium(tmp_path / "medium") as medium:
        yield medium


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A shell in which pramfs is installed, invisible to the rest of the machine."""
    # Not in pytest's own directory: other users have no way in there.
    with tempfile.TemporaryDirectory(prefix="pramfs-shell-") as home:
        Path(home).chmod(0o755)
        shell = Shell(Path(home))
        yield shell
        shell.close()


@pytest.fixture
def root(shell: Shell) -> Path:
    """A mountpoint in that shell."""
    root = shell.home / "mnt"
    root.mkdir()
    return root


@pytest.fixture
def image(shell: Shell) -> Path:
    """Where an image may be made in that shell."""
    return shell.home / "image"


@pytest.fixture
def disk(shell: Shell) -> Iterator[Disk]:
    """A disk in that shell that can be frozen."""
    disk = Disk(shell)
    yield disk
    disk.close()
