"""The file that a loop device lies in.

Others can change it without the device: what the kernel has cached of the device does not show that.
"""

import contextlib
import fcntl
import os
import stat
import struct
from pathlib import Path
from typing import NamedTuple

_BLOCK_DEVICES = Path("/sys/dev/block")
_LOOP_GET_STATUS64 = 0x4C05
_STATUS_BYTES = (
    232  # struct loop_info64, which begins with: lo_device, lo_inode, lo_rdevice, lo_offset
)
_PLACE = struct.Struct("4Q")


class LoopFile(NamedTuple):
    """An open file or device, and where in it, in bytes, the loop device begins."""

    fd: int
    offset_bytes: int

    def end_bytes(self) -> int:
        """Return the bytes that the loop device could have at most, as long as the file is now."""
        return max(0, os.lseek(self.fd, 0, os.SEEK_END) - self.offset_bytes)


def sysfs_of(device: int) -> Path:
    """Return the directory of a block device in sysfs."""
    return _BLOCK_DEVICES / f"{os.major(device)}:{os.minor(device)}"


def open_loop_file(device_fd: int) -> LoopFile | None:
    """Open the file that a loop device lies in, for reading.

    Returns None for anything else, and when the file is not to be found by its name from here.
    """
    status = os.fstat(device_fd)
    if not stat.S_ISBLK(status.st_mode):
        return None
    info = bytearray(_STATUS_BYTES)
    try:
        name = (sysfs_of(status.st_rdev) / "loop" / "backing_file").read_bytes().rstrip(b"\n")
        fcntl.ioctl(device_fd, _LOOP_GET_STATUS64, info)
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    found = os.fstat(fd)
    device, inode, _, offset_bytes = _PLACE.unpack_from(info)
    if (found.st_dev, found.st_ino) == (device, inode):
        return LoopFile(fd, offset_bytes)
    with contextlib.suppress(OSError):
        os.close(fd)  # another file has that name here
    return None
