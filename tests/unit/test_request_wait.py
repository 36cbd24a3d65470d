"""The wait for requests: how it ends."""

import io
import os
import select

import trio

from pramfs.fuse.session import Session
from tests.unit.test_front import Mount

_LIMIT_S = 30


def test_an_end_that_comes_while_other_tasks_run_is_not_slept_through() -> None:
    read_end, write_end = os.pipe()

    def idle_work() -> bool:
        session.finish()
        return False

    session = Session(idle_work, lambda: None, lambda: None)
    os.set_blocking(read_end, False)
    session._front = Mount().engine.front
    session._front._read_into = io.FileIO(read_end, closefd=False).readinto
    session._fd = read_end
    session._poll.register(read_end, select.POLLIN)

    async def wait() -> bool:
        with trio.fail_after(_LIMIT_S):
            return await session._serve()

    try:
        assert not trio.run(wait)
    finally:
        os.close(read_end)
        os.close(write_end)
