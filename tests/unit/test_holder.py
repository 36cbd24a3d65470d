"""Who is said to hold an image."""

import os
from pathlib import Path

import pytest

from pramfs.control import holder
from pramfs.storage.image import Image
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
