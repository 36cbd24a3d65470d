"""Nothing is lost: whatever is killed or full, the last published save mounts."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.admin_shell import Shell, has_ended, open_to_nobody
from tests.mounted.harness import (
    MIB,
    NOBODY,
    PAGE,
    Volume,
    content_of,
    pramfs,
    run,
    stopped,
    wait_until,
)
from tests.mounted.system import control_group, loop_device, syncfs, umount2


def publish_with_save(root: Path) -> None:
    pramfs("save", root).succeeded()


def publish_with_fsync_of_root(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def change_everything(root: Path) -> None:
    """Changes of every kind to a tree of sample_trees.plant_files(root, 100)."""
    for number in range(100):
        path = root / f"d{number % 10}" / f"f{number}"
        if number % 3 == 0:
            path.unlink()
        elif number % 3 == 1:
            path.write_bytes(sample_trees.noise(3 * PAGE, seed=number))
    (root / "d0").rename(root / "d1" / "moved")
    (root / "big").write_bytes(sample_trees.noise(8 * MIB))
    os.setxattr(root / "d2", "user.new", b"value")
    syncfs(root)


@pytest.mark.parametrize("publish", [publish_with_save, publish_with_fsync_of_root])
def test_killed_after_a_checkpoint(volume: Volume, publish: Callable[[Path], None]) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    publish(root)
    published = sample_trees.snapshot(root)
    change_everything(root)
    volume.kill()

    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), published)


def test_killed_after_many_checkpoints(volume: Volume) -> None:
    root = volume.mount()
    for seed in range(4):
        sample_trees.plant_files(root, 100, seed=seed)
        volume.save()
    published = sample_trees.snapshot(root)
    change_everything(root)
    volume.kill()

    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), published)


def test_killed_before_the_first_save(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    volume.kill()

    volume.mount()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("delay_ms", [0, 2, 5, 10, 20, 40])
def test_killed_in_the_middle_of_a_save(volume: Volume, delay_ms: int) -> None:
    """The old tree or the new one, never a mix; and the new one if the save was said to be done."""
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    volume.save()
    old = sample_trees.snapshot(root)
    change_everything(root)
    new = sample_trees.snapshot(root)

    # By a descriptor: by its name a sync that is slow to start would find the directory below the mount.
    directory = os.open(root, os.O_RDONLY)
    saving = subprocess.Popen(
        ["sync", f"/proc/self/fd/{directory}"], pass_fds=[directory], stderr=subprocess.DEVNULL
    )
    os.close(directory)
    with contextlib.suppress(subprocess.TimeoutExpired):
        saving.wait(timeout=delay_ms / 1000)
    volume.kill()
    saved = saving.wait() == 0

    volume.mount()
    now = sample_trees.snapshot(root)
    assert now == new or (now == old and not saved)


def test_killed_in_the_middle_of_an_unmount(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    volume.save()
    old = sample_trees.snapshot(root)
    change_everything(root)
    new = sample_trees.snapshot(root)

    run("umount", "-i", root).succeeded()
    os.kill(volume.pid, signal.SIGKILL)
    status = volume.daemon.wait()
    volume.ended(status)

    volume.mount()
    assert sample_trees.snapshot(root) in (old, new)


def test_a_checkpoint_publishes_by_itself(volume: Volume) -> None:
    root = volume.mount("checkpoint=1")
    sample_trees.plant_files(root, 100)
    planted = sample_trees.snapshot(root)
    for marker in ("first", "second"):  # the first checkpoint may have begun before the last file
        generation = volume.generation
        (root / marker).touch()
        while volume.generation == generation:
            pass
    volume.kill()

    volume.mount()
    assert (root / "first").exists()
    for marker in ("first", "second"):
        (root / marker).unlink(missing_ok=True)
    sample_trees.assert_same_below(sample_trees.snapshot(root), planted)


def test_a_mount_that_can_start_no_process_makes_checkpoints_and_saves_in_the_end(
    volume: Volume,
) -> None:
    root = volume.mount("checkpoint=1")
    generation = volume.generation
    threads = len(os.listdir(f"/proc/{volume.pid}/task"))
    limits = {"pids.max": threads}
    with control_group(volume.pid, "pids", version_1=limits, version_2=limits):
        (root / "file").write_bytes(b"kept")
        wait_until(lambda: volume.generation > generation, "a checkpoint")
        volume.umount()
    assert (volume.mount() / "file").read_bytes() == b"kept"


def test_what_a_program_has_open_is_saved_though_no_process_can_be_started(volume: Volume) -> None:
    """The kernel has what it has written, and no program can be started that would have it handed over."""
    root = volume.mount()
    volume.announce("cannot unmount before the end: ")
    threads = len(os.listdir(f"/proc/{volume.pid}/task"))
    limits = {"pids.max": threads}
    file = os.open(root / "file", os.O_WRONLY | os.O_CREAT)
    with control_group(volume.pid, "pids", version_1=limits, version_2=limits):
        os.write(file, b"written")
        os.kill(volume.pid, signal.SIGTERM)
        volume.ended()
    with contextlib.suppress(OSError):
        os.close(file)
    assert (volume.mount() / "file").read_bytes() == b"written"


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_a_memory_arena_leaves_the_image_alone_between_saves(volume: Volume) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    volume.save()

    def touched() -> tuple[int, int]:
        syncfs(volume.image)
        status = volume.image.stat()
        return status.st_mtime_ns, status.st_blocks

    before = touched()
    change_everything(root)
    syncfs(root)
    assert touched() == before
    volume.save()
    assert touched() != before


def test_overwriting_more_than_is_free_publishes_and_goes_on(volume: Volume) -> None:
    root = volume.mount("size=16M")
    (root / "file").write_bytes(sample_trees.noise(10 * MIB, seed=1))
    volume.save()
    generation = volume.generation

    with (root / "file").open("r+b") as file:
        file.write(sample_trees.noise(10 * MIB, seed=2))
        file.flush()
        os.fsync(file.fileno())
    assert volume.generation > generation
    volume.remount("size=16M")
    assert (root / "file").read_bytes() == sample_trees.noise(10 * MIB, seed=2)


def test_a_loop_device_is_an_image(volume: Volume) -> None:
    with loop_device(volume.home / "disk", 64 * MIB) as device:
        volume.image = device
        root = volume.mount()
        sample_trees.plant_everything(root)
        before = sample_trees.snapshot(root)
        volume.remount()
        sample_trees.assert_same(sample_trees.snapshot(root), before)

        sample_trees.plant_files(root, 100)
        volume.save()
        published = sample_trees.snapshot(root)
        (root / "lost").touch()
        volume.kill()
        volume.mount()
        sample_trees.assert_same(sample_trees.snapshot(root), published)
        volume.umount()


def test_a_loop_device_with_another_file_system_is_refused(volume: Volume) -> None:
    with loop_device(volume.home / "disk", 16 * MIB) as device:
        run("mkfs.ext4", "-q", device).succeeded()
        volume.image = device
        before = content_of(volume.home / "disk")
        volume.refused(str(device), "not a pram image")
        assert content_of(volume.home / "disk") == before


def test_the_next_mount_waits_for_the_save(volume: Volume) -> None:
    """umount(2) itself does not wait for the save, so the next mount must."""
    volume.announce("waiting for it")
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    syncfs(root)
    before = sample_trees.snapshot(root)
    old = volume.daemon

    with stopped(old.pid):
        umount2(root)
        new = volume.start_mount()
        wait_until(lambda: volume.log or not new.lives, "a word about the wait")
        assert new.lives, volume.log
        assert "wait" in volume.log
        assert not volume.is_mounted
    assert old.wait() == 0
    volume.serve(new)
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_a_plain_umount_and_a_mount_at_once(volume: Volume) -> None:
    volume.announce("waiting for it")
    root = volume.mount()
    for seed in range(3):
        sample_trees.plant_files(root, 100, seed=seed)
        (root / "big").write_bytes(sample_trees.noise(16 * MIB, seed=seed))
        before = sample_trees.snapshot(root)
        old = volume.daemon
        run("umount", "-i", root).succeeded()
        volume.mount()
        assert old.wait() == 0
        sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_a_lazy_unmount_saves_what_open_files_still_write(volume: Volume) -> None:
    root = volume.mount()
    with (root / "open").open("wb") as file:
        run("umount", "-i", "-l", root).succeeded()
        file.write(b"after the unmount")
    volume.ended()

    volume.mount()
    assert (root / "open").read_bytes() == b"after the unmount"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(volume: Volume, number: signal.Signals) -> None:
    root = volume.mount()
    sample_trees.plant_files(root, 100)
    before = sample_trees.snapshot(root)
    os.kill(volume.pid, number)
    volume.ended()

    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), before)


def test_all_that_many_open_files_were_given_before_a_signal_is_saved(volume: Volume) -> None:
    """Of 60 MiB the kernel handed over 44 before syncfs(2) returned, and the save was called whole."""
    volume.size = "128M"
    root = volume.mount()
    content, still_open = sample_trees.noise(MIB), []
    for number in range(60):
        still_open.append(os.open(root / f"{number}", os.O_WRONLY | os.O_CREAT))
        os.write(still_open[-1], content)
    os.kill(volume.pid, signal.SIGTERM)
    volume.ended()
    for file in still_open:
        with contextlib.suppress(OSError):
            os.close(file)
    root = volume.mount()
    assert all((root / f"{number}").read_bytes() == content for number in range(60))


# For each line of standard input: writes that word all over every other page of many files below $1.
SCATTERED_WRITER = """
import os, sys
files = [os.open(f"{sys.argv[1]}/{number}", os.O_RDWR | os.O_CREAT) for number in range(300)]
for line in sys.stdin:
    for at in range(20):
        for file in files:
            os.pwrite(file, line.strip().encode() * 1024, at * 8192)
    print("written", flush=True)
"""
USERS_CONGESTION = Path("/sys/module/fuse/parameters/max_user_congthresh")


def test_all_that_a_user_has_written_is_saved_however_many_requests_it_takes(
    shell: Shell, arena: str
) -> None:
    """With so many under way the kernel leaves files out, and lets only root decide how many that is."""
    home = open_to_nobody(shell.home / "user")
    root, image, copy = home / "mnt", home / "image", home / "copy"
    shell.run("mkdir", root, user=NOBODY).succeeded()
    before = USERS_CONGESTION.read_text()
    USERS_CONGESTION.write_text("64")  # as the kernel has it with 200 MiB of memory
    try:
        options = f"size=128M,arena={arena}"
        shell.pramfs("mount", "-o", options, image, root, user=NOBODY).succeeded()
    finally:
        USERS_CONGESTION.write_text(before)
    pid = shell.status(root)["pid"]
    program = [*shell.prefix(NOBODY), sys.executable, "-c", SCATTERED_WRITER, str(root)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        write_everywhere(writer, b"1st!")
        shell.pramfs("save", root, user=NOBODY).succeeded()
        shutil.copyfile(shell.path(image), shell.path(copy))
        write_everywhere(writer, b"2nd!")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: has_ended(pid), "the daemon to end")
    for saved, word in ((copy, b"1st!"), (image, b"2nd!")):
        shell.pramfs("mount", "-o", "ro", saved, root).succeeded()
        content = (word * 1024 + bytes(PAGE)) * 20
        lost = [
            number
            for number in range(300)
            if shell.path(root / f"{number}").read_bytes() != content[:-PAGE]
        ]
        assert not lost, word
        shell.pramfs("umount", root).succeeded()


def test_root_has_what_it_asks_for_but_not_in_a_user_namespace() -> None:
    ask = "from pramfs.fuse.handshake import congestion_threshold; print(congestion_threshold() == 65535)"
    told = [
        subprocess.run(
            [*prefix, sys.executable, "-c", ask], check=True, capture_output=True, text=True
        ).stdout
        for prefix in (
            [],
            ["unshare", "--user", "--map-root-user"],
            ["setpriv", "--bounding-set=-sys_admin"],
        )
    ]
    assert told == ["True\n", "False\n", "False\n"]


def write_everywhere(writer: "subprocess.Popen[bytes]", word: bytes) -> None:
    """Have the program above write that word."""
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(word + b"\n")
    writer.stdin.flush()
    assert writer.stdout.readline() == b"written\n"


def test_a_signal_to_a_detached_mount_saves_it_and_leaves_what_is_mounted_there_now(
    shell: Shell, root: Path, image: Path, arena: str
) -> None:
    # A sync of everything would wait for what other tests have frozen: tell it what is to be synced.
    still_open, theirs = shell.home / "open", shell.home / "theirs"
    shell.replace_program("sync", f'[ $# = 0 ] && set -- -f "{still_open}"; exec "$REAL" "$@"')
    options = f"size=64M,arena={arena}"
    shell.pramfs("mount", "-o", options, image, root).succeeded()
    pid = shell.status(root)["pid"]
    with shell.path(root / "file").open("wb", buffering=0) as file:
        still_open.symlink_to(f"/proc/{os.getpid()}/fd/{file.fileno()}")
        shell.run("umount", "-i", "-l", root).succeeded()
        shell.pramfs("mount", "-o", options, theirs, root).succeeded()
        shell.path(root / "theirs").write_bytes(b"theirs")
        file.write(b"cached by the kernel")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: has_ended(pid), "the daemon to end")
    assert shell.path(root / "theirs").read_bytes() == b"theirs"
    shell.pramfs("umount", root).succeeded()
    assert shell.pramfs("cat", image, "file").succeeded().out == b"cached by the kernel"
