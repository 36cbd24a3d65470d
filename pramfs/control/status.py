"""The status of a running mount: what its daemon tells, as JSON, and what clients make of it."""

import json
from dataclasses import asdict, dataclass

from pramfs.storage.frames import FrameCounts
from pramfs.system.json_values import from_json

SHUTDOWN_MAX_S = 30 * 60  # JobTimeoutSec of systemd's reboot.target and poweroff.target


@dataclass(frozen=True, slots=True, kw_only=True)
class MountStatus:
    """The status of a running mount. The JSON has these names, in this order (see docs/json.md).

    A field that is new in a later version needs a default: what holds for a daemon that does not tell it.
    """

    pid: int  # of the daemon
    pid_namespace: int = 0  # of the daemon, see namespaces; 0: version 0.1 does not tell
    identity: str = ""  # of the image, see Image.identity; "": version 0.1 does not tell
    image: str  # its path, without symbolic links
    mountpoint: str  # where it was mounted first
    name: str  # of the tree
    options: tuple[str, ...] = ()  # as they were given, a word each
    run: str  # hex id of the daemon's run
    read_only: bool  # mounted with ro: the image is open read-only
    generation: int  # of the last published save
    pfn: str  # of its super block, hexadecimal
    saved_ns: int  # when it was published, nanoseconds since the epoch
    changed: bool  # since the last save
    unpublished_pages: int  # frames that were filled since the last save
    unwritten_pages: int = -1  # of them, those that are in memory only; -1: not known
    save_seconds: int = -1  # that a save would take now, at the pace of the last; -1: not known
    incomplete: bool = False  # that save lacks data that programs had written
    cut_off: bool = False  # it may, as the mount was cut off by force in an earlier run
    suspect: bool = False  # the daemon has met an internal error
    error: str = ""  # why the last save is not in force, or what it lacks; "" if all is well
    inodes: int  # in use
    frames: FrameCounts
    state: str  # the path of the state of the run, see run_state
    log: str = ""  # the path of the log, "" if it goes to standard error

    def to_json(self) -> bytes:
        """Return the JSON that `parse_status` understands, also that of other versions."""
        return json.dumps(asdict(self)).encode()


def parse_status(text: bytes) -> MountStatus:
    """Return the status that a daemon, perhaps of another version, tells. Raises ValueError."""
    return from_json(MountStatus, text)
