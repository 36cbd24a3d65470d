"""A new version is installed while a daemon of the version before still serves a mount.

elves/elvish #652: after an update the old daemon still ran, and the new client could not talk to it.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from pramfs.control import client, umount
from pramfs.control.status import MountStatus
from tests.mounted.harness import Volume


def test_umount_waits_for_a_daemon_that_tells_no_more_than_version_0_1(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"kept")
    read_status = client.read_status

    def read_older(mountpoint: Path) -> MountStatus:
        return replace(read_status(mountpoint), pid_namespace=0, identity="")

    monkeypatch.setattr(client, "read_status", read_older)
    assert "unmounted; saved to" in umount.umount(root).message
    volume.ended()
    assert (volume.mount() / "file").read_bytes() == b"kept"
