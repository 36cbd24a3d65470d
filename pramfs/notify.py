"""sd_notify(3): tell a service manager how the daemon is doing. Does nothing when nobody asked."""

import contextlib
import os
import socket


def notify(*assignments: str) -> None:
    """Send the assignments (READY=1, STATUS=…, STOPPING=1, EXTEND_TIMEOUT_USEC=…) in one message."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A manager that does not listen must not keep the daemon from saving.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto("\n".join(assignments).encode(), address)
