"""Who is said to hold an image."""

import os
from pathlib import Path

import pytest

from pramfs.control import holder
from pramfs.storage.image import Image
from pramfs.system import mountinfo
from pramfs.system.mountinfo import Mount
from tests.support.watched_image import image_of


def test_a_daemon_that_has_just_ended_has_the_image_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a process that nobody has waited for yet the kernel tells no mounts, and calls that EINVAL."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{pid}").exists()
        monkeypatch.setattr(Image, "serving_pid", lambda image: pid)
        assert holder.holder_of(image_of(b"")).mountpoint is None
    finally:
        os.waitpid(pid, 0)


def test_an_image_is_not_where_another_file_system_got_the_number_of_its_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A number is free again after the unmount, when the daemon still saves."""
    (tmp_path / "other").touch()
    place, image = tmp_path / "mnt", str(tmp_path / "other")
    another = Mount(2, 1, "0:40", place, "/", "fuse.pramfs", image, 0, 0, shared=False)
    monkeypatch.setattr(Image, "serving_pid", lambda image: os.getpid())
    monkeypatch.setattr(mountinfo, "pramfs_mounts", lambda process: [another])
    monkeypatch.setattr(mountinfo, "devices_served_by", lambda process: {"0:40"})
    assert holder.holder_of(image_of(b"")).mountpoint is None
