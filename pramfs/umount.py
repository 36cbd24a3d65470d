"""Unmount *and wait for the save*: umount(2) of a FUSE file system returns while the daemon still saves."""

import os
import select
import subprocess
from pathlib import Path

from pramfs import control, mounts, rundir
from pramfs.errors import PramError


def umount(mountpoint: Path) -> str:
    """Unmount, wait until the daemon is gone; returns what there is to say of the save.

    Raises PramError when it cannot be unmounted, when the save failed, or when nobody knows.
    """
    if mounts.mount_at(mountpoint) is None:
        raise PramError(f"{mountpoint}: no pramfs is mounted there")
    if mounts.is_dead(mountpoint):
        _unmount(mountpoint)
        raise PramError(
            f"{mountpoint}: unmounted, but the daemon was dead: what it had not saved is lost, "
            "the last save stands"
        )
    status = control.read_status(mountpoint)
    daemon = os.pidfd_open(int(str(status["pid"])))
    try:
        _unmount(mountpoint)
        select.select([daemon], [], [])
    finally:
        os.close(daemon)
    if status["read_only"]:
        return f"{mountpoint}: unmounted; it was read-only, there was nothing to save"
    return _verdict(mountpoint, status)


def _unmount(mountpoint: Path) -> None:
    command = ["umount", "-i"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    result = subprocess.run(
        [*command, "--", str(mountpoint)], check=False, capture_output=True, text=True
    )
    if result.returncode:
        lines = (result.stderr or result.stdout).strip().splitlines()
        raise PramError(lines[0] if lines else f"{mountpoint}: cannot be unmounted")


def _verdict(mountpoint: Path, status: dict[str, object]) -> str:
    verdict = rundir.read_verdict(Path(str(status["verdict"])))
    image = status["image"]
    if verdict is None or verdict.run != status["run"]:
        raise PramError(
            f"{mountpoint}: unmounted, but the daemon ended without a word on its save; "
            f"see: pramfs info {image}"
        )
    if not verdict.durable:
        raise PramError(f"{mountpoint}: unmounted, but the {verdict.error}")
    return f"{mountpoint}: unmounted; saved to {image}, generation {verdict.generation}"
