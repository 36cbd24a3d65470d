"""`pramfs clone` in running mounts: what it shares, what it keeps, and what is of it after a remount."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import (
    MIB,
    PAGE,
    Volume,
    pramfs,
    run,
    start_pramfs,
    wait_until,
)
from tests.mounted.sample_trees import (
    assert_same_below,
    noise,
    plant_everything,
    plant_files,
    portable,
    snapshot,
)


def used(volume: Volume) -> int:
    frames: int = volume.status()["frames"]["used"]
    return frames


def fill(point: Path) -> None:
    """Write until there is no room for another page."""
    filler = os.open(point / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        for size in (MIB, PAGE):
            with contextlib.suppress(OSError):
                while True:
                    os.write(filler, b"f" * size)
                    os.fsync(filler)
    finally:
        with contextlib.suppress(OSError):
            os.close(filler)


def overwrite(file: Path, content: bytes) -> None:
    """Write to the beginning of a file, and wait until it is taken. Raises OSError."""
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def acls(root: Path) -> list[bytes]:
    return sorted(run("getfacl", "-R", ".", cwd=root).succeeded().out.split(b"\n\n"))


def flags(root: Path) -> list[bytes]:
    """What lsattr tells of files and directories."""
    return sorted(run("lsattr", "-aR", ".", cwd=root).out.splitlines())


def test_a_sparse_file_is_cloned_without_a_frame(volume: Volume) -> None:
    point = volume.mount()
    size = 1 << 40
    with (point / "sparse").open("wb") as sparse:
        for number in range(10):
            sparse.seek(number * (size // 10) // PAGE * PAGE)
            sparse.write(noise(PAGE, number))
        sparse.truncate(size)
    run("sync", point / "sparse").succeeded()
    before = used(volume)
    pramfs("clone", point / "sparse", point / "clone").succeeded()
    assert used(volume) == before
    for _ in range(2):
        status = (point / "clone").stat()
        assert (status.st_size, status.st_blocks) == (size, 10 * PAGE // 512)
        with (point / "clone").open("rb") as clone:
            for number in range(10):
                clone.seek(number * (size // 10) // PAGE * PAGE)
                assert clone.read(PAGE) == noise(PAGE, number)
        volume.remount()


def test_a_clone_of_a_tree_has_everything(volume: Volume) -> None:
    point = volume.mount()
    (point / "tree").mkdir()
    plant_everything(point / "tree")
    run("setfacl", "-m", "u:1234:rw", "-dm", "u:77:r", point / "tree").succeeded()
    # What a directory passes on to what is made in it does not stay.
    run("setfacl", "-dm", "u:99:rwx", point).succeeded()
    run("chattr", "+d", point).succeeded()
    before = used(volume)
    pramfs("clone", point / "tree", point / "clone").succeeded()
    assert used(volume) == before
    assert not [name for name in os.listdir(point) if name.startswith(".")]
    for _ in range(2):
        assert_same_below(portable(snapshot(point / "clone")), portable(snapshot(point / "tree")))
        assert acls(point / "clone") == acls(point / "tree")
        assert flags(point / "clone") == flags(point / "tree")
        volume.remount()


def test_flags_are_cloned_and_hinder_nothing(volume: Volume) -> None:
    point = volume.mount()
    tree = point / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/log").write_text("log")
    (tree / "plain").write_text("plain")
    run("chattr", "+dA", tree / "plain").succeeded()
    run("chattr", "+a", tree / "sub/log").succeeded()
    run("chattr", "+i", tree / "sub", tree).succeeded()
    pramfs("clone", tree, point / "clone").succeeded()
    assert flags(point / "clone") == flags(tree)
    assert b"i" in run("lsattr", "-d", point / "clone").out.split()[0]
    for name in ("tree", "clone"):
        run("chattr", "-R", "-i", "-a", point / name)


@pytest.mark.parametrize("changed", ["tree", "clone"])
def test_a_change_of_one_is_no_change_of_the_other(volume: Volume, changed: str) -> None:
    point = volume.mount()
    (point / "tree").mkdir()
    plant_files(point / "tree", 50)
    (point / "tree/big").write_bytes(noise(3 * MIB))
    run("sync", "-f", point).succeeded()
    pramfs("clone", point / "tree", point / "clone").succeeded()
    before = snapshot(point / "tree")
    with (point / changed / "big").open("r+b") as file:
        file.seek(MIB + 5)
        file.write(b"changed")
    (point / changed / "d1/f1").unlink()
    (point / changed / "d2/f2").write_bytes(b"new")
    other = point / {"tree": "clone", "clone": "tree"}[changed]
    for _ in range(2):
        now, then = portable(snapshot(other)), portable(dict(before))
        assert_same_below(now, then)
        content = (point / changed / "big").read_bytes()
        assert content[MIB : MIB + 20][5:12] == b"changed"
        volume.remount()


def test_what_is_in_a_snapshot_comes_back_without_a_frame(volume: Volume) -> None:
    point = volume.mount()
    (point / "tree").mkdir()
    plant_files(point / "tree", 30)
    (point / "tree/twice").hardlink_to(point / "tree/d1/f1")
    before = portable(snapshot(point / "tree"))
    pramfs("snapshot", point, "monday").succeeded()
    shutil.rmtree(point / "tree")
    frames = used(volume)
    pramfs("clone", point / ".snapshots/monday/tree", point / "tree").succeeded()
    assert used(volume) == frames
    for _ in range(2):
        assert_same_below(portable(snapshot(point / "tree")), before)
        volume.remount()


def test_no_room_is_the_trouble_of_the_one_who_writes(volume: Volume) -> None:
    volume.size = "16M"
    volume.announce("no free frames", "no space")
    point = volume.mount()
    (point / "file").write_bytes(noise(5 * MIB))
    run("sync", point / "file").succeeded()
    pramfs("clone", point / "file", point / "clone").succeeded()
    fill(point)
    with pytest.raises(OSError, match="space"):
        overwrite(point / "clone", b"x" * MIB)
    assert (point / "file").read_bytes() == noise(5 * MIB)
    (point / "filler").unlink()
    overwrite(point / "clone", b"x" * MIB)
    volume.remount()
    assert (point / "file").read_bytes() == noise(5 * MIB)
    assert (point / "clone").read_bytes() == b"x" * MIB + noise(5 * MIB)[MIB:]


def test_a_clone_without_room_for_its_names_leaves_nothing(volume: Volume) -> None:
    point = volume.mount("nr_inodes=100")
    (point / "tree").mkdir()
    plant_files(point / "tree", 60)
    before = sorted(os.listdir(point))
    pramfs("clone", point / "tree", point / "clone").refused(32, "No space left", "nothing")
    assert sorted(os.listdir(point)) == before


def test_what_is_not_in_one_mount_is_refused(
    new_volume: Callable[[str], Volume], tmp_path: Path
) -> None:
    one, two = new_volume("one"), new_volume("two")
    here, there = one.mount(), two.mount()
    (here / "file").write_text("data")
    pramfs("clone", here / "file", there / "file").refused(32, "not in the same mount")
    pramfs("clone", here / "file", tmp_path / "file").refused(32, "not in a mount of pramfs")
    (tmp_path / "outside").write_text("data")
    pramfs("clone", tmp_path / "outside", here / "new").refused(32, "not in a mount of pramfs")
    (here / "tree/inner").mkdir(parents=True)
    run("mount", "-t", "tmpfs", "none", here / "tree/inner").succeeded()
    try:
        pramfs("clone", here / "tree", here / "clone").refused(32, "another file system")
    finally:
        run("umount", here / "tree/inner").succeeded()
    pramfs("clone", here / "tree", here / "tree/inner/x").refused(32, "into itself")
    assert sorted(os.listdir(here)) == ["file", "tree"]
    assert os.listdir(there) == []


def test_a_daemon_that_is_killed_meanwhile_is_told(volume: Volume) -> None:
    root = volume.mount()
    (root / "tree").mkdir()
    plant_files(root / "tree", 3000)
    volume.save()
    command = start_pramfs("clone", root / "tree", root / "clone", stderr=subprocess.PIPE)
    wait_until(lambda: len(os.listdir(root)) > 1, "the clone to begin")
    volume.kill_during(command)
    assert sorted(os.listdir(volume.mount())) == ["tree"]
