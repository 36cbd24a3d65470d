"""`pramfs save --to`: a mount goes on in another image, or where it was when that fails."""

import os
import threading
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, MOUNT_FAILED, Volume, pramfs, run
from tests.mounted.system import loop_device

CONTENT = os.urandom(3 * MIB)


@pytest.fixture
def root(volume: Volume) -> Path:
    root = volume.mount()
    (root / "file").write_bytes(CONTENT)
    return root


def move(volume: Volume, path: Path) -> None:
    told = pramfs("save", "--to", path, volume.root).succeeded().text
    assert f"saved to {path}, generation {volume.generation}" in told
    volume.image = path


def test_all_that_is_said_later_is_of_the_new_image(volume: Volume, root: Path) -> None:
    old = volume.image
    volume.save()
    generation = volume.generation
    move(volume, volume.home / "new")
    assert volume.status()["image"] == str(volume.image)
    assert volume.info(root)["image"] == str(volume.image)
    pramfs("mount", volume.image, volume.home / "mnt").refused(MOUNT_FAILED, "in use", str(root))
    (root / "later").write_bytes(b"later")
    volume.umount()
    assert volume.info()["last_run"].startswith("saved at unmount")
    pramfs("check", old).succeeded()
    left = volume.info(old)
    assert left["generation"] == generation
    assert f"went on in {volume.image}" in left["last_run"]
    volume.mount()
    assert (root / "file").read_bytes() == CONTENT
    assert (root / "later").read_bytes() == b"later"


def test_what_is_written_meanwhile_is_there(volume: Volume, root: Path) -> None:
    over = threading.Event()
    written: list[bytes] = []

    def write() -> None:
        while not over.is_set():
            (root / f"{len(written)}").write_bytes(os.urandom(5000))
            written.append((root / f"{len(written)}").read_bytes())

    writer = threading.Thread(target=write)
    writer.start()
    for name in ("one", "two"):
        move(volume, volume.home / name)
    over.set()
    writer.join()
    volume.remount()
    assert [(root / f"{number}").read_bytes() for number in range(len(written))] == written
    assert (root / "file").read_bytes() == CONTENT


def test_open_files_without_a_name_go_along(volume: Volume, root: Path) -> None:
    with (root / "file").open("rb") as file:
        (root / "file").unlink()
        move(volume, volume.home / "new")
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == CONTENT


def test_a_block_device_is_taken(volume: Volume, root: Path) -> None:
    with loop_device(volume.home / "backing", 64 * MIB) as device:
        move(volume, device)
        volume.remount()
        assert (root / "file").read_bytes() == CONTENT
        volume.umount()


def test_a_path_may_be_relative_and_a_file_empty(volume: Volume, root: Path) -> None:
    (volume.home / "empty").touch()
    pramfs("save", "--to", "empty", root, cwd=volume.home).succeeded()
    volume.image = volume.home / "empty"
    assert volume.status()["image"] == str(volume.image)


def test_what_cannot_be_used_is_refused_and_not_touched(volume: Volume, root: Path) -> None:
    full = volume.home / "full"
    full.write_bytes(b"something")
    for path, words in (
        (full, ["holds something already"]),
        (volume.image, ["in use"]),
        (root / "inside", ["lies in a mount of pramfs"]),
        (volume.home / "nowhere" / "image", ["No such file"]),
        (volume.home, ["cannot open"]),
    ):
        pramfs("save", "--to", path, root).refused(MOUNT_FAILED, str(path), *words)
    assert full.read_bytes() == b"something"
    assert os.listdir(root) == ["file"]
    assert not volume.status()["error"]


def test_a_loop_device_in_the_mount_itself_is_refused(volume: Volume, root: Path) -> None:
    """The daemon would wait for itself."""
    volume.announce("save to")
    with loop_device(root / "backing", 64 * MIB) as device:
        pramfs("save", "--to", device, root).refused(MOUNT_FAILED, "lies in a mount of pramfs")
    volume.save()


@pytest.mark.parametrize("existed", [False, True], ids=["new", "empty"])
def test_a_full_disk_leaves_the_old_image_in_use(
    volume: Volume, root: Path, *, existed: bool
) -> None:
    small = volume.home / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", small).succeeded()
    volume.announce("save to")
    if existed:
        (small / "image").touch()
    words = [str(small / "image"), "No space left", "goes on with", str(volume.image)]
    pramfs("save", "--to", small / "image", root).refused(MOUNT_FAILED, *words)
    assert [path.stat().st_size for path in small.iterdir()] == [0] * existed
    run("umount", small).succeeded()
    assert "No space left" in volume.status()["error"]
    volume.save()
    assert not volume.status()["error"]
    volume.remount()
    assert (root / "file").read_bytes() == CONTENT


def test_banned_frames_stay_banned(volume: Volume) -> None:
    root = volume.mount("banned=1M-3M")
    (root / "file").write_bytes(CONTENT)
    move(volume, volume.home / "new")
    (root / "more").write_bytes(CONTENT)
    volume.umount()
    with volume.image.open("rb") as image:
        image.seek(MIB)
        assert not image.read(2 * MIB).strip(b"\0")


def test_only_who_may_save_may_move(volume: Volume) -> None:
    root = volume.mount("allow_other", "mode=777")
    for directory in (volume.home, *volume.home.parents[:-2]):
        directory.chmod(directory.stat().st_mode | 0o011)
    for ask in (
        f"import os; os.setxattr({str(root)!r}, 'user.pramfs.save_to', b'x')",
        f"import os; os.fsync(os.open({str(root)!r}, os.O_RDONLY))",
    ):
        told = run("python3", "-c", ask, user=65534)
        assert "Operation not permitted" in told.err
    assert volume.generation == 2
    told = run(
        "python3", "-c", f"import os; os.setxattr({str(root)!r}, 'user.pramfs.save_to', b'x')"
    )
    assert "Invalid argument" in told.err
    assert not volume.status()["suspect"]
