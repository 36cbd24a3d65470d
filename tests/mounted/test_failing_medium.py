"""A medium that fails, really: the mount survives what it can, the last save always.

The image lies on a file system of the test's own that fails when it is told to (failing_medium.py), or on a
loop device upon that. Full disks are in test_full_arena.py, and every step of a save, without a mount, in
unit/test_failing_saves.py.
"""

import contextlib
import errno
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounted import sample_trees
from tests.mounted.admin_shell import has_ended
from tests.mounted.failing_medium import READ, RESIZE, SYNC, WRITE, Medium, new_medium
from tests.mounted.harness import (
    CHECK_DAMAGED,
    CHECK_UNREADABLE,
    DEADLINE_S,
    MIB,
    MOUNT_FAILED,
    PAGE,
    Volume,
    content_of,
    pramfs,
    run,
    start_pramfs,
    stopped,
    wait_until,
)
from tests.mounted.image_pages import BYTE_STREAM, PAGE_STREAM, Pages
from tests.mounted.system import drop_cache, kept_in_memory, loop_device, syncfs

SIZE_BYTES = 4 << 20
SYSTEM_FAULT = 2
EXIT_INTERRUPTED = 8
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
ENDING_NAMES = [number.name for number in ENDING]


@pytest.fixture(scope="module")
def one_medium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Medium]:
    with new_medium(tmp_path_factory.mktemp("medium") / "medium") as medium:
        yield medium


@pytest.fixture
def medium(one_medium: Medium) -> Iterator[Medium]:
    """A medium without an image."""
    yield one_medium
    one_medium.image.unlink(missing_ok=True)


@pytest.fixture
def volume(medium: Medium, new_volume: Callable[[str], Volume]) -> Volume:
    """A volume whose image is on the medium."""
    return volume_on(medium, new_volume)


def volume_on(medium: Medium, new_volume: Callable[[str], Volume]) -> Volume:
    volume = new_volume("volume")
    volume.size = str(SIZE_BYTES)
    volume.image = medium.image
    volume.announce("save failed", "input/output error", "no space left", "previous save")
    return volume


def plant(root: Path) -> sample_trees.Snapshot:
    sample_trees.plant_files(root, 20)
    syncfs(root)
    return sample_trees.snapshot(root)


def change(root: Path, number: int) -> sample_trees.Snapshot:
    """Change a little of everything; what a program wrote is with the daemon then."""
    (root / f"new {number}").write_bytes(sample_trees.noise(3 * PAGE, seed=number))
    (root / "d1" / "f1").write_bytes(sample_trees.noise(5 * PAGE, seed=number))
    (root / f"new {number - 1}").unlink(missing_ok=True)
    syncfs(root)
    return sample_trees.snapshot(root)


# --- saves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "error"), [(WRITE, errno.EIO), (WRITE, errno.ENOSPC), (SYNC, errno.EIO)]
)
@pytest.mark.parametrize("then", ["it works again", "the daemon is killed"])
def test_a_save_that_fails_at_any_write_or_sync(
    volume: Volume, medium: Medium, kind: str, error: int, then: str, long: bool
) -> None:
    """In the short form every other write fails with EIO, and those between with ENOSPC."""
    root = volume.mount()
    saved = plant(root)
    volume.save()
    steps = range(error == errno.ENOSPC, 100, 2) if kind == WRITE and not long else range(100)
    for at in steps:
        changed = change(root, at)
        generation = volume.generation
        with medium.failing(kind, at, error):
            outcome = pramfs("save", root)
        if not outcome.code:
            break
        stands = f"the previous save (generation {generation}) stands"
        outcome.refused(MOUNT_FAILED, "save failed", os.strerror(error), stands)
        sample_trees.assert_same(sample_trees.snapshot(root), changed)
        if then == "it works again":
            volume.save()
            saved = changed
        volume.kill()
        volume.mount()
        found = sample_trees.snapshot(root)
        assert found == saved or (found == changed and then != "it works again")
        saved = found
    assert at >= 2


@pytest.mark.parametrize("kind", [WRITE, SYNC])
def test_a_device_that_fails_at_any_step_of_a_save(
    volume: Volume, medium: Medium, kind: str
) -> None:
    """It says so once, when it is synced, and takes what was lost for written from then on."""
    medium.image.touch()
    with loop_device(medium.image, SIZE_BYTES) as device:
        volume.image = device
        root = volume.mount()
        plant(root)
        for at in range(100):
            changed = change(root, at)
            with kept_in_memory(device, SIZE_BYTES):
                with medium.failing(kind, at):
                    outcome = pramfs("save", root)
                sample_trees.assert_same(sample_trees.snapshot(root), changed)
                volume.save()
            volume.kill()  # and with the daemon goes what the kernel has cached of the device
            volume.mount()
            sample_trees.assert_same(sample_trees.snapshot(root), changed)
            if not outcome.code:
                break
            outcome.refused(MOUNT_FAILED, "save failed", "input/output error", "stands")
        assert at >= 2
        volume.umount()


@pytest.mark.parametrize("arena", ["image"])  # the other one has its own copy until a save succeeds
@pytest.mark.parametrize("then", ["write anew", "remove"])
def test_what_a_device_has_lost_is_never_served_or_saved_but_named(
    volume: Volume, medium: Medium, then: str
) -> None:
    """What could not be written and is dropped from memory is gone: the device has what was there before."""
    volume.announce("lost")
    medium.image.touch()
    with loop_device(medium.image, SIZE_BYTES) as device:
        volume.image = device
        root = volume.mount("direct_io")
        plant(root)
        volume.save()
        files = [root / "d1" / "f1", root / "new 0"]
        for file in files:
            # Not read: what is mapped stays.
            file.write_bytes(sample_trees.noise(64 * PAGE, seed=0))
        with medium.failing(WRITE):
            pramfs("save", root).refused(MOUNT_FAILED, "save failed", "input/output error")
        drop_cache(device)
        for file in files:
            assert require_whole_pages(file, sample_trees.noise(64 * PAGE, seed=0)) > 0
        outcome = pramfs("save", root)
        outcome.refused(MOUNT_FAILED, "lost what was written to /d1/f1, /new 0; remove", "stands")
        for file in files:
            file.unlink()
            if then == "write anew":
                file.write_bytes(sample_trees.noise(3 * PAGE, seed=1))
        volume.save()
        wanted = sample_trees.snapshot(root)
        volume.kill()
        volume.mount()
        sample_trees.assert_same(sample_trees.snapshot(root), wanted)
        volume.umount()


def require_whole_pages(file: Path, content: bytes) -> int:
    """Require that each page is as it was written or refused; returns how many are refused."""
    refused = 0
    with file.open("r+b", buffering=0) as opened:
        for start in range(0, len(content), PAGE):
            try:
                assert os.pread(opened.fileno(), PAGE, start) == content[start : start + PAGE]
            except OSError:
                refused += 1
                with pytest.raises(OSError, match="Input/output error"):
                    os.pwrite(opened.fileno(), b"a part", start)
    return refused


@pytest.mark.parametrize("kind", [WRITE, SYNC])
def test_an_unmount_whose_save_fails_says_so_and_the_next_mount_too(
    volume: Volume, medium: Medium, kind: str
) -> None:
    root = volume.mount()
    saved = plant(root)
    volume.save()
    generation = volume.generation
    change(root, 0)
    with medium.failing(kind):
        stands = f"the previous save (generation {generation}) stands"
        outcome = pramfs("umount", root)
        outcome.refused(MOUNT_FAILED, "unmounted, but the save failed", "input/output", stands)
    volume.ended(MOUNT_FAILED)
    volume.mount()
    assert re.search("the last run's save failed: .*Input/output error", volume.log)
    sample_trees.assert_same(sample_trees.snapshot(root), saved)


def test_a_checkpoint_that_failed_is_made_up_for_by_itself(volume: Volume, medium: Medium) -> None:
    root = volume.mount("checkpoint=1")
    plant(root)
    with medium.failing(SYNC):
        changed = change(root, 0)
        wait_until(lambda: "save failed" in volume.status()["error"], "a checkpoint to fail")
    wait_until(lambda: not volume.status()["error"], "a checkpoint that works")
    volume.kill()
    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), changed)


@pytest.mark.parametrize("arena", ["image"], indirect=True)
def test_a_writer_hears_of_an_image_that_takes_no_data(volume: Volume, medium: Medium) -> None:
    """Frames of an image arena are written at once; what was there before is there still."""
    root = volume.mount()
    planted = plant(root)
    for error in (errno.EIO, errno.ENOSPC):
        with medium.failing(WRITE, error=error), pytest.raises(OSError) as caught:  # noqa: PT011
            (root / "lost").write_bytes(sample_trees.noise(PAGE))
        assert caught.value.errno == error
        (root / "lost").unlink()
    sample_trees.assert_same_below(sample_trees.snapshot(root), planted)
    assert not volume.status()["suspect"]
    (root / "kept").write_bytes(sample_trees.noise(PAGE))
    changed = sample_trees.snapshot(root)
    volume.remount()
    sample_trees.assert_same(sample_trees.snapshot(root), changed)


def test_a_medium_that_vanishes_is_the_end_of_saves_only(
    tmp_path: Path, new_volume: Callable[[str], Volume]
) -> None:
    with new_medium(tmp_path / "medium") as medium:
        volume = volume_on(medium, new_volume)
        volume.damaged = True  # it is gone
        volume.announce("endpoint is not connected")
        root = volume.mount()
        plant(root)
        volume.save()
        medium.vanish()
        pramfs("save", root).refused(MOUNT_FAILED, "save failed", "not connected")
        (root / "directory").mkdir()
        assert (root / "directory").is_dir()
        told = pramfs("status", root).succeeded().text
        assert "save failed" in told
        pramfs("umount", root).refused(MOUNT_FAILED, "unmounted, but the save failed")
        volume.ended(MOUNT_FAILED)


# --- loads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_an_image_with_a_page_that_cannot_be_read_is_refused(
    volume: Volume, medium: Medium, long: bool
) -> None:
    """Whatever page it is; and it is as it was when the medium works again."""
    root = volume.mount()
    sample_trees.plant_files(root, 5 if long else 2)
    saved = sample_trees.snapshot(root)
    volume.umount()
    before = content_of(volume.image)
    pages = Pages(volume.image)
    for pfn, code, words in refusals(pages):
        with medium.unreadable(pfn):
            mount = pramfs("mount", "-o", volume.options(), volume.image, root)
            check = pramfs("check", volume.image)
        mount.refused(code, *words)
        assert check.code == (CHECK_UNREADABLE if code == SYSTEM_FAULT else CHECK_DAMAGED)
    assert content_of(volume.image) == before
    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), saved)


def refusals(pages: Pages) -> Iterator[tuple[int, int, list[str]]]:
    """Every page that a load reads, with the exit code and the words when it cannot be read."""
    for slot in pages.supers():
        yield slot.pfn, SYSTEM_FAULT, [f"cannot read at pfn:{slot.pfn:x}", "input/output error"]
    meta = pages.node_of_type(BYTE_STREAM)
    chains = {pfn for node in pages.nodes() for pfn in (node, *pages.links(node))}
    for pfn in (*sorted(chains), *pages.stream(meta)):
        yield pfn, MOUNT_FAILED, [f"cannot read at pfn:{pfn:x}", "input/output error"]
    for pfn in pages.stream(pages.node_of_type(PAGE_STREAM)):
        yield pfn, MOUNT_FAILED, ["1 damaged: /d"]


def test_a_page_that_cannot_be_read_any_more_is_eio_for_its_readers_only(
    volume: Volume, medium: Medium
) -> None:
    """A save does not need it; and it is whole when the medium works again."""
    volume.announce("bad address", "cannot read at")
    content = sample_trees.noise(20 * PAGE)
    root = volume.mount()
    (root / "file").write_bytes(content)
    volume.remount()
    bad = page_with(volume.image, content[7 * PAGE : 8 * PAGE])
    with medium.unreadable(bad), (root / "file").open("r+b", buffering=0) as file:
        # Alone, and not by what the kernel reads ahead.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for number in range(20):
            if number == 7:
                with pytest.raises(OSError, match="Input/output error"):
                    os.pread(file.fileno(), PAGE, number * PAGE)
                with pytest.raises(OSError, match="Input/output error"):
                    os.pwrite(file.fileno(), b"a part of it", number * PAGE + 5)
            else:
                found = os.pread(file.fileno(), PAGE, number * PAGE)
                assert found == content[number * PAGE : (number + 1) * PAGE]
        (root / "new").write_bytes(b"new")
        volume.save()
    assert (root / "file").read_bytes() == content
    volume.remount()
    assert (root / "file").read_bytes() == content
    assert (root / "new").read_bytes() == b"new"


def page_with(image: Path, content: bytes) -> int:
    """The frame that holds a page of that content."""
    pages = Pages(image)
    stream = pages.stream(pages.node_of_type(PAGE_STREAM))
    return next(pfn for pfn in stream if pages.read(pfn) == content)


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_an_image_that_cannot_grow_is_left_as_it_is(volume: Volume, medium: Medium) -> None:
    root = volume.mount()
    saved = plant(root)
    volume.umount()
    with medium.failing(RESIZE, error=errno.ENOSPC):
        size = f"size={2 * SIZE_BYTES}"
        volume.refused("cannot grow", "no space left on device", options=[size])
    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), saved)


@pytest.mark.parametrize("kind", [RESIZE, WRITE, SYNC])
@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_an_image_that_cannot_be_made_can_be_made_later(
    volume: Volume, medium: Medium, kind: str
) -> None:
    for at in range(10):
        with medium.failing(kind, at, errno.ENOSPC):
            outcome = pramfs("mount", "-o", volume.options(), volume.image, volume.root)
        if not outcome.code:
            break
        code = MOUNT_FAILED if kind == RESIZE else SYSTEM_FAULT
        outcome.refused(code, str(volume.image), "no space left on device")
        assert not volume.is_mounted
        pramfs("mount", "-o", volume.options(), volume.image, volume.root).succeeded()
        pramfs("umount", volume.root).succeeded()
        volume.check()
        volume.image.unlink()
    assert at >= 1
    pramfs("umount", volume.root).succeeded()


# --- signals -------------------------------------------------------------------------------------


@contextlib.contextmanager
def loading(
    volume: Volume, medium: Medium, at: int, *words: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A mount that waits for the medium, at that read; it goes on when the block is over."""
    with medium.holding(READ, at):
        command = start_pramfs(
            "mount", *words, "-o", volume.options(), volume.image, volume.root,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        medium.wait_until_held()
        yield command


def reads_of_a_load(volume: Volume, medium: Medium) -> int:
    before = medium.count(READ)
    volume.mount()
    count = medium.count(READ) - before
    volume.umount()
    return count


@pytest.mark.parametrize("number", ENDING, ids=ENDING_NAMES)
@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_a_signal_while_a_mount_loads_ends_it(
    volume: Volume, medium: Medium, number: signal.Signals
) -> None:
    """In the foreground and in the background, at the first read and at the last."""
    plant(volume.mount())
    volume.umount()
    before = content_of(volume.image)
    for at in (0, reads_of_a_load(volume, medium) - 1):
        with loading(volume, medium, at, "-f") as command:
            command.send_signal(number)
        by_itself = EXIT_INTERRUPTED if number == signal.SIGINT else -number
        assert ended(command) == (by_itself, b"")
        with loading(volume, medium, at) as command:
            (child,) = children(command.pid)
            command.send_signal(number)
        assert ended(command) == (EXIT_INTERRUPTED, b"")
        assert has_ended(child)
        assert not volume.is_mounted
    volume.mount()
    volume.umount()
    assert content_of(volume.image) != before  # a whole load, and a save


def ended(command: "subprocess.Popen[bytes]") -> tuple[int, bytes]:
    """The exit code of a command, and what it has said."""
    _, said = command.communicate(timeout=DEADLINE_S)
    return command.returncode, said


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_a_daemon_that_is_killed_while_it_loads_is_told_of(volume: Volume, medium: Medium) -> None:
    plant(volume.mount())
    volume.umount()
    with loading(volume, medium, 0) as command:
        (child,) = children(command.pid)
        os.kill(child, signal.SIGKILL)
    code, said = ended(command)
    assert (code, said.count(b"\n")) == (SYSTEM_FAULT, 1)
    assert b"the daemon died while it started" in said
    volume.check()


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_a_mount_that_is_asked_while_it_loads_tells_and_goes_on(
    volume: Volume, medium: Medium
) -> None:
    saved = plant(volume.mount())
    volume.umount()
    with medium.holding(READ):
        daemon = volume.start_mount()
        medium.wait_until_held()
        os.kill(daemon.pid, signal.SIGUSR1)  # the kernel lets it through when the medium answers
    sample_trees.assert_same(sample_trees.snapshot(volume.serve(daemon)), saved)
    wait_until(lambda: "most recent call first" in volume.log, "the dump")


@pytest.mark.parametrize("arena", ["memory"], indirect=True)
def test_a_signal_at_any_moment_of_a_mount(volume: Volume, long: bool) -> None:
    """Before the fork, after it, before the mount is ready or after: it is there, or it is not."""
    saved = plant(volume.mount())
    volume.umount()
    rng = random.Random(1)
    for number in ENDING * (50 if long else 2):
        command = start_pramfs(
            "mount", "-o", volume.options(), volume.image, volume.root, stderr=subprocess.PIPE
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(rng.random() * 0.6)
        command.send_signal(number)
        code, _ = ended(command)
        if code == 0:
            sample_trees.assert_same(sample_trees.snapshot(volume.root), saved)
            pramfs("umount", volume.root).succeeded()
        assert code in (0, EXIT_INTERRUPTED, -number)
        assert not volume.is_mounted
        volume.check()


@pytest.mark.parametrize("kind", [WRITE, SYNC])
@pytest.mark.parametrize("number", [*ENDING, signal.SIGUSR1], ids=[*ENDING_NAMES, "SIGUSR1"])
def test_a_signal_during_a_checkpoint_stops_nothing(
    volume: Volume, medium: Medium, number: signal.Signals, kind: str
) -> None:
    root = volume.mount()
    plant(root)
    changed = change(root, 0)
    with medium.holding(kind):
        save = start_pramfs("save", root, stderr=subprocess.PIPE)
        medium.wait_until_held()
        os.kill(volume.pid, number)
    if number == signal.SIGUSR1:
        assert ended(save) == (0, b"")
        volume.kill()
    else:
        ended(save)
        volume.ended()
    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), changed)


@pytest.mark.parametrize("number", ENDING, ids=ENDING_NAMES)
def test_who_asks_for_a_save_may_go_away(
    volume: Volume, medium: Medium, number: signal.Signals
) -> None:
    root = volume.mount()
    changed = plant(root)
    generation = volume.generation
    with medium.holding(SYNC):
        save = start_pramfs("save", root, stderr=subprocess.PIPE)
        medium.wait_until_held()
        save.send_signal(number)
    ended(save)
    wait_until(lambda: volume.generation > generation, "the save")
    volume.kill()
    volume.mount()
    sample_trees.assert_same(sample_trees.snapshot(root), changed)


def test_other_images_are_not_waited_for(
    volume: Volume, medium: Medium, new_volume: Callable[[str], Volume]
) -> None:
    """A disk that stands still, and a daemon that waits for it, concern nobody else."""
    (volume.mount() / "file").write_bytes(b"kept")
    other = new_volume("other")
    root = other.mount()
    with medium.holding(SYNC):
        save = start_pramfs("save", volume.root, stderr=subprocess.PIPE)
        medium.wait_until_held()
        (root / "file").write_bytes(b"of another image")
        for words in (["save"], ["status"], ["info"], ["map"], ["snapshots"]):
            pramfs(*words, root).succeeded()
        for target in (root, other.image):
            assert f"mounted at {root}" in pramfs("info", target).succeeded().out.decode()
        pramfs("rollback", other.image, "none").refused(MOUNT_FAILED, f"mounted at {root}")
        pramfs("mount", other.image, root).refused(MOUNT_FAILED, "mounted at")
        other.umount()
        assert save.poll() is None
    assert ended(save) == (0, b"")
    volume.umount()


# --- who uses the mount --------------------------------------------------------------------------

_STUCK = """
import mmap, os, sys
file = open(sys.argv[1], "r+b")
memory = mmap.mmap(file.fileno(), 0)
memory[:4] = b"mmap"
os.pread(file.fileno(), 100, 4096)
print(flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def stuck_reader(path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A stopped process that has read half of a file, and written through a mapping of it."""
    with subprocess.Popen(
        [sys.executable, "-c", _STUCK, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with stopped(process.pid):
            yield process
        process.kill()


def test_a_reader_that_is_stuck_holds_no_save_up(volume: Volume) -> None:
    root = volume.mount()
    content = sample_trees.noise(10 * PAGE)
    (root / "file").write_bytes(content)
    with stuck_reader(root / "file"):
        volume.save()
        pramfs("umount", root).refused(MOUNT_FAILED, "busy")
        volume.kill()
    volume.mount()
    assert (root / "file").read_bytes() == b"mmap" + content[4:]


def test_a_detached_mount_is_saved_when_a_stuck_reader_dies(volume: Volume) -> None:
    root = volume.mount()
    content = sample_trees.noise(10 * PAGE)
    (root / "file").write_bytes(content)
    with stuck_reader(root / "file"):
        run("umount", "-i", "-l", root).succeeded()
        assert volume.daemon.lives
    volume.ended()
    volume.mount()
    assert (root / "file").read_bytes() == b"mmap" + content[4:]


@pytest.mark.parametrize("number", ENDING, ids=ENDING_NAMES)
def test_a_signal_saves_under_a_stuck_reader(volume: Volume, number: signal.Signals) -> None:
    volume.announce("failed to unmount")  # libfuse, of what has been detached already
    root = volume.mount()
    content = sample_trees.noise(10 * PAGE)
    (root / "file").write_bytes(content)
    with stuck_reader(root / "file"):
        os.kill(volume.pid, number)
        volume.ended()
    volume.mount()
    assert (root / "file").read_bytes() == b"mmap" + content[4:]


# --- who waits for room --------------------------------------------------------------------------


def test_others_are_served_while_a_writer_waits_for_a_save_that_makes_room(
    volume: Volume, medium: Medium
) -> None:
    """What the last save holds comes free with the next one, and the medium takes its time for that."""
    volume.size = "12M"
    root = volume.mount()
    (root / "other").write_bytes(b"other")
    (root / "old").write_bytes(sample_trees.noise(8 * MIB))
    volume.save()
    (root / "old").unlink()
    with medium.holding(SYNC):
        # Past the page cache, a request at a time: with arena=image nobody can write to a file of the medium
        # while it is synced, and behind the first request that waits a smaller one might find room.
        words = "if=/dev/urandom", f"of={root / 'new'}", "bs=1M", "count=8", "oflag=direct"
        writer = subprocess.Popen(["dd", *words], stderr=subprocess.DEVNULL)
        medium.wait_until_held()
        assert (root / "other").read_bytes() == b"other"
        (root / "other").rename(root / "another")
        (root / "made").mkdir()
        assert volume.status()["changed"]
        assert writer.poll() is None
    assert writer.wait() == 0
    assert (root / "new").stat().st_size == 8 * MIB
    volume.remount()
    assert (root / "another").read_bytes() == b"other"
    assert (root / "made").is_dir()
