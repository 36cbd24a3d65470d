"""An image in memory as pramfs opens it from a file, without recording or faults."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pramfs.storage.image import Image


@contextmanager
def memory_image(content: bytes = b"", *, writable: bool = True) -> Iterator[Image]:
    """An image that holds `content`."""
    fd = os.memfd_create("pramfs-test", os.MFD_CLOEXEC)
    os.write(fd, content)
    with Image(Path("memory"), fd, writable=writable) as image:
        yield image
