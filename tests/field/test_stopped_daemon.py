"""A daemon that is stopped, as by a debugger or SIGSTOP: nobody waits for it in silence, or for ever.

fflewddur/tophat #201: a daemon did not answer, and each `df` that asked it hung for good, 93 of them.
"""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.mounted.failing_medium import SYNC, Medium
from tests.mounted.harness import (
    DEADLINE_S,
    MOUNT_FAILED,
    Volume,
    pramfs,
    start_pramfs,
    stopped,
    wait_until,
)

UNKNOWN = 64


def test_a_stopped_daemon_is_told_of(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"kept")
    words = [str(root), "does not answer", f"kill -CONT {volume.pid}", "generation 2 is saved"]
    with stopped(volume.pid):
        pramfs("status", root).refused(MOUNT_FAILED, *words)
        listed = json.loads(pramfs("status", "--json").succeeded().out)
        told = next(entry for entry in listed if entry["mountpoint"] == str(root))
        assert "is stopped" in told["error"]
        pramfs("save", root).refused(MOUNT_FAILED, *words)
        pramfs("umount", root).refused(MOUNT_FAILED, *words)
    assert volume.is_mounted
    volume.save()


# --- in the middle of a save ---------------------------------------------------------------------


@pytest.fixture
def on_medium(medium: Medium, volume: Volume) -> Volume:
    volume.arena, volume.image = "memory", medium.image
    return volume


def stop_in_a_save(volume: Volume, medium: Medium, command: str) -> tuple[int, str]:
    """Begin a command, stop the daemon while it saves for that; return its exit code and what it says."""
    with medium.holding(SYNC):
        process = start_pramfs(command, volume.root, stderr=subprocess.PIPE)
        medium.wait_until_held()
        os.kill(volume.pid, signal.SIGSTOP)
    stat = Path(f"/proc/{volume.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "a stopped daemon")
    _, told = process.communicate(timeout=DEADLINE_S)
    return process.returncode, told.decode()


def test_a_daemon_stopped_in_its_last_save_is_told_of(on_medium: Volume, medium: Medium) -> None:
    root = on_medium.mount()
    (root / "file").write_bytes(b"kept")
    code, told = stop_in_a_save(on_medium, medium, "umount")
    assert code == UNKNOWN
    assert len(told.splitlines()) == 1
    for words in (
        str(root),
        "is stopped",
        f"kill -CONT {on_medium.pid}",
        "unknown what is durable",
    ):
        assert words in told
    assert not on_medium.is_mounted
    os.kill(on_medium.pid, signal.SIGCONT)
    on_medium.ended()
    assert (on_medium.mount() / "file").read_bytes() == b"kept"


def test_a_daemon_stopped_in_a_checkpoint_is_told_of(on_medium: Volume, medium: Medium) -> None:
    root = on_medium.mount()
    (root / "file").write_bytes(b"kept")
    code, told = stop_in_a_save(on_medium, medium, "save")
    assert code == UNKNOWN
    assert len(told.splitlines()) == 1
    for words in (
        str(root),
        "is stopped",
        f"kill -CONT {on_medium.pid}",
        "unknown whether it is saved",
    ):
        assert words in told
    os.kill(on_medium.pid, signal.SIGCONT)
    on_medium.save()
    on_medium.kill()
    assert (on_medium.mount() / "file").read_bytes() == b"kept"
