"""Asynchronous I/O: what fio writes with AIO and io_uring is what it, and other programs, read.

fio writes blocks with checksums in random order, many at a time, and reads and checks all of them.
iowarp/clio-core #1028: direct I/O did not agree with the page cache, nor with mappings.
"""

from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen
from sys import executable

import pytest

from tests.mounted.harness import Volume, run

_READ = """
import sys
while True:
    with open(sys.argv[1], "rb") as file:
        file.read()
"""

_MAP = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
    while True:
        mapped[::4096]
"""


@pytest.fixture
def path(volume: Volume) -> Iterator[Path]:
    """A mounted file of 1 MiB that two programs read all the time."""
    path = volume.mount() / "file"
    path.write_bytes(bytes(1 << 20))
    readers = [Popen([executable, "-c", program, path]) for program in (_READ, _MAP)]
    yield path
    for reader in readers:
        reader.kill()
        reader.wait()


@pytest.mark.parametrize("engine", ["libaio", "io_uring"])
@pytest.mark.parametrize("direct", [0, 1], ids=["cached", "O_DIRECT"])
def test_what_is_written_asynchronously_is_read_by_all(
    path: Path, engine: str, direct: int
) -> None:
    run(
        "fio", "--name=verify", f"--filename={path}", f"--ioengine={engine}", f"--direct={direct}",
        "--rw=randwrite", "--bs=4k", "--size=1m", "--iodepth=16", "--overwrite=1", "--loops=2",
        "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0",
    ).succeeded()  # fmt: skip
    verify = (
        "--bs=4k",
        "--size=1m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
    )
    for reader in ("sync", "mmap"):
        run(
            "fio", "--name=verify", f"--filename={path}", f"--ioengine={reader}",
            "--verify_only=1", "--rw=randwrite", *verify,
        ).succeeded()  # fmt: skip
