"""A TCP proxy between a client and a server that is as bad as a network can be."""

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_CHUNK = 64 << 10
_WAIT_S = 240


@dataclass(frozen=True)
class Fault:
    """What happens to a connection. It works if nothing is said."""

    cut_after: int | None = None  # so many bytes in both directions it is reset; 0: at once
    stalls_after: int | None = None  # so many bytes nothing passes, in either direction
    delay_s: float = 0.0  # each piece of up to 64 KiB
    bytes_per_s: int = 0  # 0: as fast as it goes


GOOD = Fault()


class FaultyLink:
    """Connections to its port go to another one of this machine. A context manager."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.connections = 0  # accepted so far
        self.faults = 0  # connections that were cut or stalled so far
        self.passed = 0  # bytes so far, in both directions
        self._target = target
        self._fault = GOOD
        self._times: int | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty-link")
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    def set(self, fault: Fault, times: int | None = None) -> None:
        """Treat new connections so from now on; with `times`, only until so many were cut or stalled.

        Those that are open go on as they were.
        """
        self._fault, self._times = fault, times

    def close(self) -> None:
        """Refuse connections, and reset those that are open: the server is gone."""
        self._call(self._stop())

    def reopen(self) -> None:
        """Accept connections again, at the same port."""
        self._call(self._listen())

    def wait_for_bytes(self, count: int) -> None:
        """Wait until so many have passed."""
        end_s = time.monotonic() + _WAIT_S
        while self.passed < count:
            assert time.monotonic() < end_s, f"only {self.passed} bytes have passed"
            time.sleep(0.005)

    def __enter__(self) -> "FaultyLink":
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        open_ = list(self._open)
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        writers = [to_client]
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            writers.append(to_server)
            both = _Connection(self, self._fault)
            await _all_or_none(both.carry(client, to_server), both.carry(server, to_client))
            for writer in writers:
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.CancelledError):  # cut, by an end or by us; or the link is closed
            for writer in writers:
                _reset(writer)
        finally:
            self._open.remove(task)

    def take_fault(self, fault: Fault) -> bool:
        """Return whether a connection that has come so far has this fault."""
        if fault is self._fault and self._times is not None:
            if self._times == 0:
                return False
            self._times -= 1
        self.faults += 1
        return True


class _Connection:
    """Both directions of a connection, which have their fault in common."""

    def __init__(self, link: FaultyLink, fault: Fault) -> None:
        self._link = link
        self._fault = fault
        self._passed = 0
        self._suffers = False

    async def carry(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        """Pass on what comes until the source ends. Raises OSError when the connection is cut."""
        await self._suffer(source)
        while piece := await source.read(self._most()):
            fault = self._fault
            if fault.delay_s:
                await asyncio.sleep(fault.delay_s)
            if fault.bytes_per_s:
                await asyncio.sleep(len(piece) / fault.bytes_per_s)
            self._passed += len(piece)
            self._link.passed += len(piece)
            to.write(piece)
            await to.drain()
            await self._suffer(source)
        to.write_eof()

    def _most(self) -> int:
        """Return how many bytes may pass now."""
        limits = (self._fault.cut_after, self._fault.stalls_after)
        return min(_CHUNK, *(limit - self._passed for limit in limits if limit is not None), _CHUNK)

    async def _suffer(self, source: asyncio.StreamReader) -> None:
        if self._most() > 0:
            return
        fault = self._fault
        if not self._suffers and not self._link.take_fault(fault):
            self._fault = GOOD
            return
        self._suffers = True
        while fault.cut_after is None and await source.read(_CHUNK):
            pass  # until the end that says it gives up
        raise ConnectionAbortedError


async def _all_or_none(*ways: Coroutine[Any, Any, None]) -> None:
    """Wait for all; when one fails end the others, and raise what it has raised."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection in a way that nobody takes for its proper end."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # it is closed
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
