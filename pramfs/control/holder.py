"""Find out who has an image locked: a mount, a daemon that saves, or a tool that writes nodes."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from pramfs.control import client, run_state
from pramfs.control.run_state import State
from pramfs.errors import ImageInUse, PramError
from pramfs.storage import superblock
from pramfs.storage.image import Image, open_image
from pramfs.system import mountinfo
from pramfs.system.mountinfo import Mount


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that has an image locked."""

    pid: int | None  # None for a process that is not visible from here
    serves: bool  # it serves a mount, or programs that use a detached one
    saving: State | None  # the progress of its final save, if it is saving

    @property
    def words(self) -> str:
        """What it does, for messages to users who wait for the image."""
        if self.pid is None:
            return "a process has it that is not to be seen from here"
        if self.serves:
            return f"it is detached, but process {self.pid} still serves programs that use it"
        if self.saving is not None:
            return f"the last daemon (process {self.pid}) still saves"
        return f"process {self.pid} loads it, or writes nodes to it"


def holder_of(image: Image) -> Holder:
    """Return the holder of an image that is mounted, or that this process could not lock."""
    pid = image.serving_pid()
    if pid is not None:
        return Holder(pid if pid > 0 else None, serves=True, saving=None)
    pid = image.lock_holder()
    state = None
    with contextlib.suppress(PramError):
        state = run_state.last_state(image, superblock.require(image).uuid)
    is_saving = state is not None and state.phase == run_state.SAVING and pid in (None, state.pid)
    return Holder(pid, serves=False, saving=state if is_saving else None)


def refuse_if_mounted(image: Image) -> None:
    """Raise ImageInUse, naming the place, if a daemon has the image mounted."""
    pid = image.serving_pid()
    if pid is None:
        return
    if pid <= 0:
        raise ImageInUse(image.path, "a mount in another pid namespace")
    with contextlib.suppress(FileNotFoundError):  # the process has just ended
        mounts = mountinfo.pramfs_mounts(pid)
        for is_its in (_is_named, _is_served):
            for mount in mounts:
                if is_its(mount, image):
                    raise ImageInUse(image.path, f"process {pid}, mounted at {mount.mountpoint}")


def _is_named(mount: Mount, image: Image) -> bool:
    """Return whether the mount table has that image for it."""
    with (
        contextlib.suppress(OSError, PramError),
        open_image(Path(mount.image), writable=False) as mounted,
    ):
        return mounted.is_same_as(image)
    return False


def _is_served(mount: Mount, image: Image) -> bool:
    """Return whether its daemon says so: the image was renamed, or the mount has gone on in it."""
    with contextlib.suppress(PramError):
        return client.read_status(mount.mountpoint).identity == image.identity
    return False
