"""snapshot, clone, free and rollback on a medium that fails at any step, and killed at any step.

What the image holds afterwards is what it was before, or what was asked for. The same without a mount, with
each error and torn writes, is in unit/test_failing_snapshots.py.
"""

import errno
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pramfs.offline.check import check_image
from pramfs.offline.reader import TreeReader
from pramfs.offline.scan import scan_image
from pramfs.pram.pram import Pram
from pramfs.saves.save import Saver
from pramfs.saves.tree_nodes import tree_names
from pramfs.storage.image import open_image
from pramfs.tree.inodes import File
from pramfs.tree.tree import Owner, Tree
from tests.mounted.failing_medium import SYNC, WRITE, Medium, new_medium
from tests.mounted.harness import MOUNT_FAILED, Volume, pramfs, start_pramfs, wait_until

Trees = dict[str, bytes]
NEW = b"new" * 5000
OLD = b"old" * 5000
BEFORE = {"pramfs": NEW, "pramfs@old": OLD}
OFFLINE = {
    "rollback": {"pramfs": OLD, "pramfs@old": OLD, "pramfs@": NEW},
    "free": {"pramfs": NEW},
}
IN_A_MOUNT = {
    "snapshot": BEFORE | {"pramfs@new": NEW},
    "free": {"pramfs": NEW},
    "clone": BEFORE,
}

pytestmark = pytest.mark.parametrize("arena", ["memory"], indirect=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An image with the snapshot `old`, and a tree that has been changed and saved since."""
    path, owner = tmp_path_factory.mktemp("prepared") / "image", Owner(0, 0)
    with Pram.create(path, 1024) as pram:
        tree = Tree(pram.arena, inodes_max=100, generation=1)
        tree.make_root(0o755, owner)
        inode = tree.create(tree.root, b"file", stat.S_IFREG | 0o644, owner)
        saver = Saver(pram, "pramfs", tree)
        tree.write(tree.file(inode.ino), 0, OLD)
        saver.save(final=False, progress=lambda pages: None, snapshot="pramfs@old")
        tree.write(tree.file(inode.ino), 0, NEW)
        saver.save(final=True, progress=lambda pages: None)
    return path.read_bytes()


@pytest.fixture(scope="module")
def one_medium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Medium]:
    with new_medium(tmp_path_factory.mktemp("medium") / "medium") as medium:
        yield medium


@pytest.fixture
def medium(one_medium: Medium) -> Iterator[Medium]:
    yield one_medium
    one_medium.image.unlink(missing_ok=True)


@pytest.fixture
def volume(medium: Medium, prepared: bytes, new_volume: Callable[[str], Volume]) -> Volume:
    volume = new_volume("volume")
    volume.size = "4M"
    volume.image = medium.image
    volume.image.write_bytes(prepared)
    volume.announce("save failed", "no space left", "previous save")
    return volume


def words(command: str, target: Path) -> tuple[str | Path, ...]:
    """The command to be tried; a clone is in memory only, and it is the save of it that may fail."""
    if command == "clone":
        return "save", target
    return command, target, "new" if command == "snapshot" else "@old"


def trees_in(path: Path) -> Trees:
    """What each tree of a clean image has in its file; a name that tells the time is cut off."""
    with open_image(path, writable=False) as image:
        assert check_image(image).clean
        found = scan_image(image)
        trees = {name: TreeReader(image, name, found) for name in tree_names(found.nodes)}
        return {name.partition("replaced-")[0]: _content(tree) for name, tree in trees.items()}


def _content(tree: TreeReader) -> bytes:
    file = tree.find("file").inode
    assert isinstance(file, File)
    return b"".join(tree.bytes_of(file))


@pytest.mark.parametrize("kind", [WRITE, SYNC])
@pytest.mark.parametrize("command", OFFLINE)
def test_of_an_image(
    volume: Volume, prepared: bytes, medium: Medium, command: str, kind: str
) -> None:
    for at in range(100):
        volume.image.write_bytes(prepared)
        with medium.failing(kind, at, errno.ENOSPC):
            outcome = pramfs(*words(command, volume.image))
        if not outcome.code:
            break
        outcome.refused(MOUNT_FAILED, "save failed", os.strerror(errno.ENOSPC), "stands")
        assert trees_in(volume.image) in (BEFORE, OFFLINE[command])
    assert at >= 2
    assert trees_in(volume.image) == OFFLINE[command]


@pytest.mark.parametrize("kind", [WRITE, SYNC])
@pytest.mark.parametrize("command", OFFLINE)
def test_of_an_image_when_it_is_killed(
    volume: Volume, prepared: bytes, medium: Medium, command: str, kind: str
) -> None:
    for at in range(100):
        volume.image.write_bytes(prepared)
        with medium.holding(kind, at):
            running = start_pramfs(*words(command, volume.image), stderr=subprocess.DEVNULL)
            _wait_until_held(medium, running)
            running.kill()
        if running.wait() == 0:
            break
        assert trees_in(volume.image) in (BEFORE, OFFLINE[command])
    assert at >= 2
    assert trees_in(volume.image) == OFFLINE[command]


@pytest.mark.parametrize("kind", [WRITE, SYNC])
@pytest.mark.parametrize("command", IN_A_MOUNT)
def test_in_a_mount(
    volume: Volume, prepared: bytes, medium: Medium, command: str, kind: str, long: bool
) -> None:
    for at in range(0, 100, 1 if long else 2):
        volume.image.write_bytes(prepared)
        root = volume.mount()
        if command == "clone":
            pramfs("clone", root / "file", root / "clone").succeeded()
        with medium.failing(kind, at, errno.ENOSPC):
            outcome = pramfs(*words(command, root))
        assert (root / "file").read_bytes() == NEW
        volume.kill()
        found = trees_in(volume.image)
        if not outcome.code:
            break
        outcome.refused(MOUNT_FAILED, "save failed", os.strerror(errno.ENOSPC), "stands")
        assert found in (BEFORE, IN_A_MOUNT[command])
    assert at >= 2
    _has_all(volume, command)


@pytest.mark.parametrize("kind", [WRITE, SYNC])
@pytest.mark.parametrize("command", IN_A_MOUNT)
def test_in_a_mount_that_is_killed(
    volume: Volume, prepared: bytes, medium: Medium, command: str, kind: str, long: bool
) -> None:
    for at in range(0, 100, 1 if long else 2):
        volume.image.write_bytes(prepared)
        root = volume.mount()
        if command == "clone":
            pramfs("clone", root / "file", root / "clone").succeeded()
        with medium.holding(kind, at):
            running = start_pramfs(*words(command, root), stderr=subprocess.DEVNULL)
            _wait_until_held(medium, running)
            is_over = running.poll() == 0
            os.kill(volume.pid, signal.SIGKILL)
        running.wait()
        volume.kill()
        if is_over:
            break
        assert trees_in(volume.image) in (BEFORE, IN_A_MOUNT[command])
    assert at >= 2
    _has_all(volume, command)


def _has_all(volume: Volume, command: str) -> None:
    assert trees_in(volume.image) == IN_A_MOUNT[command]
    if command == "clone":
        assert pramfs("cat", volume.image, "clone").succeeded().out == NEW
    volume.mount()


def _wait_until_held(medium: Medium, running: "subprocess.Popen[bytes]") -> None:
    """Wait until the medium holds a request, or the program has ended."""

    def is_held() -> bool:
        return bool(int(os.getxattr(medium.root, "user.held")))

    wait_until(lambda: is_held() or running.poll() is not None, "a request that is held")
