"""Every way to unmount that docs/umount.md lists: which wait for the save, and what they say.

The image lies on a disk that stands still: what returns meanwhile has not waited, and what has not
returned when the disk moves again is waiting for it.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.admin_shell import Disk, Shell, busy, has_ended, version
from tests.mounted.harness import MIB, MOUNT_FAILED, NOBODY, wait_until
from tests.support.checkout import CHECKOUT, PRAMFS

# "Passthrough x-* options to mtab", libfuse's pull request 894, is in from this version on.
FUSERMOUNT_CLEANS_UTAB = (3, 17)
SAVED = r": unmounted; saved to .*, generation \d+\n\Z"
# By their lines in the table: the command, with {m} for the mountpoint, {name} for its last
# component as seen from its parent, and {i} for the image; and whether it waits for the save.
WAYS = {
    "`pramfs umount /mnt`": ([PRAMFS, "umount", "{m}"], True),
    "`umount /mnt`": (["umount", "{m}"], True),
    "`umount mnt` (relative)": (["umount", "{name}"], True),
    "`umount -c /mnt`": (["umount", "-c", "{m}"], True),
    "`umount IMAGE`": (["umount", "{i}"], True),
    "`umount -R /mnt`": (["umount", "-R", "{m}"], True),
    "`umount -a -t fuse.pramfs`": (["umount", "-a", "-t", "fuse.pramfs"], True),
    "`umount -f /mnt`": (["umount", "-f", "{m}"], True),
    "`umount -r /mnt`": (["umount", "-r", "{m}"], True),
    "`umount -l /mnt`": (["umount", "-l", "{m}"], False),
    "`umount -l -f /mnt`": (["umount", "-l", "-f", "{m}"], True),
    "`umount -i /mnt`": (["umount", "-i", "{m}"], False),
    "`fusermount3 -u /mnt`": (["fusermount3", "-u", "{m}"], False),
}


def mount(shell: Shell, disk: Disk, root: Path) -> int:
    """Mount as administrators do, put something there, and return the daemon's pid."""
    shell.run("mount", "-t", "pramfs", "-o", "size=32M", disk.root / "image", root).succeeded()
    pid = shell.status(root)["pid"]
    shell.path(root / "file").write_bytes(sample_trees.noise(MIB))
    assert isinstance(pid, int)
    return pid


def wait_for_end(pid: int) -> None:
    wait_until(lambda: has_ended(pid), "the daemon to save")


@pytest.mark.parametrize("way", WAYS)
def test_what_waits_for_the_save_and_what_does_not(
    shell: Shell, disk: Disk, root: Path, way: str
) -> None:
    words, waits = WAYS[way]
    pid = mount(shell, disk, root)
    names = {"m": root, "name": root.name, "i": disk.root / "image"}
    with disk.frozen():
        command = subprocess.Popen(
            [*shell.prefix(), *(word.format(**names) for word in words)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait_until(lambda: not shell.pramfs_mounts(), "the kernel to let go")
        if not waits:
            assert command.wait() == 0
        assert not has_ended(pid)
        assert (command.poll() is None) == waits
    said = command.communicate()[0].decode()
    assert command.returncode == 0, said
    if waits:
        assert has_ended(pid)
    if words[0] == PRAMFS:
        assert re.search(SAVED, said)
    elif not waits and "-l" in words:
        assert "detached" in said
    else:
        assert not said
    wait_for_end(pid)
    mount(shell, disk, root)
    assert shell.path(root / "file").read_bytes() == sample_trees.noise(MIB)
    shell.run("umount", root).succeeded()


def test_umount_says_in_a_pipe_what_it_says_of_other_file_systems(
    shell: Shell, disk: Disk, root: Path
) -> None:
    mount(shell, disk, root)
    quiet = shell.run("umount", root).succeeded()
    assert (quiet.out, quiet.err) == (b"", "")
    mount(shell, disk, root)
    told = shell.run("umount", "-v", root).succeeded()
    assert re.search(SAVED, told.text, re.MULTILINE)
    of_umount_itself = f"umount: {root} ({disk.root / 'image'}) unmounted\n"
    assert told.err in ("", of_umount_itself)
    shell.pramfs("mount", "-o", "ro", disk.root / "image", root).succeeded()
    assert not shell.run("umount", root).succeeded().text


def test_umount_says_in_a_pipe_where_the_file_system_is_still_mounted(
    shell: Shell, disk: Disk, root: Path
) -> None:
    mount(shell, disk, root)
    shell.run("mount", "--bind", root, root).succeeded()
    told = shell.run("umount", root).succeeded()
    assert not told.out
    assert re.fullmatch(rf".*: unmounted; saved to .*; still mounted at {root}\n", told.err)
    assert not shell.run("umount", root).succeeded().err


def test_the_table_in_the_docs_lists_these_ways() -> None:
    table = (CHECKOUT / "docs/umount.md").read_text().splitlines()
    rows = [line.split("|") for line in table if line.startswith("| `")]
    told = {row[1].strip(): row[2].strip().startswith("yes") for row in rows}
    ours = {way: waits for way, (_, waits) in WAYS.items()}
    by_others = {"SIGTERM to the daemon": False}
    assert told == ours | {key: told[key] for key in told if key not in ours and key in by_others}


def test_a_mount_waits_for_the_save_that_nobody_waited_for(
    shell: Shell, disk: Disk, root: Path
) -> None:
    pid = mount(shell, disk, root)
    with disk.frozen():
        shell.run("fusermount3", "-u", root).succeeded()
        again = subprocess.Popen(
            [*shell.prefix(), PRAMFS, "mount", disk.root / "image", root], stderr=subprocess.PIPE
        )
        assert again.stderr is not None
        assert re.search(rb"is saving it now, .* pages; waiting for it", again.stderr.readline())
        assert again.poll() is None
        assert not has_ended(pid)
    assert again.wait() == 0
    again.stderr.close()
    assert shell.path(root / "file").read_bytes() == sample_trees.noise(MIB)
    shell.run("umount", root).succeeded()


def test_a_mount_within_the_mount_goes_first(shell: Shell, disk: Disk, root: Path) -> None:
    pid = mount(shell, disk, root)
    shell.path(root / "inner").mkdir()
    shell.run("mount", "-t", "tmpfs", "tmpfs", root / "inner").succeeded()
    shell.run("umount", root).refused(MOUNT_FAILED, "busy")
    shell.run("umount", "-R", root).succeeded()
    assert has_ended(pid)


@pytest.mark.parametrize("words", [["umount"], ["umount", "-c"], [PRAMFS, "umount"]], ids=str)
def test_a_busy_mount_stays(shell: Shell, disk: Disk, root: Path, words: Sequence[str]) -> None:
    pid = mount(shell, disk, root)
    with busy(*shell.prefix(), path=root / "file"):
        shell.run(*words, root).refused(MOUNT_FAILED, "busy", str(root))
    assert not has_ended(pid)
    assert shell.pramfs_mounts() == [str(root)]
    shell.run(*words, root).succeeded()


def test_a_busy_mount_becomes_read_only_with_r(shell: Shell, disk: Disk, root: Path) -> None:
    mount(shell, disk, root)
    with busy(*shell.prefix(), path=root / "file"):
        outcome = shell.run("umount", "-r", root)
        outcome.refused(MOUNT_FAILED, "busy", "read-only now; still mounted")
        assert shell.run("touch", root / "new").code
    assert "saved to" in shell.run("umount", "-v", root).succeeded().text


def test_a_busy_mount_is_detached_and_saved_when_it_is_idle(
    shell: Shell, disk: Disk, root: Path
) -> None:
    pid = mount(shell, disk, root)
    with busy(*shell.prefix(), path=root / "file"):
        told = shell.run("umount", "-l", root).succeeded().err
        assert str(pid) in told
        assert "detached" in told
        assert not has_ended(pid)
        again = subprocess.Popen(
            [*shell.prefix(), PRAMFS, "mount", disk.root / "image", root], stderr=subprocess.PIPE
        )
        assert again.stderr is not None
        assert b"waiting for it" in again.stderr.readline()
        assert again.poll() is None
    again.stderr.close()
    assert again.wait() == 0
    assert has_ended(pid)
    assert shell.path(root / "file").read_bytes() == sample_trees.noise(MIB)


def test_utab_is_kept_clean(shell: Shell, disk: Disk, root: Path) -> None:
    def entries() -> list[str]:
        utab = shell.utab / "utab"
        return utab.read_text().splitlines() if utab.exists() else []

    for way in (["umount"], ["umount", "-l"], [PRAMFS, "umount"]):
        pid = mount(shell, disk, root)
        assert len(entries()) == 1
        shell.run(*way, root).succeeded()
        wait_for_end(pid)
        assert not entries()
    for _ in range(2):
        pid = mount(shell, disk, root)
        shell.run("fusermount3", "-u", root).succeeded()
        wait_for_end(pid)
    # Where it leaves utab alone, as in Debian 12, entries do not pile up all the same.
    leaves_an_entry = version("fusermount3") < FUSERMOUNT_CLEANS_UTAB
    assert len(entries()) == leaves_an_entry


def test_a_user_unmounts_what_is_hers_and_nothing_else(
    shell: Shell, disk: Disk, root: Path
) -> None:
    mount(shell, disk, root)
    assert shell.run("umount", root, user=NOBODY).code
    assert shell.pramfs("umount", root, user=NOBODY).code
    assert shell.pramfs_mounts() == [str(root)]


def test_what_the_kernel_could_not_hand_over_is_told_after_a_umount_by_force(
    shell: Shell, root: Path, image: Path
) -> None:
    """Its flush was the helper's, and nobody looked at what that said: the save was called whole."""
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    shell.replace_program("sync", "echo sync: error syncing it: Cannot allocate memory >&2; exit 1")
    said = shell.run("umount", "-f", root)
    said.refused(MOUNT_FAILED, "unmounted and saved", "incomplete", "Cannot allocate memory")
    assert not shell.pramfs_mounts()


def test_what_a_killed_sync_has_not_flushed_is_saved_all_the_same(
    shell: Shell, root: Path, image: Path
) -> None:
    """A service manager ends all that is in the group of a service; the save was called incomplete for it."""
    shell.run("mount", "-t", "pramfs", "-o", "size=16M", image, root).succeeded()
    shell.replace_program("sync", "kill -TERM $$")
    file = os.open(shell.path(root / "file"), os.O_WRONLY | os.O_CREAT)
    os.write(file, b"kept")  # the kernel has it until it is told to hand it over
    shell.pramfs("save", root).succeeded()
    assert shell.pramfs("cat", image, "file").succeeded().out == b"kept"
    os.close(file)
