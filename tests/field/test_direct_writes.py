"""Programs that read through the page cache see what others have written past it.

iowarp/clio-core #1028: xfstests generic/451, which reads beside asynchronous O_DIRECT writes as QEMU and
databases make them, failed now and then.
"""

import ctypes
import mmap
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted.harness import Volume

SIZE = 640 << 10
WRITES = 150

_IO_SETUP, _IO_GETEVENTS, _IO_SUBMIT = 206, 208, 209  # x86-64
_IOCB_CMD_PWRITE = 1

_READ = """
import os, sys
while True:
    fd = os.open(sys.argv[1], os.O_RDONLY)
    os.pread(fd, 1 << 20, 0)
    os.close(fd)
"""

_MAP = """
import mmap, os, sys
memory = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)
while True:
    memory[::4096]
"""


class Asynchronous:
    """Writes with io_submit(2), and waits with io_getevents(2)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._context = ctypes.c_ulong(0)
        self._call(_IO_SETUP, 1, ctypes.byref(self._context))

    def __call__(self, descriptor: int, data: mmap.mmap) -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(data))
        block = struct.pack(
            "<QIiHhIQQqQII", 0, 0, 0, _IOCB_CMD_PWRITE, 0, descriptor, address, SIZE, 0, 0, 0, 0
        )
        blocks = (ctypes.c_void_p * 1)(
            ctypes.addressof(request := ctypes.create_string_buffer(block, len(block)))
        )
        self._call(_IO_SUBMIT, self._context, ctypes.c_long(1), blocks)
        event = ctypes.create_string_buffer(32)
        one = ctypes.c_long(1)
        self._call(_IO_GETEVENTS, self._context, one, one, event, None)
        assert struct.unpack("<QQqq", event.raw)[2] == SIZE
        del request

    def _call(self, number: int, *arguments: object) -> None:
        if self._libc.syscall(ctypes.c_long(number), *arguments) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def synchronous(descriptor: int, data: mmap.mmap) -> None:
    assert os.pwrite(descriptor, data, 0) == SIZE


@pytest.fixture
def patterns() -> list[mmap.mmap]:
    """What is written in turn, where O_DIRECT can take it from."""
    result = []
    for byte in (b"\x55", b"\xaa"):
        result.append(mmap.mmap(-1, SIZE))
        result[-1].write(byte * SIZE)
    return result


@pytest.fixture
def readers() -> Iterator[Callable[[str, Path], None]]:
    """Start programs that read a file again and again until the test is over."""
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, path: Path) -> None:
        started.append(subprocess.Popen([sys.executable, "-c", program, path]))

    yield start
    for reader in started:
        reader.send_signal(signal.SIGKILL)
        reader.wait()


@pytest.mark.parametrize("options", [[], ["direct_io"]], ids=["cached", "direct_io"])
@pytest.mark.parametrize("write", [synchronous, Asynchronous()], ids=["pwrite", "aio"])
@pytest.mark.parametrize("program", [_READ, _MAP], ids=["read", "mmap"])
def test_readers_see_what_was_written_past_the_cache(
    volume: Volume,
    patterns: list[mmap.mmap],
    readers: Callable[[str, Path], None],
    program: str,
    write: Callable[[int, mmap.mmap], None],
    options: list[str],
) -> None:
    path = volume.mount(*options) / "file"
    path.write_bytes(bytes(SIZE))
    for _ in range(2):
        readers(program, path)
    descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
    with path.open("rb") as file, mmap.mmap(file.fileno(), SIZE, prot=mmap.PROT_READ) as mapped:
        for number in range(WRITES):
            data = patterns[number % 2]
            write(descriptor, data)
            assert path.read_bytes() == data[:], f"stale data are read after write {number}"
            assert mapped[:] == data[:], f"stale data are mapped after write {number}"
    os.close(descriptor)
