"""sd_notify(3): tell a service manager how the daemon is doing. Does nothing when nobody asked.

The address is taken out of the environment, so that no child ever speaks in the daemon's name.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable

from pramfs.system.progress import Bar

EXTENSION_S = 60  # that every sign of life asks the manager to wait on
EXTEND_PERIOD_S = 1.0  # between signs of life


class ServiceManager:
    """Whoever started this service and listens; the address "" is nobody."""

    def __init__(self, address: str = "") -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def tell(self, *assignments: str) -> None:
        """Send the assignments (READY=1, STATUS=…, STOPPING=1) in one message."""
        if not self._address:
            return
        # A manager that does not listen must not keep the daemon from saving.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.sendto("\n".join(assignments).encode(), self._address)

    def extend_timeout(self, work: str, done: int, total: int) -> None:
        """Say what takes so long and how far it is, and ask to wait EXTENSION_S longer for it."""
        share = min(done / total, 1.0) if total else 0.0
        self.tell(f"STATUS={work} {share:.0%}", f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 10**6}")

    def watching(self, bar: Bar, work: str) -> Callable[[int], None]:
        """Tell of `work` now, and again as it goes on: what is returned counts on the bar."""
        next_s = 0.0

        def progress(units: int) -> None:
            nonlocal next_s
            bar(units)
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + EXTEND_PERIOD_S
                self.extend_timeout(work, bar.done, bar.total)

        progress(0)
        return progress


def take_manager() -> ServiceManager:
    """The service manager that the environment names, and names no longer."""
    return ServiceManager(os.environ.pop("NOTIFY_SOCKET", ""))
