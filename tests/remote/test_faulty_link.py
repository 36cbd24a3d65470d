"""The link of this tier is itself as bad as the tests ask, and no worse."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.remote.faulty_link import Fault, FaultyLink

DATA = bytes(range(256)) * 2048


@pytest.fixture
def link() -> Iterator[FaultyLink]:
    """A link to a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_echo, args=(listener,))
        server.start()
        with FaultyLink(listener.getsockname()[1]) as link:
            yield link
        with socket.create_connection(listener.getsockname()) as last:
            last.sendall(b"end")
        server.join()


def _echo(listener: socket.socket) -> None:
    """Serve one connection after the other until one says so."""
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(ConnectionError):
            while piece := connection.recv(4096):
                if piece == b"end":
                    return
                connection.sendall(piece)


def through(link: FaultyLink, data: bytes = DATA) -> bytes:
    """What comes back. Raises ConnectionError."""
    with socket.create_connection(("127.0.0.1", link.port), timeout=60) as connection:
        errors: list[OSError] = []  # one of the two learns of a reset
        sender = threading.Thread(target=_send, args=(connection, data, errors))
        sender.start()
        try:
            parts = list(iter(lambda: connection.recv(65536), b""))
        finally:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            sender.join()
        if errors:
            raise errors[0]
        return b"".join(parts)


def _send(connection: socket.socket, data: bytes, errors: list[OSError]) -> None:
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError as exc:
        errors.append(exc)


def test_everything_passes_a_good_link(link: FaultyLink) -> None:
    assert through(link) == DATA
    assert (link.connections, link.faults) == (1, 0)


@pytest.mark.parametrize("after", [0, 1, 100_000])
def test_a_connection_is_cut_as_often_as_asked(link: FaultyLink, after: int) -> None:
    link.set(Fault(cut_after=after), times=2)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            through(link)
    assert through(link) == DATA
    assert link.faults == 2


def test_a_stalled_connection_stays_open_and_says_nothing(link: FaultyLink) -> None:
    link.set(Fault(stalls_after=1000))
    with socket.create_connection(("127.0.0.1", link.port), timeout=0.5) as connection:
        connection.sendall(DATA)
        with pytest.raises(TimeoutError):
            sum(map(len, iter(lambda: connection.recv(65536), b"")))
    link.set(Fault())
    assert through(link) == DATA


def test_a_slow_link_is_slow_and_right(link: FaultyLink) -> None:
    link.set(Fault(bytes_per_s=10 * len(DATA), delay_s=0.01))
    start_s = time.monotonic()
    assert through(link) == DATA
    assert time.monotonic() - start_s >= 0.1


def test_a_server_that_is_gone_refuses_and_can_come_back(link: FaultyLink) -> None:
    link.close()
    with pytest.raises(ConnectionRefusedError):
        through(link)
    link.reopen()
    assert through(link) == DATA
