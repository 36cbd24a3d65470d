"""Notices about refused writes and holes: how many are sent, who waits for them, and none ends the mount."""

import threading
from typing import Any

import pytest
import trio

from pramfs.fuse.notices import Notices
from pramfs.fuse.protocol import INVAL_INODE_OUT, NOTIFY_INVAL_INODE, OUT_HEADER
from pramfs.system import mount_tools

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


class BusyKernel:
    """Takes a notice when it is allowed to."""

    def __init__(self) -> None:
        self.told: list[bytes] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.has_taken = threading.Event()

    def tell(self, message: bytes) -> None:
        self.told.append(message)
        self.may_go_on.wait()
        self.has_taken.set()


def opened(kernel: Any) -> Notices:
    notices = Notices(lambda: None)
    notices.open(kernel, lambda *task: None)
    return notices


def test_a_hole_is_one_only_when_the_kernel_has_taken_the_notice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pramfs.fuse.notices._AT_ONCE_S", 0.05)
    monkeypatch.setattr(mount_tools, "hands_over_copies", lambda: False)
    kernel = BusyKernel()
    notices = opened(kernel)
    while not notices.has_nothing(INO, 0, 0):  # a busy machine may take its time
        kernel.has_taken.wait()
    kernel.may_go_on.clear()
    kernel.told.clear()
    kernel.has_taken.clear()
    assert not notices.has_nothing(INO, 4096, 8192)
    assert not notices.has_nothing(INO, 0, 4096), "the thread still waits"
    (message,) = kernel.told
    assert INVAL_INODE_OUT.unpack_from(message, OUT_HEADER.size) == (INO, 4096, 8192)
    kernel.may_go_on.set()
    kernel.has_taken.wait()
    while not notices.has_nothing(INO, 0, 4096):
        pass
    notices.close()


def test_a_kernel_that_hands_over_copies_may_always_have_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mount_tools, "hands_over_copies", lambda: True)
    kernel = BusyKernel()
    assert not opened(kernel).has_nothing(INO, 0, 0)
    assert not kernel.told
