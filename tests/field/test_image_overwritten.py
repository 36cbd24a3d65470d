"""An image that another program writes to, or cuts short, under its mount: nothing claims to be saved in it.

No public report known of a file system that was served from such a file. A lock on a file does not keep cp(1)
or truncate(1) from it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, MOUNT_FAILED, Volume, pramfs, run

OVERWRITTEN = "another program has"


def copy_something_over(image: Path, backup: Path) -> str:
    other = backup.with_name("other")
    other.write_bytes(os.urandom(3 * MIB))
    run("cp", other, image).succeeded()
    return "cut short"


def write_something_over(image: Path, backup: Path) -> str:
    run("dd", "if=/dev/zero", f"of={image}", "bs=1M", "count=3", "conv=notrunc").succeeded()
    return "written to"


def restore_a_backup(image: Path, backup: Path) -> str:
    run("cp", backup, image).succeeded()
    return "written to"


def empty(image: Path, backup: Path) -> str:
    run("truncate", "-s", "0", image).succeeded()
    return "cut short"


def cut_short(image: Path, backup: Path) -> str:
    run("truncate", "-s", "8M", image).succeeded()
    return "cut short"


WAYS = [copy_something_over, write_something_over, restore_a_backup, empty, cut_short]


@pytest.fixture
def root(volume: Volume) -> Path:
    """A mount that has a save, and unsaved changes; the image before it is in `backup`."""
    root = volume.mount()
    (root / "file").write_bytes(b"saved")
    volume.umount()
    run("cp", volume.image, backup(volume)).succeeded()
    volume.mount()
    (root / "file").write_bytes(b"saved again")
    volume.save()
    (root / "new").write_bytes(b"unsaved")
    volume.damaged = True  # by others
    volume.announce(OVERWRITTEN)
    volume.announce("cannot record")
    return root


def backup(volume: Volume) -> Path:
    return volume.home / "backup"


@pytest.mark.parametrize("overwrite", WAYS)
def test_every_verdict_says_that_the_image_is_not_the_mounts_any_more(
    volume: Volume, root: Path, overwrite: Callable[[Path, Path], str]
) -> None:
    what = overwrite(volume.image, backup(volume))
    words = [OVERWRITTEN, what, str(volume.image)]
    assert f"{OVERWRITTEN} {what}" in pramfs("status", root).succeeded().text
    pramfs("save", root).refused(MOUNT_FAILED, *words, "save --to")
    outcome = pramfs("umount", root).refused(MOUNT_FAILED, *words)
    assert "saved to" not in outcome.err
    assert "stands" not in outcome.err
    volume.ended(MOUNT_FAILED)
    assert "saved: generation" not in volume.log


def test_a_backup_that_was_restored_under_a_mount_is_whole_after_it(
    volume: Volume, root: Path
) -> None:
    restore_a_backup(volume.image, backup(volume))
    pramfs("umount", root).refused(MOUNT_FAILED, OVERWRITTEN)
    volume.ended(MOUNT_FAILED)
    if volume.arena == "memory":  # else pages that were written since are in the image
        assert pramfs("cat", volume.image, "file").succeeded().out == b"saved"
        pramfs("check", volume.image).succeeded()


def test_a_mount_goes_on_in_another_image(volume: Volume, root: Path) -> None:
    """With what it has in memory; files whose pages were only in the image are named."""
    write_something_over(volume.image, backup(volume))
    other = volume.home / "other"
    volume.announce("lost what was written to")
    outcome = pramfs("save", root, "--to", other).refused(MOUNT_FAILED, OVERWRITTEN, "/file")
    assert "stands" not in outcome.err
    for name in ("file", "new"):
        (root / name).unlink()
        (root / name).write_bytes(b"unsaved")
    pramfs("save", root, "--to", other).succeeded()
    assert not volume.status()["error"]
    assert pramfs("cat", other, "new").succeeded().out == b"unsaved"
    pramfs("umount", root).succeeded()
    volume.ended()
    pramfs("check", other).succeeded()
