"""umount tells the truth without a run directory, and from another pid or mount namespace than the daemon's.

garrytan/gbrain #2840: a pid from another container's namespace was taken for a dead process, and its lock for
free. LinearTapeFileSystem/ltfs #381: umount was back before the daemon had written all, and a tape was lost.
"""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.harness import MIB, MOUNT_FAILED, Volume, pramfs, run, wait_until
from tests.support.checkout import PRAMFS

UNKNOWN = 64
ANOTHER_PID_NAMESPACE = ["unshare", "--pid", "--fork"]

# The image is on a tmpfs that only the daemon sees; its mount at $2 is seen by all.
_HIDDEN_IMAGE = """
findmnt -rno TARGET | grep -vxF "$2" | while read -r mount; do mount --make-private "$mount"; done
mount -t tmpfs tmpfs "$1"
exec "$0" mount -f -o size=16M "$1/image" "$2"
"""


def forget_the_run(volume: Volume) -> None:
    """Remove the state that the daemon leaves, and what it may leave yet."""
    Path(volume.status()["state"]).unlink()
    Path(volume.status()["state"]).mkdir()


def test_umount_needs_no_run_directory(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(sample_trees.noise(4 * MIB))
    volume.announce("cannot")
    state = Path(volume.status()["state"])
    forget_the_run(volume)
    assert "saved to" in pramfs("umount", root).succeeded().text
    volume.ended()
    state.rmdir()


def test_umount_in_another_pid_namespace_waits_for_the_daemon(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(sample_trees.noise(8 * MIB))
    generation = volume.generation
    outcome = run(*ANOTHER_PID_NAMESPACE, PRAMFS, "umount", root).succeeded()
    assert f"generation {generation + 1}" in outcome.text
    volume.ended()


@pytest.fixture
def contained(volume: Volume) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon in a pid namespace of its own, whose number in there is 1."""
    with subprocess.Popen(
        [*ANOTHER_PID_NAMESPACE, PRAMFS, "mount", "-f", "-o", "size=16M", volume.image, volume.root],
        stderr=subprocess.PIPE,
    ) as daemon:  # fmt: skip
        wait_until(lambda: volume.is_mounted, "the mount")
        yield daemon
        daemon.kill()


def test_a_daemon_in_another_pid_namespace_is_waited_for(
    volume: Volume, contained: subprocess.Popen[bytes]
) -> None:
    assert volume.status()["pid"] == 1
    (volume.root / "file").write_bytes(sample_trees.noise(4 * MIB))
    assert "saved to" in pramfs("umount", volume.root).succeeded().text
    assert contained.wait() == 0
    assert pramfs("cat", volume.image, "file").succeeded().out == sample_trees.noise(4 * MIB)


def test_one_that_is_killed_leaves_the_save_before(
    volume: Volume,
    contained: subprocess.Popen[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The super block says so, without a word of the daemon's: here it is killed before it can save."""
    (daemon,) = Path(f"/proc/{contained.pid}/task/{contained.pid}/children").read_text().split()
    (volume.root / "file").write_bytes(b"lost")
    generation, state = volume.generation, Path(volume.status()["state"])
    umount = tmp_path / "umount"
    umount.write_text(f'#!/bin/sh\nkill -KILL {daemon}; exec /bin/umount "$@"\n')
    umount.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    state.unlink()
    outcome = pramfs("umount", volume.root)
    outcome.refused(MOUNT_FAILED, "ended", f"the previous save (generation {generation}) stands")
    contained.wait()


def test_what_nobody_can_know_is_called_unknown(volume: Volume) -> None:
    hidden = volume.home / "hidden"
    hidden.mkdir()
    run("mount", "--bind", volume.root, volume.root).succeeded()
    run("mount", "--make-shared", volume.root).succeeded()
    with subprocess.Popen(
        [*ANOTHER_PID_NAMESPACE, "--mount", "--propagation", "unchanged", "sh", "-ec", _HIDDEN_IMAGE,
         PRAMFS, hidden, volume.root],
        stderr=subprocess.PIPE,
    ) as daemon:  # fmt: skip
        wait_until(lambda: mounted_pramfs(volume), "the mount")
        (volume.root / "file").write_bytes(b"somewhere")
        pramfs("umount", volume.root).refused(UNKNOWN, "unmounted, but", "unknown what is durable")
        daemon.communicate()
    run("umount", volume.root).succeeded()


def mounted_pramfs(volume: Volume) -> bool:
    listed = run("findmnt", "-rnt", "fuse.pramfs", "-o", "TARGET").text
    return str(volume.root) in listed.splitlines()


def test_the_place_in_another_mount_namespace_is_told_with_the_way_there(volume: Volume) -> None:
    """`pramfs umount` of that place alone said that nothing is mounted there."""
    run(
        *("unshare", "--mount", "--propagation", "private"),
        *(PRAMFS, "mount", "-o", "size=16M", volume.image, volume.root),
    ).succeeded()
    refused = pramfs("mount", volume.image, volume.root)
    refused.refused(MOUNT_FAILED, f"mounted at {volume.root} in another mount namespace")
    command = shlex.split(refused.err.partition("unmount it first: ")[2])
    path = f"{Path(PRAMFS).parent}:{os.environ['PATH']}"
    assert "saved to" in run(*command, env={"PATH": path}).succeeded().text
    volume.mount()
    volume.umount()
