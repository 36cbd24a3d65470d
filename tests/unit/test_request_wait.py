"""The wait for requests: how it ends."""

import contextlib
import io
import os
import select
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from pramfs.fuse.protocol import Opcode
from pramfs.fuse.session import Session
from tests.unit.test_front import Mount
from tests.unit.test_protocol import message

_LIMIT_S = 30


class Device:
    """A session that reads requests from a pipe. `end` is called when it is idle."""

    def __init__(self, end: Callable[[], None] = lambda: None) -> None:
        self._read_end, self.write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self.mount = Mount()
        self._end = end
        self.session = Session(self._idle_work, lambda: None, lambda: None)
        self.session._front = self.mount.engine.front
        self.session._notices = self.mount.engine.notices
        self.session._front._read_into = io.FileIO(self._read_end, closefd=False).readinto
        self.session._fd = self._read_end
        self.session._poll.register(self._read_end, select.POLLIN)

    def _idle_work(self) -> bool:
        self._end()
        return False

    async def serve(self) -> bool:
        with trio.fail_after(_LIMIT_S):
            return await self.session._serve()

    def close(self) -> None:
        os.close(self._read_end)
        os.close(self.write_end)


@pytest.fixture
def device() -> Iterator[Device]:
    device = Device()
    yield device
    device.close()


def test_an_end_that_comes_while_other_tasks_run_is_not_slept_through(device: Device) -> None:
    device._end = device.session.finish
    assert not trio.run(device.serve)


@pytest.mark.parametrize("awaited", [False, True], ids=["a flush", "a notice"])
def test_the_end_waits_for_those_who_wait_for_the_kernel(device: Device, *, awaited: bool) -> None:
    """A save that was asked for as the mount ended waited for the kernel, the daemon for it, for ever."""
    front = device.session._front
    served: list[bool] = []

    async def flush() -> None:
        with contextlib.nullcontext() if awaited else front.needed():
            front.awaited += awaited
            device.session.finish()
            await trio.sleep(0.1)
            assert not served
            os.write(device.write_end, message(b"name\0", Opcode.LOOKUP, 4))
            while not device.mount.kernel.replies:
                await trio.testing.wait_all_tasks_blocked()
            front.awaited -= awaited

    async def serve() -> None:
        served.append(await device.serve())

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(flush)

    trio.run(both)
    assert served == [False]
    assert [unique for unique, _, _ in device.mount.kernel.replies] == [4]
