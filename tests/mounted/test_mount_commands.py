"""Mounting in the background, unmounting, saving: when a command returns, its promise holds."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.admin_shell import Shell, has_ended
from tests.mounted.harness import (
    MIB,
    MOUNT_FAILED,
    Volume,
    detach,
    mounts_below,
    pramfs,
    wait_until,
)


def test_mount_returns_when_the_tree_is_usable(volume: Volume) -> None:
    root = volume.mount_in_background()
    sample_trees.plant_files(root, 50)
    before = sample_trees.snapshot(root)
    volume.umount()
    volume.mount_in_background()
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_umount_returns_when_the_tree_is_durable(volume: Volume) -> None:
    root = volume.mount_in_background()
    (root / "big").write_bytes(sample_trees.noise(32 * MIB))
    generation = volume.generation
    pramfs("umount", root).succeeded()
    assert not volume.daemon.lives
    assert volume.info()["generation"] > generation
    volume.ended()
    assert (volume.mount() / "big").read_bytes() == sample_trees.noise(32 * MIB)


def test_the_daemon_stands_by_itself(volume: Volume) -> None:
    """In a session of its own, at the root directory, with no terminal and no open pipe."""
    volume.mount_in_background()
    process = Path(f"/proc/{volume.pid}")
    assert os.getsid(volume.pid) != os.getsid(0)
    assert (process / "cwd").readlink() == Path("/")
    for number in ("0", "1", "2"):
        assert (process / "fd" / number).readlink() == Path("/dev/null")


def test_descriptors_do_not_leak(volume: Volume) -> None:
    root = volume.mount()

    def descriptors() -> int:
        return len(list(Path(f"/proc/{volume.pid}/fd").iterdir()))

    volume.save()
    before = descriptors()
    sample_trees.plant_everything(root)
    sample_trees.snapshot(root)
    for _ in range(3):
        volume.save()
        volume.info(root)
    assert descriptors() <= before


def test_umount_of_a_busy_mount_is_refused(volume: Volume) -> None:
    root = volume.mount()
    with (root / "open").open("wb") as file:
        pramfs("umount", root).refused(MOUNT_FAILED, str(root), "busy")
        assert volume.is_mounted
        file.write(b"still written")
    volume.remount()
    assert (root / "open").read_bytes() == b"still written"


def test_a_checkpoint_under_way_does_not_keep_a_mount_busy(
    shell: Shell, root: Path, image: Path, arena: str
) -> None:
    """It has the kernel hand over what programs have written: here that takes as long as we want."""
    began, end = shell.home / "began", shell.home / "end"
    os.mkfifo(began)
    os.mkfifo(end)
    shell.replace_program("sync", f'exec 3< "$3"\necho > "{began}"\ncat "{end}"')
    options = f"size=64M,checkpoint=1,arena={arena}"
    shell.pramfs("mount", "-o", options, image, root).succeeded()
    pid = shell.status(root)["pid"]
    began.read_bytes()
    shell.run("umount", "-i", root).succeeded()
    end.write_bytes(b"")
    wait_until(lambda: has_ended(pid), "the daemon to end")
    shell.pramfs("check", image).succeeded()


@pytest.mark.parametrize("command", ["umount", "save"])
def test_what_is_no_mount_is_refused(tmp_path: Path, command: str) -> None:
    (tmp_path / "directory").mkdir()
    pramfs(command, tmp_path / "directory").refused(MOUNT_FAILED, "no pramfs is mounted")
    pramfs(command, tmp_path / "absent").refused(MOUNT_FAILED, str(tmp_path / "absent"))
    pramfs(command, "/proc").refused(MOUNT_FAILED, "/proc", "no pramfs is mounted")


def test_umount_by_a_relative_path(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(b"kept")
    pramfs("umount", root.name, cwd=volume.home).succeeded()
    volume.ended()
    assert (volume.mount() / "file").read_bytes() == b"kept"


def test_a_dead_mount_is_named_with_the_way_out(volume: Volume) -> None:
    root = volume.mount()
    os.kill(volume.pid, signal.SIGKILL)
    volume.daemon.wait()
    outcome = pramfs("mount", "-o", volume.options(), volume.image, root)
    outcome.refused(MOUNT_FAILED, str(root), "umount")
    assert mounts_below(root) == [root]
    detach(root)
    volume.ended(-signal.SIGKILL)
    volume.announce("ended without a final save")
    volume.mount()
    assert "ended without a final save" in volume.log


@pytest.mark.parametrize("command", ["save", "info"])
def test_commands_name_a_dead_mount(volume: Volume, command: str) -> None:
    root = volume.mount()
    os.kill(volume.pid, signal.SIGKILL)
    volume.daemon.wait()
    pramfs(command, root).refused(MOUNT_FAILED, str(root), "umount")
    detach(root)
    volume.ended(-signal.SIGKILL)


def test_umount_clears_a_dead_mount_and_says_what_that_means(volume: Volume) -> None:
    root = volume.mount()
    os.kill(volume.pid, signal.SIGKILL)
    volume.daemon.wait()
    pramfs("umount", root).refused(MOUNT_FAILED, str(root), "dead", "generation", "stands")
    volume.ended(-signal.SIGKILL)


def test_a_mountpoint_must_be_a_directory(volume: Volume) -> None:
    volume.root.rmdir()
    volume.refused(str(volume.root), "does not exist")
    volume.root.write_text("a file")
    volume.refused(str(volume.root), "not a directory")
    assert volume.root.read_text() == "a file"
    assert not volume.image.exists()


def test_refusals_are_the_same_in_the_foreground(volume: Volume) -> None:
    volume.image.write_bytes(b"text\n" * 1000)
    background = pramfs("mount", "-o", volume.options(), volume.image, volume.root)
    foreground = pramfs("mount", "-f", "-o", volume.options(), volume.image, volume.root)
    assert foreground == background


def test_info_of_a_mountpoint_and_of_its_image(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 10)
    volume.save()
    mounted, image = volume.info(root), volume.info()
    assert mounted["mount"]["pid"] == volume.pid
    for key in ("image", "uuid", "size", "generation", "pfn", "nodes", "trees"):
        assert mounted[key] == image[key]
    for target in (root, volume.image):
        told = pramfs("info", target).succeeded().text.lower()
        for word in ("generation", "super block", "frames", "banned", "reserved", "free", "pramfs"):
            assert word in told


def test_check_tells_in_json(volume: Volume) -> None:
    volume.mount()
    volume.umount()
    told = json.loads(pramfs("check", "--json", volume.image).succeeded().out)
    assert told["clean"] is True


def test_control_attributes_are_not_listed(volume: Volume) -> None:
    root = volume.mount()
    assert os.listxattr(root) == []
    os.setxattr(root, "user.mine", b"1")
    assert os.listxattr(root) == ["user.mine"]
