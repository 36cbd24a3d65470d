"""`-o keep=`: the last saves of a mount are kept as snapshots, and go when the image is full."""

import json
import os
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, MOUNT_FAILED, USAGE, Volume, pramfs


def names(target: Path) -> list[str]:
    found = json.loads(pramfs("snapshots", "--json", target).succeeded().out)["snapshots"]
    assert all(one["automatic"] == one["name"].startswith("auto-") for one in found)
    return [str(one["name"]) for one in found]


def content(volume: Volume, snapshot: str) -> bytes:
    return pramfs("cat", "--name", f"pramfs@{snapshot}", volume.image, "file").succeeded().out


def test_saves_by_command_and_at_unmount_are_kept(volume: Volume) -> None:
    root = volume.mount("keep=2", "fsync=publish")
    for text in ("one", "two"):
        (root / "file").write_text(text)
        volume.save()
    with (root / "file").open("w") as file:  # this save is not kept
        file.write("three")
        file.flush()
        os.fsync(file.fileno())
    assert [content(volume, name) for name in names(root)] == [b"one", b"two"]
    (root / "file").write_text("four")
    volume.umount()
    assert [content(volume, name) for name in names(volume.image)] == [b"two", b"four"]
    volume.mount("keep=2")
    volume.umount()
    assert [content(volume, name) for name in names(volume.image)] == [b"two", b"four"]
    volume.mount()


def test_a_save_to_another_image_is_kept_there(volume: Volume) -> None:
    root = volume.mount("keep=2")
    for text in ("one", "two"):
        (root / "file").write_text(text)
        volume.save()
    (root / "file").write_text("three")
    pramfs("save", "--to", volume.home, root).refused(MOUNT_FAILED, "cannot open")
    assert [content(volume, name) for name in names(root)] == [b"one", b"two"]
    old, volume.image = volume.image, volume.home / "new"
    pramfs("save", "--to", volume.image, root).succeeded()
    assert [content(volume, name) for name in names(root)] == [b"two", b"three"]
    assert len(names(old)) == 2
    (root / "file").write_text("four")
    volume.umount()
    assert [content(volume, name) for name in names(volume.image)] == [b"three", b"four"]
    volume.mount()


def test_a_full_image_gives_them_up_before_anybody_is_refused(volume: Volume) -> None:
    root = volume.mount("keep=100")
    (root / "file").write_bytes(b"mine")
    pramfs("snapshot", root, "mine").succeeded()
    for _ in range(12):  # 96 MiB, into an image of 64
        (root / "file").write_bytes(os.urandom(8 * MIB))
        volume.save()
    left = names(root)
    assert left[0] == "mine"
    assert 1 < len(left) < 10
    with pytest.raises(OSError, match="No space left"):
        (root / "too much").write_bytes(bytes(100 * MIB))
    (root / "too much").unlink()
    volume.save()
    assert "mine" in names(root)
    assert content(volume, "mine") == b"mine"


def test_of_a_read_only_mount_nothing_is_kept(volume: Volume) -> None:
    volume.mount()
    volume.umount()
    volume.refused("'ro' and 'keep' exclude each other", options=["ro", "keep=3"], code=USAGE)
    volume.mount()
