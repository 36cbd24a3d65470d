"""A daemon that runs out of memory: no program hangs, and no save is lost.

Address space is limited for a process; its memory by a control group, whose out-of-memory killer ends it.
"""

import os
import re
import resource
import signal
import sys
from pathlib import Path

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, Volume, detach, run
from tests.mounted.system import memory_limit

EXIT_INTERNAL = 4

# Names and attributes are in the daemon's own memory. Each line of output is a file that is whole.
_FILL_WITH_NAMES = """
import os, sys
for number in range(100_000):
    path = f"{sys.argv[1]}/{number}"
    open(path, "x").close()
    os.setxattr(path, "user.x", bytes([number % 256]) * 60_000)
    print(number, flush=True)
"""

_FILL_WITH_DATA = """
import sys
for number in range(100_000):
    with open(f"{sys.argv[1]}/{number}", "xb") as file:
        file.write(bytes([number % 256]) * (1 << 20))
"""


def test_a_daemon_that_is_out_of_address_space_refuses_and_saves(volume: Volume) -> None:
    """The mount goes on, or ends if something had to be answered for which there was no room."""
    volume.announce("error", "traceback", "exception")
    root = volume.mount("size=256M")
    (root / "saved").write_bytes(sample_trees.noise(MIB))
    volume.save()
    _, hard = resource.prlimit(volume.pid, resource.RLIMIT_AS)
    status = Path(f"/proc/{volume.pid}/status").read_text()
    taken = int(re.findall(r"VmSize:\s+(\d+) kB", status)[0]) << 10
    resource.prlimit(volume.pid, resource.RLIMIT_AS, (taken + 4 * MIB, hard))
    writer = run(sys.executable, "-c", _FILL_WITH_NAMES, root)
    assert writer.code
    assert re.search("ENOMEM|memory|connect", writer.err)
    if volume.is_mounted:
        volume.umount()
    else:
        volume.ended(EXIT_INTERNAL)

    volume.mount("size=256M")
    assert (root / "saved").read_bytes() == sample_trees.noise(MIB)
    whole = [int(line) for line in writer.text.splitlines()]
    assert whole
    for number in whole:
        assert os.getxattr(root / f"{number}", "user.x") == bytes([number % 256]) * 60_000
    volume.umount()


def test_a_daemon_that_the_kernel_kills_for_memory_leaves_the_last_save(volume: Volume) -> None:
    root = volume.mount("size=256M")
    sample_trees.plant_files(root, 20)
    volume.save()
    saved = sample_trees.snapshot(root)
    with memory_limit(volume.pid, 16 * MIB):
        writer = run(sys.executable, "-c", _FILL_WITH_DATA, root)
        assert writer.code
        assert volume.daemon.wait() == -signal.SIGKILL
    detach(root)
    volume.ended(-signal.SIGKILL)
    volume.mount("size=256M")
    sample_trees.assert_same(sample_trees.snapshot(root), saved)
    volume.umount()
