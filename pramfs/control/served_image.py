"""Open an image, or that of a running mount, which may be renamed or replaced by now, or below the mount."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pramfs.control.status import MountStatus
from pramfs.errors import PramError
from pramfs.storage.image import Image, identity_of, open_image
from pramfs.system.namespaces import pid_namespace


def open_target(target: Path, status: MountStatus | None) -> Image:
    """Open the image at `target`, or that of the mount there if `status` is given, read-only.

    Raises PramError.
    """
    return open_image(target, writable=False) if status is None else open_served(status)


def open_served(status: MountStatus) -> Image:
    """Open the image that a daemon serves, read-only: by its name, or else by the daemon's descriptor.

    Raises PramError if it cannot be opened, or with what has become of it if it has no name any more.
    """
    try:
        return _open_if_served(Path(status.image), status)
    except PramError as exc:
        for descriptor in _descriptors(status):
            with contextlib.suppress(PramError):
                image = _open_if_served(descriptor, status)
                if image.known_as:
                    image.path = Path(image.known_as)
                    return image
                image.close()
        if status.error:
            raise PramError(f"{status.mountpoint}: the {status.error}") from exc
        raise


def _open_if_served(path: Path, status: MountStatus) -> Image:
    image = open_image(path, writable=False)
    # A daemon of version 0.1 does not tell which image it is, but the image tells who serves it.
    expected = status.identity or (image.serving_pid() == status.pid and image.identity)
    if image.identity == expected:
        return image
    image.close()
    raise PramError(f"{path}: not the image that is mounted at {status.mountpoint}")


def _descriptors(status: MountStatus) -> Iterator[Path]:
    """Yield the daemon's descriptors of the image in /proc, if this process may see them.

    Opening one opens the file, whatever it is called now, and whatever hides its name here.
    """
    if not status.identity or status.pid_namespace != pid_namespace():
        return
    directory = Path(f"/proc/{status.pid}/fd")
    with contextlib.suppress(OSError):  # the daemon is gone, or not this user's
        for descriptor in directory.iterdir():
            with contextlib.suppress(OSError):
                if identity_of(descriptor.stat()) == status.identity:
                    yield descriptor
