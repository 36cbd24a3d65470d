"""Have systemd keep the session with the images as well, where it can carry that over a kexec: from 261 on.

The session is put into the descriptor store of the unit that claims images at boot. `systemctl kexec` then
carries it over even if the keeper is killed, and the new kernel's systemd hands it to that unit as
sd_listen_fds(3) has it: it has retrieved the session then, which can be done once. Systemd carries over only
the stores that a unit has it preserve at all events. The generator sets that; it is no proof of the version,
because 254 to 260 know the setting, but close what they have when they shut down.
"""

import fcntl
import os
import socket
from pathlib import Path

from pramfs.system import systemd
from pramfs.system.descriptors import readable

UNIT = "pramfs-claim.service"
NAME = "pramfs-images"

_NOTIFY = Path("/run/systemd/notify")
_FIRST_FD = 3  # SD_LISTEN_FDS_START
_TIMEOUT_S = 5.0
_VERSION_MIN = 261
_WANTED = {"ActiveState": "active", "FileDescriptorStorePreserve": "yes", "NotifyAccess": "all"}
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


def put(session: int) -> bool:
    """Put the session into the store, and return whether it is there.

    Moves this process into the unit's control group, because systemd goes by that. Does nothing where the
    unit does not run or systemd carries nothing over a kexec.
    """
    if systemd.show(UNIT, *_WANTED) != _WANTED or systemd.version() < _VERSION_MIN:
        return False
    systemd.attach(UNIT, os.getpid())
    _tell(f"FDSTORE=1\nFDNAME={NAME}", session)
    return is_kept()


def remove() -> None:
    """Have the session removed from the store. The caller is in the unit's control group."""
    _tell(f"FDSTOREREMOVE=1\nFDNAME={NAME}")


def is_kept() -> bool:
    """Return whether there is something in the store."""
    return systemd.show(UNIT, "NFileDescriptorStore").get("NFileDescriptorStore", "0") != "0"


def take() -> int | None:
    """Return the session that systemd has given to this process, None if it has given none."""
    variables = {name: os.environ.pop(name, "") for name in _VARIABLES}
    if variables["LISTEN_PID"] != str(os.getpid()):
        return None
    names = variables["LISTEN_FDNAMES"].split(":")
    if NAME not in names:
        return None
    descriptor = _FIRST_FD + names.index(NAME)
    fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    return descriptor


def _tell(message: str, *descriptors: int) -> None:
    """Send a message to systemd, and wait until it has done what that says. Gives up when nobody listens."""
    ours, theirs = os.pipe()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.settimeout(_TIMEOUT_S)
            end.connect(str(_NOTIFY))
            socket.send_fds(end, [message.encode()], descriptors)
            socket.send_fds(end, [b"BARRIER=1"], [theirs])
    except OSError:
        return
    finally:
        os.close(theirs)
        readable([ours], _TIMEOUT_S)  # systemd closes the other end
        os.close(ours)
