"""A client outside of the machine: it reads numbers from one TCP connection, and notes how that goes."""

import socket
import threading
import time


class Client:
    """Reads lines with numbers in a thread of its own until it is closed, or the connection ends."""

    def __init__(self, port: int) -> None:
        self.numbers: list[int] = []
        self.error = ""
        self.longest_pause_s = 0.0
        self._closing = False
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for(self, count: int, seconds: float) -> None:
        """Return when so many numbers more are there. Raises AssertionError if that takes too long."""
        wanted, end_s = len(self.numbers) + count, time.monotonic() + seconds
        while len(self.numbers) < wanted:
            assert not self.error, self.error
            assert time.monotonic() < end_s, f"no number came for {seconds} s"
            time.sleep(0.1)

    def close(self) -> None:
        """End the connection."""
        self._closing = True
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        last_s = time.monotonic()
        try:
            with self._socket.makefile("rb") as lines:
                for line in lines:
                    self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - last_s)
                    last_s = time.monotonic()
                    self.numbers.append(int(line))
            self.error = "" if self._closing else "the connection was closed"
        except OSError as exc:
            self.error = "" if self._closing else str(exc)
