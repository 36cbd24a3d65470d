"""Report the state of the daemon to a service manager with sd_notify(3), if there is one.

The address is removed from the environment, so that no child process can send in the daemon's name.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable

from pramfs.system.progress import Bar
from pramfs.system.text import printable

EXTENSION_S = 60  # how much longer each report of progress asks the manager to wait
EXTEND_PERIOD_S = 1.0  # between reports of progress
_TIMEOUT_S = 1.0


class ServiceManager:
    """The service manager that started this process; with the address "" there is none.

    It is found once, before anything is mounted: later its path might lead into the mount itself.
    """

    def __init__(self, address: str = "") -> None:
        self._socket: socket.socket | None = None
        if not address:
            return
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # A manager that does not listen must not stop the daemon from saving.
        self._socket.settimeout(_TIMEOUT_S)
        with contextlib.suppress(OSError):
            self._socket.connect("\0" + address[1:] if address.startswith("@") else address)

    def tell(self, *assignments: str) -> None:
        """Send the assignments (READY=1, STATUS=…, STOPPING=1) in one message."""
        if self._socket is not None:
            # Names of mountpoints may be any bytes.
            message = "\n".join(map(printable, assignments))
            with contextlib.suppress(OSError):
                self._socket.send(message.encode())

    def extend_timeout(self, work: str, done: int, total: int) -> None:
        """Report the progress of long work, and ask the manager to wait EXTENSION_S longer."""
        share = min(done / total, 1.0) if total else 0.0
        self.tell(f"STATUS={work} {share:.0%}", f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 10**6}")

    def watching(self, bar: Bar, work: str) -> Callable[[int], None]:
        """Report `work` now and while it goes on; return a function that counts it on the bar."""
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
    """Return the service manager that the environment names, and remove it from there."""
    return ServiceManager(os.environ.pop("NOTIFY_SOCKET", ""))
