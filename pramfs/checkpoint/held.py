"""What waits for a restore, in a small file on a disk: the next boot needs it before anything is mounted."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pramfs.checkpoint import firewall, state_file, units
from pramfs.errors import PramError

STATE = Path("/var/lib/pramfs")

_NAME = "held.json"


@dataclass(frozen=True, slots=True)
class End:
    """The local end of a connection."""

    address: str  # "" for any
    port: int


@dataclass(frozen=True, slots=True)
class Held:
    """The mount whose dumps are waited for, the services, and the local ends of TCP connections."""

    mountpoint: str
    units: tuple[str, ...]
    ends: tuple[End, ...]

    def hold(self) -> None:
        """Drop what comes for the connections. Raises PramError."""
        if self.ends:
            firewall.hold([(end.address, end.port) for end in self.ends])

    def release(self) -> None:
        """Let the services start and everything through, and forget all of this.

        Raises PramError if a part of that fails, after the rest.
        """
        try:
            units.clear(self.units)
        finally:
            try:
                if self.ends:
                    firewall.release()
            finally:
                (STATE / _NAME).unlink(missing_ok=True)


def write(held: Held) -> None:
    """Keep it for the next boot. Raises PramError."""
    try:
        STATE.mkdir(parents=True, exist_ok=True, mode=0o755)
        state_file.write(STATE / _NAME, held)
    except OSError as exc:
        raise PramError(f"{STATE / _NAME}: {exc.strerror}") from exc


def read() -> Held | None:
    """Return what is held, None if nothing is. Raises PramError if that cannot be read."""
    return state_file.read(Held, STATE / _NAME)


def hold_at_boot() -> Iterable[str]:
    """Hold what the last kernel has left, and say what that is. Raises PramError."""
    held = read()
    if held is None:
        return ["nothing is held"]
    units.hold(held.units)
    held.hold()
    return [f"held: {len(held.ends)} TCP ends", *(f"held: {unit}" for unit in held.units)]
