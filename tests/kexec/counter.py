"""A TCP server worth restoring. Run in the guest: counter.py PORT.

Whoever connects gets a line with the next number ten times in a second. The numbers are one row for all.
"""

import socket
import sys
import time

STEP_SECONDS = 0.1


def main() -> None:
    """Serve one connection after the other; never returns."""
    number = 0
    with socket.create_server(("", int(sys.argv[1]))) as server:
        while True:
            connection, _ = server.accept()
            try:
                while True:
                    number += 1
                    connection.sendall(b"%d\n" % number)
                    time.sleep(STEP_SECONDS)
            except OSError:
                connection.close()


if __name__ == "__main__":
    main()
