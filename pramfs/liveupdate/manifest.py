"""What goes beside the images to the next kernel: their paths, owners, modes and extended attributes."""

import base64
import contextlib
import json
import os
import stat
from dataclasses import asdict, dataclass

from pramfs.storage import superblock
from pramfs.storage.image import Image, write_all
from pramfs.system.json_values import from_json

TOKEN = 0  # of the manifest itself; those of images follow

_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class Carried:
    """An image that is carried to the next kernel."""

    token: int
    path: str
    frames: int  # that it had before it was made short
    size_bytes: int  # that are carried
    generation: int
    uid: int
    gid: int
    mode: int
    xattrs: tuple[str, ...]  # NAME=BASE64


@dataclass(frozen=True, slots=True)
class Manifest:
    """All images of a session."""

    images: tuple[Carried, ...]


def describe(image: Image, token: int, frames: int) -> Carried:
    """Return what is to be known of an image that was made short and had `frames` frames before."""
    status = os.fstat(image.fileno())
    xattrs = []
    for name in os.listxattr(image.fileno()):
        value = base64.b64encode(os.getxattr(image.fileno(), name)).decode()
        xattrs.append(f"{name}={value}")
    return Carried(
        token=token,
        path=os.path.realpath(image.path),
        frames=frames,
        size_bytes=image.size_bytes,
        generation=superblock.require(image).generation,
        uid=status.st_uid,
        gid=status.st_gid,
        mode=stat.S_IMODE(status.st_mode),
        xattrs=tuple(xattrs),
    )


def set_attributes(descriptor: int, carried: Carried) -> None:
    """Give the file the owner, mode and extended attributes that the image had. Raises OSError."""
    os.fchown(descriptor, carried.uid, carried.gid)
    os.fchmod(descriptor, carried.mode)
    for xattr in carried.xattrs:
        name, _, value = xattr.partition("=")
        if name.startswith("security."):
            # The new system may have other labels, which its policy sets, or none.
            with contextlib.suppress(OSError):
                os.setxattr(descriptor, name, base64.b64decode(value))
        else:
            os.setxattr(descriptor, name, base64.b64decode(value))


def write(manifest: Manifest) -> int:
    """Return the descriptor of a memory file with the manifest."""
    descriptor = os.memfd_create("pramfs-manifest", os.MFD_CLOEXEC)
    write_all(descriptor, 0, json.dumps(asdict(manifest)).encode())
    return descriptor


def read(descriptor: int) -> Manifest:
    """Return the manifest in a memory file. Raises ValueError if it is none."""
    return from_json(Manifest, os.pread(descriptor, _BYTES_MAX, 0))
