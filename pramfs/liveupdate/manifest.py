"""What goes beside the images to the next kernel: their paths, owners, modes and extended attributes.

It is a line of JSON, and one with the checksum of that.
"""

import base64
import json
import os
import stat
import zlib
from dataclasses import asdict, dataclass

from pramfs.errors import PramError, words_of
from pramfs.storage import layout, superblock
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


def describe_unknown(descriptor: int | None, token: int, path: str) -> Carried:
    """Return what can be said of an image in a memory file, if there is one, when the manifest is damaged."""
    size_bytes = 0 if descriptor is None else os.fstat(descriptor).st_size
    return Carried(
        token=token,
        path=path,
        frames=size_bytes >> layout.PAGE_SHIFT,
        size_bytes=size_bytes,
        generation=0,
        uid=0,
        gid=0,
        mode=0o600,
        xattrs=(),
    )


def set_attributes(descriptor: int, carried: Carried) -> None:
    """Give the file the owner, mode and extended attributes that the image had. Raises OSError, PramError."""
    os.fchown(descriptor, carried.uid, carried.gid)
    os.fchmod(descriptor, carried.mode)
    for xattr in carried.xattrs:
        name, _, value = xattr.partition("=")
        try:
            os.setxattr(descriptor, name, base64.b64decode(value))
        except OSError as exc:
            # The new system may have other labels, which its policy sets, or none.
            if not name.startswith("security."):
                raise PramError(
                    f"its extended attribute {name} is refused: {words_of(exc)}"
                ) from exc


def write(manifest: Manifest) -> int:
    """Return the descriptor of a memory file with the manifest."""
    descriptor = os.memfd_create("pramfs-manifest", os.MFD_CLOEXEC)
    text = json.dumps(asdict(manifest)).encode()
    write_all(descriptor, 0, text + b"\n%08x\n" % zlib.crc32(text))
    return descriptor


def read(descriptor: int) -> Manifest:
    """Return the manifest in a memory file. Raises ValueError if it is damaged, or none."""
    text, _, checksum = os.pread(descriptor, _BYTES_MAX, 0).partition(b"\n")
    if checksum != b"%08x\n" % zlib.crc32(text):
        raise ValueError("its checksum is wrong")
    return from_json(Manifest, text)
