"""A mount that nobody uses: its daemon sleeps, and nothing wakes it."""

import re
import time
from pathlib import Path

import pytest

from tests.mounted.harness import Volume, wait_until
from tests.mounted.system import syncfs

SLEEP_S = 6.5  # longer than any period at which a daemon looks at something


def wakings(pid: int) -> int:
    """How often the daemon's main thread has gone to sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)[0])


@pytest.mark.parametrize("options", [(), ("dedup",)])
def test_an_idle_mount_with_unsaved_files_is_never_woken(
    volume: Volume, options: tuple[str, ...]
) -> None:
    root = volume.mount(*options)
    for number in range(100):
        (root / f"{number}").write_bytes(b"content")
    syncfs(root)  # else the kernel hands the files over meanwhile

    def slept() -> bool:
        before = wakings(volume.pid)
        time.sleep(SLEEP_S)
        return wakings(volume.pid) == before

    wait_until(slept, "the daemon to sleep")
