"""Find out who has an image locked: a mount, a daemon that saves, or a tool that writes nodes."""

import contextlib
import shlex
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
    mountpoint: Path | None  # None if the mount is detached, or not visible from here
    saving: State | None  # the progress of its final save, if it is saving

    @property
    def words(self) -> str:
        """What it does with the image, for users who ask or wait for it."""
        process = (
            f"process {self.pid}" if self.pid else "a process that is not to be seen from here"
        )
        if self.saving is not None:
            done = f"{self.saving.pages_done} of {self.saving.pages_total} pages"
            return f"{process} is saving it now, {done}"
        if not self.serves:
            return f"{process} loads it, or writes nodes to it"
        if self.pid is None:
            return "it is mounted in another pid namespace"
        if self.mountpoint is None:
            unseen = "it is detached, or its mount is not to be seen from here"
            return f"{unseen}; {process} still serves programs that use it"
        return f"{process} has it mounted at {self.mountpoint}"


def holder_of(image: Image) -> Holder:
    """Return the holder of an image that is mounted, or that this process could not lock."""
    pid = image.serving_pid()
    if pid is not None:
        seen = pid if pid > 0 else None
        return Holder(seen, serves=True, mountpoint=_place(image, pid), saving=None)
    pid = image.lock_holder()
    state = None
    with contextlib.suppress(PramError):
        state = run_state.last_state(image, superblock.require(image).uuid)
    is_saving = state is not None and state.phase == run_state.SAVING and pid in (None, state.pid)
    return Holder(pid, serves=False, mountpoint=None, saving=state if is_saving else None)


def refuse_if_mounted(image: Image) -> None:
    """Raise ImageInUse, naming the place, if a daemon has the image mounted."""
    pid = image.serving_pid()
    if pid is None:
        return
    if pid <= 0:
        raise ImageInUse(image.path, "a mount in another pid namespace")
    place = _place(image, pid)
    if place is not None:
        command = f"pramfs umount {shlex.quote(str(place))}"
        where = ""
        if place not in {mount.mountpoint for mount in mountinfo.pramfs_mounts()}:
            where, command = " in another mount namespace", f"nsenter -m -t {pid} {command}"
        raise ImageInUse(
            image.path, f"process {pid}, mounted at {place}{where}; unmount it first: {command}"
        )


def _place(image: Image, pid: int) -> Path | None:
    """Return where the image is mounted that process `pid` serves, None if nothing shows it here."""
    if pid <= 0:
        return None
    with contextlib.suppress(OSError):  # the process has just ended
        mounts = mountinfo.pramfs_mounts(pid)
        devices = mountinfo.devices_served_by(pid)
        if devices:
            # More than its own: after the unmount, while it saves, another may get its device's number.
            mounts = [mount for mount in mounts if mount.device in devices]
        # Other images may be on a disk that stands still, and their daemons wait for it: look there last.
        mounts.sort(key=lambda mount: mount.image != str(image.path.absolute()))
        for is_its in (_is_named, _is_served):
            for mount in mounts:
                if is_its(mount, image):
                    return mount.mountpoint
    return None


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
