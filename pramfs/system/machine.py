"""Which machine this is, and which boot of it: for a mark in images that several machines can reach."""

import hmac
import os
import uuid
from pathlib import Path
from typing import NamedTuple

_MACHINE_ID = Path("/etc/machine-id")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# What machine-id(5) asks for: the id itself is not to be told to others, so an image has a hash of it, made
# as sd_id128_get_machine_app_specific(3) makes it. This number stands for pramfs there; it never changes.
_PRAMFS = uuid.UUID("5f0c1c6e-9d0f-4b39-8a46-1f1f8f0b7a52").bytes
_ID_BYTES = 16
UNKNOWN = bytes(_ID_BYTES)


class Machine(NamedTuple):
    """A machine; what is not known of it is UNKNOWN, or an empty name."""

    id: bytes  # the same at each boot
    boot: bytes  # another one at each
    host: bytes  # its name, for people


def this_machine() -> Machine:
    """Return what is known of the machine that this process runs on."""
    machine_id = _read_id(_MACHINE_ID)
    hashed = _application_id(machine_id) if machine_id != UNKNOWN else UNKNOWN
    return Machine(hashed, _read_id(_BOOT_ID), os.fsencode(os.uname().nodename))


def _application_id(machine_id: bytes) -> bytes:
    made = bytearray(hmac.digest(machine_id, _PRAMFS, "sha256")[:_ID_BYTES])
    made[6] = made[6] & 0x0F | 0x40  # as in every random uuid
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)


def _read_id(path: Path) -> bytes:
    """Return the id in a file, UNKNOWN without one; before the first boot of a system it has a word."""
    try:
        found = bytes.fromhex(path.read_text(encoding="ascii").strip().replace("-", ""))
    except (OSError, ValueError):
        return UNKNOWN
    return found if len(found) == _ID_BYTES else UNKNOWN
