"""The wait for requests: how it ends."""

import errno
import logging
import os
import select

import pytest
import trio

from pramfs.fuse.session import Session

_LIMIT_S = 30


def test_an_end_that_comes_while_other_tasks_run_is_not_slept_through() -> None:
    read_end, write_end = os.pipe()

    def idle_work() -> bool:
        session.finish()
        return False

    session = Session(idle_work, lambda: None)
    session._fd = read_end
    session._poll.register(read_end, select.POLLIN)

    async def wait() -> bool:
        with trio.fail_after(_LIMIT_S):
            return await session._wait_readable()

    try:
        assert not trio.run(wait)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_a_file_that_an_unmount_has_closed_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """Of all that pyfuse3 says only this: the words that its release handler logs, with this errno."""
    log = logging.getLogger("pyfuse3")
    failed = "%s(): fuse_reply_* failed with %%s"
    for call in ("fuse_release", "fuse_write"):
        for number in (errno.ENOENT, errno.EIO):
            log.error(failed % call, os.strerror(number))
    assert caplog.messages == [
        "fuse_release(): fuse_reply_* failed with Input/output error",
        "fuse_write(): fuse_reply_* failed with No such file or directory",
        "fuse_write(): fuse_reply_* failed with Input/output error",
    ]
