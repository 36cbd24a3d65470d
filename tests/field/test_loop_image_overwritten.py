"""A loop device, or the file that it lies in, that is written to or cut short under its mount.

No public report known of a file system in user space on such a device. The kernel keeps pages of the device
in its cache, so that a look at the device alone does not show what has become of the file.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mounted.harness import MIB, MOUNT_FAILED, Volume, pramfs, run
from tests.mounted.system import loop_device

OVERWRITTEN = "another program has"


class Disk(NamedTuple):
    """A mounted loop device, the file beneath, and a copy of that from before the last save."""

    device: Path
    file: Path
    backup: Path


@pytest.fixture(params=[0, MIB], ids=["whole file", "offset"])
def disk(volume: Volume, request: pytest.FixtureRequest) -> Iterator[Disk]:
    file = volume.home / "disk"
    with loop_device(file, 64 * MIB, offset_bytes=request.param) as device:
        volume.image = device
        root = volume.mount()
        (root / "file").write_bytes(b"saved")
        volume.save()
        backup = volume.home / "backup"
        run("cp", file, backup).succeeded()
        (root / "file").write_bytes(os.urandom(MIB))
        volume.save()
        (root / "new").write_bytes(b"unsaved")
        yield Disk(device, file, backup)


def zeros_on_the_device(disk: Disk) -> str:
    dd("/dev/zero", disk.device)
    return "written to"


def zeros_in_the_file(disk: Disk) -> str:
    dd("/dev/zero", disk.file)
    return "written to"


def a_backup_onto_the_device(disk: Disk) -> str:
    first = disk.file.stat().st_size - int(run("blockdev", "--getsize64", disk.device).out)
    dd(disk.backup, disk.device, f"skip={first // MIB}")
    return "written to"


def a_backup_into_the_file(disk: Disk) -> str:
    run("cp", disk.backup, disk.file).succeeded()
    return "written to"


def file_cut_short(disk: Disk) -> str:
    os.truncate(disk.file, 8 * MIB)
    return "cut short"


def device_cut_short(disk: Disk) -> str:
    os.truncate(disk.file, 8 * MIB)
    run("losetup", "--set-capacity", disk.device).succeeded()
    return "cut short"


def dd(source: Path | str, target: Path, *more: str) -> None:
    run("dd", f"if={source}", f"of={target}", "bs=1M", "count=3", "conv=notrunc", *more).succeeded()


@pytest.mark.parametrize(
    "overwrite",
    [
        zeros_on_the_device,
        zeros_in_the_file,
        a_backup_onto_the_device,
        a_backup_into_the_file,
        file_cut_short,
        device_cut_short,
    ],
)
def test_nothing_is_said_to_be_saved_there(
    volume: Volume, disk: Disk, overwrite: Callable[[Disk], str]
) -> None:
    volume.damaged = True  # by others
    volume.announce(OVERWRITTEN, "cannot record")
    words = [f"{OVERWRITTEN} {overwrite(disk)}", str(disk.device), "save --to"]
    assert words[0] in pramfs("status", volume.root).succeeded().text
    pramfs("save", volume.root).refused(MOUNT_FAILED, *words)
    outcome = pramfs("umount", volume.root).refused(MOUNT_FAILED, *words)
    assert "saved to" not in outcome.err
    assert "stands" not in outcome.err
    volume.ended(MOUNT_FAILED)


def test_what_nobody_else_has_touched_is_saved(volume: Volume, disk: Disk) -> None:
    volume.save()
    assert not volume.status()["error"]
    volume.umount()
    assert pramfs("cat", disk.device, "new").succeeded().out == b"unsaved"


def test_a_removed_file_beneath_is_known(volume: Volume, disk: Disk) -> None:
    disk.file.unlink()
    assert "has been removed" in pramfs("status", volume.root).succeeded().text
    pramfs("save", volume.root).refused(MOUNT_FAILED, "has been removed")
    pramfs("umount", volume.root).refused(MOUNT_FAILED, "has been removed")
    volume.damaged = True  # gone
    volume.announce("has been removed")
    volume.ended(MOUNT_FAILED)
