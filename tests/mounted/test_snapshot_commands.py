"""Snapshots of a running mount, through the shell: taken, listed, read, freed, gone back to."""

import json
import os
import threading
from pathlib import Path

import pytest

from pramfs.errors import DIFF_FOUND
from tests.mounted.admin_shell import Shell
from tests.mounted.harness import MIB, MOUNT_FAILED, NOBODY, USAGE, Volume, pramfs

CONTENT = os.urandom(3 * MIB)


@pytest.fixture
def root(volume: Volume) -> Path:
    root = volume.mount()
    (root / "dir").mkdir()
    (root / "dir/file").write_bytes(CONTENT)
    return root


def listed(target: Path) -> list[dict[str, object]]:
    return list(json.loads(pramfs("snapshots", "--json", target).succeeded().out)["snapshots"])


def test_a_snapshot_is_there_whatever_becomes_of_the_tree(volume: Volume, root: Path) -> None:
    told = pramfs("snapshot", root, "good").succeeded().text
    assert told == f"{root}: snapshot pramfs@good, generation {volume.generation}\n"
    (root / "dir/file").write_bytes(b"changed")
    (root / "later").write_bytes(b"later")
    for target in (volume.image, root):
        assert [one["name"] for one in listed(target)] == ["good"]
    volume.umount()
    image = volume.image
    assert pramfs("cat", "--name", "pramfs@good", image, "dir/file").succeeded().out == CONTENT
    assert pramfs("cat", image, "dir/file").succeeded().out == b"changed"
    assert "later" not in pramfs("ls", "--name", "pramfs@good", image).succeeded().text
    target = volume.home / "out"
    pramfs("extract", "--name", "pramfs@good", "-C", target, image).succeeded()
    assert (target / "dir/file").read_bytes() == CONTENT
    pramfs("check", image).succeeded()
    pramfs("dump", "--links", image).succeeded()
    pramfs("map", "--file", "dir/file", "--name", "pramfs@good", image).succeeded()
    volume.mount()
    assert (root / "dir/file").read_bytes() == b"changed"
    assert [one["name"] for one in listed(root)] == ["good"]


def test_a_snapshot_outlives_a_daemon_that_is_killed(volume: Volume, root: Path) -> None:
    pramfs("snapshot", root, "good").succeeded()
    (root / "dir/file").write_bytes(b"lost")
    volume.kill()
    assert pramfs("cat", volume.image, "dir/file").succeeded().out == CONTENT
    assert [one["name"] for one in listed(volume.image)] == ["good"]


def test_what_a_snapshot_holds_alone_comes_free_with_it(volume: Volume, root: Path) -> None:
    volume.save()
    before = os.statvfs(root).f_bfree
    pramfs("snapshot", root, "s").succeeded()
    (one,) = listed(root)
    assert one["shared"] == len(CONTENT) // 4096
    metadata = one["alone"]
    assert isinstance(metadata, int)
    (root / "dir/file").write_bytes(os.urandom(3 * MIB))
    volume.save()
    (one,) = listed(root)
    assert one["alone"] == metadata + len(CONTENT) // 4096
    assert one["shared"] == 0
    assert "frames alone" in pramfs("snapshots", root).succeeded().text
    pramfs("free", root, "pramfs@s").succeeded()
    assert listed(root) == []
    assert os.statvfs(root).f_bfree == before


def test_a_rollback_keeps_the_snapshot_and_what_it_replaces(volume: Volume, root: Path) -> None:
    pramfs("snapshot", root, "good").succeeded()
    (root / "dir/file").write_bytes(b"bad")
    hint = f"unmount it first: pramfs umount {root}"
    outcome = pramfs("rollback", root, "good")
    outcome.refused(MOUNT_FAILED, f"not an image, but where one is mounted: {volume.image}", hint)
    pramfs("rollback", volume.image, "good").refused(MOUNT_FAILED, "in use", hint)
    volume.umount()
    pramfs("rollback", volume.image, "none").refused(
        MOUNT_FAILED, str(volume.image), "no snapshot 'none' of tree 'pramfs'; there are: good"
    )
    told = pramfs("rollback", volume.image, "good").succeeded().text
    good, replaced = listed(volume.image)
    assert good["name"] == "good"
    assert "pramfs is as pramfs@good now" in told
    assert f"what it was is the snapshot pramfs@{replaced['name']}" in told
    volume.mount()
    assert (root / "dir/file").read_bytes() == CONTENT
    volume.umount()
    pramfs("rollback", volume.image, str(replaced["name"])).succeeded()
    assert pramfs("cat", volume.image, "dir/file").succeeded().out == b"bad"
    pramfs("rollback", volume.image, "@good").succeeded()
    assert pramfs("cat", volume.image, "dir/file").succeeded().out == CONTENT
    assert len(listed(volume.image)) == 4
    pramfs("check", volume.image).succeeded()
    volume.mount()


@pytest.mark.parametrize("name", ["pramfs@good", "@good", "good"])
def test_every_command_takes_the_short_name(volume: Volume, root: Path, name: str) -> None:
    image = volume.image
    pramfs("snapshot", root, "good").succeeded()
    (root / "dir/file").write_bytes(b"bad")
    assert pramfs("diff", root, name).code == DIFF_FOUND
    volume.umount()
    assert "file" in pramfs("ls", "--name", name, image, "dir").succeeded().text
    assert pramfs("cat", "--name", name, image, "dir/file").succeeded().out == CONTENT
    pramfs("extract", "--name", name, "-C", volume.home / "out", image).succeeded()
    pramfs("map", "--file", "dir/file", "--name", name, image).succeeded()
    assert pramfs("diff", image, name).code == DIFF_FOUND
    assert (volume.mount(f"snapshot={name}") / "dir/file").read_bytes() == CONTENT
    volume.umount()
    pramfs("rollback", image, name).succeeded()
    told = pramfs("free", image, name).succeeded().text
    assert told.startswith(f"{image}: freed pramfs@good; ")
    for command in (("ls", "--name", "@good", image), ("diff", image, name)):
        told = pramfs(*command).err
        assert f"{image}: no snapshot 'good' of tree 'pramfs'; there are: replaced-" in told
    volume.mount()
    pramfs("snapshot", root, "good").succeeded()
    told = pramfs("free", root, name).succeeded().text
    assert told == f"{root}: freed pramfs@good, generation {volume.generation}\n"


def test_what_cannot_be_done_is_told_in_one_line(volume: Volume, root: Path) -> None:
    pramfs("snapshot", root, "s").succeeded()
    pramfs("snapshot", root, "s").refused(MOUNT_FAILED, "there is a snapshot 's' already")
    for name in ("a/b", "a@b", ".hidden", "x" * 129, "auto-x", "new\nline"):
        pramfs("snapshot", root, name).refused(USAGE, "cannot be the name of a snapshot")
    pramfs("snapshot", root, "").refused(USAGE, "argument NAME: an empty value")
    for name in ("pramfs@none", "@none", "none"):
        pramfs("free", root, name).refused(
            MOUNT_FAILED, str(root), "no snapshot 'none' of tree 'pramfs'; there are: s"
        )
    pramfs("free", root, "pramfs").refused(USAGE, "only snapshots")
    pramfs("free", root).refused(USAGE, "only snapshots")
    pramfs("snapshot", volume.home, "s").refused(MOUNT_FAILED, "no pramfs is mounted there")
    assert [one["name"] for one in listed(root)] == ["s"]
    refused = pramfs("mount", "-o", "name=pramfs@s", volume.home / "other", volume.home / "mnt")
    refused.refused(USAGE, "snapshot")


@pytest.mark.parametrize("options", ["", ",allow_other"])
def test_only_who_may_save_may_take_one(shell: Shell, options: str) -> None:
    root, image = shell.home / "mnt", shell.home / "image"
    shell.path(root).mkdir()
    shell.pramfs("mount", "-o", f"size=16M,mode=755{options}", image, root).succeeded()
    for command in (("snapshot", root, "s"), ("free", root, "pramfs@s")):
        told = shell.pramfs(*command, user=NOBODY)
        told.refused(MOUNT_FAILED, f"{root}: not saved:", "may ask for a save", "only root")
    shell.pramfs("snapshot", root, "s").succeeded()
    shell.pramfs("umount", root).succeeded()


def test_a_read_only_mount_takes_none(volume: Volume, root: Path) -> None:
    volume.umount()
    volume.mount("ro")
    pramfs("snapshot", root, "s").refused(MOUNT_FAILED, "read-only: no snapshot can be taken")
    pramfs("free", root, "pramfs@s").refused(MOUNT_FAILED, "read-only: nothing can be freed")


def test_a_full_image_tells_that_there_is_no_room(volume: Volume, root: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (root / "all").write_bytes(os.urandom(100 * MIB))
    pramfs("snapshot", root, "s").refused(MOUNT_FAILED, "no room for a snapshot")
    (root / "all").unlink()
    pramfs("snapshot", root, "s").succeeded()


def test_others_go_on_while_snapshots_are_taken(volume: Volume, root: Path) -> None:
    over = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not over.is_set():
            (root / f"{written % 50}").write_bytes(written.to_bytes(4, "little") * 1000)
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    for name in ("a", "b", "c"):
        pramfs("snapshot", root, name).succeeded()
    over.set()
    writer.join()
    assert [one["name"] for one in listed(root)] == ["a", "b", "c"]
    volume.umount()
    pramfs("check", volume.image).succeeded()
    volume.mount()
