"""Watch a daemon end, from any pid or mount namespace, and see what it has left in the image.

A pid tells nothing in another namespace, and a run directory may be gone or somebody else's. The image is
what counts: its lock is free when the daemon is gone, and its super block says how the run ended.
"""

import contextlib
import os
import time

from pramfs.control.served_image import open_served
from pramfs.control.status import MountStatus
from pramfs.errors import PramError
from pramfs.storage import superblock
from pramfs.storage.image import Image
from pramfs.storage.layout import SUPER_FINAL, SuperBlock
from pramfs.system.descriptors import readable
from pramfs.system.namespaces import pid_namespace

_LOOK_AT_SUPER_BLOCK_S = 2.0


class DaemonWatch:
    """The daemon that a status is from, while it runs and after its end. To be made before the unmount."""

    def __init__(self, status: MountStatus) -> None:
        self._status = status
        self._pidfd = _pidfd(status)
        self.image = _image(status)  # None when it is not to be seen from here
        self._next_look_s = 0.0

    @property
    def can_wait(self) -> bool:
        """Whether there is a way to learn of its end."""
        return self._pidfd is not None or (self.image is not None and not self._status.read_only)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is gone, at most that long; returns whether it is."""
        if self._pidfd is not None:
            return bool(readable([self._pidfd], timeout_s))
        assert self.image is not None
        end_s = time.monotonic() + timeout_s
        # When the medium has failed nobody knows; that is then said of the save, too.
        with contextlib.suppress(OSError):
            while self.image.is_taken() and not self._is_another_run():
                if time.monotonic() >= end_s:
                    return False
                time.sleep(min(0.05, timeout_s))
        return True

    def last_block(self, *, sync: bool) -> SuperBlock | None:
        """Return the super block that is in force now; None when the image cannot be seen from here.

        `sync` makes it durable first: a daemon that was killed may only have written it. Raises OSError when
        that fails.
        """
        if self.image is None:
            return None
        if sync:
            self.image.sync()
        with contextlib.suppress(PramError):
            return superblock.require(self.image)
        return None

    def is_final(self, block: SuperBlock) -> bool:
        """Return whether that is the save that the run ended with."""
        return block.run.hex() == self._status.run and bool(block.flags & SUPER_FINAL)

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
        if self.image is not None:
            self.image.close()

    def _is_another_run(self) -> bool:
        """Return whether the image was saved for good, or by another run, which may have the lock."""
        if time.monotonic() < self._next_look_s:
            return False
        self._next_look_s = time.monotonic() + _LOOK_AT_SUPER_BLOCK_S
        assert self.image is not None
        with contextlib.suppress(PramError):
            block = superblock.require(self.image)
            is_newer = block.generation > self._status.generation
            return is_newer and (self.is_final(block) or block.run.hex() != self._status.run)
        return False


def _pidfd(status: MountStatus) -> int | None:
    """Return a pidfd, which is readable when the daemon has ended; None if it cannot be seen from here."""
    if status.pid_namespace not in (0, pid_namespace()):
        return None
    with contextlib.suppress(OSError):  # it is gone, or a sandbox knows no such call
        return os.pidfd_open(status.pid)
    return None


def _image(status: MountStatus) -> Image | None:
    """Open the image, if it is to be found from here; else return None."""
    with contextlib.suppress(PramError):
        return open_served(status)
    return None
