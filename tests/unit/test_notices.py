"""Notices about refused writes: one for all that come before it is sent, and none ends the mount."""

from typing import Any

import pytest
import trio

from pramfs.fuse.notices import Notices
from pramfs.fuse.protocol import INVAL_INODE_OUT, NOTIFY_INVAL_INODE, OUT_HEADER

INO = 7


def sent(
    ranges: list[tuple[int, int]], *, failure: Exception | None = None
) -> tuple[list[bytes], int]:
    """The notices that follow refusals of these offsets and sizes, and the number of internal errors."""
    told: list[bytes] = []
    errors: list[None] = []

    class Kernel:
        def tell(self, message: bytes) -> None:
            if failure is not None:
                raise failure
            told.append(message)

    async def refuse() -> None:
        seam: Any = Kernel()
        notices = Notices(lambda: errors.append(None))
        async with trio.open_nursery() as nursery:
            notices.open(seam, nursery.start_soon)
            for offset, size in ranges:
                notices.drop_refused(INO, offset, size)

    trio.run(refuse)
    return told, len(errors)


def test_one_notice_covers_all_that_was_refused() -> None:
    (message,), errors = sent([(8192, 4096), (0, 4096), (4096, 100)])
    assert OUT_HEADER.unpack_from(message) == (len(message), NOTIFY_INVAL_INODE, 0)
    assert INVAL_INODE_OUT.unpack_from(message, OUT_HEADER.size) == (INO, 0, 12288)
    assert not errors


def test_an_unexpected_exception_is_logged_and_marks_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told, errors = sent([(0, 1)], failure=KeyError("bug"))
    assert (told, errors) == ([], 1)
    assert "internal error" in caplog.text
