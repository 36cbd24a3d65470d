"""Control of a running mount, as extended attributes that no listing shows.

    user.pramfs.status      JSON: everything below, and the state of the arena
    user.pramfs.pid         of the daemon
    user.pramfs.image       the path of the image
    user.pramfs.generation  of the last published save
    user.pramfs.pfn         of its super block, hexadecimal
    user.pramfs.frames.N    the states of the frames N*65536..., a byte each, deflated (see `frames`)
    user.pramfs.save        set it to publish a checkpoint; to `unkept`, one that does not count for `keep=`
    user.pramfs.dedup       JSON: what deduplication has found; set it to deduplicate, see `DedupReport`
    user.pramfs.save_to     set it to save to another image and go on there, see `SaveTarget`
    user.pramfs.snapshot    set it to the name for a snapshot, which is taken with a save
    user.pramfs.receive     set it to offer a tree that is in a file, see `TreeOffer`
    user.pramfs.free        set it to NAME@SNAPSHOT to free that snapshot with a save
    user.pramfs.flush       set it to have the kernel hand over its dirty pages; a save tells what it cannot
    user.pramfs.permit      set it to 16 bytes of one's own, with which others are set by ioctl(2)

They are not listed, so that cp -a and rsync -X ignore them. Every file in the mount has them, because a bind
mount may show any part of it. This is the daemon's side, without FUSE; `client` asks for them.

What is set takes long, and during setxattr(2) and fsync(2) the kernel holds the lock of the inode: meanwhile
nobody could look up a new name in the directory. So `client` sets them by an ioctl(2), which holds no lock.
There the kernel does not check whether the place may be written to, as it does for setxattr(2). So the ioctl
must name a permit that was set just before; except, on the root, for what fsync(2) of the root does as well.
"""

import errno
import os
import time
import zlib
from collections.abc import Callable
from typing import NamedTuple

from pramfs.control.dedup_report import DedupReport
from pramfs.control.status import MountStatus
from pramfs.errors import posix_error
from pramfs.storage.frames import FrameTable

PREFIX = b"user.pramfs."
SAVE = PREFIX + b"save"
SAVE_TO = PREFIX + b"save_to"
UNKEPT = b"unkept"
DEDUP = PREFIX + b"dedup"
SNAPSHOT = PREFIX + b"snapshot"
FREE = PREFIX + b"free"
FLUSH = PREFIX + b"flush"
PERMIT = PREFIX + b"permit"
RECEIVE = PREFIX + b"receive"
FRAMES = PREFIX + b"frames."
FRAMES_AT_ONCE = 65536  # even incompressible states fit into the 64 KiB of an extended attribute

ALLOWED_ON_ROOT = frozenset({SAVE, FLUSH})  # without a permit
PERMIT_BYTES = 16
_PERMITS_MAX = 64
_PERMIT_S = 10
_SET = 0x400050A0  # _IOC(_IOC_WRITE, 'P', 0xA0, 0); data: permit, NAME, a zero byte, the value
_SIZE_SHIFT = 16
_SETTING_MAX_BYTES = (1 << 14) - 1

_PLAIN = ("pid", "image", "generation", "pfn")  # what of the status is an attribute of its own


def may_control(uid: int, owner: int) -> bool:
    """Return whether a user may publish: root, the `owner` of the root directory, and the daemon's user."""
    return uid in (0, owner, os.geteuid())


class Setting(NamedTuple):
    """A control attribute that an ioctl sets."""

    permit: bytes
    name: bytes
    value: bytes


def encode_setting(setting: Setting) -> tuple[int, bytearray] | None:
    """Return command and data of the ioctl that sets a control attribute, None if the value is too long."""
    data = bytearray(setting.permit + setting.name + b"\0" + setting.value)
    if len(data) > _SETTING_MAX_BYTES:
        return None
    return _SET | len(data) << _SIZE_SHIFT, data


def decode_setting(command: int, data: bytes) -> Setting | None:
    """Return what an ioctl sets, None if it is for something else."""
    if command != _SET | len(data) << _SIZE_SHIFT:
        return None
    name, _, value = data[PERMIT_BYTES:].partition(b"\0")
    return Setting(data[:PERMIT_BYTES], name, value)


class ControlAttributes:
    """The values of the control attributes of one mount, for the daemon, which anybody may read.

    The work that `SAVE` and others request is up to `fuse.attribute_requests`.
    """

    def __init__(
        self,
        status: Callable[[], MountStatus],
        dedup: Callable[[], DedupReport],
        table: FrameTable,
    ) -> None:
        self._status = status
        self._dedup = dedup
        self._table = table
        # Until when each is valid, the oldest first.
        self._permits: dict[tuple[int, bytes], float] = {}

    def permit(self, uid: int, permit: bytes) -> None:
        """Keep a permit for one ioctl of that user, for some seconds. Raises EINVAL."""
        if len(permit) != PERMIT_BYTES:
            raise posix_error(errno.EINVAL)
        if len(self._permits) == _PERMITS_MAX:
            del self._permits[next(iter(self._permits))]
        self._permits[uid, permit] = time.monotonic() + _PERMIT_S

    def require_permit(self, uid: int, setting: Setting, *, on_root: bool) -> None:
        """Use up the permit for what an ioctl sets. Raises EPERM if it needs one and has none."""
        until_s = self._permits.pop((uid, setting.permit), 0.0)
        if on_root and setting.name in ALLOWED_ON_ROOT:
            return
        if time.monotonic() > until_s:
            raise posix_error(errno.EPERM)

    def read(self, name: bytes) -> bytes:
        """Return the value of a control attribute. Raises OSError(ENODATA) for an unknown one."""
        if name.startswith(FRAMES):
            return self._frame_states(name.removeprefix(FRAMES))
        if name == DEDUP:
            return self._dedup().to_json()
        status = self._status()
        key = name.removeprefix(PREFIX).decode(errors="replace")
        if key == "status":
            return status.to_json()
        if key not in _PLAIN:
            raise posix_error(errno.ENODATA)
        return str(getattr(status, key)).encode()

    def _frame_states(self, number: bytes) -> bytes:
        first = int(number) * FRAMES_AT_ONCE if number.isdigit() else -1
        if not 0 <= first < len(self._table):
            raise posix_error(errno.ENODATA)
        return zlib.compress(self._table.states(first, FRAMES_AT_ONCE), 1)
