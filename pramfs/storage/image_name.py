"""Whether a mounted image is still to be found under its name: files are removed, renamed and replaced.

Links are followed, as every reader of the name does, but only through the file systems that led to the image
when it was mounted: others may be the mount that asks, or one that is dead.
"""

import contextlib
import os
import re
import stat
from collections.abc import Container
from pathlib import Path

from pramfs.errors import NotUnderItsName
from pramfs.storage.image import Image, identity_of
from pramfs.system import mountinfo

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_MAX = 40  # as the kernel


class ImageName:
    """The name that an image was opened by. To be made before anything is mounted over it."""

    def __init__(self, image: Image) -> None:
        self.path = image.path.resolve()
        self.image = image
        self.own_device = ""  # MAJOR:MINOR of what is mounted from the image, which may hide it
        self._directory = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._mount_id = _mount_id(self._directory)
        self._is_listed = mountinfo.has_mount(self._mount_id)  # not where a chroot hides it
        self._location = mountinfo.location(self.path)
        self._devices = mountinfo.devices_on_the_way(self.path)

    def lost(self) -> NotUnderItsName | None:
        """Return why a save into the image is not one under its name; None as long as it is."""
        try:
            why = self._why_not_as_it_was()
            return None if why is None or self._is_led_to() else why
        except OSError as exc:  # /proc has been unmounted
            return NotUnderItsName(self.path, f"it cannot be looked up: {exc.strerror}")

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._directory)

    def _why_not_as_it_was(self) -> NotUnderItsName | None:
        if self._is_listed and not mountinfo.has_mount(self._mount_id):
            return NotUnderItsName(self.path, "its file system has been unmounted")
        if mountinfo.location(self.path, but=self.own_device) != self._location:
            return NotUnderItsName(self.path, "another file system is mounted over it")
        try:
            if self._is_there():
                return None
            return NotUnderItsName(self.path, self._what_became_of_it())
        except OSError as exc:  # its medium has failed
            return NotUnderItsName(self.path, f"it cannot be looked up: {exc.strerror}")

    def _is_led_to(self) -> bool:
        """Whether the name leads to the image by symbolic links that were not there before."""
        if self.image.is_removed:  # a device is there all the same, without the file beneath
            return False
        status = None
        with contextlib.suppress(OSError):
            status = _follow(self.path, self._devices)
        return status is not None and identity_of(status) == self.image.identity

    def _is_there(self) -> bool:
        if os.readlink(f"/proc/self/fd/{self._directory}") != str(self.path.parent):
            return False
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(self.path.name, dir_fd=self._directory, follow_symlinks=False)
            return identity_of(status) == self.image.identity and not self.image.is_removed
        return False

    def _what_became_of_it(self) -> str:
        if self.image.is_removed:
            return "the file has been removed, and goes with the mount"
        now = self.image.known_as
        return f"the file is called {now} now" if now else "the file has only other names now"


def _follow(path: Path, devices: Container[str]) -> os.stat_result | None:
    """Return the status of what an absolute path leads to, looking into nothing but these file systems.

    Returns None if it leads elsewhere, or to nothing that could be a file. Raises OSError.
    """
    device_of = mountinfo.devices()
    left, links, status = list(reversed(path.parts)), 0, None
    with contextlib.ExitStack() as opened:
        at: int | None = None
        while left:
            # Opening the root of a mount asks its file system nothing; all else does.
            found = os.open(left.pop(), _LOOK, dir_fd=at)
            opened.callback(os.close, found)
            if device_of.get(_mount_id(found)) not in devices:
                return None
            status = os.fstat(found)
            if not stat.S_ISLNK(status.st_mode):
                at = found
                continue
            links += 1
            if links > _LINKS_MAX:
                return None
            left += reversed(Path(os.readlink("", dir_fd=found)).parts)
        return status


def _mount_id(descriptor: int) -> int:
    info = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    found = re.search(r"^mnt_id:\s*(\d+)", info, re.MULTILINE)
    assert found is not None
    return int(found[1])
