"""Two file systems for every expectation: tmpfs shows that it is true, pramfs that it is met.

Each is mounted once for all tests; `fs` is a new directory in one of them.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted.harness import Volume, run
from tests.mounted.posix.scene import build_scene


@pytest.fixture(scope="session")
def tmpfs_root() -> Iterator[Path]:
    """A tmpfs with the mount flags that pramfs has by default."""
    root = Path(tempfile.mkdtemp(prefix="tmpfs-test-", dir="/dev/shm"))
    run("mount", "-t", "tmpfs", "-o", "nosuid,nodev,size=512M", "tmpfs", root).succeeded()
    yield root
    run("umount", root).succeeded()
    root.rmdir()


@pytest.fixture(scope="session")
def pramfs_volume() -> Iterator[Volume]:
    """A pramfs that other users may enter."""
    home = Path(tempfile.mkdtemp(prefix="pramfs-test-", dir="/dev/shm"))
    home.chmod(0o755)
    volume = Volume(home, "image", "512M")
    volume.mount("allow_other", "nr_inodes=300000")  # for the longest listings
    yield volume
    volume.finish()
    shutil.rmtree(home)


@pytest.fixture(params=["tmpfs", "pramfs"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which file system a test runs on."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def root(kind: str, tmpfs_root: Path, pramfs_volume: Volume) -> Path:
    """The root of the file system."""
    return tmpfs_root if kind == "tmpfs" else pramfs_volume.root


@pytest.fixture
def fs(root: Path) -> Iterator[Path]:
    """An empty directory, of root's, mode 0755."""
    umask = os.umask(0o022)
    directory = Path(tempfile.mkdtemp(dir=root))
    directory.chmod(0o755)
    yield directory
    os.umask(umask)
    run("rm", "-rf", directory).succeeded()  # deeper than Python likes


@pytest.fixture
def scene(fs: Path) -> Path:
    """A directory with one of everything in it."""
    build_scene(fs)
    return fs
