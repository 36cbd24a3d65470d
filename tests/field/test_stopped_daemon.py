"""A daemon that is stopped, as by a debugger or SIGSTOP: nobody waits for it in silence, or for ever.

fflewddur/tophat #201: a daemon did not answer, and each `df` that asked it hung for good, 93 of them.
"""

import json

from tests.mounted.harness import MOUNT_FAILED, Volume, pramfs, stopped


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
