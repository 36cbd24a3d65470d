"""Pages with the same bytes share memory: `pramfs dedup`, and `-o dedup`."""

import errno
import json
import mmap
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LONG
from tests.mounted.harness import (
    MIB,
    MOUNT_FAILED,
    PAGE,
    USAGE,
    Volume,
    pramfs,
    start_pramfs,
    stopped,
    wait_until,
)
from tests.mounted.sample_trees import noise
from tests.support.json_schemas import conforming
from tests.support.refusals import refused

DUMP = (256 if LONG else 16) * MIB
ZEROS = bytes(PAGE)
INTERRUPTED = 8  # as mount(8) has it


def changed(dump: bytes, seed: int) -> bytes:
    """The memory of a process some time later: 1 % of its pages are others."""
    rng, later = random.Random(seed), bytearray(dump)
    for page in rng.sample(range(len(dump) // PAGE), len(dump) // PAGE // 100):
        later[page * PAGE + 100 : page * PAGE + 108] = rng.randbytes(8)
    return bytes(later)


def frames(volume: Volume) -> dict[str, int]:
    return dict(volume.status()["frames"])


def dedup(root: Path) -> dict[str, Any]:
    return dict(conforming("dedup", pramfs("dedup", "--json", root).succeeded().text))


@pytest.mark.parametrize("saved", [False, True])
def test_two_dumps_take_hardly_more_than_one(volume: Volume, saved: bool) -> None:
    volume.size = f"{4 * DUMP}"
    root = volume.mount()
    first = noise(DUMP)
    second = changed(first, seed=1)
    (root / "1").mkdir()
    (root / "2").mkdir()
    (root / "1/pages-1.img").write_bytes(first)
    volume.save()
    one = frames(volume)["used"]
    (root / "2/pages-1.img").write_bytes(second)
    if saved:
        volume.save()
    told = pramfs("dedup", root).succeeded()
    pages = DUMP // PAGE
    equal = pages - pages // 100
    assert not told.err
    wanted = f"{root}: {2 * pages} pages looked at, {equal} shared, 0 made holes, "
    assert told.text.startswith(wanted), told.text
    assert f"{equal / 256:.1f} MiB freed" in told.text
    assert ("with the next save" in told.text) == saved
    assert frames(volume)["used"] <= 1.05 * one
    assert frames(volume)["spared"] == equal
    for _ in range(2):
        assert (root / "1/pages-1.img").read_bytes() == first
        assert (root / "2/pages-1.img").read_bytes() == second
        volume.remount()
    assert frames(volume)["used"] <= 1.05 * one
    assert volume.info()["frames"]["spared"] == equal


def test_a_mount_that_deduplicates_all_the_time(volume: Volume) -> None:
    volume.size = f"{4 * DUMP}"
    root = volume.mount("dedup")
    first = noise(DUMP)
    second = changed(first, seed=2)
    (root / "1").write_bytes(first)
    volume.save()
    one = frames(volume)["used"]
    (root / "2").write_bytes(second)
    (root / "zeros").write_bytes(bytes(MIB))
    os.sync()
    equal = DUMP // PAGE * 99 // 100
    wait_until(lambda: frames(volume)["spared"] >= equal, "equal pages to be found")
    wait_until(lambda: (root / "zeros").stat().st_blocks == 0, "pages of zeros to be found")
    assert frames(volume)["used"] <= 1.05 * one
    (root / "1").write_bytes(second)
    os.sync()
    wait_until(lambda: frames(volume)["spared"] == DUMP // PAGE, "what was written to be found")
    assert (root / "1").read_bytes() == (root / "2").read_bytes() == second
    assert (root / "zeros").read_bytes() == bytes(MIB)
    root = volume.remount("dedup")
    assert (root / "1").read_bytes() == (root / "2").read_bytes() == second


def test_what_the_kernel_has_not_handed_over_counts(volume: Volume) -> None:
    root = volume.mount()
    content = noise(MIB)
    with (root / "a").open("wb") as a, (root / "b").open("wb") as b:
        for file in (a, b):
            file.write(content + bytes(MIB))
            file.flush()
        assert dedup(root) == {"pages": 1024, "shared": 256, "holes": 512, "freed": 768, "held": 0}
        a.write(b"more")
        b.seek(5)
        b.write(b"other")
    assert (root / "a").read_bytes() == content + bytes(MIB) + b"more"
    assert (root / "b").read_bytes() == content[:5] + b"other" + content[10:] + bytes(MIB)


def test_holes_are_seen_at_once(volume: Volume) -> None:
    root = volume.mount()
    (root / "file").write_bytes(ZEROS * 10 + noise(PAGE))
    assert (root / "file").stat().st_blocks == 88
    dedup(root)
    assert (root / "file").stat().st_blocks == 8
    with (root / "file").open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 10 * PAGE


def test_memory_maps_go_on(volume: Volume) -> None:
    root = volume.mount()
    content = noise(16 * PAGE)
    for name in "ab":
        (root / name).write_bytes(content)
    with (root / "a").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:1] = mapped[0:1]
        assert dedup(root)["shared"] == 16
        mapped[PAGE : PAGE + 4] = b"here"
        assert (root / "b").read_bytes() == content
    assert (root / "a").read_bytes() == content[:PAGE] + b"here" + content[PAGE + 4 :]
    assert (root / "b").read_bytes() == content


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"same" * (PAGE // 4) * 16)


def test_a_full_arena_gets_room(volume: Volume) -> None:
    root = volume.mount("size=16M", "direct_io")
    with refused(errno.ENOSPC):
        fill(root / "full")
    size = (root / "full").stat().st_size
    assert dedup(root)["shared"] > 3000
    (root / "more").write_bytes(noise(8 * MIB))
    assert (root / "full").read_bytes() == b"same" * (size // 4)


def begin_dedup(volume: Volume, stderr: int) -> "subprocess.Popen[bytes]":
    """Begin to deduplicate two equal files, and wait until the daemon works at it."""
    volume.size = f"{4 * DUMP}"
    root = volume.mount()
    for name in "ab":
        (root / name).write_bytes(noise(DUMP))
    command = start_pramfs("dedup", root, stderr=stderr)
    wait_until(lambda: report(root)["total"], "the work to begin")
    return command


def test_a_command_that_is_interrupted_ends_the_work(volume: Volume) -> None:
    command = begin_dedup(volume, subprocess.DEVNULL)
    root = volume.root
    with stopped(volume.pid):
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == INTERRUPTED
    wait_until(lambda: not report(root)["total"], "the work to end")
    assert report(root)["pages"] == 0
    assert (root / "a").read_bytes() == (root / "b").read_bytes() == noise(DUMP)
    assert dedup(root)["pages"] == 2 * DUMP // PAGE
    assert frames(volume)["spared"] == DUMP // PAGE


def test_a_daemon_that_is_killed_meanwhile_is_told(volume: Volume) -> None:
    command = begin_dedup(volume, subprocess.PIPE)
    volume.kill_during(command)


def report(root: Path) -> dict[str, int]:
    return dict(json.loads(os.getxattr(root, "user.pramfs.dedup")))


def test_several_ask_at_a_time(volume: Volume) -> None:
    root = volume.mount("dedup")
    for name in "abc":
        (root / name).write_bytes(noise(4 * MIB))
    commands = [start_pramfs("dedup", root, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [command.wait() for command in commands] == [0] * 3
    assert frames(volume)["spared"] == 2048


def test_a_mount_that_is_read_only_is_refused(volume: Volume) -> None:
    volume.mount()
    volume.umount()
    volume.refused("ro", "dedup", "exclude each other", options=("ro", "dedup"), code=USAGE)
    root = volume.mount("ro")
    pramfs("dedup", root).refused(MOUNT_FAILED, str(root), "read-only")


def test_what_is_no_mount_is_refused(volume: Volume) -> None:
    pramfs("dedup", volume.root).refused(MOUNT_FAILED, str(volume.root), "no pramfs is mounted")
