"""What a running mount answers to `control_xattrs`: the values of the attributes that no listing shows.

Who may ask for a save, and the save itself, are the business of `fuse.operations`.
"""

import errno
import json
import zlib
from collections.abc import Callable

from pramfs.control import control_xattrs
from pramfs.errors import posix_error
from pramfs.storage.frames import FrameTable

_PLAIN = ("pid", "image", "generation", "pfn")  # what of the status is an attribute of its own


class Answers:
    """The control attributes of one mount."""

    def __init__(self, status: Callable[[], dict[str, object]], table: FrameTable) -> None:
        self._status = status
        self._table = table

    def read(self, name: bytes) -> bytes:
        """The value of a control attribute. Raises OSError(ENODATA) for one that there is not."""
        if name.startswith(control_xattrs.FRAMES):
            return self._frame_states(name.removeprefix(control_xattrs.FRAMES))
        status = self._status()
        key = name.removeprefix(control_xattrs.PREFIX).decode(errors="replace")
        if key == "status":
            return json.dumps(status).encode()
        if key not in _PLAIN:
            raise posix_error(errno.ENODATA)
        return str(status[key]).encode()

    def _frame_states(self, number: bytes) -> bytes:
        first = int(number) * control_xattrs.FRAMES_AT_ONCE if number.isdigit() else -1
        if not 0 <= first < len(self._table):
            raise posix_error(errno.ENODATA)
        return zlib.compress(self._table.states(first, control_xattrs.FRAMES_AT_ONCE), 1)
