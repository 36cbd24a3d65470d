"""Mounts of snapshots: one that is only read, and a tree that grows from one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.admin_shell import Shell
from tests.mounted.harness import MIB, MOUNT_FAILED, Volume, content_of, mount_entry, pramfs, run
from tests.mounted.sample_trees import noise


@pytest.fixture
def taken(volume: Volume) -> Volume:
    """A volume with the snapshots `one` and `two`, between which a file has changed."""
    root = volume.mount()
    (root / "file").write_bytes(noise(MIB))
    for name in ("one", "two"):
        (root / "state").write_bytes(name.encode())
        pramfs("snapshot", root, name).succeeded()
    volume.umount()
    return volume


def test_a_snapshot_is_mounted_read_only(taken: Volume) -> None:
    before = content_of(taken.image)
    for name in ("one", "two"):
        root = taken.mount(f"snapshot={name}", "rw")
        assert (root / "state").read_bytes() == name.encode()
        assert (root / "file").read_bytes() == noise(MIB)
        assert "ro" in mount_entry(root)[2]
        assert taken.status()["name"] == f"pramfs@{name}"
        assert os.listdir(root / ".snapshots") == []
        taken.umount()
    assert content_of(taken.image) == before


def test_a_tree_grows_from_a_snapshot_and_changes_nothing_else(taken: Volume) -> None:
    used = taken.info()["frames"]["used"]
    root = taken.mount("snapshot=one", "name=new")
    assert (root / "state").read_bytes() == b"one"
    with (root / "file").open("r+b") as file:
        file.write(b"changed")
    (root / "more").write_bytes(b"more")
    taken.umount()
    assert taken.info()["frames"]["used"] < used + 30, "the frames of the snapshot are shared"
    root = taken.mount("name=new")
    assert (root / "state").read_bytes() == b"one"
    assert (root / "file").read_bytes() == b"changed" + noise(MIB)[7:]
    taken.umount()
    root = taken.mount()
    assert (root / "state").read_bytes() == b"two"
    assert (root / ".snapshots" / "one" / "file").read_bytes() == noise(MIB)
    assert not (root / "more").exists()


def test_a_tree_that_grows_is_there_after_a_save_and_a_kill(taken: Volume) -> None:
    root = taken.mount("snapshot=two", "name=new")
    assert taken.status()["changed"]
    taken.save()
    taken.kill()
    root = taken.mount("name=new")
    assert (root / "state").read_bytes() == b"two"


@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_wrong_names_are_told_with_those_that_there_are(taken: Volume) -> None:
    before = content_of(taken.image)
    taken.refused("no snapshot 'three' of tree 'pramfs'", "one, two", options=["snapshot=three"])
    taken.refused("no snapshot 'one' of tree 'x'; there are: none", options=["snapshot=x@one"])
    taken.refused("a tree 'pramfs' already", options=["snapshot=one", "name=pramfs"])
    taken.refused("no snapshot 'three'", options=["snapshot=three", "name=new"])
    assert content_of(taken.image) == before


@pytest.mark.parametrize("arena", ["image"], indirect=True)
@pytest.mark.parametrize("options", ["snapshot=one", "snapshot=one,name=new"])
def test_an_image_that_is_not_there_is_not_made(volume: Volume, options: str) -> None:
    volume.refused("image", options=[options])
    assert not volume.image.exists()


def test_two_mounts_of_an_image_only_if_both_are_read_only(
    taken: Volume, new_volume: Callable[[str], Volume]
) -> None:
    other = new_volume("other")
    other.image = taken.image
    taken.mount("snapshot=one")
    root = other.mount("snapshot=two")
    assert (root / "state").read_bytes() == b"two"
    other.umount()
    other.refused("mounted", options=["snapshot=one", "name=new"])
    taken.umount()
    taken.mount()
    other.refused("mounted", options=["snapshot=one"])


def test_fstab_names_snapshots(shell: Shell, image: Path, root: Path) -> None:
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    (shell.path(root) / "file").write_bytes(b"saved")
    shell.pramfs("snapshot", root, "one").succeeded()
    shell.run("umount", root).succeeded()
    for options, name in (("snapshot=one", "pramfs@one"), ("snapshot=one,name=new", "new")):
        shell.fstab.write_text(f"{image} {root} pramfs noauto,{options} 0 0\n")
        shell.run("mount", root).succeeded()
        assert (shell.path(root) / "file").read_bytes() == b"saved"
        assert shell.status(root)["name"] == name
        shell.run("umount", root).succeeded()
    assert "'new' already" in shell.run("mount", root).err


@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_a_snapshot_of_another_tree(volume: Volume) -> None:
    (volume.mount("name=work") / "file").write_bytes(b"work")
    pramfs("snapshot", volume.root, "one").succeeded()
    volume.umount()
    assert (volume.mount("snapshot=work@one") / "file").read_bytes() == b"work"
    assert run("touch", volume.root / "new").code != 0
    volume.umount()
    assert pramfs("mount", "-o", "snapshot=one", volume.image, volume.root).code == MOUNT_FAILED
