"""`pramfs send` and `pramfs receive` of mounts: nobody's files change, and what arrives is complete."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.mounted.harness import MIB, MOUNT_FAILED, USAGE, Volume, pramfs, run

CONTENT = os.urandom(3 * MIB)


@pytest.fixture
def root(volume: Volume) -> Path:
    root = volume.mount()
    (root / "dir").mkdir()
    (root / "dir/file").write_bytes(CONTENT)
    (root / "zeros").write_bytes(bytes(8192) + b"end")
    (root / "link").symlink_to("dir/file")
    return root


def names(target: Path) -> list[str]:
    listed = json.loads(pramfs("snapshots", "--json", target).succeeded().out)["snapshots"]
    return [one["name"] for one in listed]


def send(*words: str | Path) -> bytes:
    return pramfs("send", *words).succeeded().out


def copy_of(image: Path, name: str, out: Path) -> Path:
    pramfs("extract", "--name", name, "-C", out, image).succeeded()
    return out


def assert_same(one: Path, other: Path) -> None:
    run("diff", "-r", "--no-dereference", one, other).succeeded()


def too_full(volume: Volume) -> Path:
    """A mount that could not take all of the file "lost"."""
    volume.size = "16M"
    volume.announce("no space", "save is incomplete")
    root = volume.mount()
    fill = ("dd", "if=/dev/zero", f"of={root / 'lost'}", "bs=1M", "count=24", "status=none")
    run(*fill, "conv=fsync").refused(1, "No space left")
    return root


def test_what_a_mount_holds_now_arrives(volume: Volume, root: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.pram"
    stream = send(root)
    told = pramfs("receive", "--size", "64M", new, stdin=stream).succeeded()
    assert told.err == f"{new}: received pramfs, {len(CONTENT) // 4096 + 3} pages\n"
    assert_same(root, copy_of(new, "pramfs", tmp_path / "out"))
    assert names(root) == []


def test_what_lacks_data_is_not_sent_and_leaves_nothing(volume: Volume) -> None:
    """Else a snapshot held the room that is missing, until the next one sends."""
    root = too_full(volume)
    told = pramfs("send", root).refused(MOUNT_FAILED, "/lost was taken")
    assert not told.out
    assert names(root) == []
    (root / "lost").unlink()
    pramfs("save", root).succeeded()
    assert os.statvfs(root).f_bavail > 15 * MIB // 4096
    volume.umount()


def test_a_mount_knows_what_a_snapshot_lacks_that_it_has_received(
    volume: Volume, tmp_path: Path
) -> None:
    root = too_full(volume)
    pramfs("snapshot", root, "short").refused(MOUNT_FAILED, "incomplete")
    stream = send(f"{root}@short")
    (root / "lost").unlink()
    pramfs("save", root).succeeded()
    volume.umount()
    place = tmp_path / "place"
    place.mkdir()
    pramfs("mount", "-o", "size=64M", tmp_path / "other.pram", place).succeeded()
    try:
        told = pramfs("receive", place, stdin=stream).succeeded()
        assert "received as it is: pramfs@short is incomplete: not all" in told.err
        (listed,) = json.loads(pramfs("snapshots", "--json", place).succeeded().out)["snapshots"]
        assert listed["incomplete"]
    finally:
        pramfs("umount", place).succeeded()


def test_a_mount_takes_a_stream_as_a_snapshot(volume: Volume, root: Path, tmp_path: Path) -> None:
    pramfs("snapshot", root, "old").succeeded()
    (root / "dir/file").write_bytes(b"other")
    before = (root.stat().st_mtime_ns, root.stat().st_ctime_ns)
    free = os.statvfs(root).f_bfree
    stream = send(f"{root}@old")
    told = pramfs("receive", "--as", "@copy", root, stdin=stream).succeeded()
    assert told.err.startswith(f"{root}: received pramfs@copy, ")
    assert names(root) == ["old", "copy"]
    assert_same(root / ".snapshots/old", root / ".snapshots/copy")
    assert (root / "dir/file").read_bytes() == b"other"
    assert (root.stat().st_mtime_ns, root.stat().st_ctime_ns) == before
    assert os.statvfs(root).f_bfree < free - len(CONTENT) // 4096
    pramfs("free", root, "@copy").succeeded()
    assert abs(os.statvfs(root).f_bfree - free) <= 8
    volume.umount()
    pramfs("check", volume.image).succeeded()


def test_a_mount_takes_what_changed_since_a_snapshot(
    volume: Volume, root: Path, tmp_path: Path
) -> None:
    """The other machine is an image of its own, which goes on from what it has received."""
    other = tmp_path / "other.pram"
    pramfs("snapshot", root, "old").succeeded()
    pramfs("receive", "--size", "64M", other, stdin=send(f"{root}@old")).succeeded()
    with (root / "dir/file").open("r+b") as file:
        file.seek(MIB)
        file.write(b"changed")
    (root / "more").write_bytes(b"more")
    (root / "link").rename(root / "dir/link")
    pramfs("snapshot", root, "new").succeeded()
    stream = send("--since", "old", f"{root}@new")
    assert len(stream) < 6 * 4096
    place = tmp_path / "place"
    place.mkdir()
    pramfs("mount", other, place).succeeded()
    try:
        pramfs("receive", place, stdin=stream).succeeded()
        assert_same(root, place / ".snapshots/new")
        pramfs("receive", place, stdin=stream).refused(MOUNT_FAILED, "already")
        pramfs("free", place, "@old").succeeded()
        pramfs("receive", "--as", "@n", place, stdin=stream).refused(MOUNT_FAILED, "builds on")
        assert_same(root, place / ".snapshots/new")
    finally:
        pramfs("umount", place).succeeded()
    pramfs("check", other).succeeded()
    pramfs("rollback", other, "new").succeeded()
    assert_same(root, copy_of(other, "pramfs", tmp_path / "out"))


def test_a_stream_that_is_cut_off_leaves_nothing_in_a_mount(volume: Volume, root: Path) -> None:
    pramfs("snapshot", root, "old").succeeded()
    stream = send(f"{root}@old")
    free = os.statvfs(root).f_bfree
    for end in (2000, MIB, len(stream) - 1):
        outcome = pramfs("receive", "--as", "@new", root, stdin=stream[:end])
        outcome.refused(MOUNT_FAILED, "cut off", "nothing was changed")
    pramfs("receive", root, stdin=stream).refused(MOUNT_FAILED, "already")
    pramfs("receive", "--as", "pramfs", root, stdin=stream).refused(MOUNT_FAILED, "already")
    pramfs("receive", "--size", "1G", root, stdin=stream).refused(USAGE, "mounted")
    assert names(root) == ["old"]
    pramfs("save", root).succeeded()
    assert abs(os.statvfs(root).f_bfree - free) <= 8


def test_a_receiver_that_is_killed_leaves_nothing_in_a_mount(volume: Volume, root: Path) -> None:
    pramfs("snapshot", root, "old").succeeded()
    stream = send(f"{root}@old")
    words = [sys.executable, "-m", "pramfs", "receive", "--as", "@new", str(root)]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as receiver:
        assert receiver.stdin is not None
        receiver.stdin.write(stream[: 2 * MIB])
        receiver.stdin.flush()
        receiver.kill()
    assert names(root) == ["old"]
    volume.umount()
    pramfs("check", volume.image).succeeded()


def test_programs_go_on_while_a_mount_sends(volume: Volume, root: Path, tmp_path: Path) -> None:
    """The stream has what the tree held when it began, and is whole, whatever they write."""
    expected = (root / "dir/file").read_bytes()
    reading, writing = os.pipe()
    words = [sys.executable, "-m", "pramfs", "send", str(root)]
    with subprocess.Popen(words, stdout=writing) as sender:
        os.close(writing)
        stream = os.read(reading, 1)  # it has taken its snapshot
        (root / "dir/file").write_bytes(bytes(len(CONTENT)))
        pramfs("save", root).succeeded()
        pramfs("save", root).succeeded()
        while piece := os.read(reading, MIB):
            stream += piece
        os.close(reading)
        assert sender.wait() == 0
    assert names(root) == []
    new = tmp_path / "new.pram"
    pramfs("receive", "--size", "64M", new, stdin=stream).succeeded()
    assert pramfs("cat", new, "dir/file").succeeded().out == expected


def test_programs_go_on_while_a_mount_receives(volume: Volume, root: Path) -> None:
    pramfs("snapshot", root, "old").succeeded()
    stream = send(f"{root}@old")
    over = threading.Event()

    def write() -> None:
        number = 0
        while not over.is_set():
            (root / f"file{number % 20}").write_bytes(b"x" * number)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            pramfs("receive", "--as", f"@n{number}", root, stdin=stream).succeeded()
    finally:
        over.set()
        writer.join()
    for number in range(5):
        assert_same(root / ".snapshots/old", root / f".snapshots/n{number}")
    volume.umount()
    pramfs("check", volume.image).succeeded()


def test_a_pipe_stands_for_ssh(volume: Volume, root: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.pram"
    program = f"{sys.executable} -m pramfs"
    line = f"{program} send {root} | {program} receive --size 64M {new}"
    run("bash", "-o", "pipefail", "-c", line).succeeded()
    assert_same(root, copy_of(new, "pramfs", tmp_path / "out"))


def test_deduplication_takes_no_page_from_what_arrives(volume: Volume, root: Path) -> None:
    pramfs("snapshot", root, "old").succeeded()
    stream = send(f"{root}@old")
    volume.umount()
    volume.mount("dedup")
    for number in range(3):
        pramfs("receive", "--as", f"@n{number}", root, stdin=stream).succeeded()
        pramfs("dedup", root).succeeded()
    for number in range(3):
        assert_same(root / ".snapshots/old", root / f".snapshots/n{number}")
    volume.umount()
    pramfs("check", volume.image).succeeded()


def test_a_read_only_mount_receives_nothing(volume: Volume, root: Path) -> None:
    pramfs("snapshot", root, "old").succeeded()
    stream = send(f"{root}@old")
    volume.umount()
    volume.mount("ro")
    pramfs("receive", "--as", "@new", root, stdin=stream).refused(
        MOUNT_FAILED, "read-only: it receives nothing"
    )
    assert send(f"{root}@old")[40:-52] == stream[40:-52]  # but for the id of the stream
    assert send(root)


def test_an_offer_that_is_no_tree_is_refused(volume: Volume, root: Path) -> None:
    inode = os.open(root, os.O_RDWR | os.O_TMPFILE)
    os.write(inode, bytes(20000))
    numbers = {"pages": 1, "metadata_bytes": 4096, "more_bytes": 0, "runs_bytes": 24}
    offer = {"inode": os.fstat(inode).st_ino, "name": "pramfs@new", "base": "", **numbers}
    for wrong in (
        {},
        {"pages": 1 << 60},
        {"pages": -1},
        {"inode": 1},
        {"inode": (root / "zeros").stat().st_ino},
        {"base": "pramfs"},
        {"runs_bytes": 23},
        {"name": "../up", "metadata_bytes": 1 << 40},
    ):
        with pytest.raises(OSError, match="Invalid argument"):
            os.setxattr(root, "user.pramfs.receive", json.dumps({**offer, **wrong}).encode())
    with pytest.raises(OSError, match="Invalid argument"):
        os.setxattr(root, "user.pramfs.receive", b"no JSON")
    os.close(inode)
    assert names(root) == []
    pramfs("save", root).succeeded()


def test_what_a_killed_sender_leaves_is_freed_by_the_next(root: Path) -> None:
    """Not so what one that goes on has taken, nor what somebody calls nearly the same."""
    pramfs("snapshot", root, "sending-home").succeeded()
    words = [sys.executable, "-m", "pramfs", "send", str(root)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as sender:
        assert sender.stdout is not None
        sender.stdout.read(1)
        taken = names(root)
        assert len(taken) == 2
        send(root)
        assert names(root) == taken
        sender.kill()
    assert names(root) == taken
    send(root)
    assert names(root) == ["sending-home"]
