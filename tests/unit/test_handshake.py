"""What of libfuse's reply to FUSE_INIT the kernel is told otherwise."""

import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from pramfs.fuse import handshake
from pramfs.fuse.handshake import Handshake
from pramfs.fuse.protocol import (
    ATOMIC_O_TRUNC,
    DONT_MASK,
    HANDLE_KILLPRIV,
    HANDLE_KILLPRIV_V2,
    IN_HEADER,
    INIT_FLAGS,
    INIT_FLAGS_OFFSET,
    INIT_OUT_CONGESTION,
    INIT_OUT_CONGESTION_OFFSET,
    INIT_OUT_MAX_WRITE,
    INIT_OUT_MAX_WRITE_OFFSET,
    OUT_HEADER,
    SETXATTR_EXT,
)

BODY_BYTES = 64  # of fuse_init_in and of fuse_init_out
OF_LIBFUSE = SETXATTR_EXT | HANDLE_KILLPRIV | ATOMIC_O_TRUNC
WRITE_BYTES = 1 << 20


class Seam:
    """A kernel that offers some flags, and a libfuse that answers as ours does."""

    def __init__(self, offered: int) -> None:
        self.kernel, writer = os.pipe()
        request = bytearray(IN_HEADER.size + BODY_BYTES)
        INIT_FLAGS.pack_into(request, IN_HEADER.size + INIT_FLAGS_OFFSET, offered)
        os.write(writer, request)
        os.close(writer)
        self.told = bytearray()

    def carry(self, request: bytes) -> None:
        pass

    def receive(self) -> bytearray:
        reply = bytearray(OUT_HEADER.size + BODY_BYTES)
        OUT_HEADER.pack_into(reply, 0, len(reply), 0, 1)
        INIT_FLAGS.pack_into(reply, OUT_HEADER.size + INIT_FLAGS_OFFSET, OF_LIBFUSE)
        INIT_OUT_CONGESTION.pack_into(reply, OUT_HEADER.size + INIT_OUT_CONGESTION_OFFSET, 9)
        INIT_OUT_MAX_WRITE.pack_into(
            reply, OUT_HEADER.size + INIT_OUT_MAX_WRITE_OFFSET, WRITE_BYTES
        )
        return reply

    def tell(self, reply: bytearray) -> None:
        self.told = reply


def told(
    offered: int = 0, *, answers_open: bool = True, write_max_bytes: int | None = None
) -> tuple[int, int, int]:
    """The flags, the threshold of congestion and the largest write that the kernel is told."""
    seam: Any = Seam(offered)
    try:
        Handshake(seam, answers_open=answers_open, write_max_bytes=write_max_bytes).finish()
    finally:
        os.close(seam.kernel)
    (flags,) = INIT_FLAGS.unpack_from(seam.told, OUT_HEADER.size + INIT_FLAGS_OFFSET)
    (congestion,) = INIT_OUT_CONGESTION.unpack_from(
        seam.told, OUT_HEADER.size + INIT_OUT_CONGESTION_OFFSET
    )
    (write_bytes,) = INIT_OUT_MAX_WRITE.unpack_from(
        seam.told, OUT_HEADER.size + INIT_OUT_MAX_WRITE_OFFSET
    )
    return flags, congestion, write_bytes


def test_no_number_of_requests_is_called_congestion() -> None:
    """Beyond it some kernels leave files out of a flush, and others read nothing ahead."""
    assert told()[1] == 0xFFFF


def test_flags_are_added_only_where_the_kernel_offers_them() -> None:
    assert told()[0] == HANDLE_KILLPRIV | ATOMIC_O_TRUNC
    offered = DONT_MASK | HANDLE_KILLPRIV_V2
    assert told(offered)[0] == offered | ATOMIC_O_TRUNC
    assert told(offered, answers_open=False)[0] == offered


def test_a_write_is_no_larger_than_the_pipe_for_it() -> None:
    assert told()[2] == told(write_max_bytes=2 * WRITE_BYTES)[2] == WRITE_BYTES
    assert told(write_max_bytes=WRITE_BYTES // 2)[2] == WRITE_BYTES // 2


@pytest.mark.parametrize(("told", "threshold"), [("334\n", 334), ("100000\n", 0xFFFF), ("", 300)])
def test_what_the_kernel_lets_ordinary_users_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str, threshold: int
) -> None:
    parameter = tmp_path / "parameter"
    monkeypatch.setattr(handshake, "_CONGESTION_OF_USERS", parameter)
    monkeypatch.setattr(handshake, "_is_admin", lambda: False)
    monkeypatch.setattr(os, "sysconf", lambda name: (1 << 30) // mmap.PAGESIZE)
    assert handshake.congestion_threshold() == 300  # /sys is not mounted: a little less than it has
    parameter.write_text(told)
    assert handshake.congestion_threshold() == threshold
