"""Another process of the same control group holds the memory: saves finish, and nobody is killed."""

import contextlib
import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, Volume, pramfs
from tests.mounted.system import memory_limit, syncfs

LIMIT_MIB = 256
# What a save may take, as docs/limits.md has it, and the pages of files that it reads and writes meanwhile.
LEFT_MIB = 24

_HOLD = """
import mmap, pathlib, sys
group, limit, left = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
(group / "cgroup.procs").write_text("0")
held = []
while True:
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    # Not the clean pages of files: these can be had.
    names = ("total_rss", "total_shmem") if "total_rss" in stat else ("anon", "shmem")
    used = sum(int(stat[name]) for name in names)
    if used + (left << 20) >= limit << 20:
        break
    held.append(mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    held[-1].write(bytes(1 << 20))
print(len(held), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(group: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds all memory of a group but LEFT_MIB."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, group, f"{LIMIT_MIB}", f"{LEFT_MIB}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) > 0
        yield process


def test_a_save_and_an_unmount_finish_while_another_process_holds_the_memory(
    volume: Volume,
) -> None:
    volume.size = "512M"
    volume.announce("no space")
    root = volume.mount("writeback=0")
    block = sample_trees.noise(4 * MIB)
    with memory_limit(volume.pid, LIMIT_MIB * MIB) as group:
        for number in range(1000):
            (root / f"{number}").write_bytes(b"small")
        for number in range(16):
            (root / f"before {number}").write_bytes(block)
        syncfs(root)
        with holder(group) as process:
            volume.save()
            written = []
            for number in range(32):
                try:
                    with (root / f"after {number}").open("wb") as file:
                        file.write(block)
                        file.flush()
                        syncfs(root)
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017 - any other is a failure
                    (root / f"after {number}").unlink()
                    break
                written.append(number)
            if volume.arena == "memory":
                assert len(written) == 32, "pages did not go out"
            else:
                assert len(written) < 16, "more was taken than there is"
            volume.save()
            volume.umount()
            assert process.poll() is None
    root = volume.mount()
    for name in [*(f"before {one}" for one in range(16)), *(f"after {one}" for one in written)]:
        assert (root / name).read_bytes() == block
    assert sum(1 for _ in root.iterdir()) == 1016 + len(written)
    volume.umount()


def test_what_a_removed_file_has_had_of_memory_can_be_had_again(volume: Volume) -> None:
    """The last save needs its pages, so that a writer has to wait for the next one."""
    volume.size = "512M"
    volume.announce("no space", "incomplete")
    root = volume.mount()
    with memory_limit(volume.pid, LIMIT_MIB * MIB):
        with contextlib.suppress(OSError), (root / "large").open("wb") as file:
            for _ in range(400):
                file.write(sample_trees.noise(MIB))
        pramfs("save", root)  # of what was taken
        for number in range(4):
            (root / "large").unlink(missing_ok=True)
            (root / f"{number}").write_bytes(bytes(24 * MIB))
            syncfs(root)
        volume.save()
        volume.umount()
    assert volume.mount().joinpath("3").read_bytes() == bytes(24 * MIB)
    volume.umount()
